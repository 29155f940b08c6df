"""The DHCP server's place in a stack: datagrams for port 67 in, replies to port 68 out."""

from __future__ import annotations

from ..proto.dhcp import Server
from ..stack.stack import Stack
from ..stack.udp import Endpoint
from ..wire import icmp

SERVER_PORT, CLIENT_PORT = 67, 68


class DhcpService:
    """Bound to port 67 on every address; answers from the server's own."""

    def __init__(self, stack: Stack, server: Server) -> None:
        self.stack = stack
        self.server = server
        stack.udp.ports[None, SERVER_PORT] = self

    def datagram_received(self, remote: Endpoint, local: Endpoint, data: bytes, now: float) -> None:
        """Answer a client; replies go to the link address it gave (RFC 2131 4.1)."""
        if len(local[0]) != 4:
            return
        reply = self.server.receive(data, now)
        if reply is not None:
            self.stack.udp.send(
                (self.server.config.server, SERVER_PORT),
                (reply.dst, CLIENT_PORT),
                reply.payload,
                now,
                mac=reply.mac,
            )

    def icmp_received(
        self, remote: Endpoint, local: Endpoint, error: icmp.Error, now: float
    ) -> None:
        """A client that is gone asks again when it is back."""

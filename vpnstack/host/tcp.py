"""Guest flows to host sockets: connect first, then answer (RFC 9293 leaves the SYN waiting).

A guest's SYN is answered when the host's connect succeeded, reset when it was refused, and
answered with the ICMP error when there is no way there: the guest sees what the host saw.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from functools import partial

from ..aio.driver import Driver
from ..proto.tcp.block import Event
from ..stack import headers
from ..stack.flow import Flow
from ..stack.stack import Stack
from ..wire import ip
from .bridge import Bridge
from .policy import UNREACHABLE, Policy, text


@dataclass(slots=True)
class TcpForwardCounters:
    """Flows from guests to the host's network."""

    opened: int = 0
    refused: int = 0
    unreachable: int = 0
    failed: int = 0  # no descriptors left, and the like
    spoofed: int = 0  # sources that are not on the guest's link


class TcpForwarder:
    """Decides on SYNs that nobody in the stack listens for; owns the bridges it makes."""

    def __init__(
        self,
        stack: Stack,
        policy: Policy,
        driver: Driver,
        flows_max: int = 65536,
    ) -> None:
        self.stack = stack
        self.policy = policy
        self.driver = driver
        self.flows_max = flows_max
        self.counters = TcpForwardCounters()
        self.bridges: set[Bridge] = set()
        self._connecting: dict[Flow, socket.socket] = {}

    def flow_arrived(self, flow: Flow, now: float) -> None:
        """Start the host's connect for a held SYN."""
        if not self.stack.interface.on_link(flow.remote[0]):
            self.counters.spoofed += 1
            flow.drop()
            return
        target = self.policy.destination(flow.local[0])
        if target is None or len(self.bridges) + len(self._connecting) >= self.flows_max:
            self.counters.refused += 1
            flow.refuse()
            return
        flow.owner = self
        self._connect(flow, target, self.policy.fallback(flow.local[0]), now)

    def _connect(self, flow: Flow, target: bytes, fallback: bytes | None, now: float) -> None:
        family = socket.AF_INET if len(target) == 4 else socket.AF_INET6
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError:
            self.counters.failed += 1
            flow.drop()  # the guest asks again, perhaps when there are descriptors
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address = (text(target), flow.local[1])
        try:
            code = sock.connect_ex(address)
            if code == errno.EINPROGRESS:  # on this very machine the handshake is over by now
                code = sock.connect_ex(address)
        except OSError as e:
            code = e.errno or errno.EINVAL
        if code == errno.EALREADY:
            self._connecting[flow] = sock
            ready = partial(self._connected, flow, sock, fallback)
            self.driver.poller.watch(sock.fileno(), ready, writing=True)
        else:
            self._decide(flow, sock, code, fallback, now)

    def _connected(
        self, flow: Flow, sock: socket.socket, fallback: bytes | None, mask: int
    ) -> None:
        del self._connecting[flow]
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._decide(flow, sock, code, fallback, self.driver.now())

    def _decide(
        self, flow: Flow, sock: socket.socket, code: int, fallback: bytes | None, now: float
    ) -> None:
        if code == 0:
            self.counters.opened += 1
            self.bridges.add(Bridge(flow, sock, self.driver, self.bridges.discard))
            flow.accept()
            return
        self._close(sock)
        if fallback is not None and code in (errno.ECONNREFUSED, errno.EADDRNOTAVAIL):
            self._connect(flow, fallback, None, now)
        elif code == errno.ECONNREFUSED:
            self.counters.refused += 1
            flow.refuse()
        elif code in UNREACHABLE:
            self.counters.unreachable += 1
            self.stack.icmp.report_packet(syn_of(flow), UNREACHABLE[code], now)
            flow.drop()
        else:  # ETIMEDOUT: the guest's own timer says the same
            self.counters.failed += 1
            flow.drop()

    def flow_event(self, flow: Flow, now: float) -> None:
        """Give up the connect of a flow that ended before it was decided."""
        while (event := flow.conn.next_event()) is not None:
            sock = self._connecting.get(flow)
            if sock is not None and event in (Event.RESET, Event.CLOSED):
                del self._connecting[flow]
                self._close(sock)
                flow.drop()

    def _close(self, sock: socket.socket) -> None:
        self.driver.poller.forget(sock.fileno())
        sock.close()

    def close(self) -> None:
        """End every flow: reset both sides."""
        for flow, sock in list(self._connecting.items()):
            self._close(sock)
            flow.refuse()
        self._connecting.clear()
        for bridge in list(self.bridges):
            bridge.flow.recall()
            bridge.flow.conn.abort()
            bridge.flow.touch()
            bridge.abort()


def syn_of(flow: Flow) -> bytes:
    """Build the IP packet that an ICMP error about a held SYN quotes: headers and eight octets."""
    (src, sport), (dst, dport) = flow.remote, flow.local
    seq = (flow.conn.irs & 0xFFFFFFFF).to_bytes(4, "big")
    tcp = (
        sport.to_bytes(2, "big")
        + dport.to_bytes(2, "big")
        + seq
        + bytes(4)
        + b"\x50\x02"
        + bytes(6)
    )
    return ip.emit(ip.Repr(src, dst, headers.TCP), tcp)

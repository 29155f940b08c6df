"""asyncio's ways to open and serve connections, over one stack: what gateways and hosts share."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence
from typing import TypeVar

from ..errors import UsageError
from ..stack.flow import Flow
from ..stack.stack import Stack
from ..stack.udp import Endpoint
from ..wire import ip
from .datagrams import StackDatagramTransport
from .driver import Driver
from .server import CLIENTS_MAX, StackServer
from .streams import ClientConnected, StackTransport, stream_factory

P = TypeVar("P", bound=asyncio.BaseProtocol)
D = TypeVar("D", bound=asyncio.DatagramProtocol)
EPHEMERAL = range(49152, 65536)  # RFC 6335 6, where servers without a port of their own listen


class AddressInUse(UsageError, OSError):
    """Somebody has the port already."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.EADDRINUSE, text)


class NoRoute(UsageError, OSError):
    """We have no address to reach that destination from."""

    def __init__(self, addr: bytes) -> None:
        text = f"no address to reach {ip.format_address(addr)} from"
        super().__init__(errno.ENETUNREACH, text)


class Endpoints:
    """Opens and serves flows of `stack`; addresses are packed, an address of None is any of ours.

    Ephemeral ports are the stack's choice (RFC 6056 3.3.4).
    """

    def __init__(self, stack: Stack, driver: Driver, loop: asyncio.AbstractEventLoop) -> None:
        self.stack = stack
        self.driver = driver
        self.loop = loop
        self._wake = driver.wake_flows  # one for all: each look at a method makes an object
        self._servers: dict[StackServer, None] = {}
        self._datagrams: list[StackDatagramTransport] = []

    # Streams.

    async def create_connection(
        self,
        factory: Callable[[], P],
        remote: Endpoint,
        local: tuple[bytes | None, int] = (None, 0),
    ) -> tuple[StackTransport, P]:
        """Connect to `remote` and return the transport and the protocol that `factory` makes."""
        flow = self._open_flow(remote, local)
        protocol = factory()
        connected = self.loop.create_future()
        transport = StackTransport(flow, protocol, self.loop, self._wake, connected)
        self._wake()
        try:
            await connected
        except asyncio.CancelledError:
            transport.abort()
            raise
        return transport, protocol

    async def open_connection(
        self, remote: Endpoint, local: tuple[bytes | None, int] = (None, 0)
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to `remote` and return streams."""
        reader = asyncio.StreamReader(loop=self.loop)
        transport, protocol = await self.create_connection(
            lambda: asyncio.StreamReaderProtocol(reader, loop=self.loop), remote, local
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, self.loop)

    def _open_flow(self, remote: Endpoint, local: tuple[bytes | None, int]) -> Flow:
        interface = self.stack.interface
        source = local[0] or interface.source_for(remote[0])
        if source is None or interface.next_hop(remote[0]) is None:
            raise NoRoute(remote[0])
        port = local[1] or self.stack.tcp.choose_port(source, remote)
        try:
            return self.stack.tcp.connect((source, port), remote, self.driver.now())
        except KeyError:
            what = f"port {port}" if port else "every port"
            raise AddressInUse(f"{what} is in use towards that address") from None

    def create_server(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        addrs: Sequence[bytes | None],
        port: int,
        clients_max: int = CLIENTS_MAX,
    ) -> StackServer:
        """Serve the protocols that `factory` makes on `port` of each address; 0 picks a port."""
        listeners = self.stack.tcp.listeners
        if not port:
            free = (p for p in EPHEMERAL if not any((a, p) in listeners for a in addrs))
            port = next(free, 0)
        keys = [(a, port) for a in addrs]
        if not port or any(key in listeners for key in keys):
            raise AddressInUse(f"port {port} is in use")

        def closed() -> None:
            for key in keys:
                listeners.pop(key, None)
            self._servers.pop(server, None)

        server = StackServer(factory, self.loop, self._wake, closed, keys, clients_max)
        for key in keys:
            listeners[key] = server
        self._servers[server] = None
        return server

    def start_server(
        self,
        connected: ClientConnected,
        addrs: Sequence[bytes | None],
        port: int,
        clients_max: int = CLIENTS_MAX,
    ) -> StackServer:
        """Serve streams: `connected(reader, writer)` for each connection."""
        return self.create_server(stream_factory(connected, self.loop), addrs, port, clients_max)

    # Datagrams.

    def create_datagram_endpoint(
        self,
        factory: Callable[[], D],
        local: tuple[bytes | None, int],
        remote: Endpoint | None,
        resolve: Callable[[str], bytes],
    ) -> tuple[StackDatagramTransport, D]:
        """Bind a port (0: any) and connect it to `remote`, if one is given."""
        ports = self.stack.udp.ports
        peer = remote[0] + remote[1].to_bytes(2, "big") if remote is not None else b""
        port = local[1] or self.stack.tcp.ports.choose(
            b"udp" + (local[0] or b"") + peer, lambda port: (local[0], port) not in ports
        )
        if not port or (local[0], port) in ports:
            raise AddressInUse(f"port {port} is in use" if port else "every port is in use")
        transport = StackDatagramTransport(
            self.stack, self.loop, self.driver.wake, (local[0], port), remote, resolve
        )
        self._datagrams = [t for t in self._datagrams if not t.is_closing()]
        self._datagrams.append(transport)
        protocol = factory()
        transport.open(protocol)
        return transport, protocol

    def close(self) -> None:
        """Stop listening, reset what servers accepted, close datagram ports."""
        for server in list(self._servers):
            server.close()
            server.abort_clients()
        for transport in self._datagrams:
            transport.close()

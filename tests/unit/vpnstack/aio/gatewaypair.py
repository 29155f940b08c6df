"""A gateway and a guest on one loop, joined by a pair of ports; the guest is a stack of its own."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

from vpnstack.aio.driver import Driver
from vpnstack.aio.server import StackServer
from vpnstack.aio.streams import StackTransport, stream_factory
from vpnstack.gateway import Gateway
from vpnstack.link.pair import pair
from vpnstack.link.port import Port
from vpnstack.link.switch import Switch
from vpnstack.stack.interface import Interface, InterfaceConfig, addresses_of
from vpnstack.stack.stack import Stack
from vpnstack.wire import icmp, ip

HOST = {4: "192.168.127.254", 6: "fd00:127::fe"}
OURS = {4: "192.168.127.1", 6: "fd00:127::1"}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
Endpoint = tuple[str, int]


class Datagrams:
    """A bound port of the guest."""

    def __init__(self) -> None:
        self.got: asyncio.Queue[tuple[str, int, bytes]] = asyncio.Queue()
        self.errors: asyncio.Queue[icmp.Error] = asyncio.Queue()

    def datagram_received(self, remote: Any, local: Any, data: bytes, now: float) -> None:
        self.got.put_nowait((ip.format_address(remote[0]), remote[1], data))

    def icmp_received(self, remote: Any, local: Any, error: icmp.Error, now: float) -> None:
        self.errors.put_nowait(error)


class GuestNode:
    """A machine behind the gateway, with asyncio streams."""

    def __init__(
        self, gateway: Gateway, addresses: list[str], mtu: int,
        wrap: Callable[[Port], Port] | None = None,
    ) -> None:  # fmt: skip
        self.loop = asyncio.get_running_loop()
        jack = gateway.port("guest")
        port, far = pair(mtu=mtu)
        switch = Switch(jack.mac)
        own = gateway.config
        config = InterfaceConfig(
            jack.mac, addresses_of(addresses), mtu,
            own.v4.ip.packed if own.v4 else None, own.v6.ip.packed if own.v6 else None,
        )  # fmt: skip
        self.interface = Interface(config, switch)
        self.stack = Stack(self.interface, rng=random.Random(2))
        self.driver = Driver(self.stack, switch, self.loop)
        self.driver.attach(port)
        jack.plug(wrap(far) if wrap is not None else far)
        self._ports = iter(range(20000, 60000))

    async def open(
        self, host: str, port: int, source: str | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect from inside the network."""
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport = await self.connect(protocol, host, port, source)
        return reader, asyncio.StreamWriter(transport, protocol, reader, self.loop)

    async def connect(
        self, protocol: asyncio.BaseProtocol, host: str, port: int, source: str | None = None
    ) -> StackTransport:
        """Connect any protocol from inside the network."""
        remote = ip.parse_address(host)
        local = ip.parse_address(source) if source else self.interface.source_for(remote)
        assert local is not None
        flow = self.stack.tcp.connect((local, next(self._ports)), (remote, port), self.driver.now())
        connected = self.loop.create_future()
        transport = StackTransport(flow, protocol, self.loop, self.driver.wake, connected)
        self.driver.wake()
        await connected
        return transport

    def serve(self, connected: Callable[..., Any], port: int) -> StackServer:
        """Listen inside the network."""
        server = StackServer(
            stream_factory(connected, self.loop), self.loop, self.driver.wake, lambda: None
        )
        self.stack.tcp.listeners[(None, port)] = server
        return server

    def bind(self, port: int) -> Datagrams:
        """Bind a UDP port."""
        owner = self.stack.udp.ports[(None, port)] = Datagrams()
        return owner

    def send(self, sport: int, to: Endpoint, data: bytes, source: str | None = None) -> None:
        """Send a datagram."""
        remote = ip.parse_address(to[0])
        local = ip.parse_address(source) if source else self.interface.source_for(remote)
        assert local is not None
        self.stack.udp.send((local, sport), (remote, to[1]), data, self.driver.now())
        self.driver.wake()


@contextlib.asynccontextmanager
async def network(
    mtu: int = 1500, wrap: Callable[[Port], Port] | None = None, **options: Any
) -> AsyncIterator[tuple[Gateway, GuestNode]]:
    """A gateway without the host's resolvers, and a guest behind it; `wrap` makes their link."""
    options = {"resolv_conf": "", "hosts_file": "", "seed": 1, "mtu": mtu} | options
    async with Gateway(**options) as gateway:
        guest = GuestNode(gateway, ["192.168.127.2/24", "fd00:127::2/64"], mtu, wrap)
        try:
            yield gateway, guest
        finally:
            guest.driver.close()


@contextlib.asynccontextmanager
async def listening(connected: Callable[..., Any], version: int = 4) -> AsyncIterator[int]:
    """A server on the host's loopback; gives its port."""
    server = await asyncio.start_server(connected, LOOPBACK[version], 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def closed_port(version: int = 4) -> int:
    """Return a port of the host's loopback on which nobody listens."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.socket(family) as sock:
        sock.bind((str(ipaddress.ip_address(LOOPBACK[version])), 0))
        return int(sock.getsockname()[1])


async def until(condition: Callable[[], Any], turns: int = 20_000) -> None:
    """Let the loop turn until something is so."""
    for _ in range(turns):
        if condition():
            return
        await asyncio.sleep(0.0005)
    raise AssertionError("it never came to be")

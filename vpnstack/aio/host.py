"""A host in this process: a stack of its own on a port, with asyncio's streams and datagrams.

    async with Host(port, ["10.0.0.2/24"], gateway="10.0.0.1") as host:
        reader, writer = await host.open_connection("10.0.0.1", 80)

It runs on the loop that is running, in real time or in virtual time (`aio/virtual.py`), on any
port: a TAP device, one end of a cable, a place on a network.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from ..errors import UsageError
from ..link.port import Port
from ..link.switch import Switch
from ..proto.tcp.config import Config
from ..proto.tcp.statistics import Statistics as TcpStatistics
from ..stack import stack as stacks
from ..stack.interface import Interface, InterfaceConfig, addresses_of
from ..stack.tcp import FLOWS_MAX
from ..stack.udp import Endpoint
from ..wire.ethernet import local_mac, parse_mac
from .datagrams import StackDatagramTransport
from .driver import Driver
from .endpoints import D, Endpoints, P
from .server import StackServer
from .streams import ClientConnected, StackTransport

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class ConnectionStatistics:
    """One connection: its ends, and TCP_INFO by Linux's names."""

    local: Endpoint
    remote: Endpoint
    tcp: TcpStatistics


@dataclass(frozen=True, slots=True)
class HostStatistics:
    """The stack's counters and every connection's."""

    stack: stacks.Statistics
    connections: tuple[ConnectionStatistics, ...]


class Host:
    """A host with one interface; an async context manager, or `start` and `close`.

    `addresses` have prefixes; `gateway` is one address or one of each family; `mac` is made from
    `name` unless given.  `names` are other hosts'; `tcp` makes the parameters of connections from
    an IP version and an MTU; `seed` makes ports and sequence numbers repeatable.  With several
    ports the host bridges between them.
    """

    def __init__(
        self,
        port: Port | None = None,
        addresses: Iterable[str] = (),
        *,
        gateway: str | Sequence[str] = (),
        mac: str | None = None,
        mtu: int | None = None,
        name: str = "host",
        names: Mapping[str, Sequence[bytes]] | None = None,
        tcp: Callable[[int, int], Config] | None = None,
        seed: int | str | None = None,
    ) -> None:
        self.name = name
        self.addresses = addresses_of(addresses)
        self.mac = parse_mac(mac) if mac else local_mac(f"host/{name}")
        self.mtu = mtu or (port.mtu if port is not None else 1500)
        self._gateways = [gateway] if isinstance(gateway, str) else list(gateway)
        self._names = {} if names is None else names
        self._port = port
        self._tcp = tcp
        self._rng = random.Random(seed)
        self._running = False

    # Life.

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()
        await asyncio.sleep(0)  # transports tell their protocols

    def start(self) -> None:
        """Come up on the running loop."""
        self.loop = asyncio.get_running_loop()
        self.switch = Switch(self.mac)
        hops = {len(hop): hop for hop in (ipaddress.ip_address(g).packed for g in self._gateways)}
        config = InterfaceConfig(
            self.mac, self.addresses, self.mtu, gateway4=hops.get(4), gateway6=hops.get(16)
        )
        interface = Interface(config, self.switch)
        self.stack = stacks.Stack(interface, rng=self._rng, tcp_config=self._tcp)
        self.driver = Driver(self.stack, self.switch, self.loop)
        self._endpoints = Endpoints(self.stack, self.driver, self.loop)
        self._running = True
        if self._port is not None:
            self.driver.attach(self._port)

    def close(self) -> None:
        """Reset what is open and close the ports."""
        if not self._running:
            return
        self._running = False
        self._endpoints.close()
        for flow in list(self.stack.tcp.flows.values()):
            if isinstance(flow.owner, StackTransport):
                flow.owner.abort()
        self.driver.flush()
        self.driver.close()

    def attach(self, port: Port) -> None:
        """Connect one more port."""
        self.driver.attach(port)

    # Names.

    def resolve(self, name: str) -> bytes:
        """Return the address of a host by name, of its first family, or as written."""
        known = self._names.get(name)
        if known:
            return known[0]
        try:
            return ipaddress.ip_address(name).packed
        except ValueError:
            names = ", ".join(self._names) or "none"
            raise UsageError(f"no host {name!r}: expected an address or one of: {names}") from None

    def _remote(self, address: Address) -> Endpoint:
        return self.resolve(address[0]), address[1]

    def _local(self, address: Address | None) -> tuple[bytes | None, int]:
        if address is None:
            return None, 0
        host, port = address[:2]
        if host in ("", "0.0.0.0", "::"):
            return None, port
        return self.resolve(host), port

    # asyncio's calls.

    async def open_connection(
        self, host: str, port: int, *, local_addr: Address | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a name or an address and return streams.

        Raises `ConnectionRefusedError`, `TimeoutError` and `OSError` as asyncio does.
        """
        remote, local = self._remote((host, port)), self._local(local_addr)
        return await self._endpoints.open_connection(remote, local)

    async def create_connection(
        self, factory: Callable[[], P], host: str, port: int, *, local_addr: Address | None = None
    ) -> tuple[StackTransport, P]:
        """Connect and return the transport and the protocol that `factory` makes."""
        remote, local = self._remote((host, port)), self._local(local_addr)
        return await self._endpoints.create_connection(factory, remote, local)

    async def start_server(
        self, connected: ClientConnected, port: int, host: str = "", *, clients_max: int = FLOWS_MAX
    ) -> StackServer:
        """Serve streams on all of our addresses, or on `host`; port 0 picks one."""
        local = self._local((host, port))[0]
        return self._endpoints.start_server(connected, [local], port, clients_max)

    async def create_server(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        port: int,
        host: str = "",
        *,
        clients_max: int = FLOWS_MAX,
    ) -> StackServer:
        """Serve the protocols that `factory` makes."""
        local = self._local((host, port))[0]
        return self._endpoints.create_server(factory, [local], port, clients_max)

    async def create_datagram_endpoint(
        self,
        factory: Callable[[], D],
        local_addr: Address | None = None,
        remote_addr: Address | None = None,
    ) -> tuple[StackDatagramTransport, D]:
        """Bind a port, any where none is given, and connect it to `remote_addr`, if given."""
        remote = None if remote_addr is None else self._remote(remote_addr)
        local = self._local(local_addr)
        return self._endpoints.create_datagram_endpoint(factory, local, remote, self.resolve)

    def statistics(self) -> HostStatistics:
        """Return the counters, with TCP_INFO of every connection."""
        flows = self.stack.tcp.flows.values()
        connections = tuple(
            ConnectionStatistics(f.local, f.remote, f.conn.statistics()) for f in flows
        )
        return HostStatistics(self.stack.statistics(), connections)

"""A host in this process: a stack of its own on a port, with asyncio's streams and datagrams.

    async with Host(port, ["10.0.0.2/24"], gateway="10.0.0.1") as host:
        reader, writer = await host.open_connection("10.0.0.1", 80)

With `autoconf` the network configures it, by router advertisements, DHCPv6 and DHCP:

    async with Host(port, autoconf=True) as host:  # waits until it has an address
        reader, writer = await host.open_connection("www.example", 80)

It runs on the loop that is running, in real time or in virtual time (`aio/virtual.py`), on any
port: a TAP device, one end of a cable, a place on a network.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from ..errors import LinkError
from ..link.port import Port
from ..link.switch import Switch
from ..proto.tcp.config import Config
from ..proto.tcp.statistics import Statistics as TcpStatistics
from ..stack import autoconf as autoconfs
from ..stack import stack as stacks
from ..stack.configured import DnsChanged
from ..stack.interface import Address as Configured
from ..stack.interface import Interface, InterfaceConfig, addresses_of
from ..stack.tcp import FLOWS_MAX
from ..stack.udp import Endpoint
from ..wire import ip
from ..wire.ethernet import local_mac, parse_mac
from . import happy, stub
from .datagrams import StackDatagramTransport
from .driver import Driver
from .endpoints import D, Endpoints, P
from .naming import Info, Naming
from .server import StackServer
from .streams import ClientConnected, StackTransport

Address = tuple[str, int]
Bound = tuple[bytes | None, int]
T = TypeVar("T")
CONFIGURED_WITHIN = 30.0  # seconds
OTHER_FAMILY = 8.0  # how long to wait for it: DHCP and RFC 5227's probes take about 7
RELEASED_WITHIN = 0.1  # for a lease to be given back before the port closes


class NotConfigured(LinkError, TimeoutError):
    """Nobody on the link gave us an address in time."""


@dataclass(frozen=True, slots=True)
class ConnectionStatistics:
    """One connection: its ends, and TCP_INFO by Linux's names."""

    local: Endpoint
    remote: Endpoint
    tcp: TcpStatistics


@dataclass(frozen=True, slots=True)
class HostStatistics:
    """The stack's counters, every connection's, and the resolver's."""

    stack: stacks.Statistics
    connections: tuple[ConnectionStatistics, ...]
    names: stub.Statistics


class Host:
    """A host with one interface; an async context manager, or `start` and `close`.

    `addresses` have prefixes; `gateway` is one address or one of each family; `mac` is made from
    `name` unless given; on a `vlan` all frames have its tag (IEEE 802.1Q).  `names` are other
    hosts'; `tcp` makes the parameters of connections from an IP version and an MTU; `seed` makes
    ports and sequence numbers repeatable.  With several ports the host bridges between them.

    `autoconf` (True, or a `stack.autoconf.Config`) gets addresses, routers and name servers from
    the network, beside `addresses`; `dns` and `search` are servers and domains without it.
    """

    def __init__(
        self,
        port: Port | None = None,
        addresses: Iterable[str] = (),
        *,
        gateway: str | Sequence[str] = (),
        mac: str | None = None,
        mtu: int | None = None,
        vlan: int | None = None,
        name: str = "host",
        names: Mapping[str, Sequence[bytes]] | None = None,
        tcp: Callable[[int, int], Config] | None = None,
        seed: int | str | None = None,
        autoconf: bool | autoconfs.Config = False,
        dns: Iterable[str] = (),
        search: Iterable[str] = (),
    ) -> None:
        self.name = name
        self.autoconf: autoconfs.Autoconf | None = None
        self._addresses = addresses_of(addresses)
        self._autoconf = autoconfs.Config() if autoconf is True else autoconf or None
        servers = (ipaddress.ip_address(server).packed for server in dns)
        self._dns = DnsChanged(tuple(servers), tuple(search))
        self.mac = parse_mac(mac) if mac else local_mac(f"host/{name}")
        self.mtu = mtu or (port.mtu if port is not None else 1500)
        self._gateways = [gateway] if isinstance(gateway, str) else list(gateway)
        self._names = {} if names is None else names
        self._port = port
        self._tcp = tcp
        self._vlan = vlan
        self._rng = random.Random(seed)
        self._running = False

    # Life.

    async def __aenter__(self) -> Self:
        self.start()
        try:
            await self.configured()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.autoconf is not None and self._running:
            self.autoconf.stop(self.driver.now())
            self.driver.wake()
            await asyncio.sleep(RELEASED_WITHIN)
        self.close()
        await asyncio.sleep(0)  # transports tell their protocols

    def start(self) -> None:
        """Come up on the running loop."""
        self.loop = asyncio.get_running_loop()
        self.switch = Switch(self.mac)
        hops = {len(hop): hop for hop in (ipaddress.ip_address(g).packed for g in self._gateways)}
        config = InterfaceConfig(
            self.mac, self._addresses, self.mtu, gateway4=hops.get(4), gateway6=hops.get(16),
            vlan=self._vlan,
        )  # fmt: skip
        interface = Interface(config, self.switch)
        self.stack = stacks.Stack(interface, rng=self._rng, tcp_config=self._tcp)
        self.driver = Driver(self.stack, self.switch, self.loop)
        self._endpoints = Endpoints(self.stack, self.driver, self.loop)
        self.naming = Naming(self, interface, self._names, self._rng)
        self.naming.dns_changed(self._dns.servers, self._dns.search)
        self._changed = asyncio.Event()
        self._running = True
        if self._autoconf is not None:
            self.autoconf = autoconfs.Autoconf(self.stack, self._autoconf, self._rng)
            self.autoconf.changed = self._reconfigured
            self.autoconf.start(self.driver.now())
        else:
            self.stack.groups.join_own(self.driver.now())
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

    # What the network tells.

    @property
    def addresses(self) -> tuple[Configured, ...]:
        """Our addresses with their prefixes, link-local ones aside."""
        return tuple(self.stack.interface.addresses) if self._running else self._addresses

    @property
    def dns(self) -> DnsChanged:
        """The name servers and search domains in force."""
        told = self.autoconf.dns if self.autoconf is not None else self._dns
        return told if told.servers else self._dns

    def _reconfigured(self) -> None:
        assert self.autoconf is not None
        while self.autoconf.next_event() is not None:
            pass  # what counts is what the interface has now
        self.naming.dns_changed(self.dns.servers, self.dns.search)
        self._changed.set()

    def _has(self, version: int) -> bool:
        mine = (a for a in self.addresses if a.version == version)
        return any(not ip.is_link_local(a.packed) for a in mine)

    async def configured(
        self, *versions: int, timeout: float = CONFIGURED_WITHIN, other: float = OTHER_FAMILY
    ) -> None:
        """Wait until there is an address of each of `versions` (4, 6).

        Without any: of either, and `other` seconds longer for the other one that the options ask
        for.  Returns at once without `autoconf`.  Raises `NotConfigured` after `timeout`.
        """
        config = self._autoconf
        if config is None:
            return
        wanted = set(versions) or {v for v, on in ((4, config.ipv4), (6, config.ipv6)) if on}
        end, late = self.loop.time() + timeout, None
        while missing := {v for v in wanted if not self._has(v)}:
            if late is None and not versions and missing != wanted:
                late = self.loop.time() + other
            at = end if late is None else min(end, late)
            if not await self._change(at):
                if late is not None:
                    return
                names = " and ".join(f"IPv{v}" for v in sorted(missing))
                raise NotConfigured(
                    f"expected an {names} address within {timeout:g} seconds, found none"
                )

    async def _change(self, until: float) -> bool:
        self._changed.clear()
        try:
            async with asyncio.timeout_at(until):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    # Names.

    def resolve(self, name: str) -> bytes:
        """Return the address of a host by name, of its first family, or as written; no DNS."""
        return self.naming.resolve(name)

    async def lookup(self, name: str) -> list[str]:
        """Return the addresses of a name, the first to try first (RFC 6724); asks the DNS.

        Raises `aio.stub.NameNotFound` and `proto.dnsmatch.NoAnswer`, both `OSError`.
        """
        return [str(ipaddress.ip_address(a)) for a in await self.naming.lookup(name)]

    async def getaddrinfo(
        self, host: str, port: int, *, family: int = 0, type: int = 0, proto: int = 0
    ) -> list[Info]:
        """Look a name up in our network, with the signature of asyncio's."""
        return await self.naming.getaddrinfo(host, port, family, type, proto)

    async def _found(self, name: str) -> list[bytes]:
        """Return the addresses to try: a known host's first one, else all that the DNS has."""
        known = self.naming.at_once(name)
        return known[:1] if known else await self.naming.lookup(name)

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

        A name that the DNS knows is tried in both families (RFC 8305).  Raises
        `ConnectionRefusedError`, `TimeoutError` and `OSError` as asyncio does.
        """
        return await self._connect(
            self._endpoints.open_connection, lambda lost: lost[1].close(), host, port, local_addr
        )

    async def create_connection(
        self, factory: Callable[[], P], host: str, port: int, *, local_addr: Address | None = None
    ) -> tuple[StackTransport, P]:
        """Connect as `open_connection` does, then make a protocol; return it and its transport."""

        async def connect(remote: Endpoint, local: Bound) -> StackTransport:
            return (await self._endpoints.create_connection(happy.Waiting, remote, local))[0]

        transport = await self._connect(connect, StackTransport.abort, host, port, local_addr)
        return transport, happy.adopt(transport, factory)

    async def _connect(
        self, connect: Callable[[Endpoint, Bound], Awaitable[T]], discard: Callable[[T], None],
        host: str, port: int, local_addr: Address | None,
    ) -> T:  # fmt: skip
        """Race the addresses of a name in the DNS; else try what there is in turn."""
        if self.naming.at_once(host) is not None or local_addr or not self.naming.stub.servers:
            return await self._try_each(connect, host, port, local_addr)

        async def open(addr: bytes) -> T:
            return await connect((addr, port), (None, 0))

        source = self.stack.interface.source_for
        return await happy.connect(open, self.naming, host, discard=discard, source=source)

    async def _try_each(
        self, connect: Callable[[Endpoint, Bound], Awaitable[T]], host: str, port: int,
        local_addr: Address | None,
    ) -> T:  # fmt: skip
        local = self._local(local_addr)
        error: OSError | None = None
        for addr in await self._found(host):
            if local[0] is not None and len(local[0]) != len(addr):
                continue
            try:
                return await connect((addr, port), local)
            except OSError as e:
                error = e
        raise error or OSError(f"no address of {host!r} is of the family of {local_addr}")

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
        remote = None
        if remote_addr is not None:
            remote = (await self._found(remote_addr[0]))[0], remote_addr[1]
        local = self._local(local_addr)
        return self._endpoints.create_datagram_endpoint(factory, local, remote, self.resolve)

    def connections(self) -> tuple[ConnectionStatistics, ...]:
        """Return every connection with its TCP_INFO."""
        flows = self.stack.tcp.flows.values()
        return tuple(ConnectionStatistics(f.local, f.remote, f.conn.statistics()) for f in flows)

    def statistics(self) -> HostStatistics:
        """Return the counters, with TCP_INFO of every connection."""
        names = self.naming.stub.statistics()
        return HostStatistics(self.stack.statistics(), self.connections(), names)

"""The gateway: a network with a router, DHCP, DNS and a way out, put together from the layers.

    async with Gateway("192.168.127.1/24", "fd00:127::1/64") as net:
        net.attach(TapPort(fd))                        # or machines: nics=[net.port("vm1")]
        await net.publish("tcp", host=("127.0.0.1", 8080), guest=("vm1", 80))

Guests get an address by DHCP and a prefix by router advertisements; what they send elsewhere goes
through sockets of the host; `host.internal` is the host's loopback.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
import resource
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Self

from .aio.driver import Driver
from .aio.endpoints import Endpoints
from .aio.server import StackServer
from .aio.streams import ClientConnected
from .aio.udplane import DatagramLane
from .config import GatewayConfig
from .errors import UsageError
from .host.ping import PingForwarder
from .host.policy import Policy
from .host.publish import Published, PublishedTcp, PublishedUdp, bind
from .host.tcp import TcpForwarder
from .host.udp import UdpForwarder
from .link.port import Listener, Port
from .link.switch import Switch
from .proto import dhcp, ra
from .proto.tcp.config import Config
from .services.dhcp import DhcpService
from .services.dns import Forwarder
from .services.dnsport import DnsService
from .services.resolver import Config as ResolverConfig
from .services.resolver import Resolver
from .stack.interface import Interface, InterfaceConfig
from .stack.stack import Stack, Statistics, default_tcp_config
from .wire import ip, ndp
from .wire.ethernet import local_mac

log = logging.getLogger(__name__)


class GatewayJack:
    """A place on the gateway's switch with a name, a link address and an IPv4 address."""

    def __init__(self, gateway: Gateway, name: str, mac: bytes, ipv4: bytes | None) -> None:
        self.name = name
        self.mac = mac
        self.mtu = gateway.config.mtu
        self.ipv4 = ipv4
        v6 = gateway.config.v6
        self.ipv6 = ip.eui64(mac, v6.network.network_address.packed[:8]) if v6 else None
        self._gateway = gateway
        self._port: Port | None = None

    def plug(self, port: Port) -> None:
        """Connect `port`, replacing and closing the one that was there."""
        self.unplug()
        self._port = port
        self._gateway.attach(port, self._lost)

    def unplug(self) -> None:
        """Disconnect and close the port; the place stays."""
        if self._port is not None:
            port, self._port = self._port, None
            self._gateway.detach(port)

    def _lost(self, port: Port) -> None:
        if self._port is port:
            self._port = None


class Gateway:
    """A virtual network and its way out; an async context manager."""

    def __init__(
        self, *addresses: str, config: GatewayConfig | None = None, **options: Any
    ) -> None:
        config = config or GatewayConfig()
        if addresses:
            config = replace(config, addresses=addresses)
        self.config = replace(config, **options)
        self.config.check()
        self._rng = random.Random(self.config.seed)
        self._jacks: dict[str, GatewayJack] = {}
        self._published: list[Published] = []
        self._listeners: list[Listener] = []
        self._names: dict[str, list[bytes]] = {}

    # Life.

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        raise_descriptor_limit()
        config = self.config
        hosts = config.host_addresses()
        own = [a for a in (config.v4, config.v6) if a is not None]
        mac = local_mac("gateway")
        self.switch = Switch(mac)
        interface = Interface(InterfaceConfig(mac, (*own, *hosts), config.mtu), self.switch)
        tcp = partial(tcp_config, mss=config.mss)
        self.stack = Stack(interface, rng=self._rng, forwarding=True, tcp_config=tcp)
        self.driver = Driver(self.stack, self.switch, self._loop)
        self._endpoints = Endpoints(self.stack, self.driver, self._loop)
        self.policy = Policy(
            host=frozenset(a.ip.packed for a in hosts),
            local=frozenset(interface.local),
            networks=tuple(a.network for a in own),
            link_local=config.link_local,
        )
        wake = self.driver.wake
        self.driver.open_lane(self._rng, config.busy_poll)
        self.tcp = TcpForwarder(self.stack, self.policy, self.driver)
        lane = self.driver.datagrams = DatagramLane(self.switch, self.stack, self._rng, wake)
        self.udp = UdpForwarder(self.stack, self.policy, self._loop, wake, lane=lane)
        self.ping = PingForwarder(self.stack, self.policy, self._loop, wake)
        self.stack.tcp.forward = self.tcp
        self.stack.udp.forward = self.udp
        self.stack.icmp.forward = self.ping
        self._start_services([a.ip.packed for a in own], [a.ip.packed for a in hosts])
        return self

    def _start_services(self, own: list[bytes], hosts: list[bytes]) -> None:
        config = self.config
        domain = config.domain
        self._names[f"gateway.{domain}"] = own
        if hosts:
            self._names[f"host.{domain}"] = hosts
        resolver = Resolver(ResolverConfig(path=config.resolv_conf)) if config.resolv_conf else None
        self.dns = Forwarder(
            self._names, resolver, hosts=config.hosts_file or None, clock=self.driver.now
        )
        self._dns = DnsService(self.stack, self.dns, own, self._loop, self.driver.wake)
        for addr in own:
            self._serve_stream(self._dns.serve_stream, addr, 53)
        if config.v4 is not None:
            self.dhcp = dhcp.Server(self._dhcp_config(config.v4, hosts))
            DhcpService(self.stack, self.dhcp)
        if config.v6 is not None:
            self.stack.resolution.router = ra.Router(self._ra_config(config.v6), self._rng)
            self.stack.resolution.router.start(self.driver.now())

    def _dhcp_config(self, v4: ipaddress.IPv4Interface, hosts: list[bytes]) -> dhcp.Config:
        net = v4.network
        return dhcp.Config(
            server=v4.ip.packed,
            prefix_len=net.prefixlen,
            first=(net.network_address + 2).packed,
            last=(net.broadcast_address - 2).packed,
            router=v4.ip.packed,
            dns=(v4.ip.packed,),
            domain=self.config.domain,
            mtu=self.config.mtu,
            reserved=frozenset(h for h in hosts if len(h) == 4),
        )

    def _ra_config(self, v6: ipaddress.IPv6Interface) -> ra.Config:
        advertisement = ndp.RouterAdvertisement(
            slla=self.switch.mac,
            mtu=self.config.mtu,
            prefixes=(ndp.Prefix(v6.network.network_address.packed),),
            rdnss=(ndp.Rdnss(1800, (v6.ip.packed,)),),
        )
        # The only router of the link has nobody to collide with: machines boot faster.
        return ra.Config(advertisement, max_ra_delay=0.0)

    async def __aexit__(self, *exc: object) -> None:
        for listener in self._listeners:
            self.driver.unwatch(listener)
        for published in self._published:
            published.close()
        self._endpoints.close()
        self.tcp.close()
        self.udp.close()
        self.ping.close()
        await self._dns.close()
        self.driver.flush()
        self.driver.close()
        await asyncio.sleep(0)  # transports tell their protocols

    # Links.

    def attach(self, port: Port, closed: Callable[[Port], None] | None = None) -> None:
        """Connect a port to the network; `closed` is told when its other side is gone."""
        self.driver.attach(port, closed)

    def detach(self, port: Port) -> None:
        """Disconnect and close a port."""
        self.driver.detach(port)

    def listen(self, listener: Listener, arrived: Callable[[Port], None] | None = None) -> None:
        """Attach every port that arrives at `listener`, which the gateway owns from now on."""

        def attach(port: Port) -> None:
            self.attach(port)
            if arrived is not None:
                arrived(port)

        self._listeners.append(listener)
        self.driver.watch(listener, attach)

    def port(self, name: str, *, seed: str = "") -> GatewayJack:
        """Return the place called `name`, with an address of its own that DHCP keeps for it.

        Its MAC is made from `seed`, a machine's UUID for example, or from the name.
        """
        if name not in self._jacks:
            mac = local_mac(f"port/{seed or name}")
            ipv4 = self._fix_address(name, mac)
            jack = self._jacks[name] = GatewayJack(self, name, mac, ipv4)
            known = [a for a in (jack.ipv4, jack.ipv6) if a is not None]
            self._names[f"{name}.{self.config.domain}"] = known
        return self._jacks[name]

    def _fix_address(self, name: str, mac: bytes) -> bytes | None:
        v4 = self.config.v4
        if v4 is None:
            return None
        taken = {jack.ipv4 for jack in self._jacks.values()} | self.stack.interface.local
        taken |= {lease.addr for lease in self.dhcp.leases(self.driver.now())}
        for address in v4.network.hosts():
            if address.packed not in taken:
                self.dhcp.fix(mac, address.packed, name)
                return address.packed
        raise UsageError(f"no address is left in {v4.network} for {name!r}")

    # Names and ports.

    def resolve(self, guest: str) -> bytes:
        """Return the address of a guest by place name or as written; IPv4 where it has both."""
        jack = self._jacks.get(guest)
        if jack is not None:
            return jack.ipv4 or jack.ipv6 or b""
        try:
            return ipaddress.ip_address(guest).packed
        except ValueError:
            known = ", ".join(sorted(self._jacks)) or "none"
            raise UsageError(
                f"no guest {guest!r}: expected an address or one of: {known}"
            ) from None

    async def publish(
        self, proto: str, *, host: tuple[str, int], guest: tuple[str, int]
    ) -> Published:
        """Forward a host port to a guest's; returns a handle with `address` and `close`."""
        if proto not in ("tcp", "udp"):
            raise UsageError(f"expected tcp or udp to publish, found {proto!r}")
        kind = socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
        target = (self.resolve(guest[0]), guest[1])
        sock = bind(kind, host)
        make = PublishedTcp if proto == "tcp" else PublishedUdp
        made = make(self.stack, self.policy, self.driver, sock, target)
        self._published.append(made)
        return made

    async def start_server(
        self, connected: ClientConnected, port: int, host: str | None = None
    ) -> StackServer:
        """Serve streams on the gateway's addresses (or on `host` only), inside the network."""
        addr = ipaddress.ip_address(host).packed if host else None
        return self._serve_stream(connected, addr, port)

    def _serve_stream(
        self, connected: ClientConnected, addr: bytes | None, port: int
    ) -> StackServer:
        own = self.policy.local - self.policy.host
        return self._endpoints.start_server(connected, [addr] if addr else sorted(own), port)

    async def open_connection(
        self, guest: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a guest's port from the gateway's own address."""
        return await self._endpoints.open_connection((self.resolve(guest), port))

    def statistics(self) -> Statistics:
        """Return the stack's counters."""
        return self.stack.statistics()


def tcp_config(version: int, mtu: int, mss: int = 0) -> Config:
    """Return the parameters of connections with guests, whose silent end has to be noticed.

    `mss` clamps their segments, 0 for no clamp.
    """
    made = default_tcp_config(version, mtu)
    mss = min(made.mss, mss or made.mss)
    return replace(made, keepalive=True, nodelay=True, delayed_fin=True, mss=mss)


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard one: every flow has a host socket."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

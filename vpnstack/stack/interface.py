"""One interface of a stack: its addresses, its neighbours, and what waits to leave through it."""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..core import access
from ..core.burst import Burst
from ..proto import addrsel, pmtu
from ..proto.icmp import is_single_host
from ..proto.neighbour import Cache
from ..proto.tcp.segment import Segment
from ..wire import ip

BROADCAST_MAC = b"\xff" * 6
QUEUE_MAX = 1024  # packets off the fast path that may wait for the link

Address = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Link(Protocol):
    """What is below an interface: a switch, or a single port through `Wire`."""

    def egress(self, burst: Burst) -> None:
        """Send the frames of `burst`; the burst may be reused afterwards."""

    def blocked(self, mac: bytes) -> bool:
        """Tell whether frames for `mac` had better wait."""


@dataclass(frozen=True, slots=True)
class InterfaceConfig:
    """`addresses` are ours with their prefixes; `mtu` counts bytes of an IP packet.

    With `vlan` (1 to 4094) the interface takes and sends frames of that VLAN only (IEEE 802.1Q).
    """

    mac: bytes
    addresses: tuple[Address, ...]
    mtu: int = 1500
    gateway4: bytes | None = None
    gateway6: bytes | None = None
    vlan: int | None = None


@dataclass(slots=True)
class InterfaceCounters:
    """Packets that were dropped, the last kind on their way in."""

    queue_full: int = 0
    unresolved: int = 0
    unroutable: int = 0
    framed_to_group: int = 0


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP datagram on its way out: a template (see core/emit.c) and the payload."""

    template: bytes
    data: bytes


Route = tuple[bytes, int, bytes]  # network, prefix length, router
Queued = bytes | Datagram | tuple[bytes, Segment]  # a frame, a datagram, a segment of no flow


@dataclass(frozen=True, slots=True)
class Packet:
    """An IP packet that waits for its neighbour's link address."""

    octets: bytes
    mtu: int = 0  # of its path; 0: the link's


@dataclass(slots=True)
class Interface:
    """Addresses, neighbour cache and the queue of ready frames of one link.

    Addresses, routers and MTU start as configured; whoever configures the interface while it
    runs (`autoconf`) changes them here.
    """

    config: InterfaceConfig
    link: Link
    neighbours: Cache = field(default_factory=Cache)
    local: set[bytes] = field(default_factory=set)
    broadcasts: set[bytes] = field(default_factory=set)
    queue: deque[Queued] = field(default_factory=deque)
    counters: InterfaceCounters = field(default_factory=InterfaceCounters)
    link_local: bytes = b""
    addresses: list[Address] = field(default_factory=list)
    prefixes: list[Network] = field(default_factory=list)  # on the link without being ours
    deprecated: set[bytes] = field(default_factory=set)
    temporary: set[bytes] = field(default_factory=set)
    paths: pmtu.Cache = field(default_factory=pmtu.Cache)
    gateway4: bytes | None = None
    gateway6: bytes | None = None
    routes4: tuple[Route, ...] = ()  # before `gateway4`, the longest first (RFC 3442)
    route6: Callable[[bytes], bytes | None] | None = None  # in place of `gateway6`
    mtu_told: int = 0  # by the link's routers or servers; 0: nothing
    hop_limit: int = 64
    station: bytes = b""  # our link address, and the VLAN tag behind it
    known_networks: list[tuple[int, int, int]] | None = None  # see `_networks`
    ident: int = 0  # of the latest packet that left in fragments

    def __post_init__(self) -> None:
        vlan = self.config.vlan
        tag = b"" if vlan is None else b"\x81\0" + vlan.to_bytes(2)
        self.station = self.config.mac + tag
        self.addresses = list(self.config.addresses)
        self.gateway4, self.gateway6 = self.config.gateway4, self.config.gateway6
        self.link_local = ip.eui64(self.config.mac)
        self.local.add(self.link_local)
        for address in self.config.addresses:
            self.local.add(address.ip.packed)
        self._note_broadcasts()

    def _note_broadcasts(self) -> None:
        self.known_networks = None
        self.broadcasts.clear()  # the set is shared: who refuses errors to broadcasts has it
        for a in self.addresses:
            if a.version == 4 and a.network.prefixlen < 31:
                self.broadcasts.add(a.network.broadcast_address.packed)

    @property
    def mac(self) -> bytes:
        """Our link address."""
        return self.config.mac

    @property
    def mtu(self) -> int:
        """Bytes of the largest IP packet."""
        return min(self.mtu_told or self.config.mtu, self.config.mtu)

    def path_mtu(self, dst: bytes, now: float) -> int:
        """Bytes of the largest IP packet that reaches `dst`, as far as we know."""
        return self.paths.get(dst, now, self.mtu)

    def add_address(self, address: Address) -> None:
        """Make an address ours."""
        if address.packed not in self.local:
            self.addresses.append(address)
            self.local.add(address.packed)
            self._note_broadcasts()

    def remove_address(self, addr: bytes) -> None:
        """Make an address nobody's."""
        self.addresses = [a for a in self.addresses if a.packed != addr]
        for known in (self.local, self.deprecated, self.temporary):
            known.discard(addr)
        self._note_broadcasts()

    def on_link(self, addr: bytes) -> bool:
        """Tell whether `addr` is a neighbour rather than behind a router."""
        if len(addr) == 16 and ip.is_link_local(addr):
            return True
        number, length = int.from_bytes(addr), len(addr)
        return any(number & mask == net for n, mask, net in self._networks() if n == length)

    def _networks(self) -> list[tuple[int, int, int]]:
        """Return length of address, mask and network of all that is on the link, as numbers."""
        if self.known_networks is None:
            networks = [a.network for a in self.addresses] + self.prefixes
            self.known_networks = [
                (len(n.network_address.packed), int(n.netmask), int(n.network_address))
                for n in networks
            ]
        return self.known_networks

    def set_prefixes(self, prefixes: list[Network]) -> None:
        """Set the networks that are on the link without being ours."""
        self.prefixes = prefixes
        self.known_networks = None

    def next_hop(self, dst: bytes) -> bytes | None:
        """Return whom to send to for `dst`, None where there is no route."""
        if self.on_link(dst):
            return dst
        if len(dst) == 4:
            return self._route4(dst) if self.routes4 else self.gateway4
        return self.route6(dst) if self.route6 is not None else self.gateway6

    def _route4(self, dst: bytes) -> bytes | None:
        number = int.from_bytes(dst)
        for network, length, via in self.routes4:
            if not (number ^ int.from_bytes(network)) >> (32 - length):
                return via if any(via) else dst  # RFC 3442: a router 0.0.0.0 means on the link
        return self.gateway4

    def reachable(self, addr: bytes) -> bool:
        """Tell whether answers to `addr` can leave here: another single host, and there is a route.

        RFC 1122 3.2.1.3: what names no host, or all of them, is no source.
        """
        other = is_single_host(addr) and addr not in self.local and addr not in self.broadcasts
        return other and self.next_hop(addr) is not None

    def framed_to_group(self, f: Any) -> bool:
        """Tell whether a packet for a single host came in a frame for many: drop it.

        RFC 1122 3.3.6: an answer of all who forward it would be a storm.
        """
        if not f.head[0] & 1:
            return False
        dst = access.destination(f)
        if ip.is_multicast(dst) or dst == ip.BROADCAST_V4 or self.is_broadcast(dst):
            return False
        self.counters.framed_to_group += 1
        return True

    def source_for(self, dst: bytes) -> bytes | None:
        """Return our address to talk to `dst` from.

        IPv6 by RFC 6724; IPv4: the one in its network, else the first.
        """
        if len(dst) == 16:
            return self._source6(dst)
        mine = [a for a in self.addresses if a.version == 4]
        other = ipaddress.ip_address(dst)
        best = next((a for a in mine if other in a.network), mine[0] if mine else None)
        return best.ip.packed if best else None

    def _source6(self, dst: bytes) -> bytes | None:
        mine = [
            addrsel.Candidate(
                a.packed, a.network.prefixlen, a.packed in self.deprecated,
                a.packed in self.temporary,
            )
            for a in self.addresses
            if a.version == 6
        ]  # fmt: skip
        near = addrsel.scope(dst) <= addrsel.Scope.LINK_LOCAL
        if near and self.link_local in self.local:
            mine.append(addrsel.Candidate(self.link_local))
        best = addrsel.source(dst, mine)
        return best.addr if best else None

    def resolve(self, dst: bytes, now: float, waiting: Any) -> bytes | None:
        """Return the link address for `dst`; None while `waiting` waits for it or has no route."""
        if ip.is_multicast(dst):
            return ip.multicast_mac(dst)
        if dst == ip.BROADCAST_V4 or self.is_broadcast(dst):
            return BROADCAST_MAC
        hop = self.next_hop(dst)
        if hop is None:
            self.counters.unroutable += 1
            return None
        return self.neighbours.resolve(hop, now, waiting)

    def is_broadcast(self, dst: bytes) -> bool:
        """Tell whether `dst` is the directed broadcast of one of our IPv4 networks."""
        return dst in self.broadcasts

    def send_packet(self, octets: bytes, now: float, path: int = 0) -> None:
        """Queue an IP packet, resolving its destination first where that is needed.

        `path` is the MTU that it is cut to, by default that of the path as far as we know.
        """
        dst = octets[16:20] if octets[0] >> 4 == 4 else octets[24:40]
        path = path or self.path_mtu(dst, now)
        mac = self.resolve(dst, now, Packet(octets, path))
        if mac is not None:
            self.send_resolved(mac, octets, path)

    def send_resolved(self, mac: bytes, octets: bytes, mtu: int = 0) -> None:
        """Queue an IP packet for the station `mac`, in fragments where it exceeds the MTU.

        `mtu` is the path's, by default the link's.
        """
        mtu = mtu or self.mtu
        if len(octets) <= mtu:
            self.send_frame(mac, octets)
            return
        self.ident = (self.ident + 1) & 0xFFFFFFFF
        for fragment in ip.fragments(octets, mtu, self.ident):
            self.send_frame(mac, fragment)

    def send_frame(self, mac: bytes, octets: bytes, ethertype: int = 0) -> None:
        """Queue a packet for the station `mac`; IP unless `ethertype` says otherwise."""
        kind = ethertype or (0x0800 if octets[0] >> 4 == 4 else 0x86DD)
        self.send_queued(mac + self.station + kind.to_bytes(2, "big") + octets)

    def send_queued(self, item: Queued) -> None:
        """Queue what `Stack.transmit` turns into one frame."""
        if len(self.queue) >= QUEUE_MAX:
            self.counters.queue_full += 1
            return
        self.queue.append(item)


class Wire:
    """A `Link` over one port, for a stack that is alone on its end of it."""

    __slots__ = ("port",)

    def __init__(self, port: Any) -> None:
        self.port = port

    def egress(self, burst: Burst) -> None:
        """Send everything through the port."""
        self.port.tx_burst(burst)

    def blocked(self, mac: bytes) -> bool:
        """Tell whether the port takes no frames now."""
        return bool(self.port.stalled)


def addresses_of(texts: Iterable[str]) -> tuple[Address, ...]:
    """Parse `address/prefix` texts of either family."""
    return tuple(ipaddress.ip_interface(text) for text in texts)

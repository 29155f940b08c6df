"""UDP (RFC 768): who receives a datagram, and how one leaves, in fragments where it must."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ..core import access
from ..wire import icmp, ip
from . import headers
from .interface import Datagram, Interface

HEADER_LEN = 8
PAYLOAD_MAX = {4: 65535 - 20 - HEADER_LEN, 16: 65535 - HEADER_LEN}  # by the address's length

Endpoint = tuple[bytes, int]  # an address of 4 or 16 bytes, and a port


class UdpOwner(Protocol):
    """Who receives datagrams of a bound port, or those that nobody bound."""

    def datagram_received(
        self, remote: tuple[bytes, int], local: tuple[bytes, int], data: bytes, now: float
    ) -> None:
        """Take one datagram; `data` is the owner's to keep."""

    def icmp_received(
        self, remote: tuple[bytes, int], local: tuple[bytes, int], error: icmp.Error, now: float
    ) -> None:
        """Learn that a datagram from `local` to `remote` did not arrive (RFC 1122 4.1.3.3)."""


@dataclass(slots=True)
class UdpCounters:
    """Datagrams since the stack was made."""

    datagrams_in: int = 0
    datagrams_out: int = 0
    no_port: int = 0
    spoofed: int = 0  # from our own address, or from everybody's
    too_long: int = 0
    unresolved: int = 0


class PortTable(dict[tuple[bytes | None, int], UdpOwner]):
    """Owners by address and port; `bound` is told who takes a port."""

    bound: Callable[[bytes | None, int], None] | None = None

    def __setitem__(self, key: tuple[bytes | None, int], owner: UdpOwner) -> None:
        super().__setitem__(key, owner)
        if self.bound is not None:
            self.bound(*key)


class UdpLayer:
    """The port table of one interface; an address of None binds all of ours."""

    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        self.ports = PortTable()
        self.forward: UdpOwner | None = None
        self.counters = UdpCounters()
        self.unclaimed: Callable[[Any, float], None] | None = None  # answers: port unreachable

    def owner(self, addr: bytes, port: int) -> UdpOwner | None:
        """Return who gets datagrams for `addr` and `port`."""
        return self.ports.get((addr, port)) or self.ports.get((None, port)) or self.forward

    def receive(self, f: Any, now: float) -> None:
        """Give a parsed datagram to its owner, each one of a super-datagram by itself."""
        data = bytes(access.payload(f))
        size = (f.vnet.gso_size if f.vnet.gso_type else 0) or len(data) or 1
        self.counters.datagrams_in += max(1, -(-len(data) // size))
        if self.interface.framed_to_group(f):
            return
        src, dst = access.source(f), access.destination(f)
        if src in self.interface.local or src in self.interface.broadcasts:
            self.counters.spoofed += 1
            return
        remote, local = (src, f.sport), (dst, f.dport)
        for at in range(0, len(data) or 1, size):
            self.deliver(remote, local, data[at : at + size], now, f)

    def deliver(
        self, remote: tuple[bytes, int], local: tuple[bytes, int], data: bytes, now: float, f: Any
    ) -> None:
        """Find the owner of a datagram, whole or put together again from fragments."""
        owner = self.owner(*local)
        if owner is None:
            self.counters.no_port += 1
            if self.unclaimed is not None and f is not None:
                self.unclaimed(f, now)
            return
        owner.datagram_received(remote, local, data, now)

    def send(
        self,
        local: tuple[bytes, int],
        remote: tuple[bytes, int],
        data: bytes,
        now: float,
        *,
        ttl: int | None = None,
        mac: bytes | None = None,
        fragment: bool = True,
    ) -> bool:
        """Send `data`; False where it is too long.  `mac` skips the neighbour cache (DHCP).

        `ttl` is by default the link's, and 1 for a group (RFC 1112 6.1).  Without `fragment` it
        goes whole, whatever is known of the path, and is too long where the link says so.
        """
        interface = self.interface
        if ttl is None:
            ttl = 1 if ip.is_multicast(remote[0]) else interface.hop_limit
        size = (20 if len(local[0]) == 4 else 40) + HEADER_LEN + len(data)
        path = interface.path_mtu(remote[0], now) if fragment else interface.mtu
        if len(data) > PAYLOAD_MAX[len(remote[0])] or (not fragment and size > path):
            self.counters.too_long += 1
            return False
        self.counters.datagrams_out += 1
        if mac is None:
            mac = interface.resolve(remote[0], now, None)
        if mac is None:
            interface.send_packet(packet(local, remote, data, ttl), now, path)
            return True
        if size > path:
            interface.send_resolved(mac, packet(local, remote, data, ttl), path)
            return True
        ends = (*local, *remote)
        template = headers.template(mac, interface.station, ends, headers.UDP, ttl)
        interface.send_queued(Datagram(template, data))
        return True


def packet(
    local: tuple[bytes, int], remote: tuple[bytes, int], data: bytes, ttl: int = 64
) -> bytes:
    """Build a whole IP packet with one datagram, checksum included."""
    length = HEADER_LEN + len(data)
    head = struct.pack("!HHHH", local[1], remote[1], length, 0)
    pseudo = ip.pseudo_sum(local[0], remote[0], ip.UDP, length)
    right = ip.checksum(head + data, pseudo) or 0xFFFF
    body = head[:6] + right.to_bytes(2, "big") + data
    # RFC 6864 4.1: without an identification of its own it must not be cut on the way.
    repr = ip.Repr(local[0], remote[0], ip.UDP, ttl=ttl, dont_fragment=len(local[0]) == 4)
    return ip.emit(repr, body)

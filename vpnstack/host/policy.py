"""Where a guest's traffic may go, and what its addresses mean on the host."""

from __future__ import annotations

import errno
import ipaddress
import socket
from dataclasses import dataclass

from ..wire import ip
from ..wire.icmp import Kind

LOOPBACK = {4: ipaddress.ip_address("127.0.0.1").packed, 6: ipaddress.ip_address("::1").packed}
UNREACHABLE = {  # what the host's errors are to a guest
    errno.ENETUNREACH: Kind.NET_UNREACHABLE,
    errno.ENETDOWN: Kind.NET_UNREACHABLE,
    errno.EADDRNOTAVAIL: Kind.NET_UNREACHABLE,
    errno.EHOSTUNREACH: Kind.HOST_UNREACHABLE,
    errno.EHOSTDOWN: Kind.HOST_UNREACHABLE,
    errno.EACCES: Kind.PROHIBITED,
    errno.EPERM: Kind.PROHIBITED,
}
METADATA = ipaddress.ip_network("169.254.0.0/16")


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules for outgoing flows.

    `host` are the addresses that mean the host's loopback (`host.internal`); empty turns that
    off.  `local` are our other addresses on the guest's link, where nothing is forwarded.
    `networks` are the guest's own: nobody outside answers there.  Link-local destinations (cloud
    metadata services among them) are refused unless `link_local` is set.
    """

    host: frozenset[bytes] = frozenset()
    local: frozenset[bytes] = frozenset()
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    link_local: bool = False

    def fallback(self, addr: bytes) -> bytes | None:
        """Return where else to connect when the destination refused, None for nowhere.

        `host.internal` means the host's loopback, on which many servers listen in one family only.
        """
        return LOOPBACK[6 if len(addr) == 4 else 4] if addr in self.host else None

    def destination(self, addr: bytes) -> bytes | None:
        """Return the address to connect to on the host for `addr`, None where that is refused."""
        if addr in self.host:
            return LOOPBACK[4 if len(addr) == 4 else 6]
        if addr in self.local or ip.is_multicast(addr) or not any(addr) or addr == ip.BROADCAST_V4:
            return None
        other = ipaddress.ip_address(addr)
        if other.is_loopback or any(other in net for net in self.networks):
            return None
        if (other in METADATA or other.is_link_local) and not self.link_local:
            return None
        return addr

    def source(self, addr: bytes) -> bytes | None:
        """Return what a guest shall see of a host's peer `addr`; None for our own address.

        The host's loopback appears as `host.internal`; what the guest could not answer to (its
        own network, loopback when that is off) has to be hidden behind the gateway.
        """
        other = ipaddress.ip_address(addr)
        if other.is_loopback or other.is_unspecified or other.is_link_local:
            same = (a for a in self.host if len(a) == len(addr))
            return next(same, None)
        if any(other in net for net in self.networks) or addr in self.local:
            return None
        return addr


def text(addr: bytes) -> str:
    """Return an address as socket calls take it."""
    return socket.inet_ntop(socket.AF_INET if len(addr) == 4 else socket.AF_INET6, addr)

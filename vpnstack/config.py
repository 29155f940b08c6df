"""Frozen configuration of a gateway; `cli.py` fills it from the command line."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from .errors import UsageError

ADDRESSES = ("192.168.127.1/24", "fd00:127::1/64")
HOST_V4_FROM_END = 1  # host.internal is the last usable IPv4 address ...
MSS_MIN = 216  # what an MTU of 256 leaves; smaller segments help only attackers
HOST_V6_INTERFACE = 0xFE  # ... and this interface identifier

BUSY_POLL = 50  # microseconds, as net.core.busy_poll is usually set


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """`addresses` are the gateway's own, with prefixes, at most one of each family.

    `mtu` counts bytes of an IP packet; `mss` clamps TCP's segments both ways to so many bytes, 0
    for no clamp, where the path to a guest takes less and says nothing; `resolv_conf` is where the
    host's resolvers are read from, empty for none; `busy_poll` is for how many microseconds an
    answer is waited for actively after something was carried (`aio.busypoll`); `seed` makes
    addresses and numbers repeatable, for tests.
    """

    addresses: tuple[str, ...] = ADDRESSES
    mtu: int = 1500
    mss: int = 0
    host_loopback: bool = True
    link_local: bool = False
    domain: str = "internal"
    resolv_conf: str = "/etc/resolv.conf"
    hosts_file: str = "/etc/hosts"
    busy_poll: int = BUSY_POLL
    seed: int | None = None

    @property
    def v4(self) -> ipaddress.IPv4Interface | None:
        """The gateway's IPv4 address, None without one."""
        found = (ipaddress.ip_interface(a) for a in self.addresses)
        return next((a for a in found if isinstance(a, ipaddress.IPv4Interface)), None)

    @property
    def v6(self) -> ipaddress.IPv6Interface | None:
        """The gateway's IPv6 address, None without one."""
        found = (ipaddress.ip_interface(a) for a in self.addresses)
        return next((a for a in found if isinstance(a, ipaddress.IPv6Interface)), None)

    def host_addresses(self) -> tuple[ipaddress.IPv4Interface | ipaddress.IPv6Interface, ...]:
        """Return the addresses of `host.internal`, none where that is turned off."""
        if not self.host_loopback:
            return ()
        out: list[ipaddress.IPv4Interface | ipaddress.IPv6Interface] = []
        if self.v4 is not None:
            last = self.v4.network.broadcast_address - HOST_V4_FROM_END
            out.append(ipaddress.IPv4Interface((last, self.v4.network.prefixlen)))
        if self.v6 is not None:
            host = self.v6.network.network_address + HOST_V6_INTERFACE
            out.append(ipaddress.IPv6Interface((host, self.v6.network.prefixlen)))
        return tuple(out)

    def check(self) -> None:
        """Raise `UsageError` where the values cannot work together."""
        try:
            parsed = [ipaddress.ip_interface(a) for a in self.addresses]
        except ValueError as e:
            raise UsageError(f"expected ADDRESS/PREFIX such as 192.168.127.1/24: {e}") from e
        if not parsed or len({a.version for a in parsed}) != len(parsed):
            raise UsageError("expected one IPv4 and/or one IPv6 address for the gateway")
        if self.v4 is not None and self.v4.network.prefixlen > 28:
            raise UsageError(f"expected an IPv4 prefix of at most /28, found {self.v4}")
        if self.v6 is not None and self.v6.network.prefixlen != 64:
            raise UsageError(f"expected an IPv6 prefix of /64 (RFC 4862), found {self.v6}")
        if not (68 if self.v6 is None else 1280) <= self.mtu <= 65520:
            raise UsageError(f"expected an MTU of 1280 to 65520, found {self.mtu}")
        if self.mss and not MSS_MIN <= self.mss <= self.mtu:
            raise UsageError(f"expected an MSS of {MSS_MIN} to the MTU, or 0, found {self.mss}")

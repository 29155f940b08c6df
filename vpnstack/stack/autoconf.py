"""An interface that configures itself: both families under one roof.

    auto = Autoconf(stack, Config(), rng)
    auto.start(now)
    ...                                   # the stack's driver does the rest
    while event := auto.next_event(): ... # configured.AddressAdded, DnsChanged, ...

Addresses become the interface's when their checks (RFC 4862 5.4, RFC 5227) are over and cease to
be when their lifetimes are.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ..proto import acd, dhcp_client, dhcpv6_client, ndhost, slaac
from ..wire import arp, dhcp, dhcpv6, ndp
from .autoconf4 import Autoconf4
from .autoconf6 import Autoconf6
from .configured import DnsChanged, Event
from .stack import Stack


@dataclass(frozen=True, slots=True)
class Config:
    """What to use; `dhcpv6` runs where a router asks for it (the flags M and O).

    Unless `dhcp` has a client identifier, both versions of DHCP use one (RFC 4361).

    `link_local4` is after how many seconds without a lease an IPv4 link-local address is taken,
    None for never.
    """

    ipv4: bool = True
    ipv6: bool = True
    dhcp: dhcp_client.Config | None = field(default_factory=dhcp_client.Config)
    dhcpv6: dhcpv6_client.Config | None = field(default_factory=dhcpv6_client.Config)
    link_local4: float | None = None
    addresses: slaac.Config = field(default_factory=slaac.Config)
    routers: ndhost.Config = field(default_factory=ndhost.Config)
    claims: acd.Config | None = None


class Autoconf:
    """Runs inside `stack`, as its resolution's configurator."""

    def __init__(self, stack: Stack, config: Config, rng: random.Random) -> None:
        self.stack = stack
        self.v4: Autoconf4 | None = None
        self.v6: Autoconf6 | None = None
        self.changed: Callable[[], None] | None = None  # told that there are events
        if config.ipv4:
            self.v4 = Autoconf4(
                stack, _identified(stack.interface.mac, config), rng,
                dhcp_on=config.dhcp is not None, fallback=config.link_local4, claims=config.claims,
            )  # fmt: skip
        if config.ipv6:
            self.v6 = Autoconf6(stack, config.addresses, config.routers, config.dhcpv6, rng)
        self._dns = DnsChanged((), ())
        self._told = self._dns

    def start(self, now: float, *, addr4: bytes | None = None) -> None:
        """Begin; `addr4` is the address of an earlier DHCP lease."""
        self.stack.resolution.configurator = self
        if self.v4 is not None:
            self.v4.start(now, addr4)
        if self.v6 is not None:
            self.v6.start(now)

    def stop(self, now: float) -> None:
        """Give back what was leased; the messages leave with the stack's next transmission."""
        for family in (self.v4, self.v6):
            if family is not None:
                family.stop(now)

    @property
    def dns(self) -> DnsChanged:
        """The servers and search domains in force: DHCPv6, routers, then DHCP."""
        servers: list[bytes] = []
        search: list[str] = []
        if self.v6 is not None:
            servers += [*self.v6.informed[0], *self.v6.host.servers]
            search += [*self.v6.informed[1], *self.v6.host.domains]
        lease = self.v4.lease if self.v4 is not None else None
        if lease is not None:
            servers += lease.dns
            search += lease.search or ((lease.domain,) if lease.domain else ())
        return DnsChanged(tuple(dict.fromkeys(servers)), tuple(dict.fromkeys(search)))

    def next_event(self) -> Event | None:
        """Return the oldest event not yet taken."""
        for family in (self.v4, self.v6):
            if family is not None and family.events:
                return family.events.popleft()
        if self._dns != self._told:
            self._told = self._dns
            return self._told
        return None

    # The resolution's calls.

    def arp_received(self, message: arp.Repr, now: float) -> None:
        """See `resolution.Configurator`."""
        if self.v4 is not None:
            self.v4.arp_received(message, now)
            self._tell()

    def ndp_received(self, message: ndp.Repr, src: bytes, now: float) -> bool:
        """See `resolution.Configurator`."""
        if self.v6 is None:
            return False
        taken = self.v6.ndp_received(message, src, now)
        self._tell()
        return taken

    def neighbour_failed(self, addr: bytes) -> None:
        """See `resolution.Configurator`."""
        if self.v6 is not None and len(addr) == 16:
            self.v6.neighbour_failed(addr)

    def transmit(self, now: float) -> None:
        """See `resolution.Configurator`."""
        for family in (self.v4, self.v6):
            if family is not None:
                family.transmit(now)
        self._tell()

    def deadline(self) -> float | None:
        """See `resolution.Configurator`."""
        times = [family.deadline() for family in (self.v4, self.v6) if family is not None]
        return min((at for at in times if at is not None), default=None)

    def _tell(self) -> None:
        self._dns = self.dns
        waiting = any(f is not None and f.events for f in (self.v4, self.v6))
        if self.changed is not None and (waiting or self._dns != self._told):
            self.changed()


def _identified(mac: bytes, config: Config) -> dhcp_client.Config:
    """Return the parameters of the DHCPv4 client, with an identifier."""
    four, six = config.dhcp or dhcp_client.Config(), config.dhcpv6 or dhcpv6_client.Config()
    if four.client_id is not None:
        return four
    ident = dhcp.client_id(six.duid or dhcpv6.duid_ll(mac), six.iaid)
    return replace(four, client_id=ident)

"""IPv6 without configuration: router discovery, addresses with their checks, DHCPv6."""

from __future__ import annotations

import ipaddress
import random
from collections import deque
from dataclasses import replace

from ..proto import dhcpv6_client, ndhost, slaac
from ..proto.address import Origin
from ..proto.dhcpv6_lease import Lease
from ..proto.neighbour import State as Neighbour
from ..proto.slaac import Change
from ..wire import dhcpv6, icmp, ip, ndp
from .configured import (
    AddressAdded,
    AddressDeprecated,
    AddressRemoved,
    Conflict,
    Event,
    PrefixDelegated,
    PrefixWithdrawn,
    RouterChanged,
)
from .interface import Address
from .stack import Stack
from .udp import Endpoint


class Autoconf6:
    """IPv6 on a stack's interface; `dhcp` None leaves DHCPv6 off whatever the routers say."""

    def __init__(
        self, stack: Stack, addresses: slaac.Config, router: ndhost.Config,
        dhcp: dhcpv6_client.Config | None, rng: random.Random,
    ) -> None:  # fmt: skip
        self.stack = stack
        self.interface = stack.interface
        self.host = ndhost.Host(router, rng)
        self.addresses = slaac.Addresses(stack.interface.mac, addresses, rng)
        self.client = dhcpv6_client.Client(stack.interface.mac, dhcp, rng) if dhcp else None
        self.informed: tuple[tuple[bytes, ...], tuple[str, ...]] = ((), ())
        self.events: deque[Event] = deque()
        self._router: bytes | None = None

    def start(self, now: float) -> None:
        """Begin with the link-local address, which is not ours before its check."""
        interface = self.interface
        interface.local.discard(interface.link_local)
        interface.route6 = self._next_hop
        if self.client is not None:
            self.stack.udp.ports[None, dhcpv6.CLIENT_PORT] = self
        self.addresses.start(now)
        for address in [a for a in interface.addresses if a.version == 6]:
            interface.remove_address(address.packed)
            self.addresses.add(address.packed, address.network.prefixlen, now)
            self._on_link(address.packed, address.network.prefixlen)
        self._join_all(now)

    def stop(self, now: float) -> None:
        """Give the lease back."""
        if self.client is not None:
            self.client.release(now)
            self._take_dhcp(now)
            self._transmit_dhcp(now)

    def _next_hop(self, dst: bytes) -> bytes | None:
        def reachable(addr: bytes) -> bool:
            return self.interface.neighbours.state(addr) not in (None, Neighbour.INCOMPLETE)

        hop = self.host.next_hop(dst, reachable)
        return hop if hop is not None else self.interface.gateway6

    # What comes in.

    def ndp_received(self, message: ndp.Repr, src: bytes, now: float) -> bool:
        """Take a discovery message; True where the resolution must not see it."""
        taken = True
        if isinstance(message, ndp.RouterAdvertisement):
            self._advertised(message, src, now)
        elif isinstance(message, ndp.Redirect):
            self._redirected(message, src, now)
        elif isinstance(message, ndp.NeighbourSolicitation):
            taken = self.addresses.receive_solicitation(message.target, src, message.nonce)
        elif isinstance(message, ndp.NeighbourAdvertisement):
            taken = self.addresses.receive_advertisement(message.target, now)
            if not message.router and message.target in self.host.routers:
                self.host.lose_router(message.target)  # RFC 4861 7.2.5
        else:
            taken = False
        self._take(now)
        return taken

    def _advertised(self, message: ndp.RouterAdvertisement, src: bytes, now: float) -> None:
        if message.slla is not None:
            self.interface.neighbours.receive_solicitation(src, message.slla, now)
        self.host.receive_ra(src, message, now)
        for prefix in message.prefixes:
            self.addresses.receive_prefix(prefix, now)
        if self.client is not None and message.managed:
            self.client.start(now)
        elif self.client is not None and message.other:
            self.client.inform(now)

    def _redirected(self, message: ndp.Redirect, src: bytes, now: float) -> None:
        if self.host.receive_redirect(src, message) and message.tlla is not None:
            self.interface.neighbours.receive_solicitation(message.target, message.tlla, now)

    def datagram_received(self, remote: Endpoint, local: Endpoint, data: bytes, now: float) -> None:
        """Take a message of a DHCPv6 server (port 546)."""
        if self.client is not None and len(remote[0]) == 16:
            self.client.receive(data, now)
            self._take_dhcp(now)
            self._join_all(now)
            self.stack.look()

    def icmp_received(
        self, remote: Endpoint, local: Endpoint, error: icmp.Error, now: float
    ) -> None:
        """The client repeats its question anyway."""

    def neighbour_failed(self, addr: bytes) -> None:
        """Try another router than `addr` from now on."""
        self.host.unreachable(addr)

    # Time.

    def transmit(self, now: float) -> None:
        """Send what is due."""
        if self.host.transmit(now):
            self._solicit_routers(now)
        for probe in self.addresses.transmit(now):
            message = ndp.NeighbourSolicitation(probe.target, nonce=probe.nonce)
            group = ip.solicited_node(probe.target)
            self.stack.resolution.send(message, ip.UNSPECIFIED_V6, group, None, now)
        self._transmit_dhcp(now)
        self._take_dhcp(now)
        self._take(now)

    def _solicit_routers(self, now: float) -> None:
        interface = self.interface
        ours = interface.link_local in interface.local
        src = interface.link_local if ours else ip.UNSPECIFIED_V6
        message = ndp.RouterSolicitation(interface.mac if ours else None)
        self.stack.resolution.send(message, src, ip.ALL_ROUTERS, None, now)

    def _transmit_dhcp(self, now: float) -> None:
        local = self.interface.link_local
        if self.client is None or local not in self.interface.local:
            return
        for payload in self.client.transmit(now):
            ends = (local, dhcpv6.CLIENT_PORT), (dhcpv6.ALL_SERVERS, dhcpv6.SERVER_PORT)
            self.stack.udp.send(*ends, payload, now)

    def deadline(self) -> float | None:
        """Return when `transmit` has something to do next."""
        times = [self.host.deadline(), self.addresses.deadline()]
        if self.client is not None and self.interface.link_local in self.interface.local:
            times.append(self.client.deadline())
        return min((at for at in times if at is not None), default=None)

    # What the machines say.

    def _take(self, now: float) -> None:
        while (event := self.host.next_event()) is not None:
            self._take_host(event)
        while (change := self.addresses.next_event()) is not None:
            self._changed(change, now)
        router = self.host.router()
        if router != self._router:
            self._router = router
            self.events.append(RouterChanged(6, router))
        self._join_all(now)

    def _take_host(self, event: ndhost.Event) -> None:
        interface = self.interface
        if isinstance(event, ndhost.PrefixFound):
            self._on_link(event.prefix, event.length)
        elif isinstance(event, ndhost.PrefixLost):
            network = ipaddress.IPv6Network((event.prefix, event.length))
            interface.set_prefixes([n for n in interface.prefixes if n != network])
        elif isinstance(event, ndhost.Link):
            interface.hop_limit = event.hop_limit
            if event.mtu is not None and event.mtu != interface.mtu_told:
                interface.mtu_told = event.mtu
                self.stack.tcp.reconfigure()
            self._timers(event)

    def _timers(self, link: ndhost.Link) -> None:
        cache = self.interface.neighbours
        config = cache.config
        cache.config = replace(
            config,
            reachable_time=link.reachable or config.reachable_time,
            retrans_timer=link.retrans or config.retrans_timer,
        )

    def _on_link(self, prefix: bytes, length: int) -> None:
        network = ipaddress.IPv6Network((prefix, length), strict=False)
        if network not in self.interface.prefixes:
            self.interface.set_prefixes([*self.interface.prefixes, network])

    def _changed(self, event: slaac.Event, now: float) -> None:
        interface, addr = self.interface, event.addr
        if event.change is Change.USABLE:
            self._usable(event, now)
        elif event.change is Change.DEPRECATED:
            interface.deprecated.add(addr)
            self.events.append(AddressDeprecated(addr))
        elif event.change is Change.PREFERRED:
            interface.deprecated.discard(addr)
        elif event.change is Change.DUPLICATE:
            self.stack.groups.leave(ip.solicited_node(addr), now)
            self.events.append(Conflict(addr))
            if event.origin is Origin.MANAGED and self.client is not None:
                self.client.decline(addr, now)
        else:
            self.stack.groups.leave(ip.solicited_node(addr), now)
            if addr in interface.local:
                interface.remove_address(addr)
                self.events.append(AddressRemoved(addr))

    def _usable(self, event: slaac.Event, now: float) -> None:
        interface = self.interface
        if event.origin is Origin.LINK_LOCAL:
            interface.link_local = event.addr
            interface.local.add(event.addr)
            self.stack.groups.mld.groups.repeat(now)  # RFC 3810 5.2.13: now with a source
            self.host.start(now)
        else:
            # What is on the link the router says, not the length of our address (RFC 5942 4).
            address: Address = ipaddress.IPv6Interface((event.addr, 128))
            interface.add_address(address)
            if event.origin is Origin.TEMPORARY:
                interface.temporary.add(event.addr)
        self.events.append(AddressAdded(event.addr, event.prefix_len, event.origin.name))

    def _join_all(self, now: float) -> None:
        """Join the solicited-node group of every new address before it is probed (5.4.2)."""
        for addr, entry in self.addresses.table.items():
            if not entry.joined:
                entry.joined = self.stack.groups.join(ip.solicited_node(addr), now)

    def _take_dhcp(self, now: float) -> None:
        while self.client is not None and (event := self.client.next_event()) is not None:
            if isinstance(event, dhcpv6_client.Bound):
                self._bound(event.lease, now)
            elif isinstance(event, dhcpv6_client.Unbound):
                for a in event.lease.addresses:
                    self.addresses.remove(a.addr, now)
                for p in event.lease.prefixes:
                    self.events.append(PrefixWithdrawn(p.prefix, p.length))
            else:
                self.informed = (event.dns, event.search)
        self._take(now)

    def _bound(self, lease: Lease, now: float) -> None:
        self.informed = (lease.dns, lease.search)
        for a in lease.addresses:
            self.addresses.add(
                a.addr, 128, now, preferred=a.preferred, valid=a.valid, origin=Origin.MANAGED
            )
        for p in lease.prefixes:
            self.events.append(PrefixDelegated(p.prefix, p.length, now + p.valid))

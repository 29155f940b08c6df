"""IPv4 without configuration: DHCP, the check for conflicts, link-local addresses as a fallback."""

from __future__ import annotations

import ipaddress
import random
from collections import deque

from ..proto import acd, dhcp_client, linklocal
from ..proto.dhcp_lease import Lease
from ..wire import arp, dhcp, icmp
from .configured import AddressAdded, AddressRemoved, Conflict, Event, RouterChanged
from .interface import BROADCAST_MAC
from .resolution import ETHERTYPE_ARP
from .stack import Stack
from .udp import Endpoint

STOP_WAIT = 1.0  # seconds between a release and the end of its address


class Autoconf4:
    """A DHCP client on a stack's interface; `fallback` seconds without a lease: link-local."""

    def __init__(
        self, stack: Stack, config: dhcp_client.Config, rng: random.Random, *, dhcp_on: bool,
        fallback: float | None, claims: acd.Config | None,
    ) -> None:  # fmt: skip
        self.stack = stack
        self.interface = stack.interface
        self.client = dhcp_client.Client(stack.interface.mac, config, rng)
        self.claim: acd.Claim | None = None
        self.link_local: linklocal.LinkLocal | None = None
        self.events: deque[Event] = deque()
        self._rng = rng
        self._claims = claims
        self._dhcp_on = dhcp_on
        self._fallback = fallback
        self._fallback_at: float | None = None
        self._stop_at: float | None = None

    @property
    def lease(self) -> Lease | None:
        """The lease in force."""
        state = self.client.state
        return self.client.lease if state is not dhcp_client.State.CHECKING else None

    def start(self, now: float, addr: bytes | None = None) -> None:
        """Begin, with the address of an earlier lease where there is one."""
        if self._dhcp_on:
            self.stack.udp.ports[None, dhcp.CLIENT_PORT] = self
            self.client.start(now, addr)
        if self._fallback is not None:
            self._fallback_at = now + self._fallback

    def stop(self, now: float) -> None:
        """Give the lease back."""
        self.client.release(now)
        self._transmit_dhcp(now)
        # The server's link address may have to be asked for, from the address that we give back.
        self._stop_at = now + STOP_WAIT
        self._drop_link_local()
        self._fallback_at = None

    # What comes in.

    def datagram_received(self, remote: Endpoint, local: Endpoint, data: bytes, now: float) -> None:
        """Take a message of a server (port 68)."""
        if len(remote[0]) == 4:
            self.client.receive(data, now)
            self._take_events(now)
            self.stack.look()

    def icmp_received(
        self, remote: Endpoint, local: Endpoint, error: icmp.Error, now: float
    ) -> None:
        """The client repeats its question anyway."""

    def arp_received(self, message: arp.Repr, now: float) -> None:
        """Let the claims hear an ARP message."""
        for claim in (self.claim, self.link_local):
            if claim is not None:
                claim.receive(message, now)
        self._take_claims(now)

    # Time.

    def transmit(self, now: float) -> None:
        """Send what is due."""
        if self._fallback_at is not None and self._fallback_at <= now:
            self._fallback_at = None
            if self.lease is None:
                mac = self.interface.mac
                self.link_local = linklocal.LinkLocal(mac, now, self._rng, self._claims)
        self._transmit_dhcp(now)
        if self._stop_at is None or self._stop_at <= now:
            self._stop_at = None
            self._take_events(now)
        for claim in (self.claim, self.link_local):
            for message in claim.transmit(now) if claim is not None else ():
                self.interface.send_frame(BROADCAST_MAC, arp.emit(message), ETHERTYPE_ARP)
        self._take_claims(now)

    def _transmit_dhcp(self, now: float) -> None:
        for out in self.client.transmit(now):
            ends = ((out.src, dhcp.CLIENT_PORT), (out.dst, dhcp.SERVER_PORT))
            mac = BROADCAST_MAC if out.broadcast else None
            self.stack.udp.send(*ends, out.payload, now, ttl=64, mac=mac)

    def deadline(self) -> float | None:
        """Return when `transmit` has something to do next."""
        times = [self._fallback_at, self._stop_at, self.client.deadline()]
        times += [c.deadline() for c in (self.claim, self.link_local) if c is not None]
        return min((at for at in times if at is not None), default=None)

    # What the machines say.

    def _take_events(self, now: float) -> None:
        while (event := self.client.next_event()) is not None:
            if isinstance(event, dhcp_client.Check):
                mac = self.interface.mac
                self.claim = acd.Claim(event.addr, mac, now, self._rng, self._claims)
            elif isinstance(event, dhcp_client.Bound):
                self._bound(event.lease)
            else:
                self.claim = None
                self._remove(event.addr)
                self._route(None)
                self.interface.routes4 = ()

    def _take_claims(self, now: float) -> None:
        claim = self.claim
        while claim is not None and (event := claim.next_event()) is not None:
            if event is acd.Event.USABLE:
                self.client.checked(True, now)
            elif event is acd.Event.CONFLICT:
                self.events.append(Conflict(claim.addr))
                self.claim = None
                self.client.checked(False, now)
                self.client.conflict(now)
            self._take_events(now)
        while self.link_local is not None:
            found = self.link_local.next_event(now)
            if found is None:
                return
            self._take_link_local(*found)

    def _take_link_local(self, event: acd.Event, addr: bytes) -> None:
        if event is acd.Event.USABLE:
            self._add(addr, linklocal.PREFIX_LEN, "LINK_LOCAL")
        elif event is acd.Event.CONFLICT:
            self.events.append(Conflict(addr))
            self._remove(addr)

    def _bound(self, lease: Lease) -> None:
        self._drop_link_local()
        self._add(lease.addr, lease.prefix_len, "DHCP")
        self._route(lease.routers[0] if lease.routers else None)
        self.interface.routes4 = tuple(sorted(lease.routes, key=lambda r: r[1], reverse=True))
        if lease.mtu is not None and lease.mtu != self.interface.mtu_told:
            self.interface.mtu_told = lease.mtu
            self.stack.tcp.reconfigure()

    def _drop_link_local(self) -> None:
        if self.link_local is not None:
            self._remove(self.link_local.claim.addr)
            self.link_local = None

    def _add(self, addr: bytes, prefix_len: int, origin: str) -> None:
        if addr in self.interface.local:
            return
        self.interface.add_address(
            ipaddress.ip_interface(f"{ipaddress.ip_address(addr)}/{prefix_len}")
        )
        self.events.append(AddressAdded(addr, prefix_len, origin))

    def _remove(self, addr: bytes) -> None:
        if addr in self.interface.local:
            self.interface.remove_address(addr)
            self.events.append(AddressRemoved(addr))

    def _route(self, router: bytes | None) -> None:
        if router != self.interface.gateway4:
            self.interface.gateway4 = router
            self.events.append(RouterChanged(4, router))

"""The host side of router discovery (RFC 4861 6.3, 5.2 and 8; RFC 7559; RFC 8106).

Solicitations go out until a router answers, first quickly, then with randomised exponential
backoff for as long as it takes (RFC 7559).  Advertisements fill the list of default routers, the
list of on-link prefixes and what the link says about itself; redirects fill the destination
cache.  What is told to the owner are events; addresses are made in `slaac`.

Defence: all lists are bounded, and an entry of a bounded list leaves by age, never because a
newcomer wants its place; the codec has checked hop limit and link-local source.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ..wire import ip, ndp

INFINITE = 0xFFFFFFFF
FOREVER = float("inf")
MTU_MIN = 1280  # RFC 8200 5

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Config:
    """Constants of RFC 4861 10 and RFC 7559 2, in seconds, and our bounds."""

    rs_delay: float = 1.0  # MAX_RTR_SOLICITATION_DELAY
    rs_interval: float = 4.0  # RFC 7559's IRT
    rs_interval_max: float = 3600.0  # RFC 7559's MRT
    routers_max: int = 16
    prefixes_max: int = 32
    servers_max: int = 8
    domains_max: int = 16
    redirects_max: int = 256


@dataclass(frozen=True, slots=True)
class Link:
    """What routers say about the link; times in seconds, None where nobody said anything."""

    hop_limit: int = 64
    mtu: int | None = None
    reachable: float | None = None
    retrans: float | None = None
    managed: bool = False
    other: bool = False


@dataclass(frozen=True, slots=True)
class RouterLost:
    """`addr` is no default router any more."""

    addr: bytes


@dataclass(frozen=True, slots=True)
class RouterFound:
    """`addr` became a default router."""

    addr: bytes


@dataclass(frozen=True, slots=True)
class PrefixFound:
    """Addresses under `prefix`/`length` are on the link."""

    prefix: bytes
    length: int


@dataclass(frozen=True, slots=True)
class PrefixLost:
    """Addresses under `prefix`/`length` are not on the link any more."""

    prefix: bytes
    length: int


@dataclass(frozen=True, slots=True)
class DnsChanged:
    """The servers and the search list of RFC 8106, all that are in force."""

    servers: tuple[bytes, ...]
    search: tuple[str, ...]


Event = RouterFound | RouterLost | PrefixFound | PrefixLost | DnsChanged | Link


class Host:
    """Router discovery of one interface."""

    def __init__(self, config: Config, rng: random.Random) -> None:
        self.config = config
        self.link = Link()
        self.routers: dict[bytes, float] = {}  # until when; in the order of their arrival
        self.prefixes: dict[tuple[bytes, int], float] = {}
        self.servers: dict[bytes, float] = {}
        self.domains: dict[str, float] = {}
        self.redirects: OrderedDict[bytes, bytes] = OrderedDict()
        self.refused = 0
        self._rng = rng
        self._events: deque[Event] = deque()
        self._rs_at: float | None = None
        self._rs_interval = 0.0
        self._turn = 0

    # Solicitations (RFC 4861 6.3.7, RFC 7559).

    def start(self, now: float) -> None:
        """Begin to look for routers; again after the link was away."""
        self._rs_at = now + self._rng.uniform(0, self.config.rs_delay)
        self._rs_interval = 0.0

    def transmit(self, now: float) -> bool:
        """Age the lists; True when a router solicitation is due."""
        self._expire(now)
        if self._rs_at is None or self._rs_at > now:
            return False
        base = self._rs_interval
        stretch = self._rng.uniform(-0.1, 0.1)
        config = self.config
        nxt = 2 * base + stretch * base if base else config.rs_interval * (1 + stretch)
        if nxt > config.rs_interval_max:
            nxt = config.rs_interval_max * (1 + stretch)
        self._rs_interval = nxt
        self._rs_at = now + nxt
        return True

    def deadline(self) -> float | None:
        """Return when `transmit` has something to do next."""
        times = [self._rs_at] if self._rs_at is not None else []
        for table in (self.routers, self.prefixes, self.servers, self.domains):
            times.extend(table.values())
        at = min(times, default=FOREVER)
        return None if at == FOREVER else at

    def next_event(self) -> Event | None:
        """Return the oldest event not yet taken."""
        return self._events.popleft() if self._events else None

    # Advertisements (RFC 4861 6.3.4).

    def receive_ra(self, src: bytes, message: ndp.RouterAdvertisement, now: float) -> None:
        """Take a valid advertisement from the router `src`."""
        self._router(src, message.lifetime, now)
        if message.lifetime:
            self._rs_at = None  # RFC 7559 2.1: only a default router ends the search
        self._link(message)
        for prefix in message.prefixes:
            if prefix.on_link and not ip.is_link_local(prefix.prefix):
                self._prefix(prefix, now)
        self._dns(message, now)

    def _router(self, src: bytes, lifetime: int, now: float) -> None:
        if not lifetime:
            self.lose_router(src)
            return
        if src not in self.routers:
            if len(self.routers) >= self.config.routers_max:
                self.refused += 1
                return
            self._events.append(RouterFound(src))
        self.routers[src] = now + lifetime

    def lose_router(self, addr: bytes) -> None:
        """Drop a router, and the redirects to it (RFC 4861 6.3.5)."""
        if self.routers.pop(addr, None) is not None:
            self._events.append(RouterLost(addr))
        for dst in [d for d, hop in self.redirects.items() if hop == addr]:
            del self.redirects[dst]

    def _link(self, message: ndp.RouterAdvertisement) -> None:
        link = self.link
        mtu = message.mtu if message.mtu is not None and message.mtu >= MTU_MIN else link.mtu
        new = Link(
            message.hop_limit or link.hop_limit,
            mtu,
            message.reachable / 1000 if 0 < message.reachable <= 3600000 else link.reachable,
            message.retrans / 1000 if message.retrans else link.retrans,
            message.managed,
            message.other,
        )
        if new != link:
            self.link = new
            self._events.append(new)

    def _prefix(self, prefix: ndp.Prefix, now: float) -> None:
        key = (_masked(prefix.prefix, prefix.length), prefix.length)
        if not prefix.valid:
            if self.prefixes.pop(key, None) is not None:
                self._events.append(PrefixLost(*key))
            return
        if key not in self.prefixes:
            if len(self.prefixes) >= self.config.prefixes_max:
                self.refused += 1
                return
            self._events.append(PrefixFound(*key))
        self.prefixes[key] = _after(now, prefix.valid)

    def _dns(self, message: ndp.RouterAdvertisement, now: float) -> None:
        """Take RDNSS and DNSSL (RFC 8106 5.3 and 6.2); a lifetime of 0 takes them away."""
        before = (tuple(self.servers), tuple(self.domains))
        for rdnss in message.rdnss:
            for server in rdnss.servers:
                _set(self.servers, server, rdnss.lifetime, now, self.config.servers_max)
        for dnssl in message.dnssl:
            for domain in dnssl.domains:
                _set(self.domains, domain, dnssl.lifetime, now, self.config.domains_max)
        self._dns_changed(before)

    def _dns_changed(self, before: tuple[tuple[bytes, ...], tuple[str, ...]]) -> None:
        after = (tuple(self.servers), tuple(self.domains))
        if after != before:
            self._events.append(DnsChanged(*after))

    def _expire(self, now: float) -> None:
        for addr in _ended(self.routers, now):
            self.lose_router(addr)
            if not self.routers:
                self.start(now)
        for key in _ended(self.prefixes, now):
            del self.prefixes[key]
            self._events.append(PrefixLost(*key))
        before = (tuple(self.servers), tuple(self.domains))
        for server in _ended(self.servers, now):
            del self.servers[server]
        for domain in _ended(self.domains, now):
            del self.domains[domain]
        self._dns_changed(before)

    # Redirects (RFC 4861 8.3) and the next hop (5.2, 6.3.6).

    def receive_redirect(self, src: bytes, message: ndp.Redirect) -> bool:
        """Take a redirect; it counts only from the present first hop of that destination."""
        if self.redirects.get(message.destination, self.router()) != src:
            return False
        self.redirects[message.destination] = message.target
        self.redirects.move_to_end(message.destination)
        if len(self.redirects) > self.config.redirects_max:
            self.redirects.popitem(last=False)
        return True

    def router(self, reachable: Callable[[bytes], bool] | None = None) -> bytes | None:
        """Return the default router: the first that may be reachable, else all in turn."""
        routers = list(self.routers)
        if not routers:
            return None
        if reachable is None:
            return routers[0]
        return next((r for r in routers if reachable(r)), routers[self._turn % len(routers)])

    def next_hop(
        self, dst: bytes, reachable: Callable[[bytes], bool] | None = None
    ) -> bytes | None:
        """Return whom to send to for `dst`, which is not on the link, None without a router."""
        hop = self.redirects.get(dst)
        return hop if hop is not None else self.router(reachable)

    def unreachable(self, addr: bytes) -> None:
        """A neighbour does not answer any more: try the next router, forget redirects to it."""
        if addr in self.routers:
            self._turn += 1
            self.routers[addr] = self.routers.pop(addr)  # to the end of the line
        for dst in [d for d, hop in self.redirects.items() if hop == addr]:
            del self.redirects[dst]


def _set(table: dict[Key, float], key: Key, lifetime: int, now: float, most: int) -> None:
    if not lifetime:
        table.pop(key, None)
    elif key in table or len(table) < most:
        table[key] = _after(now, lifetime)


def _ended(table: dict[Key, float], now: float) -> list[Key]:
    return [key for key, until in table.items() if until <= now]


def _after(now: float, seconds: int) -> float:
    return FOREVER if seconds >= INFINITE else now + seconds


def _masked(prefix: bytes, length: int) -> bytes:
    mask = (1 << 128) - (1 << (128 - length))
    return (int.from_bytes(prefix) & mask).to_bytes(16)

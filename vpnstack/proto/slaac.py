"""The IPv6 addresses of an interface: duplicate address detection, autoconfiguration, lifetimes.

RFC 4862, with the stable identifiers of RFC 7217 and the temporary addresses of RFC 8981.  Every
address, wherever it comes from, starts TENTATIVE: probes ask whether somebody has it already, and
only after silence it may be used.  Prefixes of router advertisements then carry addresses along;
DHCPv6 and the user add theirs with `add`.

Defence: the number of addresses is bounded; a router cannot end an address at once by an
advertisement that nobody authenticated (the two-hour rule, 5.5.3 (e)); a probe of ours that the
link sends back is known by its nonce (RFC 7527).
"""

from __future__ import annotations

import enum
import random
from collections import deque
from dataclasses import dataclass

from ..wire import ip, ndp
from . import iid
from .address import TRANSITIONS, Entry, Input, Origin, State

INFINITE = 0xFFFFFFFF
TWO_HOURS = 7200.0


class Change(enum.Enum):
    """What happened to an address."""

    USABLE = enum.auto()  # it passed detection
    DEPRECATED = enum.auto()
    PREFERRED = enum.auto()  # again
    DUPLICATE = enum.auto()  # somebody else has it: it is gone
    REMOVED = enum.auto()


@dataclass(frozen=True, slots=True)
class Event:
    """An address changed; `prefix_len` is 64 for what came from a prefix, else as given."""

    change: Change
    addr: bytes
    origin: Origin
    prefix_len: int


@dataclass(frozen=True, slots=True)
class Probe:
    """Send a neighbour solicitation for `target` from the unspecified address to its group."""

    target: bytes
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Config:
    """Constants of RFC 4862 5.1, RFC 7217 7 and RFC 8981 3.8; times in seconds.

    `secret` (up to 32 octets) makes stable addresses; with None they come from the link address
    (EUI-64).  `temporary` adds RFC 8981's.
    """

    secret: bytes | None = None
    interface: bytes = b""  # names the interface within this host
    temporary: bool = False
    dad_transmits: int = 1
    retrans_timer: float = 1.0
    max_delay: float = 1.0  # before the first probe of an interface
    idgen_retries: int = 3
    temp_valid: float = 2 * 86400.0
    temp_preferred: float = 86400.0
    addresses_max: int = 32

    @property
    def regen_advance(self) -> float:
        """How long before the end of one temporary address the next is made (RFC 8981 3.8)."""
        return 2 + self.idgen_retries * self.dad_transmits * self.retrans_timer

    @property
    def max_desync(self) -> float:
        """The largest random shortening of temporary lifetimes (RFC 8981 3.8)."""
        return 0.4 * self.temp_preferred


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters since the start, and the present number of addresses."""

    addresses: int = 0
    probes: int = 0
    duplicates: int = 0
    refused: int = 0  # addresses or prefixes for which there was no room


class Addresses:
    """All IPv6 addresses of one interface with link address `mac`."""

    def __init__(self, mac: bytes, config: Config, rng: random.Random) -> None:
        self.mac = mac
        self.config = config
        self.table: dict[bytes, Entry] = {}
        self._rng = rng
        self._delay = True
        self._events: deque[Event] = deque()
        self._probes = self._duplicates = self._refused = 0

    # What the owner says.

    def start(self, now: float) -> None:
        """Make the link-local address (RFC 4862 5.3)."""
        self._make(ip.LINK_LOCAL, Origin.LINK_LOCAL, float("inf"), float("inf"), now, 0)

    def add(
        self, addr: bytes, prefix_len: int, now: float, *, preferred: float = INFINITE,
        valid: float = INFINITE, origin: Origin = Origin.MANUAL,
    ) -> bool:  # fmt: skip
        """Take an address, or give it new lifetimes in seconds; False when there is no room."""
        until = (_after(now, preferred), _after(now, valid))
        entry = self.table.get(addr)
        if entry is not None:
            self._renew(entry, *until)
            return True
        return self._insert(addr, origin, prefix_len, until, now) is not None

    def remove(self, addr: bytes, now: float) -> None:
        """Take an address back."""
        entry = self.table.get(addr)
        if entry is not None:
            self._move(entry, Input.EXPIRED)

    def restart(self, now: float) -> None:
        """The link came back: every address is checked again (RFC 4862 5.4)."""
        self._delay = True
        for entry in self.table.values():
            entry.state = State.TENTATIVE
            self._begin(entry, now)

    # What the link says.

    def receive_prefix(self, prefix: ndp.Prefix, now: float) -> None:
        """Take a prefix of a router advertisement (RFC 4862 5.5.3)."""
        usable = prefix.autonomous and prefix.length == 64
        if not usable or ip.is_link_local(prefix.prefix) or ip.is_multicast(prefix.prefix):
            return
        if prefix.preferred > prefix.valid:  # (c)
            return
        head = prefix.prefix[:8]
        mine = [e for e in self._auto() if e.addr[:8] == head]
        for entry in mine:
            self._refresh(entry, prefix, now)
        if prefix.valid and not any(e.origin is Origin.STABLE for e in mine):
            until = (_after(now, prefix.preferred), _after(now, prefix.valid))
            self._make(head, Origin.STABLE, *until, now, 0)
        if self.config.temporary and not any(e.origin is Origin.TEMPORARY for e in mine):
            until = (_after(now, prefix.preferred), _after(now, prefix.valid))
            self._make_temporary(head, *until, now, 0)

    def receive_solicitation(self, target: bytes, src: bytes, nonce: bytes | None) -> bool:
        """Take a solicitation; True where `target` is tentative, which must stay unanswered."""
        entry = self.table.get(target)
        if entry is None or entry.state is not State.TENTATIVE:
            return False
        # RFC 4862 5.4.3: only another probe is a conflict, and only one that is not our own.
        if src == ip.UNSPECIFIED_V6 and not (nonce and nonce == entry.nonce):
            self._duplicate(entry, entry.at)
        return True

    def receive_advertisement(self, target: bytes, now: float) -> bool:
        """Take an advertisement by another station; True where `target` is one of ours."""
        entry = self.table.get(target)
        if entry is None:
            return False
        if entry.state is State.TENTATIVE:
            self._duplicate(entry, now)
        else:
            self._duplicates += 1  # RFC 4862 5.4.4: too late to give way without harm
        return True

    # Time.

    def transmit(self, now: float) -> list[Probe]:
        """Return the probes that are due, and age the addresses."""
        probes = []
        for entry in list(self.table.values()):
            if entry.state is State.TENTATIVE and entry.at <= now and entry.valid_until > now:
                if entry.left:
                    probes.append(self._probe(entry, now))
                else:
                    self._move(entry, Input.UNIQUE)
            self._age(entry, now)
        self._probes += len(probes)
        return probes

    def deadline(self) -> float | None:
        """Return when `transmit` has something to do next."""
        advance = self.config.regen_advance
        at = min((e.deadline(advance) for e in self.table.values()), default=float("inf"))
        return None if at == float("inf") else at

    def next_event(self) -> Event | None:
        """Return the oldest event not yet taken."""
        return self._events.popleft() if self._events else None

    def statistics(self) -> Statistics:
        """Return a snapshot of the counters."""
        return Statistics(len(self.table), self._probes, self._duplicates, self._refused)

    # Inside.

    def _auto(self) -> list[Entry]:
        kinds = (Origin.STABLE, Origin.TEMPORARY)
        return [e for e in self.table.values() if e.origin in kinds]

    def _identifier(self, prefix: bytes, collisions: int) -> bytes | None:
        secret = self.config.secret
        if secret is not None:
            return iid.stable(prefix, self.config.interface or self.mac, secret, collisions)
        return None if collisions else ip.eui64(self.mac)[8:]

    def _make(
        self, head: bytes, origin: Origin, preferred: float, valid: float, now: float, tries: int
    ) -> None:
        identifier = self._identifier(head, tries)
        if identifier is not None and tries <= self.config.idgen_retries:
            entry = self._insert(head + identifier, origin, 64, (preferred, valid), now)
            if entry is not None:
                entry.collisions = tries

    def _make_temporary(
        self, head: bytes, preferred: float, valid: float, now: float, tries: int
    ) -> None:
        config = self.config
        desync = self._rng.uniform(0, config.max_desync)
        preferred = min(preferred, now + config.temp_preferred - desync)
        valid = min(valid, now + config.temp_valid)
        # RFC 8981 3.4 (5): one that would need its successor at once is not made.
        if preferred - now <= config.regen_advance or tries > config.idgen_retries:
            return
        addr = head + iid.temporary(self._rng)
        entry = self._insert(addr, Origin.TEMPORARY, 64, (preferred, valid), now)
        if entry is not None:
            entry.desync, entry.collisions = desync, tries

    def _insert(
        self, addr: bytes, origin: Origin, prefix_len: int, until: tuple[float, float], now: float
    ) -> Entry | None:
        if len(self.table) >= self.config.addresses_max or addr in self.table:
            self._refused += 1
            return None
        entry = self.table[addr] = Entry(addr, origin, prefix_len, now, *until)
        self._begin(entry, now)
        return entry

    def _begin(self, entry: Entry, now: float) -> None:
        entry.left = self.config.dad_transmits
        # RFC 4862 5.4.2: machines that start together do not all probe at once.
        wait = self._rng.uniform(0, self.config.max_delay) if self._delay and entry.left else 0.0
        self._delay = False
        entry.at = now + wait

    def _probe(self, entry: Entry, now: float) -> Probe:
        entry.left -= 1
        entry.at = now + self.config.retrans_timer
        entry.nonce = self._rng.randbytes(6)
        return Probe(entry.addr, entry.nonce)

    def _refresh(self, entry: Entry, prefix: ndp.Prefix, now: float) -> None:
        """Apply an advertisement's lifetimes (RFC 4862 5.5.3 (e), RFC 8981 3.4)."""
        config = self.config
        left = entry.valid_until - now
        if prefix.valid > TWO_HOURS or prefix.valid > left:
            valid = _after(now, prefix.valid)
        else:
            valid = entry.valid_until if left <= TWO_HOURS else now + TWO_HOURS
        preferred = _after(now, prefix.preferred)
        if entry.origin is Origin.TEMPORARY:
            valid = min(valid, entry.created + config.temp_valid)
            preferred = min(preferred, entry.created + config.temp_preferred - entry.desync)
        self._renew(entry, preferred, valid)

    def _renew(self, entry: Entry, preferred: float, valid: float) -> None:
        """Set lifetimes; `transmit` notices what ended, a longer life shows at once."""
        longer = preferred > entry.preferred_until
        entry.preferred_until, entry.valid_until = preferred, valid
        if longer and entry.state is State.DEPRECATED:
            self._move(entry, Input.RENEWED)

    def _age(self, entry: Entry, now: float) -> None:
        if entry.valid_until <= now:
            self._move(entry, Input.EXPIRED)
            return
        if entry.state is not State.PREFERRED:
            return
        if entry.origin is Origin.TEMPORARY and not entry.succeeded:
            self._succeed(entry, now)
        if entry.preferred_until <= now:
            self._move(entry, Input.AGED)

    def _succeed(self, entry: Entry, now: float) -> None:
        """Make the next temporary address while this one is still good (RFC 8981 3.4)."""
        if entry.preferred_until - self.config.regen_advance > now:
            return
        entry.succeeded = True
        head = entry.addr[:8]
        base = next((e for e in self._auto() if e.addr[:8] == head and e is not entry), None)
        if base is not None:
            self._make_temporary(head, base.preferred_until, base.valid_until, now, 0)

    def _duplicate(self, entry: Entry, now: float) -> None:
        self._duplicates += 1
        self._move(entry, Input.DUPLICATE)
        head, tries = entry.addr[:8], entry.collisions + 1
        until = (entry.preferred_until, entry.valid_until)
        if entry.origin is Origin.TEMPORARY:
            self._make_temporary(head, *until, now, tries)
        elif entry.origin in (Origin.STABLE, Origin.LINK_LOCAL):
            self._make(head, entry.origin, *until, now, tries)  # RFC 7217 6

    def _move(self, entry: Entry, what: Input) -> None:
        before = entry.state
        entry.state = TRANSITIONS.get((before, what), before)
        if entry.state is before:
            return
        if entry.state is State.INVALID:
            del self.table[entry.addr]
        change = _CHANGES[what]
        self._events.append(Event(change, entry.addr, entry.origin, entry.prefix_len))


_CHANGES = {
    Input.UNIQUE: Change.USABLE,
    Input.DUPLICATE: Change.DUPLICATE,
    Input.AGED: Change.DEPRECATED,
    Input.RENEWED: Change.PREFERRED,
    Input.EXPIRED: Change.REMOVED,
}


def _after(now: float, seconds: float) -> float:
    return float("inf") if seconds >= INFINITE else now + seconds

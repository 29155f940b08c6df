"""Who has which address on the link: one cache for ARP (RFC 826) and NDP (RFC 4861 7.2, 7.3).

A resolution starts when a packet needs it: the entry is INCOMPLETE, solicitations go to the
group, packets wait in a short queue.  An answer makes it REACHABLE; with time it goes STALE, and
the next packet that uses it starts the check of RFC 4861 7.3.3: DELAY for upper layers to confirm,
then unicast PROBEs, then it is dropped.  ARP uses the same rules: a reply to us is a solicited
advertisement with the override flag; a request that asks for us is a solicitation.

Defence: only a packet of ours or a solicitation for us creates an entry, never a reply; the
table, and the queue of each entry, are bounded; unresolved entries are the first to go.  The
caller has checked the hop limit (RFC 4861 7.1) and that an address belongs to the link.
"""

from __future__ import annotations

import enum
from collections import OrderedDict, deque
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any


class State(enum.Enum):
    """Of an entry, RFC 4861 7.3.2."""

    INCOMPLETE = enum.auto()
    REACHABLE = enum.auto()
    STALE = enum.auto()
    DELAY = enum.auto()
    PROBE = enum.auto()


class Input(enum.Enum):
    """What moves an entry, the rows of RFC 4861 appendix C."""

    SEND = enum.auto()  # a packet uses the entry
    CONFIRMED = enum.auto()  # a solicited answer, or progress of an upper layer
    HEARD = enum.auto()  # a link address that nobody asked for, new or changed
    DOUBTED = enum.auto()  # another link address without the right to override
    TIMEOUT = enum.auto()


_S, _I = State, Input
TRANSITIONS: dict[tuple[State, Input], State] = {
    (_S.INCOMPLETE, _I.CONFIRMED): _S.REACHABLE,
    (_S.INCOMPLETE, _I.HEARD): _S.STALE,
    (_S.INCOMPLETE, _I.TIMEOUT): _S.INCOMPLETE,
    (_S.REACHABLE, _I.CONFIRMED): _S.REACHABLE,
    (_S.REACHABLE, _I.HEARD): _S.STALE,
    (_S.REACHABLE, _I.DOUBTED): _S.STALE,
    (_S.REACHABLE, _I.TIMEOUT): _S.STALE,
    (_S.STALE, _I.CONFIRMED): _S.REACHABLE,
    (_S.STALE, _I.HEARD): _S.STALE,
    (_S.STALE, _I.SEND): _S.DELAY,
    (_S.DELAY, _I.CONFIRMED): _S.REACHABLE,
    (_S.DELAY, _I.HEARD): _S.STALE,
    (_S.DELAY, _I.TIMEOUT): _S.PROBE,
    (_S.PROBE, _I.CONFIRMED): _S.REACHABLE,
    (_S.PROBE, _I.HEARD): _S.STALE,
    (_S.PROBE, _I.TIMEOUT): _S.PROBE,
}  # what is not listed leaves the state as it is


@dataclass(frozen=True, slots=True)
class Config:
    """Constants of RFC 4861 10 in seconds and counts, and our bounds."""

    retrans_timer: float = 1.0
    reachable_time: float = 30.0
    delay_first_probe: float = 5.0
    max_multicast_solicit: int = 3
    max_unicast_solicit: int = 3
    capacity: int = 1024
    pending: int = 16


@dataclass(frozen=True, slots=True)
class Solicit:
    """Send an ARP request or a neighbour solicitation for `addr`, to the group without `mac`."""

    addr: bytes
    mac: bytes | None


@dataclass(frozen=True, slots=True)
class Resolved:
    """`addr` has the link address `mac`; `pending` are the packets that waited, oldest first."""

    addr: bytes
    mac: bytes
    pending: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """Nobody answered for `addr`, or its entry had to make room; `pending` could not be sent."""

    addr: bytes
    pending: tuple[Any, ...]


Event = Resolved | Failed


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters since the cache was made, and its present size."""

    entries: int = 0
    resolved: int = 0
    failed: int = 0
    evicted: int = 0
    ignored: int = 0  # advertisements that nobody asked for, and claims to our own addresses
    pending_dropped: int = 0


@dataclass(slots=True)
class _Entry:
    state: State
    mac: bytes = b""
    until: float = 0.0  # the end of REACHABLE; the timers of the others are in Cache._timers
    sent: int = 0  # solicitations since the state was entered
    pending: deque[Any] = field(default_factory=deque)


class Cache:
    """The neighbour cache of one interface, for one family or for both."""

    def __init__(self, config: Config | None = None, own: Container[bytes] = ()) -> None:
        self.config = config or Config()
        self.own = own  # our addresses: whoever claims one (RFC 5227 2.4) is not believed
        self._table: OrderedDict[bytes, _Entry] = OrderedDict()  # least recently used first
        self._timers: dict[bytes, float] = {}  # INCOMPLETE, DELAY and PROBE entries, oldest first
        self._events: deque[Event] = deque()
        self.generation = 0  # counts changes of link addresses and entries that went
        self.changed = True  # since the owner took it back: there may be something to do
        self._counts = dict.fromkeys(
            ("resolved", "failed", "evicted", "ignored", "pending_dropped"), 0
        )

    def __len__(self) -> int:
        return len(self._table)

    def state(self, addr: bytes) -> State | None:
        """Return the state of `addr`'s entry as last computed, None without one."""
        entry = self._table.get(addr)
        return entry.state if entry else None

    def resolve(self, addr: bytes, now: float, packet: Any = None) -> bytes | None:
        """Return the link address to send to, or None: `packet` then waits for the answer.

        A new resolution has a solicitation due at once; call `transmit`.
        """
        entry = self._table.get(addr)
        if entry is None:
            entry = self._create(addr, State.INCOMPLETE)
            self._timers[addr] = now
        else:
            self._table.move_to_end(addr)
        if entry.state is State.INCOMPLETE:
            self._wait(entry, packet)
            return None
        if entry.state is State.REACHABLE and now >= entry.until:
            self._move(addr, entry, Input.TIMEOUT, now)
        if entry.state is State.STALE:
            self._move(addr, entry, Input.SEND, now)
        return entry.mac

    def receive_solicitation(self, addr: bytes, mac: bytes, now: float) -> None:
        """Learn the sender of an ARP request or NS that asks for one of our addresses.

        RFC 826 (merge, then create) and RFC 4861 7.2.3: creates a STALE entry where none is.
        """
        if addr in self.own:
            self._counts["ignored"] += 1
            return
        entry = self._table.get(addr)
        if entry is None:
            self._create(addr, State.STALE).mac = mac
        elif entry.mac != mac:
            self._heard(addr, entry, mac, now)

    def receive_advertisement(
        self, addr: bytes, mac: bytes | None, now: float, *, solicited: bool, override: bool = True
    ) -> None:
        """Take an ARP reply or NA for `addr` (RFC 4861 7.2.5); `mac` is None without a TLLA.

        An entry that is not there is not created.  `solicited` counts only where a solicitation
        of ours is out, so a volunteer cannot make itself REACHABLE.
        """
        entry = self._table.get(addr)
        if entry is None or (entry.state is State.INCOMPLETE and mac is None):
            self._counts["ignored"] += 1
            return
        solicited = solicited and entry.sent > 0
        changed = mac is not None and mac != entry.mac
        if changed and not override and entry.state is not State.INCOMPLETE:
            self._move(addr, entry, Input.DOUBTED, now)
        elif solicited:
            entry.mac = mac or entry.mac
            self._move(addr, entry, Input.CONFIRMED, now)
        elif changed and mac is not None:
            self._heard(addr, entry, mac, now)

    def confirm(self, addr: bytes, now: float) -> None:
        """Note that an upper layer made progress through `addr` (RFC 4861 7.3.1)."""
        entry = self._table.get(addr)
        if entry is not None and entry.state is not State.INCOMPLETE:
            self._move(addr, entry, Input.CONFIRMED, now)

    def forget(self, addr: bytes) -> None:
        """Drop `addr`'s entry; `Failed` tells whoever waited for it, with the packets that did."""
        entry = self._table.pop(addr, None)
        self._timers.pop(addr, None)
        self.changed = True
        self.generation += 1
        if entry is not None and (entry.pending or entry.state is State.INCOMPLETE):
            self._events.append(Failed(addr, tuple(entry.pending)))

    def transmit(self, now: float) -> list[Solicit]:
        """Return the solicitations that are due, and fail the entries that had all of theirs."""
        due = [addr for addr, at in self._timers.items() if at <= now]
        return [solicit for addr in due if (solicit := self._expire(addr, now))]

    def deadline(self) -> float | None:
        """Return when `transmit` has something to do next, None for never."""
        return min(self._timers.values(), default=None)

    def next_event(self) -> Event | None:
        """Return the oldest event not yet taken, None when there is none."""
        return self._events.popleft() if self._events else None

    def statistics(self) -> Statistics:
        """Return a snapshot of the counters."""
        return Statistics(entries=len(self._table), **self._counts)

    def _create(self, addr: bytes, state: State) -> _Entry:
        self.changed = True
        if len(self._table) >= self.config.capacity:
            self._evict()
        entry = self._table[addr] = _Entry(state)
        return entry

    def _evict(self) -> None:
        # A scan of empty addresses must not push out neighbours that exist.
        unresolved = (a for a in self._timers if self._table[a].state is State.INCOMPLETE)
        self._counts["evicted"] += 1
        self.forget(next(unresolved, None) or next(iter(self._table)))

    def _wait(self, entry: _Entry, packet: Any) -> None:
        if packet is None:
            return
        if len(entry.pending) >= self.config.pending:  # RFC 4861 7.2.2: the oldest goes
            self._counts["pending_dropped"] += 1
            entry.pending.popleft()
        entry.pending.append(packet)

    def _heard(self, addr: bytes, entry: _Entry, mac: bytes, now: float) -> None:
        entry.mac = mac
        self._move(addr, entry, Input.HEARD, now)

    def _move(self, addr: bytes, entry: _Entry, what: Input, now: float) -> None:
        self.changed = True
        self.generation += 1
        before, entry.state = entry.state, TRANSITIONS.get((entry.state, what), entry.state)
        if entry.state is State.REACHABLE:
            entry.until = now + self.config.reachable_time
        if entry.state is not before or what is Input.CONFIRMED:
            self._arm(addr, entry, now)
        if before is State.INCOMPLETE and entry.state is not before:
            self._counts["resolved"] += 1
            self._events.append(Resolved(addr, entry.mac, tuple(entry.pending)))
            entry.pending.clear()

    def _arm(self, addr: bytes, entry: _Entry, now: float) -> None:
        """Set the timer of the state just entered."""
        entry.sent = 0
        self._timers.pop(addr, None)
        if entry.state is State.DELAY:
            self._timers[addr] = now + self.config.delay_first_probe
        elif entry.state is State.PROBE:
            self._timers[addr] = now

    def _expire(self, addr: bytes, now: float) -> Solicit | None:
        entry = self._table[addr]
        self._move(addr, entry, Input.TIMEOUT, now)
        incomplete = entry.state is State.INCOMPLETE
        config = self.config
        limit = config.max_multicast_solicit if incomplete else config.max_unicast_solicit
        if entry.sent >= limit:
            self._fail(addr, entry)
            return None
        entry.sent += 1
        self._timers[addr] = now + config.retrans_timer
        return Solicit(addr, None if incomplete else entry.mac)

    def _fail(self, addr: bytes, entry: _Entry) -> None:
        self.changed = True
        self.generation += 1
        self._counts["failed"] += 1
        del self._table[addr], self._timers[addr]
        self._events.append(Failed(addr, tuple(entry.pending)))

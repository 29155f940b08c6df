"""The path's MTU found by probing, for protocols over datagrams (RFC 8899, DPLPMTUD).

Theory of operation.  The owner sends a datagram of the size that `transmit` returns, marked as a
probe and not to be fragmented, and tells `acked` when its peer says that it came.  What comes is
proof; what does not is asked for `max_probes` times before its size is held not to pass.  A search
tries the largest size first, then halves what is left.  Found sizes are confirmed now and then,
and larger ones tried again; when the size in use stops passing, the search begins anew at a size
that nearly every path takes.

Sizes are whatever the owner counts, in octets: for a datagram endpoint, those of the payload.  The
probes here are padding only, so a lost one loses nothing and says nothing about congestion (4.1).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ..errors import UsageError

NEAR = 8  # a search this close has ended


class State(enum.Enum):
    """The phases of RFC 8899 5.2."""

    BASE = enum.auto()
    SEARCHING = enum.auto()
    SEARCH_COMPLETE = enum.auto()
    ERROR = enum.auto()  # not even the base passes: the least is used


class Input(enum.Enum):
    """What moves the search."""

    CONFIRMED = enum.auto()  # the base size passes
    FOUND = enum.auto()  # no larger size is left to be tried
    RAISE = enum.auto()  # PMTU_RAISE_TIMER
    BLACK_HOLE = enum.auto()  # what passed passes no more
    FAILED = enum.auto()  # the base size does not pass


_S, _I = State, Input
TRANSITIONS: dict[tuple[State, Input], State] = {
    (_S.BASE, _I.CONFIRMED): _S.SEARCHING,
    (_S.BASE, _I.FAILED): _S.ERROR,
    (_S.ERROR, _I.CONFIRMED): _S.SEARCHING,
    (_S.SEARCHING, _I.FOUND): _S.SEARCH_COMPLETE,
    (_S.SEARCHING, _I.BLACK_HOLE): _S.BASE,
    (_S.SEARCH_COMPLETE, _I.RAISE): _S.SEARCHING,
    (_S.SEARCH_COMPLETE, _I.BLACK_HOLE): _S.BASE,
}


@dataclass(frozen=True, slots=True)
class Config:
    """RFC 8899 5.1.2: sizes in octets, times in seconds.

    The sizes are for UDP over IPv4 at an MTU of 1500: 1200, and 1500 less 28.  A peer that says
    nothing of ordinary data needs `confirm`; where one does, call `black_hole` and make it 0.
    """

    least: int = 548  # MIN_PLPMTU: of a datagram that every host takes, RFC 791 3.1
    base: int = 1200
    most: int = 1472
    max_probes: int = 3
    probe_timer: float = 15.0
    raise_timer: float = 600.0
    confirm: float = 60.0  # CONFIRMATION_TIMER, 0 for never


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters since the start, and the size in use."""

    size: int
    state: State
    probes: int
    lost: int
    black_holes: int


class Search:
    """The search towards one peer; `size` is the largest datagram that is known to pass."""

    def __init__(self, config: Config, now: float) -> None:
        if not 0 < config.least <= config.base <= config.most:
            raise UsageError(f"expected least <= base <= most, found {config}")
        self.config = config
        self.state = State.BASE
        self.size = config.least
        self._high = config.most  # no larger one can pass
        self._probe = 0  # the size being asked for
        self._tries = 0
        self._at = now
        self._raise_at = 0.0
        self._n_probes = self._n_lost = self._n_holes = 0

    # The machine's verbs.

    def transmit(self, now: float) -> int:
        """Return the size of a probe to send now, 0 for none."""
        if now < self._at:
            return 0
        if self._tries:
            self._n_lost += 1
        if self._tries >= self.config.max_probes:
            self._passes_not(now)
        if not self._tries:
            self._probe = self._next_size(now)
            if not self._probe:
                return 0
        self._tries += 1
        self._n_probes += 1
        self._at = now + self.config.probe_timer
        return self._probe

    def deadline(self) -> float:
        """Return when `transmit` has something to do next."""
        return self._at

    # What the owner hears.

    def acked(self, size: int, now: float) -> None:
        """The peer has a probe of `size`; one that nobody waits for any more says nothing."""
        if not self._tries or size != self._probe:
            return
        self._tries = 0
        self._at = now
        if self.state in (State.BASE, State.ERROR):
            self.size = size
            self._move(Input.CONFIRMED)
        elif self.state is State.SEARCHING:
            self.size = max(size, self.size)
        else:
            self._rest(now)

    def too_big(self, size: int, now: float) -> None:
        """A router says that `size` is the most that passes (4.6); ICMP was checked before.

        It never enlarges, and is not believed below the least: then it is no message to us.
        """
        if not self.config.least <= size < max(self._high, self.size):
            return
        self._high = size
        if size < self.size:
            self._black_hole(now)
        elif self._tries and self._probe > size:
            self._tries, self._at = 0, now

    def black_hole(self, now: float) -> None:
        """Datagrams of the present size vanish again and again, as the owner sees (4.3)."""
        if self.state in (State.SEARCHING, State.SEARCH_COMPLETE):
            self._high = max(self.size - 1, self.config.least)
            self._black_hole(now)

    # Inside.

    def _next_size(self, now: float) -> int:
        """Return the next size to ask for; 0 sets the timer for later."""
        config = self.config
        if self.state is State.SEARCH_COMPLETE and now >= self._raise_at:
            self._high = config.most
            self._move(Input.RAISE)
        if self.state in (State.BASE, State.ERROR):
            return min(config.base, self._high)
        if self.state is State.SEARCH_COMPLETE:
            return self.size
        if self._high == config.most and self.size < self._high:
            return self._high
        if self._high - self.size >= NEAR:
            return (self.size + self._high + 1) // 2
        self._move(Input.FOUND)
        self._raise_at = now + config.raise_timer
        self._rest(now)
        return 0

    def _passes_not(self, now: float) -> None:
        """MAX_PROBES were lost: the size does not pass."""
        self._tries = 0
        if self.state is State.BASE:
            self.size = self.config.least
            self._move(Input.FAILED)
        elif self.state is State.SEARCHING:
            self._high = self._probe - 1
        elif self.state is State.SEARCH_COMPLETE:
            self._high = max(self.size - 1, self.config.least)
            self._black_hole(now)

    def _black_hole(self, now: float) -> None:
        self._n_holes += 1
        self.size = min(self.config.base, self._high)
        self._tries, self._at = 0, now
        self._move(Input.BLACK_HOLE)

    def _rest(self, now: float) -> None:
        """Wait for the next confirmation, or for the next attempt at more."""
        confirm = now + self.config.confirm if self.config.confirm else self._raise_at
        self._at = min(confirm, self._raise_at)

    def _move(self, what: Input) -> None:
        self.state = TRANSITIONS.get((self.state, what), self.state)

    def statistics(self) -> Statistics:
        """Return a snapshot of the counters."""
        return Statistics(self.size, self.state, self._n_probes, self._n_lost, self._n_holes)

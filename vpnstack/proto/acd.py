"""Whether an IPv4 address is ours alone (RFC 5227): probe, announce, defend.

A `Claim` is about one address.  It probes; when nobody minds it announces and the address may be
used; from then on every ARP message that claims the address for another station is a conflict:
the first within ten seconds is answered by one announcement, a second one takes the address away
(2.4 (b)).
"""

from __future__ import annotations

import enum
import random
from collections import deque
from dataclasses import dataclass

from ..wire import arp, ethernet, ip


class State(enum.Enum):
    """The phases of RFC 5227 2.1 to 2.4."""

    PROBING = enum.auto()
    ANNOUNCING = enum.auto()
    CLAIMED = enum.auto()
    LOST = enum.auto()


class Event(enum.Enum):
    """What the owner of a claim is told."""

    USABLE = enum.auto()
    DEFENDED = enum.auto()  # somebody claimed the address; we said that it is ours
    CONFLICT = enum.auto()  # the address is not ours, or not any more


class Input(enum.Enum):
    """What moves a claim."""

    QUIET = enum.auto()  # nobody answered the probes
    ANNOUNCED = enum.auto()
    CONFLICT = enum.auto()


_S, _I = State, Input
TRANSITIONS: dict[tuple[State, Input], State] = {
    (_S.PROBING, _I.QUIET): _S.ANNOUNCING,
    (_S.PROBING, _I.CONFLICT): _S.LOST,
    (_S.ANNOUNCING, _I.ANNOUNCED): _S.CLAIMED,
    (_S.ANNOUNCING, _I.CONFLICT): _S.LOST,
    (_S.CLAIMED, _I.CONFLICT): _S.LOST,
}


@dataclass(frozen=True, slots=True)
class Config:
    """Constants of RFC 5227 1.1, in seconds and counts."""

    probe_wait: float = 1.0
    probe_num: int = 3
    probe_min: float = 1.0
    probe_max: float = 2.0
    announce_wait: float = 2.0
    announce_num: int = 2
    announce_interval: float = 2.0
    defend_interval: float = 10.0


class Claim:
    """Our claim to `addr` for the station `mac`."""

    def __init__(
        self, addr: bytes, mac: bytes, now: float, rng: random.Random, config: Config | None = None
    ) -> None:
        self.addr = addr
        self.mac = mac
        self.config = config or Config()
        self.state = State.PROBING
        self.rival: bytes | None = None  # the station in the last conflict
        self._rng = rng
        self._left = self.config.probe_num
        self._at: float | None = now + rng.uniform(0, self.config.probe_wait)
        self._defended = float("-inf")
        self._events: deque[Event] = deque()
        self._defence = False

    @property
    def usable(self) -> bool:
        """True once probing is over and as long as the address is not lost."""
        return self.state in (State.ANNOUNCING, State.CLAIMED)

    def receive(self, message: arp.Repr, now: float) -> None:
        """Take any ARP message of the link."""
        if message.sha == self.mac or self.state is State.LOST:
            return
        claims = message.spa == self.addr
        probing = self.state is State.PROBING
        # 2.1.1: somebody else probing for it at the same time is a conflict too.
        rival = message.is_probe and message.op is arp.Op.REQUEST and message.tpa == self.addr
        if not claims and not (probing and rival):
            return
        self.rival = message.sha
        if not probing and now - self._defended >= self.config.defend_interval:
            self._defended, self._defence = now, True
            self._events.append(Event.DEFENDED)
            return
        self._move(Input.CONFLICT)
        self._at, self._defence = None, False
        self._events.append(Event.CONFLICT)

    def transmit(self, now: float) -> list[arp.Repr]:
        """Return the ARP requests to broadcast now."""
        out = []
        if self._defence:
            self._defence = False
            out.append(arp.request(self.mac, self.addr, self.addr))
        if self._at is not None and self._at <= now:
            message = self._due(now)
            if message is not None:
                out.append(message)
        return out

    def _due(self, now: float) -> arp.Repr | None:
        if self.state is State.PROBING and self._left:
            self._left -= 1
            config = self.config
            gap = self._rng.uniform(config.probe_min, config.probe_max)
            self._at = now + (gap if self._left else config.announce_wait)
            return arp.request(self.mac, ip.UNSPECIFIED_V4, self.addr)
        if self.state is State.PROBING:
            self._move(Input.QUIET)
            self._left = self.config.announce_num
            self._events.append(Event.USABLE)
        self._left -= 1
        self._at = now + self.config.announce_interval if self._left > 0 else None
        if self._at is None:
            self._move(Input.ANNOUNCED)
        return arp.request(self.mac, self.addr, self.addr)

    def _move(self, what: Input) -> None:
        self.state = TRANSITIONS.get((self.state, what), self.state)

    def deadline(self) -> float | None:
        """Return when `transmit` has something to do next."""
        return float("-inf") if self._defence else self._at

    def next_event(self) -> Event | None:
        """Return the oldest event not yet taken."""
        return self._events.popleft() if self._events else None

    def __str__(self) -> str:
        who = ethernet.format_mac(self.mac)
        return f"{ip.format_address(self.addr)} for {who}: {self.state.name}"

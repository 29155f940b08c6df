"""An imperfect link as a machine: frames in, the same frames out later, or not at all.

Theory of operation.  A packet meets first the narrow place, then the wire:

1. `mtu`: what is larger is dropped, without a word (a black hole).
2. `queue`: how many packets (or, `queue_octets`, octets) may wait for the rate; more are dropped
   (droptail).  From `ecn` waiting packets on, ECN-capable ones are marked (RFC 3168 5).
3. `rate`: each packet takes its octets' time; `burst` octets may pass at once after a pause (a
   token bucket; 0 is a plain serial line).
4. `loss`, independent or by a `GilbertElliott` chain; a lost packet has used its share of the rate.
5. `corrupt`: one bit is flipped.  6. `duplicate`: the packet arrives twice.
7. `latency` and `jitter`, which keep the order; `reorder` holds single packets back by
   `reorder_delay`, so that later ones overtake.

Loss and rate act on packets as they are on a wire: whoever feeds the machine cuts super-segments
first (`Impairment.per_packet` says whether that is needed).  All randomness is one generator's, and
each packet draws the same numbers whatever the time: the same seed gives the same link.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import UsageError
from ..wire import ip

WIRE_OCTETS_MAX = 256 << 20  # on their way at once; more are dropped
QUEUE = 1000  # packets, as many interfaces have it
_UNITS = {"gbit": 1e9, "mbit": 1e6, "kbit": 1e3, "bit": 1.0}
_DATA_VALID = 2

Frame = tuple[bytes, bytes]  # a virtio-net header and an Ethernet frame
Jitter = Callable[[random.Random], float]


@dataclass(frozen=True, slots=True)
class GilbertElliott:
    """Loss in bursts: a chain of a good and a bad state (Gilbert 1960, Elliott 1963).

    `p` is the chance to turn bad with a packet, `r` to turn good; `bad` and `good` are the chances
    of a loss in either state.
    """

    p: float
    r: float
    bad: float = 1.0
    good: float = 0.0


@dataclass(frozen=True, slots=True)
class Impairment:
    """What a link does to packets of one direction; the module says how.  Chances are 0 to 1.

    Times are seconds, `rate` bits a second (or "10mbit").  `jitter` is a maximum, or a function
    that draws seconds from a generator.
    """

    latency: float = 0.0
    jitter: float | Jitter = 0.0
    loss: float | GilbertElliott = 0.0
    reorder: float = 0.0
    reorder_delay: float = 0.001
    duplicate: float = 0.0
    corrupt: float = 0.0
    rate: float | str = 0.0  # 0: no limit
    burst: int = 0
    queue: int = QUEUE
    queue_octets: int = 0  # 0: no limit
    ecn: int = 0  # 0: no marks
    mtu: int = 0  # of an IP packet; 0: any

    def __post_init__(self) -> None:
        for name in ("reorder", "duplicate", "corrupt"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"expected a chance of 0 to 1 for {name}: {getattr(self, name)}")
        if not isinstance(self.loss, GilbertElliott) and not 0 <= self.loss <= 1:
            raise UsageError(f"expected a chance of 0 to 1 for loss, found {self.loss}")
        if self.latency < 0 or self.bits_per_second < 0:
            raise UsageError("expected a latency and a rate of at least 0")

    @property
    def bits_per_second(self) -> float:
        """The rate as a number."""
        return parse_rate(self.rate) if isinstance(self.rate, str) else self.rate

    @property
    def per_packet(self) -> bool:
        """True when super-segments have to be cut before they enter."""
        return bool(
            self.loss or self.reorder or self.duplicate or self.corrupt or self.rate or self.mtu
        )


@dataclass(frozen=True, slots=True)
class Statistics:
    """Packets since the machine was made; `passed` counts arrivals, duplicates among them."""

    entered: int
    passed: int
    lost: int
    queue_full: int
    too_big: int
    marked: int
    duplicated: int
    corrupted: int
    reordered: int


class Machine:
    """One direction of a link; `impairment` may be replaced at any time."""

    def __init__(self, impairment: Impairment, rng: random.Random) -> None:
        self._rng = rng
        self._bad = False  # the state of Gilbert and Elliott's chain
        self._busy = 0.0  # until when the serial line sends what entered
        self._waiting: deque[tuple[float, int]] = deque()  # end of sending and size, in the queue
        self._waiting_octets = 0
        self._wire: list[tuple[float, int, Frame]] = []
        self._wire_octets = 0
        self._serial = 0
        self._last = 0.0  # the latest arrival of a packet in order
        self._n = dict.fromkeys(Statistics.__dataclass_fields__, 0)
        self.impairment = impairment

    @property
    def impairment(self) -> Impairment:
        """What the link does now."""
        return self._impairment

    @impairment.setter
    def impairment(self, impairment: Impairment) -> None:
        self._impairment = impairment
        self._rate = impairment.bits_per_second

    def receive(self, frame: Frame, now: float) -> None:
        """Take a packet that enters the link."""
        self._n["entered"] += 1
        if self._impairment.mtu and len(frame[1]) - 14 > self._impairment.mtu:
            self._n["too_big"] += 1
            return
        size = len(frame[1])
        if self._rate:
            room = self._enqueue(frame, size, now)
            if room is None:
                self._n["queue_full"] += 1
                return
            frame, sent = room
        else:
            sent = now
        self._cross(frame, size, sent)

    def _enqueue(self, frame: Frame, size: int, now: float) -> tuple[Frame, float] | None:
        """Wait for the rate: return the frame and when it is sent, None where there is no room."""
        imp, waiting = self._impairment, self._waiting
        while waiting and waiting[0][0] <= now:
            self._waiting_octets -= waiting.popleft()[1]
        if len(waiting) >= imp.queue or (
            imp.queue_octets and self._waiting_octets + size > imp.queue_octets
        ):
            return None
        if imp.ecn and len(waiting) >= imp.ecn:
            marked = mark_ce(frame[1])
            if marked is not None:
                self._n["marked"] += 1
                frame = (frame[0], marked)
        free = now - imp.burst * 8 / self._rate
        self._busy = max(self._busy, free) + size * 8 / self._rate
        sent = max(self._busy, now)
        waiting.append((sent, size))
        self._waiting_octets += size
        return frame, sent

    def _cross(self, frame: Frame, size: int, sent: float) -> None:
        """Go over the wire from `sent` on."""
        imp, draw, n = self._impairment, self._rng.random, self._n
        if imp.loss and self._loses(imp.loss):
            n["lost"] += 1
            return
        if imp.corrupt and draw() < imp.corrupt:
            n["corrupted"] += 1
            frame = self._corrupt(frame)
        arrival = sent + imp.latency
        if imp.jitter:
            jitter = imp.jitter
            arrival += max(jitter(self._rng) if callable(jitter) else draw() * jitter, 0.0)
        arrival = max(arrival, self._last)
        if imp.reorder and draw() < imp.reorder:
            n["reordered"] += 1
            arrival += imp.reorder_delay
        else:
            self._last = arrival
        self._put(frame, size, arrival)
        if imp.duplicate and draw() < imp.duplicate:
            n["duplicated"] += 1
            self._put(frame, size, arrival)

    def _loses(self, loss: float | GilbertElliott) -> bool:
        draw = self._rng.random
        if not isinstance(loss, GilbertElliott):
            return draw() < loss
        turn = loss.r if self._bad else loss.p
        if draw() < turn:
            self._bad = not self._bad
        return draw() < (loss.bad if self._bad else loss.good)

    def _corrupt(self, frame: Frame) -> Frame:
        """Flip a bit behind the Ethernet header; nobody vouches for the checksum any more."""
        vnet, octets = bytearray(frame[0]), bytearray(frame[1])
        at = self._rng.randrange(14 * 8, max(len(octets), 15) * 8)
        if at // 8 < len(octets):
            octets[at // 8] ^= 1 << at % 8
        vnet[0] &= ~_DATA_VALID
        return bytes(vnet), bytes(octets)

    def _put(self, frame: Frame, size: int, arrival: float) -> None:
        if self._wire_octets + size > WIRE_OCTETS_MAX:
            self._n["queue_full"] += 1
            return
        self._wire_octets += size
        self._serial += 1
        heapq.heappush(self._wire, (arrival, self._serial, frame))

    def transmit(self, now: float) -> Frame | None:
        """Return the next packet that has arrived by `now`, None when there is none."""
        if not self._wire or self._wire[0][0] > now:
            return None
        frame = heapq.heappop(self._wire)[2]
        self._wire_octets -= len(frame[1])
        self._n["passed"] += 1
        return frame

    def deadline(self) -> float | None:
        """Return when `transmit` has a packet next."""
        return self._wire[0][0] if self._wire else None

    def clear(self) -> None:
        """Lose everything that is on its way: the cable was cut."""
        self._n["lost"] += len(self._wire)
        self._wire.clear()
        self._wire_octets = 0

    def statistics(self) -> Statistics:
        """Return a snapshot of the counters."""
        return Statistics(**self._n)


def parse_rate(text: str) -> float:
    """Read a rate such as `10mbit`, `1.5gbit` or `9600bit`; returns bits a second."""
    for unit, factor in _UNITS.items():
        if text.endswith(unit):
            try:
                return float(text[: -len(unit)]) * factor
            except ValueError:
                break
    raise UsageError(f"expected a rate such as 10mbit or 1gbit, found {text!r}")


def normal(sigma: float) -> Jitter:
    """Return a jitter that is the absolute value of a normal distribution's."""
    return lambda rng: abs(rng.gauss(0.0, sigma))


def pareto(scale: float, shape: float = 3.0) -> Jitter:
    """Return a jitter with a long tail."""
    return lambda rng: scale * (rng.paretovariate(shape) - 1)


def mark_ce(frame: bytes) -> bytes | None:
    """Set congestion experienced (RFC 3168 5) in an Ethernet frame; None: it is not ECN-capable."""
    at = 18 if frame[12:14] == b"\x81\x00" else 14
    kind = frame[at - 2 : at]
    if kind == b"\x08\x00" and len(frame) >= at + 20:
        if not frame[at + 1] & 3:
            return None
        out = bytearray(frame)
        out[at + 1] |= 3
        out[at + 10 : at + 12] = b"\0\0"
        right = ip.checksum(bytes(out[at : at + (out[at] & 15) * 4]))
        out[at + 10 : at + 12] = right.to_bytes(2, "big")
        return bytes(out)
    if kind == b"\x86\xdd" and len(frame) >= at + 40 and frame[at + 1] & 0x30:
        out = bytearray(frame)
        out[at + 1] |= 0x30
        return bytes(out)
    return None

"""The router side of neighbour discovery (RFC 4861 6.2): answers solicitations, advertises itself.

Unsolicited advertisements go to all nodes at random intervals, the first three quickly (6.2.4).
A solicitation is answered within half a second (6.2.6): unicast to a host that has an address,
otherwise with a group advertisement, of which two are never closer than three seconds.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from ..wire import ip, ndp


@dataclass(frozen=True, slots=True)
class Config:
    """What is advertised, and the constants of RFC 4861 6.2.1 and 10 in seconds.

    `max_ra_delay` keeps routers of one link from answering all at once; the only router of a
    link may set 0 so that its machines boot faster.
    """

    advertisement: ndp.RouterAdvertisement
    min_interval: float = 200.0
    max_interval: float = 600.0
    initial_interval: float = 16.0
    initial_count: int = 3
    max_ra_delay: float = 0.5
    min_delay_between: float = 3.0
    unicast_pending: int = 64  # hosts that wait for an answer; beyond, the group is answered


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send `message` from our link-local address to `dst`; `mac` is known where it was told."""

    dst: bytes
    message: ndp.RouterAdvertisement
    mac: bytes | None = None


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters since the start."""

    solicitations: int = 0
    advertisements: int = 0


class Router:
    """An advertising interface; it starts with `start(now)` and ends with `cease()`."""

    def __init__(self, config: Config, rng: random.Random) -> None:
        self.config = config
        self._rng = rng
        self._next: float | None = None  # when the next group advertisement goes out
        self._last = float("-inf")  # when the last one did
        self._sent_initial = 0
        self._unicast: dict[bytes, tuple[float, bytes | None]] = {}
        self._solicitations = self._advertisements = 0

    def start(self, now: float) -> None:
        """Begin to advertise: the first goes out at once."""
        self._next = now
        self._sent_initial = 0

    def update(self, advertisement: ndp.RouterAdvertisement, now: float) -> None:
        """Advertise something else from now on, quickly as after the start (6.2.4)."""
        self.config = replace(self.config, advertisement=advertisement)
        self.start(max(now, self._last + self.config.min_delay_between))

    def cease(self) -> Transmit:
        """Stop, and return the advertisement that says so (6.2.5)."""
        self._next = None
        self._unicast.clear()
        return Transmit(ip.ALL_NODES, replace(self.config.advertisement, lifetime=0))

    def receive_rs(self, src: bytes, solicitation: ndp.RouterSolicitation, now: float) -> None:
        """Take a valid solicitation from `src`; the answer comes from `transmit`."""
        if self._next is None:
            return
        self._solicitations += 1
        due = now + self._rng.uniform(0, self.config.max_ra_delay)
        full = len(self._unicast) >= self.config.unicast_pending
        if src == ip.UNSPECIFIED_V6 or (full and src not in self._unicast):
            earliest = self._last + self.config.min_delay_between
            self._next = min(self._next, max(due, earliest))
        else:
            self._unicast.setdefault(src, (due, solicitation.slla))

    def transmit(self, now: float) -> list[Transmit]:
        """Return what is due."""
        message = self.config.advertisement
        due = [(dst, mac) for dst, (at, mac) in self._unicast.items() if at <= now]
        for dst, _ in due:
            del self._unicast[dst]
        out = [Transmit(dst, message, mac) for dst, mac in due]
        if self._next is not None and self._next <= now:
            out.append(Transmit(ip.ALL_NODES, message))
            self._last = now
            self._next = now + self._interval()
        self._advertisements += len(out)
        return out

    def deadline(self) -> float | None:
        """Return when `transmit` has something to do next, None before the start."""
        times = [at for at, _ in self._unicast.values()]
        if self._next is not None:
            times.append(self._next)
        return min(times, default=None)

    def statistics(self) -> Statistics:
        """Return a snapshot of the counters."""
        return Statistics(self._solicitations, self._advertisements)

    def _interval(self) -> float:
        interval = self._rng.uniform(self.config.min_interval, self.config.max_interval)
        self._sent_initial += 1
        if self._sent_initial < self.config.initial_count:
            return min(interval, self.config.initial_interval)
        return interval

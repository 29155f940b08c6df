"""Congestion control as a small class: how much may be in flight, and nothing else.

What was lost is decided elsewhere (`recovery`); a controller hears of it.  Subclass `Congestion`,
override what you need and hand the class over as `Config(congestion=...)`: a working controller is
a dozen lines.  All sizes are bytes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

INFINITE = 1 << 62


@lru_cache(maxsize=64)  # connections that begin alike share the number
def initial_window(mss: int) -> int:
    """Return the initial window of RFC 6928: ten segments, at most 14600 bytes or two segments."""
    return min(10 * mss, max(2 * mss, 14600))


class Congestion:
    """The base of all controllers: a fixed window of IW10 that never moves."""

    __slots__ = ("cwnd", "mss", "pacing_rate", "ssthresh")
    name = "fixed"
    prr = True  # a reduction is spread by RFC 6937; False: `on_ack` is heard at all times
    wants_rate = False  # True: `on_rate` is called for every ACK of something new

    def __init__(self, mss: int) -> None:
        self.mss = mss
        self.cwnd = initial_window(mss)
        self.ssthresh = INFINITE
        self.pacing_rate = 0.0  # bytes a second at which segments leave; 0.0: at once

    def on_ack(self, acked: int, rtt: float, now: float, in_flight: int) -> None:
        """Hear of `acked` bytes newly delivered; `in_flight` were out at most this round trip.

        `rtt` is the sample in seconds, or 0.0 without one.  Not called while the sender did not
        use its window (RFC 7661) nor, with `prr`, while a reduction is under way.
        """

    def on_rate(self, sample: Any, now: float) -> None:
        """Hear what an ACK showed of the path: a `rate.RateSample`.  Only with `wants_rate`."""

    def on_loss(self, now: float, in_flight: int) -> None:
        """Hear that fast recovery begins: set `ssthresh`, the window to come out with.

        `in_flight` is FlightSize (RFC 5681, 2): all that was sent and not acknowledged in order.
        """

    def on_ecn(self, now: float, in_flight: int) -> None:
        """Hear that a router marked what was in flight: as a loss (RFC 3168, 6.1.2)."""
        self.on_loss(now, in_flight)

    def on_recovered(self, now: float) -> None:
        """Hear that all that was out when the loss was seen has been delivered."""
        if self.ssthresh < INFINITE:
            self.cwnd = self.ssthresh

    def on_rto(self, now: float, in_flight: int) -> None:
        """Hear that the retransmission timer expired: RFC 5681, 3.1 wants one segment."""
        self.cwnd = self.mss

    def on_undo(self, cwnd: int, ssthresh: int) -> None:
        """Hear that the last loss was spurious; the values before it are handed back."""
        self.cwnd = max(self.cwnd, cwnd)
        self.ssthresh = max(self.ssthresh, ssthresh)

    def on_idle(self, idle: float, rto: float) -> None:
        """Hear that nothing was sent for `idle` seconds: half a window less each RTO (RFC 2861).

        What the window was is kept in `ssthresh`, so that slow start finds it again.
        """
        restart = initial_window(self.mss)
        if idle <= rto or self.cwnd <= restart:
            return
        self.ssthresh = max(self.ssthresh, self.cwnd * 3 // 4)
        self.cwnd = max(self.cwnd >> min(int(idle / rto), 60), restart)

    def on_mss(self, mss: int) -> None:
        """Hear that the segment size changed (path MTU)."""
        self.mss = mss
        self.cwnd = max(self.cwnd, mss)

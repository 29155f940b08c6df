"""RFC 9438 (CUBIC) with slow start by RFC 9406 (HyStart++), counted in bytes.

After a loss the window grows along a cubic curve: fast towards the size at which the loss came,
flat around it, then fast again to look for more.  Where plain Reno would be faster (short round
trips, small windows) its estimate `_w_est` rules instead.
"""

from __future__ import annotations

from .base import Congestion
from .hystart import HyStart

C = 0.4  # segments a second cubed (RFC 9438, 5.1)
BETA = 0.7  # section 4.6
ALPHA = 3 * (1 - BETA) / (1 + BETA)  # section 4.3
_FRESH = HyStart()  # of all connections that had no ACK yet: never changed


class Cubic(Congestion):
    """The default of most systems; friendly to Reno on short paths, quick on long ones."""

    __slots__ = ("_before", "_epoch", "_hystart", "_k", "_origin", "_prior", "_w_est", "_w_max")
    name = "cubic"

    def __init__(self, mss: int) -> None:
        super().__init__(mss)
        self._w_max = 0.0
        self._epoch = 0.0  # when congestion avoidance began, 0.0 outside of it
        self._k = 0.0
        self._origin = 0.0
        self._w_est = 0.0
        self._prior = 0.0
        self._hystart: HyStart | None = _FRESH
        self._before: tuple[float, float, float, float, float, float] | None = None

    def on_ack(self, acked: int, rtt: float, now: float, in_flight: int) -> None:
        """Grow: HyStart++ below `ssthresh`, along the curve above."""
        if self.cwnd >= self.ssthresh:
            self._avoid(acked, rtt, now)
            return
        hystart = self._hystart
        if hystart is None:
            self.cwnd += acked  # RFC 9406, 4.3: for the first slow start only
            return
        if hystart is _FRESH:
            hystart = self._hystart = HyStart()
        grow = hystart.growth(acked, rtt, in_flight)
        if grow < 0:
            self.ssthresh = self.cwnd
            self._hystart = None
        else:
            self.cwnd += grow

    def _avoid(self, acked: int, rtt: float, now: float) -> None:
        """RFC 9438, 4.2 to 4.5."""
        cwnd = self.cwnd
        if not self._epoch:
            self._begin(now)
        t = now - self._epoch - self._k
        curve = self._origin + C * t * t * t * self.mss
        alpha = ALPHA if self._w_est < self._prior else 1.0
        self._w_est += alpha * acked * self.mss / cwnd
        if curve < self._w_est:  # Reno-friendly region
            self.cwnd = max(cwnd, int(self._w_est))
            return
        t += rtt
        target = self._origin + C * t * t * t * self.mss
        target = min(max(target, cwnd), 1.5 * cwnd)
        self.cwnd = cwnd + int((target - cwnd) * min(acked, cwnd) / cwnd)

    def _begin(self, now: float) -> None:
        """Start an epoch of congestion avoidance: the curve's origin and when it is reached."""
        self._epoch = now
        self._w_est = self.cwnd
        if self.cwnd < self._w_max:
            self._k = ((self._w_max - self.cwnd) / self.mss / C) ** (1 / 3)
            self._origin = self._w_max
        else:
            self._k = 0.0
            self._origin = self.cwnd

    def _reduce(self, in_flight: int) -> None:
        """RFC 9438, 4.6 and 4.7 (fast convergence)."""
        cwnd = self.cwnd
        self._before = (
            self._w_max, self._epoch, self._k, self._origin, self._w_est, self._prior
        )  # fmt: skip
        self._prior = cwnd
        self._w_max = cwnd * (1 + BETA) / 2 if cwnd < self._w_max else cwnd
        self.ssthresh = max(int(min(cwnd, max(in_flight, self.mss)) * BETA), 2 * self.mss)
        self._epoch = 0.0
        self._hystart = None

    def on_loss(self, now: float, in_flight: int) -> None:
        """Reduce to 0.7 of what was in flight."""
        self._reduce(in_flight)
        self.cwnd = self.ssthresh

    def on_rto(self, now: float, in_flight: int) -> None:
        """Start again from one segment; the next curve begins where slow start ends (4.8)."""
        self._reduce(in_flight)
        self._w_max = 0.0
        self.cwnd = self.mss

    def on_undo(self, cwnd: int, ssthresh: int) -> None:
        """Go back to the curve as it was (RFC 9438, 4.9)."""
        super().on_undo(cwnd, ssthresh)
        if self._before is not None:
            self._w_max, self._epoch, self._k, self._origin, self._w_est, self._prior = self._before
            self._before = None

    def on_idle(self, idle: float, rto: float) -> None:
        """Keep the curve still while nothing is sent (RFC 9438, 5.8)."""
        super().on_idle(idle, rto)
        if self._epoch and idle > 0:
            self._epoch += idle

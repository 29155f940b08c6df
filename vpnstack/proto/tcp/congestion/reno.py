"""RFC 5681: slow start and congestion avoidance, counted in bytes (RFC 3465).

An ACK for a super-segment counts for all of its bytes: RFC 3465's limit of two segments an ACK
would starve a sender whose receiver acknowledges 64 KiB at a time.
"""

from __future__ import annotations

from .base import Congestion


class Reno(Congestion):
    """Slow start to `ssthresh`, then one segment a round trip; halved by loss."""

    __slots__ = ("_credit",)
    name = "reno"

    def __init__(self, mss: int) -> None:
        super().__init__(mss)
        self._credit = 0

    def on_ack(self, acked: int, rtt: float, now: float, in_flight: int) -> None:
        """Grow: by what was acknowledged below `ssthresh`, by one MSS a window above."""
        cwnd = self.cwnd
        if cwnd < self.ssthresh:
            self.cwnd = cwnd + acked
            return
        self._credit += acked
        if self._credit >= cwnd:
            self._credit -= cwnd
            self.cwnd = cwnd + self.mss

    def on_loss(self, now: float, in_flight: int) -> None:
        """Halve: RFC 5681, equation 4."""
        self.ssthresh = max(in_flight // 2, 2 * self.mss)
        self.cwnd = self.ssthresh
        self._credit = 0

    def on_rto(self, now: float, in_flight: int) -> None:
        """Halve the threshold and start again from one segment."""
        self.ssthresh = max(in_flight // 2, 2 * self.mss)
        self.cwnd = self.mss
        self._credit = 0

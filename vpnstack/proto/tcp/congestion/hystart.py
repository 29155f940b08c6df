"""RFC 9406 (HyStart++): leave slow start when the round trip grows, before the queue overflows.

A round ends when as many bytes were delivered as were in flight when it began.  When the smallest
round trip of a round exceeds that of the round before by a threshold, slow start goes on at a
quarter of its pace (CSS); five such rounds end it, a round trip that shrinks again takes it back.
"""

from __future__ import annotations

MIN_THRESH = 0.004
MAX_THRESH = 0.016
SAMPLES = 8
CSS_DIVISOR = 4
CSS_ROUNDS = 5
_UNKNOWN = float("inf")


class HyStart:
    """The rounds of one slow start; seconds and bytes."""

    __slots__ = ("_baseline", "_css_rounds", "_last", "_left", "_low", "_samples")

    def __init__(self) -> None:
        self._left = 0
        self._low = self._last = self._baseline = _UNKNOWN
        self._samples = 0
        self._css_rounds = 0

    def growth(self, acked: int, rtt: float, in_flight: int) -> int:
        """Return by how much the window grows for `acked` bytes; -1 ends slow start."""
        if self._left <= 0:
            self._next_round(in_flight)
            if self._css_rounds > CSS_ROUNDS:
                return -1
        self._left -= acked
        if rtt:
            self._samples += 1
            if rtt < self._low:
                self._low = rtt
            self._judge()
        return acked // CSS_DIVISOR if self._css_rounds else acked

    def _next_round(self, in_flight: int) -> None:
        self._left = in_flight
        self._last, self._low = self._low, _UNKNOWN
        self._samples = 0
        if self._css_rounds:
            self._css_rounds += 1

    def _judge(self) -> None:
        """RFC 9406, 4.2: enter CSS, or take it back when it was spurious."""
        if self._samples < SAMPLES:
            return
        if self._css_rounds:
            if self._low < self._baseline:
                self._css_rounds = 0
                self._baseline = _UNKNOWN
        elif self._last != _UNKNOWN:
            thresh = max(MIN_THRESH, min(self._last / 8, MAX_THRESH))
            if self._low >= self._last + thresh:
                self._baseline = self._low
                self._css_rounds = 1

"""RFC 6298: the smoothed round-trip time and the retransmission timeout.

The variance term has a floor of `min_rto`, as in Linux: on a path of a few milliseconds the
timeout is the round trip plus 200 ms, so that a delayed ACK never looks like a loss.
"""

from __future__ import annotations


class Rtt:
    """Round-trip estimator of one connection; seconds."""

    __slots__ = ("backoff", "max_rto", "min_rto", "min_rtt", "rto", "rttvar", "srtt")

    def __init__(self, min_rto: float, max_rto: float, first: float) -> None:
        self.min_rto = min_rto
        self.max_rto = max_rto
        self.srtt = 0.0  # 0.0: no sample yet
        self.rttvar = 0.0
        self.min_rtt = float("inf")
        self.rto = first
        self.backoff = 0

    def sample(self, rtt: float) -> None:
        """Take a measurement that Karn's algorithm allows (RFC 6298, section 2 and 3)."""
        if rtt < self.min_rtt:
            self.min_rtt = rtt
        srtt = self.srtt
        if srtt == 0.0:
            srtt, var = max(rtt, 1e-6), rtt / 2
        else:
            var = 0.75 * self.rttvar + 0.25 * abs(srtt - rtt)
            srtt = 0.875 * srtt + 0.125 * rtt
        self.srtt, self.rttvar = srtt, var
        var *= 4.0
        rto = srtt + (var if var > self.min_rto else self.min_rto)
        self.rto = rto if rto < self.max_rto else self.max_rto
        self.backoff = 0

    def timeout(self) -> float:
        """Return the timeout with its backoff (RFC 6298, 5.5)."""
        if not self.backoff:
            return self.rto
        return min(self.rto * (1 << min(self.backoff, 16)), self.max_rto)

"""BBR: a model of the path instead of a reaction to loss (draft-ietf-ccwg-bbr).

Theory of operation.  The bottleneck's bandwidth is the highest delivery rate of the last ten round
trips, the path's delay the lowest round trip of the last ten seconds.  Segments are paced at the
bandwidth times a gain, and about two bandwidth-delay products may be in flight.  The gain walks
through a cycle: STARTUP doubles until the rate stops to grow, DRAIN empties the queue that this
made, PROBE_BW alternates (a round at 1.25 to look for more, one at 0.75 to drain, six at 1), and
PROBE_RTT drops to four segments for 200 ms when the minimum has not been seen for ten seconds.

The states are version 1's.  Loss is answered as versions 2 and 3 do: when more than 2 % of the
data is lost, what may be in flight is bounded by 0.7 of what was (BBRLossThresh, BBRBeta),
STARTUP ends, and the bound grows again while probing for bandwidth.  Left out: version 3's split of
PROBE_BW into DOWN, CRUISE, REFILL and UP, its short-term bounds, its response to ECN, and the
compensation for aggregated ACKs.
"""

from __future__ import annotations

import enum
from typing import Any

from .base import INFINITE, Congestion, initial_window

HIGH_GAIN = 2.77  # 4 ln 2: the least that doubles the rate each round
CYCLE = (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
CWND_GAIN = 2.0
BW_ROUNDS = 10
RTT_WINDOW = 10.0
PROBE_RTT_TIME = 0.2
FULL_GROWTH = 1.25
FULL_ROUNDS = 3
LOSS_THRESH = 0.02
FULL_LOSSES = 6  # segments lost in one round of STARTUP that may end it
JUDGED = 256  # segments over which losses are judged
BETA = 0.7
MARGIN = 0.99  # of the estimate, so that a queue drains


class Mode(enum.Enum):
    """The states of BBR."""

    STARTUP = "startup"
    DRAIN = "drain"
    PROBE_BW = "probe bandwidth"
    PROBE_RTT = "probe round trip"


class Bbr(Congestion):
    """Paced at the measured bandwidth; indifferent to losses below 2 %."""

    __slots__ = (
        "_cycle",
        "_cycle_at",
        "_full_bw",
        "_full_count",
        "_inflight_hi",
        "_judged_at",
        "_lost_at",
        "_min_rtt",
        "_min_rtt_at",
        "_next_round",
        "_probe_done",
        "_rates",
        "_round",
        "mode",
    )  # fmt: skip
    name = "bbr"
    prr = False
    wants_rate = True

    def __init__(self, mss: int) -> None:
        super().__init__(mss)
        self.mode = Mode.STARTUP
        self._rates: list[tuple[int, float]] = []  # (round, rate), rates falling
        self._round = 0
        self._next_round = 0  # `delivered` with which the round ends
        self._judged_at = 0  # `delivered` and `lost` when losses were judged last
        self._lost_at = 0
        self._min_rtt = 0.0
        self._min_rtt_at = 0.0
        self._full_bw = 0.0
        self._full_count = 0
        self._inflight_hi = INFINITE
        self._cycle = 0
        self._cycle_at = 0.0
        self._probe_done = 0.0

    @property
    def bandwidth(self) -> float:
        """Return the estimate of the bottleneck's bandwidth in bytes a second."""
        return self._rates[0][1] if self._rates else 0.0

    def _bdp(self, gain: float) -> int:
        return int(gain * self.bandwidth * self._min_rtt)

    def on_rate(self, sample: Any, now: float) -> None:
        """Update the model, then what follows from it."""
        ended = sample.prior_delivered >= self._next_round
        if ended:
            self._end_round(sample)
        self._update_bandwidth(sample)
        expired = self._update_rtt(sample, now)
        if ended:
            self._check_full(sample)
        self._advance(sample, now, expired)
        self._set_rate()
        self._set_window(sample)

    def _end_round(self, sample: Any) -> None:
        """Count a round trip and judge the losses of late (draft, 5.3.1.3 and 5.5.10).

        A short round trip has too few segments for a rate of losses: it is joined with the next.
        """
        self._round += 1
        self._next_round = sample.delivered
        lost = sample.lost - self._lost_at
        sent = sample.delivered - self._judged_at + lost
        starting = self.mode is Mode.STARTUP and lost >= FULL_LOSSES * self.mss
        if not starting and sent < JUDGED * self.mss:
            return
        self._judged_at = sample.delivered
        self._lost_at = sample.lost
        if lost > LOSS_THRESH * sent:
            self._on_heavy_loss(sample)

    def _on_heavy_loss(self, sample: Any) -> None:
        if self.mode is Mode.STARTUP:
            self._full_count = FULL_ROUNDS  # the pipe is full: this is its queue overflowing
        bound = max(int(BETA * max(sample.in_flight, self._bdp(1.0))), 4 * self.mss)
        self._inflight_hi = min(self._inflight_hi, bound)

    def _update_bandwidth(self, sample: Any) -> None:
        """Keep the highest rate of ten rounds; a rate that the user bounded counts if higher."""
        rate = sample.rate
        if not rate or (sample.app_limited and rate < self.bandwidth):
            return
        rates = self._rates
        while rates and rates[-1][1] <= rate:
            rates.pop()
        rates.append((self._round, rate))
        while len(rates) > 1 and rates[0][0] < self._round - BW_ROUNDS:
            del rates[0]

    def _update_rtt(self, sample: Any, now: float) -> bool:
        """Keep the lowest round trip; True when it is older than its window."""
        expired = bool(self._min_rtt) and now > self._min_rtt_at + RTT_WINDOW
        if sample.rtt and (not self._min_rtt or sample.rtt <= self._min_rtt or expired):
            self._min_rtt = sample.rtt
            self._min_rtt_at = now
        return expired

    def _check_full(self, sample: Any) -> None:
        """STARTUP: three rounds without a quarter more of bandwidth fill the pipe."""
        if self.mode is not Mode.STARTUP or sample.app_limited:
            return
        if self.bandwidth >= self._full_bw * FULL_GROWTH:
            self._full_bw = self.bandwidth
            self._full_count = 0
        else:
            self._full_count += 1

    def _advance(self, sample: Any, now: float, expired: bool) -> None:
        """Move between the states."""
        if self.mode is Mode.STARTUP and self._full_count >= FULL_ROUNDS:
            self.mode = Mode.DRAIN
        if self.mode is Mode.DRAIN and sample.in_flight <= self._bdp(1.0):
            self._enter_probe_bw(now)
        if self.mode is Mode.PROBE_BW:
            self._advance_cycle(sample, now)
        if expired and self.mode is not Mode.PROBE_RTT:
            self.mode = Mode.PROBE_RTT
            self._probe_done = 0.0
        if self.mode is Mode.PROBE_RTT:
            self._probe_rtt(sample, now)

    def _enter_probe_bw(self, now: float) -> None:
        self.mode = Mode.PROBE_BW
        self._cycle = 2  # at the bandwidth itself first; no randomness in a deterministic machine
        self._cycle_at = now

    def _advance_cycle(self, sample: Any, now: float) -> None:
        gain = CYCLE[self._cycle]
        full = now - self._cycle_at > self._min_rtt
        if gain > 1:
            bound = min(self._bdp(gain), self._inflight_hi)
            hi = sample.in_flight + 2 * self.mss >= bound
            full = full and (hi or sample.recovering)
            if full and hi and self._inflight_hi < INFINITE:
                self._inflight_hi += max(self._inflight_hi // 4, self.mss)
        elif gain < 1:
            full = full or sample.in_flight <= self._bdp(1.0)
        if full:
            self._cycle = (self._cycle + 1) % len(CYCLE)
            self._cycle_at = now

    def _probe_rtt(self, sample: Any, now: float) -> None:
        if not self._probe_done:
            if sample.in_flight <= 4 * self.mss:
                self._probe_done = now + max(PROBE_RTT_TIME, self._min_rtt)
        elif now >= self._probe_done:
            self._min_rtt_at = now
            if self._full_count >= FULL_ROUNDS:
                self._enter_probe_bw(now)
            else:
                self.mode = Mode.STARTUP

    def _gain(self) -> float:
        if self.mode is Mode.STARTUP:
            return HIGH_GAIN
        if self.mode is Mode.DRAIN:
            return 1 / HIGH_GAIN
        return CYCLE[self._cycle] if self.mode is Mode.PROBE_BW else 1.0

    def _set_rate(self) -> None:
        rate = self._gain() * self.bandwidth * MARGIN
        if self._full_count >= FULL_ROUNDS or rate > self.pacing_rate:
            self.pacing_rate = rate

    def _set_window(self, sample: Any) -> None:
        floor = 4 * self.mss
        if self.mode is Mode.PROBE_RTT:
            self.cwnd = min(self.cwnd, floor)
            return
        gain = HIGH_GAIN if self.mode in (Mode.STARTUP, Mode.DRAIN) else CWND_GAIN
        target = max(self._bdp(gain) + 3 * self.mss, floor)
        if self._full_count >= FULL_ROUNDS:
            self.cwnd = min(self.cwnd + sample.acked, target)
        elif self.cwnd < target or sample.delivered < initial_window(self.mss):
            self.cwnd += sample.acked
        self.cwnd = max(min(self.cwnd, self._inflight_hi), floor)

    def on_recovered(self, now: float) -> None:
        """Losses bound the window by their rate alone."""

    def on_idle(self, idle: float, rto: float) -> None:
        """Keep the model: pacing keeps a restart from bursting."""

    def on_undo(self, cwnd: int, ssthresh: int) -> None:
        """Hear that a loss was none: the bound that it set goes."""
        super().on_undo(cwnd, ssthresh)
        self._inflight_hi = INFINITE

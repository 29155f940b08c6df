"""One receive queue of the driver with the backlog of what it had no buffers for."""

from __future__ import annotations

from vpnstack.core.burst import Burst
from vpnstack.link.backlog import Backlog

from ..core.ring import Ring, Steering

BACKLOG_OCTETS = 4 << 20


class Lane:
    """Sends in order: what waits goes before what comes."""

    def __init__(self, ring: Ring, steering: Steering) -> None:
        self.ring = ring
        self.dropped = 0
        self._steering = steering
        self._waiting = Backlog(BACKLOG_OCTETS)
        self._own_scratch: Burst | None = None

    @property
    def _scratch(self) -> Burst:
        """A burst of our own, made when frames first wait: most lanes need none."""
        if self._own_scratch is None:
            self._own_scratch = Burst()
        return self._own_scratch

    @property
    def stalled(self) -> bool:
        """True while frames wait for the driver's buffers."""
        return len(self._waiting) > 0

    def send(self, burst: Burst) -> None:
        """Send the frames of `burst` that belong to this lane, or keep copies of them."""
        if self._waiting:
            self.flush()
        start = 0
        if not self._waiting:
            start = self.ring.rx_push(burst)
            if start == burst.count:
                return
            # Armed before the second try: buffers that come after it are kicked for.
            self.ring.arm()
            start = self.ring.rx_push(burst, start)
        self._keep(burst, start)
        self._settle()

    def flush(self) -> None:
        """Send what waits, as far as the driver's buffers go; ask for a kick for the rest."""
        if self._waiting and not self._drain():
            self.ring.arm()
            self._drain()
        self._settle()

    def clear(self) -> None:
        """Drop what waits: the ring went away."""
        self.dropped += len(self._waiting)
        self._waiting.clear()
        self._steering.hold(self.ring.pair, False)

    def _settle(self) -> None:
        if not self._waiting:
            self.ring.suppress()
        self._steering.hold(self.ring.pair, self.stalled)

    def _keep(self, burst: Burst, start: int) -> None:
        if self._steering.pairs == 1:
            self.dropped += self._waiting.push(burst, start)
            return
        if self._scratch.capacity < burst.count:
            self._own_scratch = Burst(burst.capacity)
        self._steering.select(burst, start, self.ring.pair, self._scratch)
        self.dropped += self._waiting.push(self._scratch)
        self._scratch.clear()

    def _drain(self) -> bool:
        """Send until nothing waits (True) or the driver's buffers are used up."""
        scratch = self._scratch
        while self._waiting:
            self._waiting.fill(scratch)
            count, done = scratch.count, self.ring.rx_push_all(scratch)
            scratch.clear()
            self._waiting.drop_first(done)
            if done < count:
                return False
        return True

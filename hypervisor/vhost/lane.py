"""One receive queue of the driver with the backlog of what it had no buffers for."""

from __future__ import annotations

from collections import deque

from vpnstack.core.burst import Burst

from ..core.ring import Ring, Steering

BACKLOG_FRAMES = 1024
BACKLOG_OCTETS = 4 << 20


class Lane:
    """Sends in order: what waits goes before what comes."""

    def __init__(self, ring: Ring, steering: Steering) -> None:
        self.ring = ring
        self.dropped = 0
        self._steering = steering
        self._waiting: deque[tuple[bytes, bytes]] = deque()  # frame, virtio-net header
        self._octets = 0
        self._scratch = Burst()

    @property
    def stalled(self) -> bool:
        """True while frames wait for the driver's buffers."""
        return bool(self._waiting)

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

    def flush(self) -> None:
        """Send what waits, as far as the driver's buffers go; ask for a kick for the rest."""
        if self._waiting and not self._drain():
            self.ring.arm()
            self._drain()
        if not self._waiting:
            self.ring.suppress()

    def clear(self) -> None:
        """Drop what waits: the ring went away."""
        self.dropped += len(self._waiting)
        self._waiting.clear()
        self._octets = 0

    def _keep(self, burst: Burst, start: int) -> None:
        for i in range(start, burst.count):
            if self._steering.pair(burst, i) != self.ring.pair:
                continue
            size = burst[i].len
            if len(self._waiting) < BACKLOG_FRAMES and self._octets + size <= BACKLOG_OCTETS:
                self._waiting.append((burst.octets(i), burst.vnet(i)))
                self._octets += size
            else:
                self.dropped += 1

    def _drain(self) -> bool:
        """Send until nothing waits (True) or the driver's buffers are used up."""
        scratch = self._scratch
        while self._waiting:
            for i in range(min(len(self._waiting), scratch.capacity)):
                scratch.append(*self._waiting[i])
            count, done = scratch.count, self.ring.rx_push_all(scratch)
            scratch.clear()
            for _ in range(done):
                self._octets -= len(self._waiting.popleft()[0])
            if done < count:
                return False
        return True

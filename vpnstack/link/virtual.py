"""Two ports of one process without descriptors: a cable whose ends share a clock.

A frame crosses by one copy, offloads and all, in the next turn of the loop.  Delay, loss and rate
are `Impaired`'s, which wraps either end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ..core.burst import Burst, Packed
from .port import Clock, Offload, PortClosed, PortStatistics
from .soft import Softener

QUEUE_OCTETS = 4 << 20
WHOLE = Offload.CSUM | Offload.TSO4 | Offload.TSO6 | Offload.USO


class VirtualPort:
    """One end of a cable made by `cable`."""

    def __init__(self, name: str, clock: Clock, mtu: int = 1500, offload: Offload = WHOLE) -> None:
        self.name = name
        self.mtu = mtu
        self.offload = offload
        self._soften = Softener()
        self._clock = clock
        self._peer: VirtualPort | None = None
        self._queue: deque[Packed] = deque()
        self._octets = 0
        self._ready: Callable[[], None] | None = None
        self._due = False  # a call of `_ready` is on its way
        self._closed = False
        self._rx = [0, 0]
        self._tx = [0, 0, 0]

    @property
    def stalled(self) -> bool:
        """True while the other end's queue is full."""
        return self._peer is not None and self._peer._octets >= QUEUE_OCTETS

    def fileno(self) -> int:
        """Return -1: this port calls."""
        return -1

    def notify(self, ready: Callable[[], None] | None) -> None:
        """Set who is called; at once if something waits already."""
        self._ready = ready
        if ready is not None and (self._queue or self._peer is None):
            self._call()

    def _call(self) -> None:
        if not self._due and self._ready is not None:
            self._due = True
            self._clock.call_soon(self._calling)

    def _calling(self) -> None:
        self._due = False
        if self._ready is not None:
            self._ready()

    def rx_burst(self, burst: Burst) -> int:
        """Take frames from the queue; see `Port`."""
        burst.clear()
        was_full = self._octets >= QUEUE_OCTETS
        while self._queue and not burst.full:
            packed = self._queue[0]
            burst.unpack(packed)
            if not packed.count:
                self._queue.popleft()
                self._octets -= packed.octets
                self._rx[1] += packed.octets
        self._rx[0] += burst.count
        peer = self._peer
        if peer is not None and was_full and self._octets < QUEUE_OCTETS:
            peer._call()
        if self._queue or (peer is None and burst.count):
            self._call()
        elif peer is None and not self._closed:
            raise PortClosed(f"{self.name}: the other end was closed")
        return burst.count

    def rx_done(self, burst: Burst) -> None:
        """Let go of the frames."""
        burst.clear()

    def tx_burst(self, burst: Burst) -> None:
        """Queue a copy at the other end, up to twice its bound; bursts beyond are dropped."""
        for part in self._soften(burst, self.offload):
            self._put(part)

    def _put(self, burst: Burst) -> None:
        peer = self._peer
        octets = burst.octets_len()
        if peer is None or peer._octets + octets > 2 * QUEUE_OCTETS:
            self._tx[2] += burst.count
            return
        packed = burst.pack()
        peer._queue.append(packed)
        peer._octets += packed.octets
        self._tx[0] += packed.count
        self._tx[1] += packed.octets
        peer._call()

    def flush(self) -> None:
        """Nothing waits on this side."""

    def close(self) -> None:
        """Cut the cable; the other end receives what is queued and then `PortClosed`."""
        if self._closed:
            return
        self._closed = True
        self._ready = None
        self._queue.clear()
        peer, self._peer = self._peer, None
        if peer is not None:
            peer._peer = None
            peer._call()

    def statistics(self) -> PortStatistics:
        """Return counters since the cable was made."""
        return PortStatistics(
            rx_frames=self._rx[0],
            rx_octets=self._rx[1],
            tx_frames=self._tx[0],
            tx_octets=self._tx[1],
            tx_dropped=self._tx[2],
        )


def cable(
    clock: Clock, a: str = "a", b: str = "b", *, mtu: int = 1500, offload: Offload = WHOLE
) -> tuple[VirtualPort, VirtualPort]:
    """Return two connected ports named `a` and `b`; `clock` is the loop that drives both.

    Without all of `offload` the cable takes what a wire takes: segments, with their checksums.
    """
    left, right = VirtualPort(a, clock, mtu, offload), VirtualPort(b, clock, mtu, offload)
    left._peer, right._peer = right, left
    return left, right

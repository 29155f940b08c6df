"""Two ports in one process, back to back: what one sends the other receives."""

from __future__ import annotations

import os
import select

from ..core.burst import Burst
from .backlog import Backlog
from .port import Offload, PortClosed, PortStatistics
from .soft import Softener

QUEUE_OCTETS = 4 << 20


class PairPort:
    """One end of a pair made by `pair`; frames cross by one copy, offloads and all."""

    offload = Offload.CSUM | Offload.TSO4 | Offload.TSO6 | Offload.USO
    _event = -1

    def __init__(self, name: str, mtu: int = 1500) -> None:
        self.name = name
        self.mtu = mtu
        self._peer: PairPort | None = None
        self._queue = Backlog(2 * QUEUE_OCTETS)
        self._soften = Softener()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # An eventfd is always writable, and a driver that waits to flush a stalled port would be
        # woken without end; an epoll descriptor is never writable.
        self._epoll = select.epoll()
        self._epoll.register(self._event, select.EPOLLIN)
        self._rx = [0, 0]
        self._tx = [0, 0, 0]

    @property
    def stalled(self) -> bool:
        """True while the other end's queue is full."""
        return self._peer is not None and self._peer._queue.octets >= QUEUE_OCTETS

    def fileno(self) -> int:
        """A descriptor that is readable while frames wait here or the far end drained its queue."""
        return -1 if self._epoll.closed else self._epoll.fileno()

    def rx_burst(self, burst: Burst) -> int:
        """Take frames from the queue; see `Port`."""
        if self._event < 0:
            raise PortClosed(f"{self.name}: the port was closed")
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            pass
        burst.clear()
        was_full = self._queue.octets >= QUEUE_OCTETS
        self._queue.take(burst)
        self._rx[0] += burst.count
        self._rx[1] += burst.octets_len()
        if self._queue:
            os.eventfd_write(self._event, 1)
        elif self._peer is None:
            if not burst.count:
                raise PortClosed(f"{self.name}: the other end was closed")
            os.eventfd_write(self._event, 1)
        if was_full and self._queue.octets < QUEUE_OCTETS and self._peer is not None:
            os.eventfd_write(self._peer._event, 1)
        return burst.count

    def rx_done(self, burst: Burst) -> None:
        """Let go of the frames."""
        burst.clear()

    def tx_burst(self, burst: Burst) -> None:
        """Queue copies at the other end, up to twice its bound; the rest is dropped."""
        for part in self._soften(burst, self.offload):
            self._put(part)

    def _put(self, burst: Burst) -> None:
        peer = self._peer
        if peer is None:
            self._tx[2] += burst.count
            return
        dropped = peer._queue.push(burst)
        sent = burst.count - dropped
        self._tx[0] += sent
        self._tx[1] += sum(f.len for f in burst.frames[:sent])
        self._tx[2] += dropped
        if burst.count:
            os.eventfd_write(peer._event, 1)

    def flush(self) -> None:
        """Nothing waits on this side."""

    def close(self) -> None:
        """Part the pair; the other end receives what is queued and then `PortClosed`."""
        if self._event < 0:
            return
        if self._peer is not None:
            self._peer._peer = None
            os.eventfd_write(self._peer._event, 1)
            self._peer = None
        self._epoll.close()
        os.close(self._event)
        self._event = -1
        self._queue.clear()

    __del__ = close

    def statistics(self) -> PortStatistics:
        """Return counters since the pair was made."""
        return PortStatistics(
            rx_frames=self._rx[0],
            rx_octets=self._rx[1],
            tx_frames=self._tx[0],
            tx_octets=self._tx[1],
            tx_dropped=self._tx[2] + self._soften.dropped,
        )


def pair(a: str = "a", b: str = "b", *, mtu: int = 1500) -> tuple[PairPort, PairPort]:
    """Return two connected ports named `a` and `b`."""
    left, right = PairPort(a, mtu), PairPort(b, mtu)
    left._peer, right._peer = right, left
    return left, right

"""The data path of a virtio-net device as a port of vpnstack, whoever set the device up.

Notifications.  While the driver keeps us busy nobody kicks: the port stays readable through an
eventfd of its own (`_hot`), and the queues ask for kicks again only when a burst came back small.
"""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Callable, Iterable

from vpnstack.core.burst import Burst
from vpnstack.link.port import Offload, PortClosed, PortStatistics
from vpnstack.link.soft import Softener

from ..core.ring import Ring, frames_need
from ..errors import PeerError
from ..queue.layout import Feature
from .channel import Disconnected
from .device import Device

log = logging.getLogger(__name__)

BUSY = 2  # a burst filled to one part in this many keeps the port polling
LOOK = 8  # while it is polling, bursts a look at control messages, kicks and faults

Soften = Callable[[Burst, Offload], Iterable[Burst]]


class RingPort:
    """Frames between a driver's queues and the stack; see `vpnstack.link.port.Port`.

    A subclass is the control plane: it attaches the rings of `_device` and says what to do with
    other descriptors of `_epoll` (`_control`) and with a ring that broke (`_broken`).
    """

    def __init__(self, name: str, mtu: int, pairs: int, soften: Soften | None = None) -> None:
        self.name = name
        self.mtu = mtu
        self.offload = Offload.NONE
        self._soften = soften or Softener()
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._device = Device(self._epoll, pairs)
        self._hot = False
        self._lent: list[Ring] = []  # rings whose popped chains are with the stack
        self._out = False  # a burst that points into guest memory is with the stack
        self._turn = 0  # bursts since the last look at the descriptors
        self._first = 0  # the transmit queue that comes first
        self._dropped = 0
        self._discarded = [0, 0]  # frames and octets that disabled queues transmitted
        self._scratch: Burst | None = None  # made when a queue is first disabled
        self._closed = False

    def _control(self, fd: int) -> None:
        """Serve a descriptor that is no kick."""

    def _broken(self, index: int) -> None:
        """Take ring `index` out of service: its driver broke a rule."""
        raise NotImplementedError

    def _release(self) -> None:
        """Close what the control plane holds."""

    @property
    def ready(self) -> bool:
        """True once the driver runs a receive queue: frames sent before that are dropped."""
        return bool(self._device.rx)

    @property
    def stalled(self) -> bool:
        """True while frames wait for the driver's buffers."""
        return self._device.steering.held

    def fileno(self) -> int:
        """Return the epoll descriptor over the kicks, our own wake-up and what control needs."""
        return self._epoll.fileno()

    # Receiving: control, kicks, transmitted frames.

    def rx_burst(self, burst: Burst) -> int:
        """Fill `burst` with what the driver transmitted; PortClosed when it is gone."""
        burst.clear()
        if self._lent or self._out:
            self.rx_done(burst)
        if self._closed:
            raise PortClosed(f"{self.name}: closed")
        self._turn = (self._turn + 1) % LOOK
        look = not (self._hot and self._turn) or self._device.steering.held
        try:
            if look:
                for fd, _ in self._epoll.poll(0):
                    self._serve(fd)
            self._pop(burst)
            if look or not self._hot:
                self._check()
        except PeerError as exc:
            burst.clear()
            self._give_back()
            level = logging.INFO if isinstance(exc, Disconnected) else logging.WARNING
            log.log(level, "%s: %s", self.name, exc)
            self._disconnect()  # all but the descriptor that the loop still watches
            raise PortClosed(f"{self.name}: {exc}") from exc
        self._out = burst.count > 0
        return burst.count

    def rx_done(self, burst: Burst) -> None:
        """Give the buffers of the last burst back to the driver, with one notification a queue."""
        if self._lent:
            self._give_back()
        self._out = False
        if self._closed:
            self._device.release_memory()

    def _give_back(self) -> None:
        for ring in self._lent:
            ring.publish()
        self._lent.clear()

    def _serve(self, fd: int) -> None:
        device = self._device
        if fd in device.kicks:
            index = device.drain_kick(fd)
            if index % 2 == 0:
                device.lanes[index // 2].flush()
        elif fd != self._wake:
            self._control(fd)

    def _pop(self, burst: Burst) -> None:
        """Take frames from all transmit queues in turns, and decide who wakes us next."""
        device = self._device
        rings = device.tx
        if len(rings) > 1:
            self._first = (self._first + 1) % len(rings)
            rings = rings[self._first :] + rings[: self._first]
        room = capacity = burst.capacity
        for ring in rings:
            if not room:
                break
            if ring.tx_pop(burst) or ring.q.pending:
                self._lent.append(ring)
            room = capacity - burst.count
        for ring in device.muted:
            self._discard(ring)
        hot = burst.count * BUSY >= capacity
        if not hot:
            hot = any(ring.arm() for ring in (*rings, *device.muted))
        if hot != self._hot:
            self._set_hot(hot)

    def _discard(self, ring: Ring) -> None:
        """Discard what a disabled queue transmits (vhost-user, ring states)."""
        scratch = self._scratch = self._scratch or Burst()
        scratch.clear()
        ring.tx_pop(scratch)
        self._discarded[0] += scratch.count
        self._discarded[1] += sum(f.len for f in scratch)
        ring.publish()

    def _set_hot(self, hot: bool) -> None:
        self._hot = hot
        if not hot:
            os.eventfd_read(self._wake)
            return
        os.eventfd_write(self._wake, 1)
        for ring in self._device.tx:
            ring.suppress()

    def _check(self) -> None:
        """Look for rules that were broken: a queue whose driver did is silent until then."""
        for ring in self._device.running:
            if ring.q.error:
                self._break(ring)
        if self._device.memory.faulted:
            raise PeerError("the file behind guest memory was truncated")

    def _break(self, ring: Ring) -> None:
        """Stop a queue whose driver broke a rule."""
        index = self._device.rings.index(ring)
        log.warning("%s: queue %d stopped: %s", self.name, index, ring.fault)
        ring.publish()
        if ring in self._lent:
            self._lent.remove(ring)
        self._broken(index)

    # Transmitting: into the driver's receive queues.

    def tx_burst(self, burst: Burst) -> None:
        """Copy the frames of `burst` into the driver's buffers, or into a bounded backlog."""
        if not self._device.rx:
            self._dropped += burst.count
        elif frames_need(burst) & ~self.offload:
            for part in self._soften(burst, self.offload):
                self._send(part)
        else:
            self._send(burst)

    def _send(self, burst: Burst) -> None:
        for lane in self._device.rx:
            lane.send(burst)
            if lane.ring.q.error:
                self._break(lane.ring)

    def flush(self) -> None:
        """Send from the backlog; kicks of the driver do the same through `rx_burst`."""
        for lane in self._device.rx:
            lane.flush()

    def close(self) -> None:
        """Close the port; memory stays mapped until frames of a burst are given back."""
        self._disconnect()
        self._epoll.close()

    def _disconnect(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._device.release_fds()
        if not self._out:
            self._device.release_memory()
        os.close(self._wake)
        self._release()

    def statistics(self) -> PortStatistics:
        """Return counters since the port was opened."""
        device = self._device
        rx, tx = [r.q for r in device.rings[1::2]], [r.q for r in device.rings[::2]]
        waiting = sum(lane.dropped for lane in device.lanes)
        return PortStatistics(
            rx_frames=sum(q.frames for q in rx) - self._discarded[0],
            rx_octets=sum(q.octets for q in rx) - self._discarded[1],
            rx_dropped=sum(q.dropped for q in rx) + self._discarded[0],
            tx_frames=sum(q.frames for q in tx),
            tx_octets=sum(q.octets for q in tx),
            tx_dropped=sum(q.dropped for q in tx) + waiting + self._dropped,
        )


def offload_of(features: int) -> Offload:
    """Return what a driver that chose `features` takes (virtio 1.2, 5.1.3.1)."""
    if not features & Feature.NET_GUEST_CSUM:
        return Offload.NONE
    offload = Offload.CSUM
    if features & Feature.NET_GUEST_TSO4:
        offload |= Offload.TSO4
    if features & Feature.NET_GUEST_TSO6:
        offload |= Offload.TSO6
    if features & Feature.NET_GUEST_USO4 and features & Feature.NET_GUEST_USO6:
        offload |= Offload.USO  # one bit for both, as its frames have one type for both
    return offload

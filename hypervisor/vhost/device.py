"""Executes a control plane's actions: guest memory, rings and their descriptors."""

from __future__ import annotations

import contextlib
import os
import select

from ..core.memory import GuestMemory
from ..core.ring import Ring, Steering
from ..errors import PeerError
from .actions import (
    Action,
    Attach,
    Detach,
    Enable,
    MapRegion,
    MapTable,
    SetFd,
    UnmapRegion,
)
from .channel import close_fds
from .lane import Lane
from .messages import Request


class Device:
    """Rings 2n are the driver's receive queues, 2n + 1 its transmit queues (virtio 1.2, 5.1.2).

    Kick descriptors are registered in `epoll`.
    """

    def __init__(self, epoll: select.epoll, pairs: int) -> None:
        self.memory = GuestMemory()
        self.steering = Steering()
        self.rings = [Ring(self.steering, i // 2) for i in range(2 * pairs)]
        self.lanes = [Lane(ring, self.steering) for ring in self.rings[::2]]
        self.tx: list[Ring] = []  # attached and enabled
        self.muted: list[Ring] = []  # attached and disabled: what they transmit is discarded
        self.rx: list[Lane] = []  # attached and enabled, pair 0 first and without gaps
        self.running: list[Ring] = []  # all of these
        self.kicks: dict[int, int] = {}  # descriptor to ring
        self.kicked = [0] * len(self.rings)  # how often
        self._borrowed = False
        self._epoll = epoll
        self._enabled = [False] * len(self.rings)
        self._fds: dict[tuple[int, Request], int] = {}

    def execute(self, action: Action) -> None:
        """Do one action that concerns memory or rings; PeerError if it cannot be done."""
        if isinstance(action, SetFd):
            self._set_fd(action)
        elif isinstance(action, MapTable):
            self._map_table(action)
        elif isinstance(action, MapRegion):
            self._map_region(action)
        elif isinstance(action, UnmapRegion):
            self._detach_all()
            self.memory.remove(action.region)
        elif isinstance(action, Attach):
            self._attach(action)
        elif isinstance(action, Detach):
            self.rings[action.index].detach()
        elif isinstance(action, Enable):
            self._enabled[action.index] = action.on

    def borrow(self, memory: GuestMemory) -> None:
        """Use memory that stays its owner's, in place of any that there was."""
        self._drop_memory()
        self.memory, self._borrowed = memory, True

    def _drop_memory(self) -> None:
        self._detach_all()
        if not self._borrowed:
            self.memory.close()
        self.memory, self._borrowed = GuestMemory(), False

    def _map_table(self, action: MapTable) -> None:
        """Map the new table before the old one goes: a front-end may send the same again."""
        fresh = GuestMemory()
        try:
            for region, fd in zip(action.regions, action.fds, strict=True):
                fresh.add(region, fd)
        except PeerError:
            fresh.close()
            raise
        finally:
            close_fds(action.fds)
        self._drop_memory()
        self.memory = fresh

    def _map_region(self, action: MapRegion) -> None:
        self._detach_all()
        try:
            self.memory.add(action.region, action.fd)
        finally:
            close_fds((action.fd,))

    def _detach_all(self) -> None:
        """Take rings off memory that is about to change; the machine attaches them again."""
        for ring in self.rings:
            ring.detach()

    def _attach(self, action: Attach) -> None:
        ring = self.rings[action.index]
        last_avail = ring.detach() if action.resume else action.state.last_avail
        fault = ring.attach(self.memory, action.state, last_avail)
        if fault:
            raise PeerError(f"ring {action.index}: {fault}")

    def _set_fd(self, action: SetFd) -> None:
        key = (action.index, action.kind)
        old = self._fds.pop(key, -1)
        if old >= 0:
            self._forget(old)
        if action.fd >= 0:
            self._fds[key] = action.fd
            _unblock(action)
        if action.kind is Request.SET_VRING_CALL:
            self.rings[action.index].set_call(action.fd)
        elif action.kind is Request.SET_VRING_KICK and action.fd >= 0:
            self._watch(action)

    def _watch(self, action: SetFd) -> None:
        try:
            self._epoll.register(action.fd, select.EPOLLIN)
        except OSError as exc:
            raise PeerError(f"kick of ring {action.index}: {exc.strerror}") from exc
        self.kicks[action.fd] = action.index

    def _forget(self, fd: int) -> None:
        if self.kicks.pop(fd, None) is not None:
            self._epoll.unregister(fd)
        close_fds((fd,))

    def drain_kick(self, fd: int) -> int:
        """Read a kick; returns its ring, PeerError if the descriptor is none."""
        index = self.kicks[fd]
        self.kicked[index] += 1
        try:
            data = os.read(fd, 8)
        except BlockingIOError:
            return index
        except OSError as exc:
            raise PeerError(f"kick of ring {index}: {exc.strerror}") from exc
        if len(data) != 8:
            raise PeerError(f"kick of ring {index}: {len(data)} bytes, expected 8")
        return index

    def refresh(self) -> None:
        """Find out which rings run; to be called after actions."""
        transmit = [i for i in range(1, len(self.rings), 2) if self.rings[i].attached]
        self.tx = [self.rings[i] for i in transmit if self._enabled[i]]
        self.muted = [self.rings[i] for i in transmit if not self._enabled[i]]
        self.rx = []
        for i, lane in enumerate(self.lanes):
            if not (lane.ring.attached and self._enabled[2 * i]):
                break
            self.rx.append(lane)
            if not lane.stalled:
                lane.ring.suppress()
        self.steering.pairs = max(1, len(self.rx))
        self.running = [*self.tx, *self.muted, *(lane.ring for lane in self.rx)]
        for lane in self.lanes[len(self.rx) :]:
            lane.clear()

    def fail(self, index: int) -> None:
        """Tell the front-end that a ring is broken (SET_VRING_ERR)."""
        fd = self._fds.get((index, Request.SET_VRING_ERR), -1)
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.eventfd_write(fd, 1)

    def release_fds(self) -> None:
        """Close all descriptors of rings."""
        for ring in self.rings:
            ring.set_call(-1)
        for fd in self._fds.values():
            self._forget(fd)
        self._fds.clear()

    def release_memory(self) -> None:
        """Take the rings off guest memory and unmap it; no frame may point into it any more."""
        self._drop_memory()
        self.refresh()


def _unblock(action: SetFd) -> None:
    """Never wait on a descriptor of the front-end's, whatever it is."""
    try:
        os.set_blocking(action.fd, False)
    except OSError as exc:
        raise PeerError(f"{action.kind.name}: ring {action.index}: {exc.strerror}") from exc

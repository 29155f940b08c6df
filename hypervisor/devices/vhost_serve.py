"""Any `Device` over vhost-user: what a machine in another process (QEMU) talks to.

The rings' sizes and places come as messages; a line begins when every ring that was set up is
enabled, and ends when one of them stops.  That is also how a pause looks from here, so the device
is told `suspend`, not `reset`: buffers that it holds are taken again by the next line.  Only rings
that begin at 0 again after they did not are a new driver's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from ..core.memory import GuestMemory
from ..errors import HypervisorError, PeerError, UsageError
from ..queue.state import Fault, QueueState
from ..vhost.actions import (
    Action,
    Attach,
    Detach,
    Enable,
    MapRegion,
    MapTable,
    Reply,
    SetConfig,
    SetFd,
    SetFeatures,
    Stop,
    UnmapRegion,
    fds_of,
)
from ..vhost.backend import Backend
from ..vhost.channel import Channel, close_fds
from ..vhost.messages import Request
from ..vhost.offer import offer_device
from ..vhost.unix import UnixListener
from .base import Device, Line, unbound
from .queue import Queue

log = logging.getLogger(__name__)

MESSAGES_A_TURN = 64
_MEMORY = (MapTable, MapRegion, UnmapRegion)


@dataclass(slots=True)
class _Ring:
    state: QueueState | None = None  # where it lies, while it is started
    base: int = 0  # the next chain to take
    fresh: bool = True  # the front-end said so
    enabled: bool = False
    broken: bool = False


class Connection:
    """One front-end at the other end of `sock`, which is taken over; `gone` is called once."""

    def __init__(
        self,
        device: Device,
        channel: Channel,
        loop: asyncio.AbstractEventLoop,
        gone: Callable[[], None],
    ) -> None:
        offer = offer_device(device.features, len(device.queue_sizes), device.config)
        self._device = device
        self._backend = Backend(offer=offer)
        self._channel = channel
        self._loop = loop
        self._gone = gone
        self._memory = GuestMemory()
        self._rings = [_Ring() for _ in device.queue_sizes]
        self._fds: dict[tuple[int, Request], int] = {}
        self._watched: list[int] = []
        self._line: Line | None = None
        self._features = 0
        self._used = False  # some line took chains
        self._stopping = False  # ring after ring, until one is set up again
        self._actions: deque[Action] = deque()
        self._ending: asyncio.Future[None] | None = None
        self._closed = False
        loop.add_reader(channel.fileno(), self._control)

    # Messages.

    def _control(self) -> None:
        try:
            for _ in range(MESSAGES_A_TURN):
                if self._actions or self._closed:  # an earlier message is not done yet
                    return
                message = self._channel.receive()
                if message is None:
                    return
                try:
                    actions = self._backend.receive(*message)
                except PeerError:
                    close_fds(message.fds)
                    raise
                kept = {fd for action in actions for fd in fds_of(action)}
                close_fds(tuple(set(message.fds) - kept))
                self._actions.extend(actions)
                self._work()
        except (PeerError, OSError) as exc:
            log.debug("front-end of device %d: %s", self._device.device_id, exc)
            self.close()

    def _work(self) -> None:
        """Do actions in order; what ends a line waits until the device has let go of it."""
        while self._actions:
            if isinstance(self._actions[0], (*_MEMORY, Stop, Detach, Attach, Enable)):
                self._suspend()
            if self._ending is not None and not self._ending.done():
                self._loop.remove_reader(self._channel.fileno())
                self._ending.add_done_callback(self._resume)
                return
            self._act(self._actions.popleft())
        self._refresh()

    def _resume(self, _: asyncio.Future[None]) -> None:
        self._ending = None
        if self._closed:
            return
        self._loop.add_reader(self._channel.fileno(), self._control)
        try:
            self._work()
        except (PeerError, OSError) as exc:
            log.debug("front-end of device %d: %s", self._device.device_id, exc)
            self.close()

    def _act(self, action: Action) -> None:
        if isinstance(action, Reply):
            self._channel.send(action.data)
        elif isinstance(action, SetFeatures):
            self._features = action.features
        elif isinstance(action, _MEMORY):
            self._map(action)
        elif isinstance(action, SetFd):
            self._set_fd(action)
        elif isinstance(action, Attach):
            self._attach(action)
        elif isinstance(action, Detach):
            self._rings[action.index].state = None
        elif isinstance(action, Enable):
            self._rings[action.index].enabled = action.on
        elif isinstance(action, Stop):
            ring = self._rings[action.index]
            ring.state, ring.broken = None, False
            self._stopping = True
            self._channel.send(self._backend.base_reply(action.index, ring.base))
        elif isinstance(action, SetConfig):
            self._guarded(partial(self._device.config_written, action.offset, action.data))

    def _map(self, action: MapTable | MapRegion | UnmapRegion) -> None:
        if isinstance(action, UnmapRegion):
            self._memory.remove(action.region)
            return
        try:
            if isinstance(action, MapRegion):
                self._memory.add(action.region, action.fd)
                return
            self._memory.close()
            for region, fd in zip(action.regions, action.fds, strict=True):
                self._memory.add(region, fd)
        finally:
            close_fds(fds_of(action))

    def _attach(self, action: Attach) -> None:
        ring = self._rings[action.index]
        ring.state = action.state
        self._stopping = False
        if not action.resume:
            ring.base, ring.fresh = action.state.last_avail, True

    def _set_fd(self, action: SetFd) -> None:
        key = (action.index, action.kind)
        if action.kind is Request.SET_VRING_KICK or self._line is not None:
            self._suspend()
        old = self._fds.pop(key, -1)
        if old >= 0:
            close_fds((old,))
        if action.fd >= 0:
            self._fds[key] = action.fd
            os.set_blocking(action.fd, False)

    # Lines.

    def _refresh(self) -> None:
        """Begin a line if all rings that were set up may run."""
        started = [ring for ring in self._rings if ring.state is not None]
        if self._line is not None or not started or self._stopping:
            return
        if not all(ring.enabled and not ring.broken for ring in started):
            return
        if self._used and all(ring.fresh and not ring.base for ring in started):
            self._used = False
            self._guarded(self._forget)
        self._begin()

    def _forget(self) -> None:
        self._device.reset()

    def _begin(self) -> None:
        queues = tuple(self._queue(index, ring) for index, ring in enumerate(self._rings))
        kicks = tuple(self._fd(index, Request.SET_VRING_KICK) for index in range(len(queues)))
        self._line = line = Line(
            self._memory, self._features, queues, self._loop, unbound, self._failed, kicks
        )
        self._guarded(partial(self._device.activate, line))
        for index, queue in enumerate(queues):
            if self._line is not line or not queue.attached:
                continue
            if kicks[index] >= 0:
                self._loop.add_reader(kicks[index], self._kicked, kicks[index], index)
                self._watched.append(kicks[index])
            self._guarded(partial(self._device.notified, index))  # a kick may have been before us

    def _fd(self, index: int, kind: Request) -> int:
        return self._fds.get((index, kind), -1)

    def _queue(self, index: int, ring: _Ring) -> Queue:
        queue = Queue(partial(self._broken, index), self._fd(index, Request.SET_VRING_KICK))
        queue.ring.set_call(self._fd(index, Request.SET_VRING_CALL))
        if ring.state is not None:
            ring.fresh = False
            fault = queue.attach(self._memory, replace(ring.state, last_avail=ring.base))
            if fault is not None:
                raise PeerError(f"ring {index}: {fault}")
        return queue

    def _kicked(self, fd: int, index: int) -> None:
        try:
            os.read(fd, 8)
        except BlockingIOError:
            return
        except OSError as exc:
            self._failed(f"kick of ring {index}: {exc.strerror}")
            return
        self._guarded(partial(self._device.notified, index))

    def _suspend(self) -> None:
        """End the line; what the device took and did not give back is there for the next one."""
        line, self._line = self._line, None
        if line is None:
            return
        while self._watched:
            self._loop.remove_reader(self._watched.pop())
        for ring, queue in zip(self._rings, line.queues, strict=True):
            if ring.state is not None:
                inflight = int(queue.ring.q.inflight)
                ring.base = queue.ring.detach() - inflight & 0xFFFF
                self._used = self._used or bool(ring.base)
        self._ending = self._device.suspend()

    # Faults.

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except (HypervisorError, OSError) as exc:
            self._failed(str(exc))

    def _broken(self, index: int, fault: Fault) -> None:
        self._backend.broken(index)
        self._failed(f"queue {index}: {fault}")

    def _failed(self, why: str) -> None:
        """Serve no ring until it is stopped, and tell the front-end (SET_VRING_ERR)."""
        log.warning("device %d fails: %s", self._device.device_id, why)
        for index, ring in enumerate(self._rings):
            ring.broken = True
            err = self._fd(index, Request.SET_VRING_ERR)
            if err >= 0:
                with contextlib.suppress(OSError):
                    os.eventfd_write(err, 1)
        self._loop.call_soon(self._suspend)  # not under the feet of who found it

    def close(self) -> None:
        """Let go of everything; may be called again."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._channel.fileno())
        self._suspend()
        for action in self._actions:
            close_fds(fds_of(action))
        self._actions.clear()
        ending = self._device.reset() or self._ending
        if ending is None or ending.done():
            self._release()
        else:
            ending.add_done_callback(self._release)

    def _release(self, _: asyncio.Future[None] | None = None) -> None:
        self._channel.close()
        close_fds(tuple(self._fds.values()))
        self._fds.clear()
        self._memory.close()
        self._gone()


class Server:
    """Serves `device` at `path`, to one front-end at a time; `close` it at the end."""

    def __init__(self, device: Device, path: str) -> None:
        if device.takes_kicks:
            raise UsageError(f"device {device.device_id} has a vhost-user port of its own")
        self._device = device
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._listener = UnixListener(path, 1)
        self._loop.add_reader(self._listener.sock.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.sock.accept()
        except OSError:
            return
        if self._connection is not None:
            sock.close()
            return
        self._connection = Connection(self._device, Channel(sock), self._loop, self._gone)

    def _gone(self) -> None:
        self._connection = None

    def close(self) -> None:
        """Stop listening, and let the front-end go."""
        if self._listener.sock.fileno() >= 0:
            self._loop.remove_reader(self._listener.sock.fileno())
        self._listener.close()
        if self._connection is not None:
            self._connection.close()


def serve(device: Device, path: str) -> Server:
    """Serve `device` to a vhost-user front-end that connects to the unix socket `path`."""
    return Server(device, path)

"""A virtio device that another process works for: vhost-user, we are the front-end.

The back-end gets the machine's memory by descriptor, and the very eventfds that the guest's
doorbells and the device's interrupt are: data moves without an exit and without this process.
What is left here is the register page and the life of the connection.

A back-end may go and come back.  The guest's rings stay as they are, and kicks gather in their
eventfds.  The next one begins each ring at its used index (there is no record of what was in
flight, so requests that were not returned are done again); that is right for frames, which may be
lost or come twice, and not for a disk.  A device that does not `survive` needs a reset then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence

from ..errors import PeerError, UsageError
from ..queue.layout import Feature
from ..queue.state import QueueState
from ..vhost import messages as wire
from ..vhost.channel import Channel, close_fds
from ..vhost.dial import Dialer
from ..vhost.frontend import Action, Frontend, Known, Plan, Ring, Send, Started, State, Stopped
from .base import Device, Line, unbound
from .registers import TRANSPORT_FEATURES

WAIT = 10.0  # seconds for a back-end when a machine starts
LET_GO = 1.0  # seconds that a back-end has to give the rings back when the machine ends
MESSAGES = 64  # a turn of the loop
_OF_THE_DEVICE = (1 << 24) - 1 | (1 << 64) - (1 << 50)  # virtio 1.2, 2.2: the rest is the ring's


class VhostUserDevice(Device):
    """A device of any type with its back-end at the unix socket `path`.

    We connect there, or with `listen` wait there for the back-end.  `wanted` are the bits of the
    device type that may be offered to the guest; `config_len` bytes of configuration come from the
    back-end.
    """

    takes_kicks = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device_id: int,
        queue_sizes: Sequence[int],
        listen: bool = False,
        wanted: int = _OF_THE_DEVICE,
        config_len: int = 0,
        survives: bool = False,
        wait: float = WAIT,
    ) -> None:
        super().__init__()
        self.device_id = device_id
        self.queue_sizes = tuple(queue_sizes)
        self.path = os.fspath(path)
        self.features = 0  # known once `prepare` is done
        self.connected: Callable[[], None] = unbound  # called each time that the rings run
        self.known: Known | None = None  # what the back-end is
        self._wanted = wanted & _OF_THE_DEVICE
        self._survives = survives
        self._wait = wait
        self._frontend = Frontend(config_len=config_len)
        self._dialer = Dialer(self.path, self._on_connected, listens=listen)
        self._channel: Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._line: Line | None = None
        self._again = False  # the line ran before, with an earlier connection
        self._timer: asyncio.TimerHandle | None = None
        self._ready: asyncio.Future[None] | None = None
        self._ending: asyncio.Future[None] | None = None
        self._err = -1
        self._why = ""

    # What a subclass may add.

    def enabled(self, index: int) -> bool:
        """Say whether ring `index` is to be enabled when it is started."""
        return True

    def rings(self, line: Line) -> range:
        """Return the queues that are the back-end's."""
        return range(len(line.queues))

    def mtu_told(self, line: Line) -> int:
        """Return the MTU to tell the back-end; 0 for none."""
        return 0

    def bits(self, known: Known) -> int:
        """Return the bits of the device type that the guest is offered."""
        return known.features & self._wanted

    def check(self, known: Known) -> str:
        """Say why a back-end is of no use; "" if it is."""
        if not known.features & Feature.VERSION_1:
            return f"back-end offers {known.features:#x}, expected virtio 1.0 (bit 32)"
        return ""

    def link_changed(self) -> None:
        """Called when the back-end came or went."""

    @property
    def online(self) -> bool:
        """True while a back-end is there and understood."""
        return self._frontend.state not in (State.OFFLINE, State.ASKING)

    # The device's life.

    async def prepare(self) -> None:
        """Find the back-end and learn what it can; UsageError after `wait` seconds."""
        self._loop = asyncio.get_running_loop()
        self._ready = self._loop.create_future()
        self._err = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._loop.add_reader(self._err, self._on_error)
        try:
            self._dialer.open(self._loop)
            async with asyncio.timeout(self._wait):
                await self._ready
        except TimeoutError:
            why = self._why or self._dialer.why
            await self.close()
            raise UsageError(f"no vhost-user back-end at {self.path}: {why}; start it") from None
        except BaseException:
            await self.close()
            raise

    def config(self) -> bytes:
        """Return what the back-end gave."""
        return self.known.config if self.known is not None else b""

    def activate(self, line: Line) -> None:
        """Hand the rings over, now or when a back-end is there again."""
        self._line, self._again = line, False
        if self._frontend.state is State.READY:
            self._start(line)

    def stopped(self, index: int) -> None:
        """Take one ring back."""
        self._drive(lambda now: self._frontend.stop_ring(index, now))

    def reset(self) -> asyncio.Future[None] | None:
        """Take all rings back; the future is done when the back-end let go of them."""
        self._line = None
        self._stop()
        return self._ending

    def _stop(self) -> None:
        if self._loop is None or self._frontend.state not in (State.STARTING, State.RUNNING):
            return
        self._ending = self._loop.create_future()
        self._drive(self._frontend.stop)

    async def close(self) -> None:
        """Let the back-end go."""
        if self._ending is not None:
            await asyncio.wait([self._ending], timeout=LET_GO)
        self._dialer.close()
        self._hang_up()
        if self._err >= 0 and self._loop is not None:
            self._loop.remove_reader(self._err)
            close_fds((self._err,))
            self._err = -1

    # The connection.

    def _on_connected(self, sock: socket.socket) -> None:
        assert self._loop is not None
        self._channel = Channel(sock, "back-end", wire.parse_reply_header)
        self._loop.add_reader(self._channel.fileno(), self._on_readable)
        self._drive(self._frontend.connected)

    def _on_readable(self) -> None:
        for _ in range(MESSAGES):
            if self._channel is None or not self._drive(self._receive):
                return

    def _receive(self, now: float) -> list[Action] | None:
        assert self._channel is not None
        message = self._channel.receive()
        if message is None:
            return None
        close_fds(message.fds)  # no answer that we ask for has any
        return self._frontend.receive(message.header, message.payload, now)

    def _drive(self, step: Callable[[float], list[Action] | None]) -> bool:
        """Do what the front-end says after `step`; a back-end that fails is lost."""
        assert self._loop is not None
        try:
            actions = step(self._loop.time())
            for action in actions or ():
                self._act(action)
        except PeerError as error:
            self._lost(str(error))
            return False
        self._rearm()
        return actions is not None

    def _act(self, action: Action) -> None:
        if isinstance(action, Send):
            assert self._channel is not None
            self._channel.send(action.data, action.fds)
        elif isinstance(action, Known):
            self._on_known(action)
        elif isinstance(action, Started):
            self._on_started()
        elif isinstance(action, Stopped):
            self._let_go()

    def _rearm(self) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._frontend.deadline()
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._lost, "back-end does not answer")

    def _hang_up(self) -> None:
        if self._channel is None:
            return
        assert self._loop is not None
        self._loop.remove_reader(self._channel.fileno())
        self._channel.close()
        self._channel = None
        self._frontend.lost()
        self._rearm()
        self._let_go()

    def _let_go(self) -> None:
        if self._ending is not None:
            ending, self._ending = self._ending, None
            ending.set_result(None)

    def _lost(self, why: str) -> None:
        self._why = why
        self._hang_up()
        if self._line is not None:
            self._again = True
            if not self._survives:
                self._fail(f"the back-end at {self.path} is gone: {why}")
        if self.known is not None:
            self.warn(f"vhost-user {self.path}: {why}")
        self.link_changed()
        self._dialer.again()

    # The rings.

    def _on_known(self, known: Known) -> None:
        if why := self.check(known):
            raise PeerError(why)
        self.known = known
        self.features = self.bits(known)
        self.ring_features = known.features & TRANSPORT_FEATURES
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)
        self.link_changed()
        self.config_changed()
        if self._line is not None:
            self._start(self._line)

    def _start(self, line: Line) -> None:
        assert self.known is not None
        if lacks := line.features & ~(self.features | self.ring_features):
            self._fail(f"the back-end at {self.path} came back without features {lacks:#x}")
            return
        plan = self._plan(line)
        self._drive(lambda now: self._frontend.start(plan, now))

    def _plan(self, line: Line) -> Plan:
        assert self.known is not None
        rings = []
        for index in self.rings(line):
            queue = line.queues[index]
            if not queue.attached or queue.state is None:
                continue
            state = queue.state
            base = queue.ring.used_idx if self._again else 0
            place = QueueState(
                state.size, state.desc, state.avail, state.used, state.features, base
            )
            enabled = self.enabled(index)
            rings.append(Ring(index, place, line.kicks[index], line.call, self._err, enabled))
        features = line.features & self.known.features
        memory = line.memory
        return Plan(features, memory.regions, memory.fd, tuple(rings), self.mtu_told(line))

    def _on_started(self) -> None:
        line = self._line
        if line is not None and self._again:  # what the back-end that went had been told is lost
            for index in self.rings(line):
                _signal(line.kicks[index])
            _signal(line.call)
        self._dialer.settled()
        self.connected()

    def set_enabled(self, index: int, on: bool) -> None:
        """Enable or disable a ring that runs."""
        if self._frontend.state in (State.STARTING, State.RUNNING):
            self._drive(lambda now: self._frontend.enable(index, on))

    def _on_error(self) -> None:
        """The back-end found that the driver broke a rule (SET_VRING_ERR)."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._err)
        self._fail(f"the back-end at {self.path} found a broken ring")
        self._stop()

    def _fail(self, why: str) -> None:
        """Have the driver reset the device; until then its rings are nobody's."""
        if self._line is not None:
            line, self._line = self._line, None
            line.failed(why)


def _signal(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):  # a full counter is a signal already
        os.eventfd_write(fd, 1)


BLOCK_CONFIG = 60  # bytes up to write_zeroes_may_unmap and its padding (virtio 1.2, 5.2.4)
_BLOCK_MQ, _BLOCK_CONFIG_WCE = 1 << 12, 1 << 11  # more queues; a configuration that is written


class VhostUserBlock(VhostUserDevice):
    """A disk that a back-end serves, `qemu-storage-daemon --export type=vhost-user-blk` say."""

    def __init__(
        self, path: str | os.PathLike[str], *, listen: bool = False, wait: float = WAIT
    ) -> None:
        super().__init__(
            path,
            device_id=2,
            queue_sizes=(256,),
            listen=listen,
            wanted=_OF_THE_DEVICE & ~(_BLOCK_MQ | _BLOCK_CONFIG_WCE),
            config_len=BLOCK_CONFIG,
            wait=wait,
        )

    def check(self, known: Known) -> str:
        """Refuse a back-end that gives no configuration: there the size of the disk stands."""
        return super().check(known) or ("" if known.config else "back-end gives no configuration")

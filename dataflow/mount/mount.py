"""A 9P tree as a directory of this machine, through the kernel's FUSE: `Mount`.

The kernel sends requests on a descriptor of /dev/fuse; each runs as a task that asks the 9P server
and writes the answer back.  A process that waits in read(2) and gets a signal makes the kernel
send FUSE_INTERRUPT: the task is cancelled, which flushes the server's request (Tflush), and the
answer is EINTR.  pyfuse3 is not used, for it drops FUSE_INTERRUPT, so that a reader of `head.live`
could not even be killed, stops at 99 readers that wait, and has no locks.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from dataclasses import dataclass

from ..errors import UsageError
from ..fuse import wire
from ..fuse.const import BUFFER_SIZE, WRITE_MAX, Init, Op
from ..fuse.wire import Request, WireError
from ..p9.errors import NineError, P9Error
from . import ops_files, ops_locks, ops_names
from .device import Device, check_directory
from .inodes import Inodes, Policy
from .remote import CALLS_MAX, Remote, is_dataflow
from .state import Answer, Operation, State

log = logging.getLogger(__name__)

GRACE = 2.0  # seconds an interrupted request may go on, unless it is one that waits by design
LIVE_MAX = CALLS_MAX * 3 // 4  # readers that may wait; the rest is for everything else
UNMOUNTED = "unmounted"  # why a mount ended: somebody unmounted it
BURST = 64  # requests taken before the loop gets its turn
_WAITING = {Op.SETLKW}
_WANTED = (
    Init.ASYNC_READ
    | Init.POSIX_LOCKS
    | Init.FLOCK_LOCKS
    | Init.ATOMIC_O_TRUNC
    | Init.BIG_WRITES
    | Init.AUTO_INVAL_DATA
    | Init.DO_READDIRPLUS
    | Init.READDIRPLUS_AUTO
    | Init.PARALLEL_DIROPS
    | Init.MAX_PAGES
)
_OPERATIONS: dict[Op, Operation] = {
    **ops_names.OPERATIONS,
    **ops_files.OPERATIONS,
    **ops_locks.OPERATIONS,
}

_KNOWN = frozenset(int(op) for op in Op)


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters of a mount."""

    requests: int
    interrupted: int
    nodes: int
    files: int


class Mount:
    """Serves one directory from one attach, from `open` to `close`."""

    def __init__(self, remote: Remote, state: State, device: Device) -> None:
        self.ended = asyncio.Event()  # somebody unmounted it, or the server is gone: see `why`
        self.why = ""
        self._remote = remote
        self._state = state
        self._device = device
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._live: set[int] = set()  # requests that may wait for ever
        self._requests = self._interrupted = 0
        self._clean: bool | None = None  # how it ended
        self._write_max = min(WRITE_MAX, remote.channel.session.io_max) & ~4095
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(device.fd, self._readable)
        self._gone = self._loop.create_task(self._watch_server())

    @classmethod
    async def open(
        cls,
        remote: Remote,
        directory: str,
        *,
        source: str = "dataflow",
        read_only: bool = False,
        allow_other: bool = False,
    ) -> Mount:
        """Mount on an empty directory; needs no privilege beyond fusermount3's."""
        dataflow = await is_dataflow(remote)
        inodes = Inodes(
            remote.root,
            remote.root_qid,
            Policy.TOP if dataflow else Policy.PLAIN,
            remote.channel.forget,
        )
        options = ["default_permissions", "nosuid", "nodev", "subtype=dataflow"]
        options += [f"fsname={_escaped(source)}", "ro" if read_only else "rw"]
        options += ["allow_other"] if allow_other else []
        device = Device(check_directory(directory), options)
        return cls(remote, State(remote, inodes, dataflow), device)

    def statistics(self) -> Statistics:
        """Return counters."""
        return Statistics(
            self._requests, self._interrupted, len(self._state.inodes), len(self._state.files)
        )

    async def close(self) -> bool:
        """Unmount; False if files were open, whose processes get errors from now on."""
        if self._clean is not None:
            return self._clean
        self._gone.cancel()
        # Off the loop, for the kernel may ask us for something before it lets go.
        self._clean = self.why == UNMOUNTED or await asyncio.to_thread(self._device.detach)
        self._loop.remove_reader(self._device.fd)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), self._gone, return_exceptions=True)
        await asyncio.to_thread(self._device.close)
        return self._clean

    async def _watch_server(self) -> None:
        await self._remote.channel.closed.wait()
        self._end("the server is gone")

    def _end(self, why: str) -> None:
        self.why = self.why or why
        self.ended.set()

    def _readable(self) -> None:
        for _ in range(BURST):
            try:
                data = os.read(self._device.fd, BUFFER_SIZE)
            except BlockingIOError:
                return
            except OSError as err:
                if err.errno == errno.ENODEV:
                    self._loop.remove_reader(self._device.fd)
                    self._end(UNMOUNTED)
                    return
                if err.errno not in {errno.ENOENT, errno.EINTR}:  # a request taken back
                    raise
                continue
            self._take(data)

    def _take(self, data: bytes) -> None:
        try:
            request = wire.parse(data)
            self._begin(request)
        except WireError as err:
            log.warning("FUSE: %s", err)

    def _begin(self, request: Request) -> None:
        self._requests += 1
        match request.opcode:
            case Op.FORGET:
                self._state.inodes.forget(request.nodeid, *wire.take(wire.FORGET, request.body))
            case Op.BATCH_FORGET:
                for nodeid, count in wire.forgets(request.body):
                    self._state.inodes.forget(nodeid, count)
            case Op.INTERRUPT:
                self._interrupt(*wire.take(wire.INTERRUPT, request.body))
            case Op.INIT:
                asked = wire.init_in(request.body)
                self._answer(request, [wire.init_out(asked, _WANTED, self._write_max)])
            case Op.DESTROY:
                self._answer(request, [])
            case _:
                self._start(request)

    def _start(self, request: Request) -> None:
        operation = _OPERATIONS.get(Op(request.opcode)) if request.opcode in _KNOWN else None
        if operation is None:
            self._answer(request, [], errno.ENOSYS)
            return
        if request.opcode in _WAITING or self._is_live(request):
            if len(self._live) >= LIVE_MAX:
                log.warning("more than %d readers wait on streams", LIVE_MAX)
                self._answer(request, [], errno.EAGAIN)
                return
            self._live.add(request.unique)
        task = self._loop.create_task(self._run(operation, request))
        self._tasks[request.unique] = task

    def _is_live(self, request: Request) -> bool:
        if request.opcode != Op.READ:
            return False
        found = self._state.files.get(wire.take(wire.READ, request.body)[0])
        return found is not None and found.direct

    async def _run(self, operation: Operation, request: Request) -> None:
        try:
            self._answer(request, await operation(self._state, request))
        except P9Error as err:
            self._answer(request, [], err.errno)
        except asyncio.CancelledError:
            self._answer(request, [], errno.EINTR)
        except (NineError, UsageError, WireError) as err:
            log.debug("FUSE %d: %s", request.opcode, err)
            self._answer(request, [], errno.EIO)
        except Exception:
            log.exception("FUSE %d", request.opcode)
            self._answer(request, [], errno.EIO)
        finally:
            self._tasks.pop(request.unique, None)
            self._live.discard(request.unique)

    def _interrupt(self, unique: int) -> None:
        """A signal came; what waits by design ends at once, the rest may finish for a while.

        Programs do not expect EINTR from, say, a write that takes a moment longer.
        """
        task = self._tasks.get(unique)
        if task is None:
            return
        self._interrupted += 1
        if unique in self._live:
            self._loop.call_soon(task.cancel)  # a task that never ran would end without an answer
        else:
            timer = self._loop.call_later(GRACE, task.cancel)
            task.add_done_callback(lambda _: timer.cancel())

    def _answer(self, request: Request, pieces: Answer, error: int = 0) -> None:
        """Write an answer; the kernel may have lost interest, then it was told of no node."""
        told = self._state.told.pop(request.unique, [])
        try:
            os.writev(self._device.fd, wire.answer(request.unique, pieces, error))
            if not error:
                return
        except OSError as err:
            if err.errno not in {errno.ENOENT, errno.ENODEV, errno.EPERM}:
                log.warning("FUSE %d: the kernel refused the answer: %s", request.opcode, err)
        for nodeid in told:
            self._state.inodes.forget(nodeid, 1)


def _escaped(text: str) -> str:
    """Return a text that may stand in a list of mount options."""
    return text.replace("\\", "\\\\").replace(",", "\\,")

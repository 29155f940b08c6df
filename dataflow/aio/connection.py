"""Drives one server session: events into tasks, answers onto a transport, with bounded memory.

What a connection may hold: requests by the session's tag table; data of writes under way, above
which it stops reading; data of reads, which wait their turn.  Reads of live handles count for
nothing, so that waiting ones never keep a Tflush from being read.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable
from typing import Any

from ..p9 import dispatch
from ..p9.errors import P9Error
from ..p9.locks import LockTable
from ..p9.messages import Message, Tread, Treaddir, Twrite
from ..p9.server import Cancel, Request, RequestState, Reset, Session, SessionStatistics
from ..p9.state import RootFactory, State
from ..p9.tree import Buffer, Peer

HELD_MAX = 8 << 20  # bytes of reads, and again of writes, in flight


class Connection:
    """One client: the owner feeds it bytes and tells it when the transport is full or gone."""

    def __init__(
        self,
        session: Session,
        root: RootFactory,
        peer: Peer,
        locks: LockTable,
        send: Callable[[list[Buffer]], None],
        throttle: Callable[[bool], None],
        *,
        pumped: bool = False,
    ) -> None:
        self.session = session
        self._root = root
        self._peer = peer
        self._locks = locks
        self._send = send
        self._throttle = throttle  # True: stop reading from the client
        self._pumped = pumped  # a write that comes here is one that a pump found slow
        self._throttled = False
        self._state: State | None = None
        self._tasks: dict[Request, asyncio.Task[None]] = {}
        self._live = 0  # of them reads that may wait for any time
        self._endings: set[asyncio.Task[None]] = set()
        self._writable = True
        self._room = asyncio.Event()
        self._reads_held = 0
        self._writes_held = 0
        self._closed = False

    def received(self, n: int) -> None:
        """Take `n` bytes that were put into the session's buffer; raises `ProtocolError`."""
        self.session.received(n)
        self._process()

    def receive(self, data: Buffer) -> None:
        """Take bytes that lie elsewhere; raises `ProtocolError`."""
        self.session.receive(data)
        self._process()

    def receive_message(self, message: bytes | bytearray) -> None:
        """Take one whole message, which is ours to keep; raises `ProtocolError`."""
        self.session.receive_message(message)
        self._process()

    def set_writable(self, writable: bool) -> None:
        """Say whether the transport takes more; while not, no read produces data."""
        self._writable = writable
        self._room.set()

    def direct(self, number: int) -> tuple[int, int, int, int, int] | None:
        """Return what a pump may do by itself with a fid (`core.outcome.Open`), or None."""
        state = self._state
        return None if state is None else dispatch.direct(state, number)

    def forget(self, number: int) -> None:
        """Drop a fid that a pump clunked, as `direct` allowed."""
        if self._state is not None:
            self._state.fids.pop(number)

    @property
    def idle(self) -> bool:
        """Nothing is under way but reads of live files: a request may be answered out of turn."""
        return len(self._tasks) == self._live

    def statistics(self) -> SessionStatistics:
        """Return the session's counters."""
        return self.session.statistics()

    async def close(self) -> None:
        """Cancel all requests and release everything; nothing is sent any more."""
        self._closed = True
        await self._abort(list(self._tasks))
        if self._state is not None:
            state, self._state = self._state, None
            await dispatch.end(state)
        while self._endings:
            await asyncio.wait(self._endings)

    def _process(self) -> None:
        while (event := self.session.next_event()) is not None:
            if isinstance(event, Request):
                self._start(event)
            elif isinstance(event, Cancel):
                self._cancel(event.request)
            else:
                self._reset(event)
        self._flush()

    def _flush(self) -> None:
        pieces = self.session.data_to_send()
        if pieces and not self._closed:
            self._send(pieces)

    def _start(self, request: Request) -> None:
        state = self._state
        if state is None:  # a session has a state from its Reset on
            return
        if self._writable and self._reads_held < HELD_MAX and self._may_pass(request.message):
            try:
                done = dispatch.perform_nowait(state, request.message)
            except Exception as err:
                self.session.fail(request, dispatch.to_error(err))
                return
            if done is not None:
                self.session.reply(request, done)
                self._flush()  # at once, so that the transport can say that it is full
                return
        self._hold_write(request.message, 1)
        live = dispatch.is_live(state, request.message)
        self._live += live
        self._tasks[request] = asyncio.get_running_loop().create_task(
            self._run(state, request, live)
        )

    def _may_pass(self, message: Message) -> bool:
        """Whether a request need not queue behind the ones before it, which may not have begun."""
        if type(message) is Twrite and self._pumped:
            return False
        return self.idle or type(message) is Tread

    async def _run(self, state: State, request: Request, live: bool) -> None:
        cost = 0 if live else _cost(state, request.message)
        held = False
        try:
            if cost:
                await self._acquire(cost)
                held = True
            self.session.reply(request, await dispatch.perform(state, request))
        except asyncio.CancelledError:
            self._end_cancelled(request)
        except Exception as err:
            self.session.fail(request, dispatch.to_error(err))
        finally:
            self._tasks.pop(request, None)
            self._live -= live
            self._hold_write(request.message, -1)
            self._flush()
            if held:
                self._reads_held -= cost
                self._room.set()

    def _end_cancelled(self, request: Request) -> None:
        """A flushed request ends silently; one whose fid was clunked under it is interrupted."""
        if request.state is RequestState.CANCELLING:
            self.session.drop(request)
        else:
            self.session.fail(request, P9Error(errno.EINTR))

    async def _acquire(self, cost: int) -> None:
        while not self._writable or (self._reads_held and self._reads_held + cost > HELD_MAX):
            self._room.clear()
            await self._room.wait()
        self._reads_held += cost

    def _hold_write(self, message: Message, sign: int) -> None:
        if isinstance(message, Twrite):
            self._writes_held += sign * len(message.data)
            throttled = self._writes_held > HELD_MAX
            if throttled != self._throttled and not self._closed:
                self._throttled = throttled
                self._throttle(throttled)

    def _cancel(self, request: Request) -> None:
        # A task that never ran would end without a word if it were cancelled now: _run's first
        # step comes before this, for the loop runs ready tasks in order.
        task = self._tasks.get(request)
        if task is not None:
            asyncio.get_running_loop().call_soon(task.cancel)

    async def _abort(self, requests: Iterable[Request]) -> None:
        tasks: list[asyncio.Task[Any]] = [self._tasks[r] for r in requests if r in self._tasks]
        current = asyncio.current_task()
        waiting = [task for task in tasks if task is not current]
        if not waiting:
            return
        await asyncio.sleep(0)  # let those begin that have not, see _cancel
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)

    def _reset(self, event: Reset) -> None:
        old, requests = self._state, list(self._tasks)
        self._state = State(
            self._root, self._peer, event.dialect, event.msize, self._abort, self._locks
        )
        if old is not None:
            task = asyncio.get_running_loop().create_task(self._end(old, requests))
            self._endings.add(task)
            task.add_done_callback(self._endings.discard)

    async def _end(self, state: State, requests: list[Request]) -> None:
        await self._abort(requests)
        await dispatch.end(state)


def _cost(state: State, message: Message) -> int:
    """The bytes that a request's answer may hold, where that is much."""
    if isinstance(message, Tread | Treaddir):
        return min(message.count, state.io_max)
    return 0

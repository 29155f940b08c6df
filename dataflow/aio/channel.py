"""A 9P client's connection on asyncio: calls as coroutines, cancellation as Tflush."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TypeVar, cast

from ..p9.client import Call, ClientSession, Done, Ready
from ..p9.const import NOFID
from ..p9.errors import NineError, P9Error, UsageError
from ..p9.messages import Message, Tattach, Tclunk, Twalk, Txattrwalk

M = TypeVar("M")
FIDS_MAX = 1 << 20


class Channel(asyncio.BufferedProtocol):
    """Carries calls over one transport; the fids live here, too."""

    def __init__(self, session: ClientSession) -> None:
        self.session = session
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = asyncio.Event()
        self._waiting: dict[Call, asyncio.Future[None]] = {}
        self._queue: deque[asyncio.Future[None]] = deque()  # calls that wait for room
        self._transport: asyncio.Transport
        self._error: NineError | None = None
        self._next_fid = 0
        self._free_fids: list[int] = []
        self._clunks: set[asyncio.Task[None]] = set()

    async def rpc(self, message: Message, answer: type[M]) -> M:
        """As `call`, for an answer of a known type (the session has checked it)."""
        return cast(M, await self.call(message))

    async def call(self, message: Message) -> Message:
        """Call and return the answer; raises `P9Error` from the server.

        When cancelled it flushes the call and waits until the server let go of it.
        """
        while self._error is None and self.session.room <= 0:
            await self._wait_room()
        if self._error is not None:
            raise self._error
        call = self.session.call(message)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[call] = future
        self._transport.writelines(self.session.data_to_send())
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            await self._flush(call, future)
            raise
        if isinstance(call.answer, P9Error):
            raise call.answer
        return cast(Message, call.answer)

    async def _wait_room(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        await turn

    async def _flush(self, call: Call, future: asyncio.Future[None]) -> None:
        if self._error is None and not call.done:
            self.session.flush(call)
            self._transport.writelines(self.session.data_to_send())
        while not future.done():  # a second cancellation must not leave the tag in doubt
            try:
                await asyncio.shield(future)
            except asyncio.CancelledError:
                continue
            except NineError:
                break
        if future.done() and not future.cancelled():
            future.exception()
        self._undo(call)

    def _undo(self, call: Call) -> None:
        """A flushed call that made a fid all the same: give the fid back."""
        made = call.message
        if call.answer is None or isinstance(call.answer, P9Error) or self._error is not None:
            return
        if isinstance(made, Twalk) and made.newfid != made.fid:
            if len(getattr(call.answer, "qids", ())) == len(made.names):
                self.forget(made.newfid)
        elif isinstance(made, Tattach):
            self.forget(made.fid)
        elif isinstance(made, Txattrwalk):
            self.forget(made.newfid)

    def take_fid(self) -> int:
        """Return a fid number that is not in use."""
        if self._free_fids:
            return self._free_fids.pop()
        if self._next_fid >= min(FIDS_MAX, NOFID):
            raise UsageError(f"More than {FIDS_MAX} fids in use")
        self._next_fid += 1
        return self._next_fid - 1

    def return_fid(self, number: int) -> None:
        """Take back a number that the server does not know, or no longer."""
        self._free_fids.append(number)

    async def clunk(self, number: int) -> None:
        """Clunk a fid; its number is free again whatever the server says (clunk(5))."""
        try:
            await self.call(Tclunk(number))
        finally:
            self.return_fid(number)

    def forget(self, number: int) -> None:
        """Clunk a fid in the background; errors are of no interest."""

        async def clunk() -> None:
            try:
                await self.clunk(number)
            except NineError:
                return

        task = asyncio.get_running_loop().create_task(clunk())
        self._clunks.add(task)
        task.add_done_callback(self._clunks.discard)

    async def close(self) -> None:
        """Close the transport; calls under way fail with `UsageError`."""
        self._fail(UsageError("The client is closed"))
        self._transport.close()
        await self.closed.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start with Tversion."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.writelines(self.session.data_to_send())

    def get_buffer(self, sizehint: int) -> memoryview:
        """Receive straight into the session's buffer."""
        return self.session.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Hand answers to those who wait for them."""
        try:
            self.session.received(nbytes)
        except NineError as err:
            self._fail(err)
            self._transport.abort()
            return
        while (event := self.session.next_event()) is not None:
            if isinstance(event, Done):
                self._done(event.call)
            elif isinstance(event, Ready) and not self.ready.done():
                self.ready.set_result(None)

    def eof_received(self) -> bool:
        """End with the server."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is under way."""
        self._fail(UsageError(f"Connection lost: {exc or 'closed by the server'}"))
        self.closed.set()

    def _done(self, call: Call) -> None:
        future = self._waiting.pop(call, None)
        if future is not None and not future.done():
            future.set_result(None)
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                break

    def _fail(self, err: NineError) -> None:
        self._error = self._error or err
        waiting = [*self._waiting.values(), *self._queue, self.ready]
        self._waiting.clear()
        self._queue.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(self._error)
                future.exception()  # nobody may be left to ask

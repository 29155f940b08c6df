"""The client's half of one connection as a sans-IO machine: calls out, answers in.

A tag belongs to a call until its answer came; a flushed call keeps it until the Rflush, for the
old answer may still be on its way (flush(5)).  What the server sends unasked or of the wrong type
ends the connection, for no later byte of such a server can be trusted.
"""

from __future__ import annotations

import errno
from collections import deque
from dataclasses import dataclass
from os import strerror

from . import wire
from .const import IO_HEADER_SIZE, MSIZE_DEFAULT, MSIZE_MAX, MSIZE_MIN, NOTAG, Dialect
from .errors import P9Error, ProtocolError, UsageError
from .framer import Frame, Framer
from .messages import Message, Rerror, Rlerror, Rversion, Tflush, Tversion
from .tree import Buffer

# 9P2000 has texts only: those of our libc, and Plan 9's own.
_NUMBERS = {strerror(number).lower(): number for number in errno.errorcode}
_NUMBERS |= {"file does not exist": errno.ENOENT, "permission denied": errno.EACCES}
CALLS_MAX = 256  # in flight; each may need a second tag for its flush


class Call:
    """A request on its way; `answer` is set when it has ended, None if it was flushed away."""

    __slots__ = ("answer", "done", "flush", "message", "tag")

    def __init__(self, tag: int, message: Message) -> None:
        self.tag = tag
        self.message = message
        self.answer: Message | P9Error | None = None
        self.done = False
        self.flush: Call | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """A call has ended and its tag is free."""

    call: Call


@dataclass(frozen=True, slots=True)
class Ready:
    """The server agreed on a version: calls may begin."""

    dialect: Dialect
    msize: int


Event = Done | Ready


class ClientSession:
    """One connection as the client sees it."""

    def __init__(
        self,
        dialect: Dialect = Dialect.LINUX,
        msize: int = MSIZE_DEFAULT,
        calls_max: int = CALLS_MAX,
    ) -> None:
        if not MSIZE_MIN <= msize <= MSIZE_MAX:
            raise UsageError(f"msize: expected {MSIZE_MIN} to {MSIZE_MAX}, found {msize}")
        self.dialect = dialect
        self.msize = msize
        self.ready = False
        self._framer = Framer(msize)
        self._free = deque(range(2 * calls_max))  # oldest first: a late answer hits no new call
        self._calls: dict[int, Call] = {}
        self._calls_max = calls_max
        self._flushing = 0
        self._events: deque[Event] = deque()
        self._out: list[Buffer] = wire.emit(NOTAG, Tversion(msize, dialect.value), dialect)

    @property
    def io_max(self) -> int:
        """The most data that one Tread or Twrite may carry."""
        return self.msize - IO_HEADER_SIZE

    @property
    def room(self) -> int:
        """How many more calls may begin now."""
        return self._calls_max - (len(self._calls) - self._flushing)

    def call(self, message: Message) -> Call:
        """Begin a call; raises `UsageError` without room or before `Ready`."""
        if not self.ready or self.room <= 0:
            raise UsageError(f"call: expected a ready session with room, found {self.room}")
        return self._begin(message)

    def flush(self, call: Call) -> None:
        """Ask the server to drop a call; it ends with its answer or without, but in any case."""
        if not call.done and call.flush is None:
            call.flush = self._begin(Tflush(call.tag))
            self._flushing += 1

    def get_buffer(self) -> memoryview:
        """Return where to receive next."""
        return self._framer.get_buffer()

    def received(self, n: int) -> None:
        """Take `n` bytes put into `get_buffer()`; raises `ProtocolError`."""
        self._framer.received(n)
        while (frame := self._framer.next_frame()) is not None:
            self._take(frame)

    def receive(self, data: Buffer) -> None:
        """Take bytes that lie elsewhere, by copying them."""
        view = memoryview(data)
        while view:
            room = self.get_buffer()
            n = min(len(room), len(view))
            room[:n] = view[:n]
            view = view[n:]
            self.received(n)

    def next_event(self) -> Event | None:
        """Return what happened next, or None."""
        return self._events.popleft() if self._events else None

    def data_to_send(self) -> list[Buffer]:
        """Return the pieces to send, in order, and forget them."""
        out, self._out = self._out, []
        return out

    def _begin(self, message: Message) -> Call:
        tag = self._free.popleft()
        try:
            pieces = wire.emit(tag, message, self.dialect)
            if sum(map(len, pieces)) > self.msize:
                raise UsageError(f"{type(message).__name__} exceeds msize {self.msize}")
        except wire.WireError as err:
            self._free.appendleft(tag)
            raise UsageError(str(err)) from err
        except UsageError:
            self._free.appendleft(tag)
            raise
        call = self._calls[tag] = Call(tag, message)
        self._out += pieces
        return call

    def _take(self, frame: Frame) -> None:
        body = frame.body if frame.owned else memoryview(bytes(frame.body))
        try:
            message = wire.parse(frame.kind, body, self.dialect)
        except wire.WireError as err:
            raise ProtocolError(f"answer: {err}") from err
        if not self.ready:
            self._version(message)
            return
        call = self._calls.get(frame.tag)
        if call is None or call.done:
            raise ProtocolError(f"answer: expected a tag in use, found {frame.tag}")
        self._finish(call, message)

    def _version(self, message: Message) -> None:
        if isinstance(message, Rlerror | Rerror):
            raise ProtocolError(f"version: refused ({message})")
        if not isinstance(message, Rversion):
            raise ProtocolError(f"version: expected Rversion, found {type(message).__name__}")
        dialect = next((d for d in Dialect if d.value == message.version), None)
        if dialect not in {self.dialect, Dialect.BASE} or dialect is None:
            wanted = self.dialect.value
            raise ProtocolError(f"version: expected {wanted}, found {message.version!r}")
        if not MSIZE_MIN <= message.msize <= self.msize:
            bad = f"msize: expected {MSIZE_MIN} to {self.msize}, found {message.msize}"
            raise ProtocolError(bad)
        self.dialect, self.msize, self.ready = dialect, message.msize, True
        self._framer.limit = message.msize
        self._events.append(Ready(dialect, message.msize))

    def _finish(self, call: Call, message: Message) -> None:
        call.answer = _outcome(call, message)
        call.done = True
        if isinstance(call.message, Tflush):
            self._end_flush(call)
        elif call.flush is None:
            self._release(call)

    def _end_flush(self, flush: Call) -> None:
        """Rflush came: the old call is over, whether its answer came or not."""
        self._flushing -= 1
        del self._calls[flush.tag]
        self._free.append(flush.tag)
        old = next(c for c in self._calls.values() if c.flush is flush)
        old.done = True
        self._release(old)

    def _release(self, call: Call) -> None:
        del self._calls[call.tag]
        self._free.append(call.tag)
        self._events.append(Done(call))


def _outcome(call: Call, message: Message) -> Message | P9Error:
    if isinstance(message, Rlerror):
        return P9Error(message.ecode)
    if isinstance(message, Rerror):
        number = message.errno or _NUMBERS.get(message.ename.lower(), errno.EIO)
        return P9Error(number, message.ename)
    if wire.kind_of(message) != wire.kind_of(call.message) + 1:
        asked = type(call.message).__name__
        raise ProtocolError(f"answer to {asked}: found {type(message).__name__}")
    return message

"""The server's half of one connection as a sans-IO machine: bytes in, requests out, bytes back.

Theory: every request holds its tag until it is answered.  Tflush of a tag in use asks the owner
to cancel (`Cancel`), and is answered when that request has ended, after its answer if there was
one (flush(5)); a Tflush is a request as any other, so flushes of flushes order themselves.
Tversion ends everything that went before: requests still running are disowned, so that their
answers go nowhere, and the owner is told to start anew (`Reset`).
"""

from __future__ import annotations

import enum
import errno
from collections import deque
from dataclasses import dataclass

from . import wire
from .const import HEADER_SIZE, MSIZE_DEFAULT, MSIZE_MAX, MSIZE_MIN, Dialect
from .errors import P9Error, UsageError
from .framer import Frame, Framer, whole
from .messages import (
    Message,
    Rerror,
    Rflush,
    Rlerror,
    Rversion,
    Tclunk,
    Tflush,
    Tremove,
    Tversion,
    Twrite,
)
from .tree import Buffer

TAGS_MAX = 1024
HELLO_MAX = 8192  # bytes of a message before Tversion
UNKNOWN = "unknown"


class RequestState(enum.Enum):
    """The life of a request; see `_NEXT` for what may follow what."""

    RUNNING = enum.auto()
    CANCELLING = enum.auto()  # a Tflush asked for it
    DONE = enum.auto()  # answered, or ended without an answer because it was flushed
    DISOWNED = enum.auto()  # a new Tversion came: no answer will be sent


_NEXT = {
    RequestState.RUNNING: {RequestState.CANCELLING, RequestState.DONE, RequestState.DISOWNED},
    RequestState.CANCELLING: {RequestState.DONE, RequestState.DISOWNED},
    RequestState.DONE: set(),
    RequestState.DISOWNED: set(),
}


class Request:
    """One request in flight: the message and who waits for its end."""

    __slots__ = ("flushes", "message", "state", "tag")

    def __init__(self, tag: int, message: Message) -> None:
        self.tag = tag
        self.message = message
        self.state = RequestState.RUNNING
        self.flushes: list[Request] = []

    def become(self, state: RequestState) -> None:
        """Change state; raises `UsageError` for a step that the table does not have."""
        if state not in _NEXT[self.state]:
            raise UsageError(f"request {self.tag}: no step from {self.state} to {state}")
        self.state = state


@dataclass(frozen=True, slots=True)
class Cancel:
    """The client flushed this request: end it, then call `reply`, `fail` or `drop`."""

    request: Request


@dataclass(frozen=True, slots=True)
class Reset:
    """A Tversion began a new session: forget fids and requests of the old one."""

    dialect: Dialect
    msize: int


Event = Request | Cancel | Reset


@dataclass(frozen=True, slots=True)
class SessionStatistics:
    """Counters of one connection; `refused` requests got an error before any tree saw them."""

    requests: int = 0
    errors: int = 0
    refused: int = 0
    flushes: int = 0
    octets_in: int = 0
    octets_out: int = 0


class Session:
    """One connection as the server sees it."""

    def __init__(self, msize_max: int = MSIZE_DEFAULT, tags_max: int = TAGS_MAX) -> None:
        if not MSIZE_MIN <= msize_max <= MSIZE_MAX:
            raise UsageError(f"msize: expected {MSIZE_MIN} to {MSIZE_MAX}, found {msize_max}")
        self.dialect: Dialect | None = None
        self.msize = HELLO_MAX
        self._msize_max = msize_max
        self._tags_max = tags_max
        self._framer = Framer(HELLO_MAX)
        self._requests: dict[int, Request] = {}
        self._events: deque[Event] = deque()
        self._out: list[Buffer] = []
        self._counts = dict.fromkeys(SessionStatistics.__slots__, 0)

    def get_buffer(self) -> memoryview:
        """Return where to receive next."""
        return self._framer.get_buffer()

    def received(self, n: int) -> None:
        """Take `n` bytes put into `get_buffer()`; raises `ProtocolError` when all is lost."""
        self._counts["octets_in"] += n
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

    def receive_message(self, message: bytes | bytearray) -> None:
        """Take one whole message, which is the session's to keep; raises `ProtocolError`."""
        self._counts["octets_in"] += len(message)
        self._take(whole(message, self._framer.limit))

    def next_event(self) -> Event | None:
        """Return what happened next, or None."""
        return self._events.popleft() if self._events else None

    def data_to_send(self) -> list[Buffer]:
        """Return the pieces to send, in order, and forget them."""
        out, self._out = self._out, []
        return out

    @property
    def requests_len(self) -> int:
        """Requests not yet answered, flushes among them."""
        return len(self._requests)

    def reply(self, request: Request, message: Message) -> None:
        """Answer a request; what does not fit msize or the wire becomes an error."""
        if request.state is RequestState.DISOWNED:
            return
        try:
            pieces = wire.emit(request.tag, message, self.dialect or Dialect.BASE)
        except wire.WireError as err:
            self.fail(request, P9Error(errno.EIO, str(err)))
            return
        size = sum(map(len, pieces))
        if size > self.msize:
            self.fail(request, P9Error(errno.EMSGSIZE, f"answer of {size} bytes exceeds msize"))
            return
        self._counts["octets_out"] += size
        self._out += pieces
        self._finish(request)

    def fail(self, request: Request, error: P9Error) -> None:
        """Answer a request with an error."""
        if request.state is RequestState.DISOWNED:
            return
        self._counts["errors"] += 1
        self._send_error(request.tag, error)
        self._finish(request)

    def drop(self, request: Request) -> None:
        """End a flushed request without an answer; its flushes are answered now."""
        if request.state is RequestState.DISOWNED:
            return
        if request.state is RequestState.RUNNING:
            raise UsageError(f"request {request.tag}: dropped though nobody flushed it")
        self._finish(request)

    def statistics(self) -> SessionStatistics:
        """Return counters since the connection began."""
        return SessionStatistics(**self._counts)

    def _finish(self, request: Request) -> None:
        ended = deque([request])
        while ended:
            one = ended.popleft()
            one.become(RequestState.DONE)
            del self._requests[one.tag]
            for flush in one.flushes:
                self._send(flush.tag, Rflush())
            ended.extend(one.flushes)

    def _take(self, frame: Frame) -> None:
        self._counts["requests"] += 1
        try:
            message = self._parse(frame)
            if isinstance(message, Tversion):
                self._version(frame.tag, message)
            else:
                self._admit(frame.tag, message)
        except wire.WireError as err:
            self._refuse(frame.tag, P9Error(errno.EBADMSG, str(err)))
        except P9Error as err:
            self._refuse(frame.tag, err)

    def _parse(self, frame: Frame) -> Message:
        if not wire.is_request(frame.kind):
            raise wire.WireError(f"type: expected a request, found answer {frame.kind}")
        message = wire.parse(frame.kind, frame.body, self.dialect or Dialect.LINUX)
        if isinstance(message, Twrite) and not frame.owned:
            return message._replace(data=bytes(message.data))
        return message

    def _admit(self, tag: int, message: Message) -> None:
        if self.dialect is None:
            raise P9Error(errno.EPROTO, f"expected Tversion first, found {type(message).__name__}")
        if tag in self._requests:
            raise P9Error(errno.EINVAL, f"Duplicate tag {tag}")
        flush = isinstance(message, Tflush)
        if len(self._requests) >= self._tags_max * (2 if flush else 1):
            raise P9Error(errno.EAGAIN, f"More than {self._tags_max} requests in flight")
        request = Request(tag, message)
        old = self._requests.get(message.oldtag) if isinstance(message, Tflush) else None
        self._requests[tag] = request
        if not flush:
            self._events.append(request)
        elif old is None:
            self._counts["flushes"] += 1
            self._send(tag, Rflush())
            self._finish(request)
        else:
            self._counts["flushes"] += 1
            self._flush(old, request)

    def _flush(self, old: Request, flush: Request) -> None:
        old.flushes.append(flush)
        # A clunk must run to its end, or the fid would leak: its flush just waits for it.
        fixed = isinstance(old.message, Tflush | Tclunk | Tremove)
        if old.state is RequestState.RUNNING and not fixed:
            old.become(RequestState.CANCELLING)
            self._events.append(Cancel(old))

    def _version(self, tag: int, message: Tversion) -> None:
        for request in self._requests.values():
            request.state = RequestState.DISOWNED
        self._requests.clear()
        # What was received before this Tversion and not yet started is void, too.
        self._events.clear()
        self.dialect = next((d for d in Dialect if d.value == message.version), None)
        if self.dialect is None and message.version.startswith(Dialect.BASE.value + "."):
            self.dialect = Dialect.BASE  # version(5): an unknown suffix falls back to 9P2000
        if message.msize < MSIZE_MIN:
            bad = f"msize: expected at least {MSIZE_MIN}, found {message.msize}"
            self._send_error(tag, P9Error(errno.EINVAL, bad))
            self.dialect = None
            return
        if self.dialect is None:
            self._send(tag, Rversion(message.msize, UNKNOWN))
            return
        self.msize = self._framer.limit = min(message.msize, self._msize_max)
        self._events.append(Reset(self.dialect, self.msize))
        self._send(tag, Rversion(self.msize, self.dialect.value))

    def _refuse(self, tag: int, error: P9Error) -> None:
        self._counts["refused"] += 1
        self._send_error(tag, error)

    def _send_error(self, tag: int, error: P9Error) -> None:
        if self.dialect is Dialect.LINUX:
            self._send(tag, Rlerror(error.errno))
        else:
            room = self.msize - HEADER_SIZE - 6
            text = error.text.encode(errors="replace")[: min(room, 512)].decode(errors="ignore")
            self._send(tag, Rerror(text.replace("\0", "?"), error.errno))

    def _send(self, tag: int, message: Message) -> None:
        pieces = wire.emit(tag, message, self.dialect or Dialect.BASE)
        self._counts["octets_out"] += sum(map(len, pieces))
        self._out += pieces

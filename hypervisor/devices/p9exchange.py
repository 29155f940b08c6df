"""The two ends that virtio-9p joins: chains of a driver, and a conversation with a 9P server."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..errors import PeerError
from .p9wire import ERROR_ROOM, HEADER, Answers, Buffer, Kind, Sink, error, oldtag, version
from .queue import Chain, Queue

log = logging.getLogger(__name__)

MESSAGE_MAX = 8 << 20  # octets of a request: our limit, whatever msize is agreed on


class Client(Protocol):
    """What a conversation tells the device, on the loop."""

    def answered(self, pieces: Sequence[Buffer]) -> None:
        """Take octets of R-messages, cut anywhere; nothing is kept after the call."""

    def throttle(self, stop: bool) -> None:
        """Send no more requests until told that it goes on."""

    def lost(self, why: str) -> None:
        """Give up: no answer will come any more, and nothing may be sent."""


class Conversation(Protocol):
    """One client's connection with a server."""

    def request(self, message: bytearray) -> None:
        """Take one T-message, which is the server's to keep; may answer before it returns."""

    async def close(self) -> None:
        """Release everything; the client is told nothing any more."""


class Server(Protocol):
    """A 9P server without a socket in between; `aio.p9` makes one of any other."""

    def converse(self, client: Client) -> Conversation:
        """Begin a conversation; it may tell the client at once to wait."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters since the device was made."""

    requests: int = 0
    octets_in: int = 0  # of requests
    octets_out: int = 0  # of answers
    oversized: int = 0  # answers larger than their room
    refused: int = 0  # requests that no server saw
    stray: int = 0  # answers to no request
    lost: int = 0  # conversations that ended under us


Counters = dict[str, int]


@dataclass(slots=True, eq=False)
class Request:
    """A request in flight; `flushes` is the one that it asks to end."""

    tag: int
    chain: Chain
    room: int
    sink: Sink
    flushes: Request | None = None


class Exchange:
    """One conversation with a server, and the driver's chains that wait for its answers.

    `resumed` is called when requests may be sent again.
    """

    def __init__(self, queue: Queue, counters: Counters, resumed: Callable[[], object]) -> None:
        self.dialect = b"9P2000.L"  # as the driver wishes; it says what an error looks like
        self.throttled = False
        self.ended = False
        self._queue = queue
        self._counters = counters
        self._resumed = resumed
        self._conversation: Conversation | None = None
        self._inflight: dict[int, Request] = {}  # by tag, in the order they came
        self._answers = Answers(self._begin, self._finish)

    def connect(self, server: Server) -> None:
        """Begin the conversation."""
        self._guarded(lambda: self._join(server.converse(self)))

    def _join(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def take(self, chain: Chain, message: bytearray) -> None:
        """Send a request whose header is good and whose chain has room for an error."""
        _, kind, tag = HEADER.unpack_from(message)
        if kind == Kind.TVERSION:
            self.dialect = version(message)
        if self.ended or self._conversation is None:
            self.refuse(chain, tag, errno.EIO)
        elif tag in self._inflight:
            self.refuse(chain, tag, errno.EINVAL)
        else:
            request = Request(tag, chain, chain.writable_len, Sink(chain))
            if kind == Kind.TFLUSH:
                request.flushes = self._inflight.get(oldtag(message))
            self._inflight[tag] = request
            self._counters["requests"] += 1
            self._counters["octets_in"] += len(message)
            conversation = self._conversation
            self._guarded(lambda: conversation.request(message))

    def _guarded(self, call: Callable[[], None]) -> None:
        """Call the server, which may be anybody's: what it raises ends this conversation alone."""
        try:
            call()
        except Exception as exc:
            log.exception("the 9P server failed")
            self.lost(repr(exc))

    def refuse(self, chain: Chain, tag: int, number: int) -> None:
        """Answer a request ourselves."""
        self._counters["refused"] += 1
        self._error(chain, tag, number)
        self._queue.publish()

    def _error(self, chain: Chain, tag: int, number: int) -> None:
        answer = error(tag, number, self.dialect)
        if len(answer) > chain.writable_len:  # a text that does not fit
            answer = error(tag, number, b"9P2000.L")
        self._queue.push(chain, chain.write(answer))

    # From the server: see Client.

    def answered(self, pieces: Sequence[Buffer]) -> None:
        """Pour answers into their chains."""
        if self.ended:
            return
        try:
            for piece in pieces:
                self._answers.feed(piece)
        except PeerError as exc:
            self.lost(str(exc))
        self._queue.publish()

    def throttle(self, stop: bool) -> None:
        """Leave requests in the ring, or go on."""
        self.throttled = stop and not self.ended
        if not stop and not self.ended:
            self._resumed()

    def lost(self, why: str) -> None:
        """Answer everything with EIO, so that nobody in the guest waits for ever."""
        if self.ended:
            return
        self._counters["lost"] += 1
        log.warning("9P server lost: %s", why)
        self.ended, self.throttled = True, False
        for request in self._inflight.values():
            self._error(request.chain, request.tag, errno.EIO)
        self._inflight.clear()
        self._queue.publish()
        self._resumed()

    def end(self) -> Conversation | None:
        """Forget the chains; returns the conversation, which the caller closes, once."""
        self.ended = True
        self._inflight.clear()
        conversation, self._conversation = self._conversation, None
        return conversation

    def _begin(self, size: int, kind: int, tag: int) -> Sink:
        request = self._inflight.get(tag)
        if request is None:
            self._counters["stray"] += 1
            return Sink(None)
        if size > request.room:
            self._counters["oversized"] += 1
            return Sink(None)
        return request.sink

    def _finish(self, size: int, kind: int, tag: int) -> None:
        request = self._inflight.get(tag)
        self._counters["octets_out"] += size
        if request is None:
            return
        if kind == Kind.RVERSION:
            self._give_back_older(request)
        elif request.flushes is not None and kind == Kind.RFLUSH:
            self._give_back(request.flushes)
        del self._inflight[tag]
        if request.sink.written != size:  # it was too large
            self._error(request.chain, tag, errno.EMSGSIZE)
        else:
            self._queue.push(request.chain, size)

    def _give_back_older(self, request: Request) -> None:
        """Give back what a new session made void (version(5))."""
        for older in list(self._inflight.values()):
            if older is request:
                return
            self._give_back(older)

    def _give_back(self, request: Request) -> None:
        """Give back a request that will not be answered, if it was not."""
        if self._inflight.get(request.tag) is request:
            del self._inflight[request.tag]
            self._queue.push(request.chain, 0)


def read_message(chain: Chain) -> bytearray:
    """Return a private copy of a chain's T-message; raises `PeerError` if it is none.

    What lies behind the message is ignored.
    """
    have, room = chain.readable_len, chain.writable_len
    if not HEADER.size <= have <= MESSAGE_MAX:
        raise PeerError(f"request of {have} octets, expected {HEADER.size} to {MESSAGE_MAX}")
    if room < ERROR_ROOM:
        raise PeerError(f"room of {room} octets for an answer, expected at least {ERROR_ROOM}")
    message = chain.gather(have)
    size = HEADER.unpack_from(message)[0]
    if not HEADER.size <= size <= have:
        raise PeerError(f"request of {have} octets, expected {size} as it says itself")
    return message if size == have else message[:size]


async def close(conversation: Conversation) -> None:
    """Close a conversation; what its server raises is logged."""
    try:
        await conversation.close()
    except Exception:
        log.exception("the 9P server failed at the end")

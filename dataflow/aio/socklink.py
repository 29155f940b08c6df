"""A connection on a plain socket: the pump reads and answers what it can, the session the rest.

The pump answers by itself only while the session has nothing in flight and nothing waits to be
sent: so every order that 9P promises is that of one thread.  While answers wait for a client that
does not read, none of its requests is read, but for a bounded number of bytes.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque

from ..core.outcome import Open, Outcome, PumpLike
from ..core.pump import Pump
from ..p9.errors import ProtocolError
from ..p9.tree import Buffer, Peer
from .links import Link, Owner, peer_of

QUEUE_MAX = 1 << 20  # octets of answers that wait; above it no request is read
ROUNDS = 64  # messages in a row of one connection
SPIN_NS = 20_000  # a client that asks again within this time finds us awake
_IOV_MAX = 512
_HOT = {24: 7, 110: 11, 116: 7, 118: 7}  # Tgetattr, Twalk, Tread, Twrite: where a fid to learn is


class SocketLink(Link):
    """A connected stream socket, which then belongs to the link."""

    pumped = True

    def __init__(self, owner: Owner, sock: socket.socket) -> None:
        self._owner = owner
        self._sock = sock
        self._fd = sock.fileno()
        self._loop = asyncio.get_running_loop()
        self._queue: deque[memoryview] = deque()
        self._queued = 0
        self._large: memoryview | None = None  # a message that is received here, and how much
        self._large_len = 0
        self._stopped = False  # the connection asked for it
        self._full = False  # an answer of the pump waits
        self._reading = self._writing = False  # what the loop watches for
        self._closed = self._again = False
        self.done = asyncio.Event()
        self.connect(owner, _peer(sock))
        self._pump: PumpLike = Pump(self.connection.session.msize)
        self._limit = self.connection.session.msize

    def start(self) -> None:
        """Begin to serve, or hang up where there are too many."""
        if self._owner.admit(self):
            self._watch()
        else:
            self._end()

    def counts(self) -> tuple[int, int, int]:
        """Return requests and octets in and out that the session did not see."""
        return self._pump.counts()

    def send(self, pieces: list[Buffer]) -> None:
        """Send at once what the socket takes and queue the rest."""
        if self._closed:
            return
        if not self._writing:
            pieces = self._send_now(pieces)
        if pieces:
            self._queue += map(memoryview, pieces)
            self._queued += sum(map(len, pieces))
            self._watch()

    def throttle(self, stop: bool) -> None:
        """Stop receiving, or go on."""
        self._stopped = stop
        self._watch()
        if not stop:
            self._soon()

    def abort(self) -> None:
        """Hang up at once."""
        self._end()

    def _send_now(self, pieces: list[Buffer]) -> list[Buffer]:
        try:
            sent = self._sock.sendmsg(pieces[:_IOV_MAX])
        except (BlockingIOError, InterruptedError):
            return pieces
        except OSError:
            self._end()
            return []
        return _behind(pieces, sent)

    def _readable(self) -> None:
        self._again = False
        try:
            self._receive()
        except ProtocolError as err:
            self._owner.note(err)
            self._end()

    def _receive(self) -> None:
        pump, connection = self._pump, self.connection
        for _ in range(ROUNDS):
            if self._closed or self._stopped or self._full or self._queued > QUEUE_MAX:
                return
            if self._large is not None:
                if not self._fill():
                    return
                continue
            fast = connection.idle and not self._writing
            outcome = pump.serve(self._fd, fast, SPIN_NS)
            for fid in pump.clunked():
                connection.forget(fid)
            if outcome is Outcome.MESSAGE:
                self._take(pump.message()[0])
            elif outcome is Outcome.LARGE:
                room, self._large_len = pump.message()
                self._large = memoryview(room)
            else:
                self._settle(outcome)
                return
        self._soon()

    def _settle(self, outcome: Outcome) -> None:
        if outcome is Outcome.MORE:
            self._soon()
        elif outcome is Outcome.FULL:
            self._full = True
            self._watch()
        elif outcome is Outcome.END:
            self._end()
        elif outcome is Outcome.BAD:
            size = self._pump.size()
            raise ProtocolError(f"size: expected 7 to {self._limit} bytes, found {size}")

    def _fill(self) -> bool:
        """Receive more of a large message; False where there is nothing for now."""
        large = self._large
        assert large is not None
        try:
            n = self._sock.recv_into(large[self._large_len :])
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            n = 0
        if not n:
            self._end()
            return False
        self._large_len += n
        if self._large_len == len(large):
            self._large = None
            self._take(large.obj)  # type: ignore[arg-type]  # the bytearray below
        return True

    def _take(self, message: bytearray) -> None:
        connection = self.connection
        connection.receive_message(message)
        if self._closed:
            return
        if connection.session.msize != self._limit:
            self._limit = connection.session.msize
            self._pump.limit(self._limit)
        at = _HOT.get(message[4])
        if at is not None:
            fid = int.from_bytes(message[at : at + 4], "little")
            known = connection.direct(fid)
            if known is not None:
                self._pump.learn(fid, Open(*known))

    def _writable(self) -> None:
        outcome = self._pump.flush(self._fd)
        if outcome is Outcome.FULL:
            return
        if outcome is Outcome.END:
            self._end()
            return
        self._full = False
        while self._queue:
            pieces: list[Buffer] = [self._queue[i] for i in range(min(len(self._queue), _IOV_MAX))]
            count = len(pieces)
            left = self._send_now(pieces)
            if self._closed:
                return
            for _ in range(count):
                self._queued -= len(self._queue.popleft())
            self._queue.extendleft(map(memoryview, reversed(left)))
            self._queued += sum(map(len, left))
            if left:
                break
        self._watch()
        self._soon()

    def _watch(self) -> None:
        """Watch for what is wanted now."""
        if self._closed:
            return
        reading = not (self._stopped or self._full or self._queued > QUEUE_MAX)
        if reading != self._reading:
            self._reading = reading
            if reading:
                self._loop.add_reader(self._fd, self._readable)
            else:
                self._loop.remove_reader(self._fd)
        writing = self._full or bool(self._queue)
        if writing != self._writing:
            self._writing = writing
            if writing:
                self._loop.add_writer(self._fd, self._writable)
            else:
                self._loop.remove_writer(self._fd)
            self.connection.set_writable(not writing)

    def _soon(self) -> None:
        """Go on with what was received already; the socket does not tell of that."""
        if not self._again and not self._closed:
            self._again = True
            self._loop.call_soon(self._readable)

    def _end(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._owner.lost(self)
        self._queue.clear()
        self._pump.close()
        self._sock.close()
        self.done.set()


def _behind(pieces: list[Buffer], sent: int) -> list[Buffer]:
    """Return what is left of `pieces` after `sent` octets."""
    for i, piece in enumerate(pieces):
        if sent < len(piece):
            return [memoryview(piece)[sent:], *pieces[i + 1 :]]
        sent -= len(piece)
    return []


def _peer(sock: socket.socket) -> Peer:
    try:
        return peer_of(sock, sock.getpeername())
    except OSError:  # it is gone already
        return peer_of(None)

"""asyncio transports over flows of the stack: any protocol class, or plain stream readers."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Iterable
from types import MappingProxyType
from typing import Any

from ..proto.tcp.block import Event
from ..stack.flow import Flow
from ..wire import ip
from .sockopt import FlowSocket

HIGH_WATER, LOW_WATER = 64 * 1024, 16 * 1024
PIECE = 64 * 1024
_ERRORS: dict[Event, tuple[type[OSError], int, str]] = {
    Event.RESET: (ConnectionResetError, errno.ECONNRESET, "the peer reset the connection"),
    Event.REFUSED: (ConnectionRefusedError, errno.ECONNREFUSED, "the peer refused the connection"),
    Event.TIMED_OUT: (TimeoutError, errno.ETIMEDOUT, "the peer stopped answering"),
    Event.UNREACHABLE: (OSError, errno.EHOSTUNREACH, "the peer cannot be reached"),
}
_NOTHING = bytearray()  # of all transports that have nothing pending: never changed
_NO_EXTRA: MappingProxyType[str, Any] = MappingProxyType({})
ClientConnected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]


class StackTransport(asyncio.Transport):
    """A flow as an asyncio transport; pausing reading closes the peer's window.

    Urgent data is in line (RFC 6093): a protocol that has `urgent_received(mark)` is told that it
    ends `mark` bytes behind what was delivered, before they are.
    """

    def __init__(
        self,
        flow: Flow,
        protocol: asyncio.BaseProtocol,
        loop: asyncio.AbstractEventLoop,
        wake: Callable[[], None],
        connected: asyncio.Future[None] | None = None,
        lost: Callable[[StackTransport], None] | None = None,
    ) -> None:
        super().__init__(_NO_EXTRA)  # `get_extra_info` says it all
        self._flow = flow
        self._protocol = protocol
        self._loop = loop
        self._wake = wake
        self._connected = connected
        self._told = lost  # hears once that the connection is over
        self._pending = _NOTHING  # what the connection did not take yet
        self._high, self._low = HIGH_WATER, LOW_WATER
        self._open = self._paused = self._closing = self._eof_out = self._eof_in = False
        self._blocked = self._lost = False
        self._socket: FlowSocket | None = None
        self._ended = False  # the connection is closed; data may still wait for the protocol
        flow.owner = self

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return "peername", "sockname", "flow", "urgent_mark" (how many bytes lie before the end
        of urgent data, 0 for none ahead) or "socket", which takes a socket's options."""
        if name == "urgent_mark":
            return self._flow.conn.urgent_mark
        if name == "peername":
            return _name(self._flow.remote)
        if name == "sockname":
            return _name(self._flow.local)
        if name == "flow":
            return self._flow
        if name != "socket":
            return super().get_extra_info(name, default)
        if self._socket is None:  # few ask: a connection without one is smaller
            self._socket = FlowSocket(self._flow, self._loop.time, self._kick)
        return self._socket

    # From the stack.

    def flow_event(self, flow: Flow, now: float) -> None:
        """Hand events of the connection on to the protocol; an error of its ends the connection."""
        try:
            while (event := flow.conn.next_event()) is not None:
                self._take(event)
            if self._open and not self._lost:
                self._deliver()
        except Exception as e:
            self._fatal(e)

    def _take(self, event: Event) -> None:
        if event is Event.CONNECTED:
            self._begin()
        elif event is Event.WRITABLE:
            self._write_out()
        elif event in _ERRORS:
            kind, number, text = _ERRORS[event]
            self._lose(kind(number, text))
        elif event is Event.URGENT:
            hear = getattr(self._protocol, "urgent_received", None)
            if hear is not None:
                hear(self._flow.conn.urgent_mark)
        elif event is Event.CLOSED:
            self._ended = True
            if not self._open:
                self._lose(None)

    def _fatal(self, error: Exception) -> None:
        context = {"message": "a protocol failed", "exception": error, "transport": self,
                   "protocol": self._protocol}  # fmt: skip
        self._loop.call_exception_handler(context)
        self._flow.conn.abort()
        self._lose(error)
        self._kick()

    def _begin(self) -> None:
        self._open = True
        self._protocol.connection_made(self)
        if self._connected is not None and not self._connected.done():
            self._connected.set_result(None)
        self._connected = None

    def _deliver(self) -> None:
        conn, protocol = self._flow.conn, self._protocol
        while not self._paused and not self._lost and (views := conn.received()):
            pieces = some(views)
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            conn.consume(len(data))
            if isinstance(protocol, asyncio.BufferedProtocol):
                feed_buffered(protocol, memoryview(data))
            elif isinstance(protocol, asyncio.Protocol):
                protocol.data_received(bytes(data))
            self._flow.touch()
        if conn.eof and not self._eof_in and not self._paused and not self._lost:
            self._eof_in = True
            keep = isinstance(protocol, asyncio.Protocol) and protocol.eof_received()
            if not keep:
                self.close()
        if self._ended and not conn.rcv_queued and not self._paused:
            self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = self._closing = True
        self._pending = _NOTHING
        if self._connected is not None and not self._connected.done():
            self._connected.set_exception(error or ConnectionAbortedError("closed while opening"))
            self._connected.exception()  # whoever gave up waiting must not be told again
        if self._open:
            self._loop.call_soon(self._protocol.connection_lost, error)
        if self._told is not None:
            self._told(self)
            self._told = None

    # Writing.

    def write(self, data: Any) -> None:
        """Queue bytes; the protocol is paused above the high-water mark."""
        if self._eof_out:
            raise RuntimeError("cannot write after write_eof")
        if not data or self._lost or self._closing:
            return
        if self._pending:
            self._pending += data
        else:
            self._pending = self._send(memoryview(data).cast("B"))
        if not self._blocked and len(self._pending) > self._high:
            self._blocked = True
            self._protocol.pause_writing()
        self._kick()

    def send_urgent(self, data: Any) -> None:
        """Queue bytes like `write`, their end as the peer's urgent mark (RFC 9293 3.8.5)."""
        self.write(data)
        if data and not self._lost and not self._closing:
            self._flow.conn.mark_urgent(len(self._pending))

    def _send(self, view: memoryview) -> bytearray:
        """Give the connection what it takes and return the rest."""
        n = self._flow.conn.send(view)
        return bytearray(view[n:]) if n < len(view) else _NOTHING

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """Queue several pieces at once."""
        self.write(b"".join(list_of_data))

    def _write_out(self) -> None:
        if self._pending:
            n = self._flow.conn.send(memoryview(self._pending))
            del self._pending[:n]
            if not self._pending:
                self._pending = _NOTHING
            self._flow.touch()
        if self._blocked and len(self._pending) <= self._low:
            self._blocked = False
            self._protocol.resume_writing()
        if not self._pending and (self._closing or self._eof_out):
            self._end()
            if self._closing:
                self._lose(None)

    def _end(self) -> None:
        conn = self._flow.conn
        if self._closing:
            if conn.rcv_queued and self._eof_in is False:
                conn.consume(conn.rcv_queued)  # closed by its user: nobody reads it any more
            conn.close()
        else:
            conn.shutdown()
        self._kick()

    def _kick(self) -> None:
        self._flow.touch()
        self._wake()

    def can_write_eof(self) -> bool:
        """TCP has half-closes."""
        return True

    def write_eof(self) -> None:
        """Send a FIN behind what is queued; reading goes on."""
        if not self._eof_out:
            self._eof_out = True
            if not self._pending:
                self._end()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the marks that pause and resume the protocol."""
        self._high = HIGH_WATER if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait outside the connection's own buffer."""
        return len(self._pending)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low and the high mark."""
        return self._low, self._high

    # Reading.

    def pause_reading(self) -> None:
        """Leave what arrives in the connection, whose window closes."""
        self._paused = True

    def resume_reading(self) -> None:
        """Deliver what waited and open the window again."""
        if self._paused and not self._lost:
            self._paused = False
            self._loop.call_soon(self._resumed)

    def _resumed(self) -> None:
        if self._open and not self._lost:
            self._deliver()
            self._kick()

    def is_reading(self) -> bool:
        """Tell whether data is delivered."""
        return not self._paused and not self._closing

    # Ending.

    def is_closing(self) -> bool:
        """Tell whether `close` or `abort` was called or the connection is lost."""
        return self._closing

    def close(self) -> None:
        """Send what is queued, then end."""
        if self._closing:
            return
        if self._socket is not None and self._socket.linger == (1, 0):  # socket(7): discard
            self.abort()
            return
        self._closing = True
        if not self._pending:
            self._end()
            self._lose(None)

    def abort(self) -> None:
        """Reset the connection."""
        self._flow.conn.abort()
        self._lose(None)
        self._kick()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the transport to another protocol."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the present protocol."""
        return self._protocol


def _name(end: tuple[bytes, int]) -> tuple[str, int]:
    return ip.format_address(end[0]), end[1]


def some(views: list[memoryview]) -> list[memoryview]:
    """Return the first views, about `PIECE` bytes: larger ones cost the allocator page faults."""
    total = 0
    for i, view in enumerate(views):
        total += len(view)
        if total > PIECE:
            return views[: max(i, 1)]
    return views


def feed_buffered(protocol: asyncio.BufferedProtocol, view: memoryview) -> None:
    """Give `view` to a protocol that brings its own buffers."""
    while view:
        room = memoryview(protocol.get_buffer(len(view)))
        n = min(len(room), len(view))
        room[:n] = view[:n]
        protocol.buffer_updated(n)
        view = view[n:]


def stream_factory(
    connected: ClientConnected, loop: asyncio.AbstractEventLoop
) -> Callable[[], asyncio.BaseProtocol]:
    """Return a protocol factory that calls `connected(reader, writer)` for each connection."""

    def make() -> asyncio.BaseProtocol:
        reader = asyncio.StreamReader(loop=loop)
        return asyncio.StreamReaderProtocol(reader, connected, loop=loop)

    return make

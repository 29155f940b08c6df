"""A flow of the stack and a host socket, joined: bytes, half-closes and resets pass both ways.

Backpressure is the sum of two rules.  What the host socket does not take stays in the
connection's receive queue, which closes the guest's window.  The host socket is read only while
the connection has send space, which closes the host peer's window.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable

from ..proto.tcp.block import Event
from ..proto.tcp.state import State
from ..stack.flow import Flow

_ABORT = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds: close sends a reset
READ_TURN = 1 << 20  # bytes read from one socket before others have their turn
_DEAD = (Event.RESET, Event.TIMED_OUT, Event.UNREACHABLE, Event.REFUSED)


class Bridge:
    """Joins `flow` with a connected, non-blocking `sock`, which it owns from now on."""

    __slots__ = (
        "_done",
        "_loop",
        "_reading",
        "_recv_eof",
        "_shut",
        "_sock",
        "_wake",
        "_writing",
        "bytes_in",
        "bytes_out",
        "flow",
    )  # fmt: skip

    def __init__(
        self,
        flow: Flow,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        wake: Callable[[], None],
        done: Callable[[Bridge], None],
    ) -> None:
        self.flow = flow
        flow.fd = sock.fileno()
        self.bytes_in = self.bytes_out = 0
        self._sock = sock
        self._loop = loop
        self._wake = wake
        self._done = done
        self._reading = self._writing = self._recv_eof = self._shut = False
        flow.owner = self
        self._read_more()

    # From the stack.

    def flow_event(self, flow: Flow, now: float) -> None:
        """Move what the guest sent, and go on reading when there is room again."""
        conn = flow.conn
        while (event := conn.next_event()) is not None:
            if event is Event.WRITABLE:
                self._read_more()
            elif event in _DEAD:
                self.abort()
                return
            elif event is Event.CLOSED:
                self._flow_ended()
        if not self._writing:
            self._to_host()

    def _to_host(self) -> None:
        conn = self.flow.conn
        if self._sock.fileno() < 0:
            return
        try:
            while views := conn.received()[:512]:
                n = self._sock.sendmsg(views)
                self.bytes_out += n
                conn.consume(n)
                self.flow.touch()
        except BlockingIOError:
            self._write_later()
            return
        except OSError:
            self._host_died()
            return
        self._stop_writing()
        if conn.eof and not self._shut:
            self._shut = True
            self._shutdown()
        elif conn.state is State.CLOSED:
            self.close()

    def _flow_ended(self) -> None:
        """Nothing more comes or goes, but what came may still wait for the host to take it."""
        self._recv_eof = True
        self._stop_reading()
        if not self.flow.conn.rcv_queued:
            self.close()

    def _shutdown(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the host's side is gone already; reading will say so
        self._finish()

    # From the host.

    def _readable(self) -> None:
        flow = self.flow
        if flow.lease is not None:
            code = flow.carry(self._loop.time())
            if not code:
                return
            flow.recall()
            if code < 0:
                self._host_died()
                return
        self._read()

    def _read(self) -> None:
        conn = self.flow.conn
        taken = 0
        try:
            while taken < READ_TURN:
                room = conn.writable()
                if not room:
                    self._stop_reading()
                    break
                n = self._sock.recv_into(room)
                del room
                conn.commit(n)
                if n == 0:
                    self._host_eof()
                    break
                taken += n
        except BlockingIOError:
            conn.commit(0)
        except OSError:
            conn.commit(0)
            self._host_died()
        self.bytes_in += taken
        self.flow.touch()
        self._wake()

    def _host_eof(self) -> None:
        self._recv_eof = True
        self._stop_reading()
        self.flow.conn.shutdown()
        self._finish()

    def _host_died(self) -> None:
        """The host's socket was reset: so is the guest's connection."""
        self.flow.conn.abort()
        self.flow.touch()
        self.close()
        self._wake()

    def _writable(self) -> None:
        self._to_host()
        self._wake()

    # Readiness.

    def _read_more(self) -> None:
        if not self._reading and not self._recv_eof and self._sock.fileno() >= 0:
            self._reading = True
            self._loop.add_reader(self._sock.fileno(), self._readable)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._sock.fileno())

    def _write_later(self) -> None:
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._sock.fileno(), self._writable)

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock.fileno())

    # Ends.

    def _finish(self) -> None:
        """Close the host socket when both directions are at their end."""
        if self._recv_eof and self._shut:
            self.close()

    def close(self) -> None:
        """Let go of the host socket; the flow ends by itself or was ended by the caller."""
        if self._sock.fileno() < 0:
            return
        self.flow.recall()
        self.flow.fd = -1
        self._stop_reading()
        self._stop_writing()
        self._sock.close()
        self._done(self)

    def abort(self) -> None:
        """The guest's side died: reset the host's."""
        if self._sock.fileno() >= 0:
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            except OSError as e:
                if e.errno != errno.EINVAL:
                    raise
        self.close()

"""A flow of the stack and a host socket, joined: bytes, half-closes and resets pass both ways.

Backpressure is the sum of two rules.  What the host socket does not take stays in the
connection's receive queue, which closes the guest's window.  The host socket is read only while
the connection has send space, which closes the host peer's window.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable

from ..aio.driver import Driver
from ..aio.lane import LaneEvent
from ..aio.poller import HUP, OUT
from ..proto.tcp.block import Event
from ..proto.tcp.state import State
from ..stack.flow import Flow

_ABORT = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds: close sends a reset
READ_TURN = 1 << 17  # octets read from one socket before others have their turn
_DEAD = (Event.RESET, Event.TIMED_OUT, Event.UNREACHABLE, Event.REFUSED)


class Bridge:
    """Joins `flow` with a connected, non-blocking `sock`, which it owns from now on."""

    __slots__ = (
        "_done", "_driver", "_hup", "_paused", "_recv_eof", "_shut", "_sock", "_writing",
        "flow",
    )  # fmt: skip

    def __init__(
        self, flow: Flow, sock: socket.socket, driver: Driver, done: Callable[[Bridge], None]
    ) -> None:
        self.flow = flow
        self._sock = sock
        self._driver = driver
        self._done = done
        self._writing = self._recv_eof = self._shut = False
        self._paused = False  # what waits in the host's socket is read later
        self._hup = False  # ended, or urgent data: read on until there is nothing
        flow.owner = self
        flow.fd = sock.fileno()
        driver.poller.watch(flow.fd, self._ready)

    @property
    def bytes_in(self) -> int:
        """Octets of the host's that left for the guest, the first time each."""
        lease, conn = self.flow.lease, self.flow.conn
        return int(conn.n_bytes_sent + (lease.bytes_out if lease is not None else 0))

    @property
    def bytes_out(self) -> int:
        """Octets of the guest's that the host's socket has taken."""
        lease, conn = self.flow.lease, self.flow.conn
        took = lease.bytes_in - lease.kept_n if lease is not None else 0
        return int(conn.n_bytes_received - conn.rcv_queued + took)

    # From the stack.

    def flow_event(self, flow: Flow, now: float) -> None:
        """Move what the guest sent, and go on reading when there is room again."""
        conn = flow.conn
        while (event := conn.next_event()) is not None:
            if event is Event.WRITABLE:
                if self._paused:
                    self._read()
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
                conn.consume(n)
                self.flow.touch()
        except BlockingIOError:
            self._write_later(True)
            return
        except OSError:
            self._host_died()
            return
        self._write_later(False)
        if conn.eof and not self._shut:
            self._shut = True
            self._shutdown()
        elif conn.state is State.CLOSED:
            self.close()

    def _flow_ended(self) -> None:
        """Nothing more comes or goes, but what came may still wait for the host to take it."""
        self._recv_eof = True
        if not self.flow.conn.rcv_queued:
            self.close()

    def _shutdown(self) -> None:
        if not self._recv_eof:  # else closing says the same
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the host's side is gone already; reading will say so
        self._finish()

    # From the host.

    def _ready(self, mask: int) -> None:
        if mask & HUP:  # no edge will tell of what is left: the lane would wait for one
            self._hup, self.flow.fd = True, -1
        if mask & OUT and self._writing:
            self._drain()
        if self.flow.lease is None:
            self._read()
        else:
            self._carry()

    def _drain(self) -> None:
        """Go on with what the host's socket did not take before."""
        if self.flow.lease is None:
            self._to_host()
            return
        code = self.flow.drain(self._driver.now())
        if code < 0:
            self.flow.recall()
            self._host_died()
        elif not code:
            self._write_later(False)

    def lane_event(self, flow: Flow, event: LaneEvent) -> None:
        """Go on where the lane stopped."""
        if event is LaneEvent.FULL:
            self._write_later(True)
        elif event is LaneEvent.ENDED:
            self._read()
        elif event is LaneEvent.DEAD:
            self._host_died()
        else:
            self._paused = True
            self._driver.loop.call_soon(self._read_on)

    def _carry(self) -> None:
        """Let the express lane carry what there is, as long as it does."""
        flow = self.flow
        code = 1 if self._hup else flow.carry(self._driver.now())
        if not code:
            return
        flow.recall()
        if code < 0:
            self._host_died()
        else:
            self._read()

    def _read(self) -> None:
        if self._recv_eof or self._sock.fileno() < 0:
            return
        conn = self.flow.conn
        taken = 0
        self._paused = False
        try:
            while taken < READ_TURN:
                room = conn.writable()
                size = len(room)
                if not size:
                    self._paused = True  # until WRITABLE
                    break
                n = self._sock.recv_into(room)
                del room
                conn.commit(n)
                if n == 0:
                    self._host_eof()
                    break
                taken += n
                if n < size and not self._hup:
                    break
            else:
                self._paused = True
                self._driver.loop.call_soon(self._read_on)
        except BlockingIOError:
            conn.commit(0)
        except OSError:
            conn.commit(0)
            self._host_died()
        self.flow.touch()

    def _read_on(self) -> None:
        if not self._paused or self._sock.fileno() < 0:
            return
        self._paused = False
        if self.flow.lease is None:
            self._read()
        else:
            self._carry()
        self._driver.flush()

    def _host_eof(self) -> None:
        self._recv_eof = True
        self.flow.conn.shutdown()
        self._finish()

    def _host_died(self) -> None:
        """The host's socket was reset: so is the guest's connection."""
        self.flow.conn.abort()
        self.flow.touch()
        self.close()

    def _write_later(self, wanted: bool) -> None:
        if wanted != self._writing:
            self._writing = wanted
            self._driver.poller.watch(self._sock.fileno(), self._ready, writing=wanted)

    # Ends.

    def _finish(self) -> None:
        """Close the host socket when both directions are at their end."""
        if self._recv_eof and self._shut:
            self.close()

    def close(self) -> None:
        """Let go of the host socket; the flow ends by itself or was ended by the caller."""
        fd = self._sock.fileno()
        if fd < 0:
            return
        self.flow.recall()
        self.flow.fd = -1
        self._driver.poller.forget(fd)
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

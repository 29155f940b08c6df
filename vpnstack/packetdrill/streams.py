"""Stream sockets: opening, data and closing of one TCP connection or a queue of them."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

from ..proto.tcp import receive as receiving
from ..proto.tcp.block import OFF, Event
from ..proto.tcp.config import Config
from ..proto.tcp.connection import Connection
from ..proto.tcp.state import State
from ..stack.flow import Flow
from .errors import ScriptError
from .lab import Lab
from .sockets import SIOCINQ, Endpoint, Fault, Socket, WouldBlock

ERRORS = {
    Event.REFUSED: "ECONNREFUSED",
    Event.RESET: "ECONNRESET",
    Event.TIMED_OUT: "ETIMEDOUT",
    Event.UNREACHABLE: "EHOSTUNREACH",
}


class TcpSocket(Socket):
    """A stream socket: `FlowOwner` and, once it listens, `Acceptor` of the stack."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.flow: Flow | None = None
        self.changes: dict[str, Any] = {}  # of the connection's Config
        self.linger: tuple[int, int] = (0, 0)
        self.listening = False
        self.backlog = 0
        self.parent: TcpSocket | None = None
        self.opening: set[TcpSocket] = set()
        self.ready: deque[TcpSocket] = deque()
        self.connecting = self.connected = self.waiting = False
        self.sending = 0  # octets of a blocked call that were taken already

    @property
    def conn(self) -> Connection | None:
        """The connection, where there is one."""
        return self.flow.conn if self.flow is not None else None

    def configure(self, **changes: Any) -> None:
        """Change fields of the connection's configuration, now or when there is one."""
        self.changes.update(changes)
        conn = self.conn
        if conn is None or conn.state is State.CLOSED:
            return
        conn.config = replaced(conn.config, changes)
        if "keepalive" in changes or "keepalive_idle" in changes:
            alive = conn.config.keepalive and conn.state >= State.ESTABLISHED
            conn.t_keep = conn.last_recv + conn.config.keepalive_idle if alive else OFF
        if "congestion" in changes:
            conn.cc = conn.config.congestion(conn.mss)
        if "mss" in changes and conn.state <= State.SYN_SENT:
            conn.set_mss(conn.peer_mss)
        if "rcv_buf" in changes:
            conn.rcv_buf = conn.config.rcv_buf  # what the user sets is not tuned
        if "rcv_buf" in changes and conn.state <= State.SYN_SENT and conn.rcv_wscale >= 0:
            conn.rcv_wscale = receiving.scale_for(conn.config.rcv_buf)
        self.touch()

    def cork(self, held: bool) -> None:
        """TCP_CORK: hold short segments back, or let them go."""
        if self.conn is not None:
            self.conn.cork(held)
            self.touch()

    def touch(self) -> None:
        """Have the stack look at the connection."""
        if self.flow is not None:
            self.flow.touch()

    # Opening.

    def listen(self, backlog: int) -> int:
        """Take connections to the bound port, at most `backlog` and one at a time."""
        if self.local is None:
            raise Fault("EINVAL")
        addr, port = self.local
        key = (addr if any(addr) else None, port)
        others = self.lab.stack.tcp.listeners
        if key in others and others[key] is not self:
            raise Fault("EADDRINUSE")
        others[key] = self
        self.listening, self.backlog = True, backlog
        return 0

    def flow_arrived(self, flow: Flow, now: float) -> None:
        """A SYN came: make a child, or stay silent where the queue is full."""
        if len(self.ready) > self.backlog or len(self.opening) > max(self.backlog, 1):
            flow.drop()
            return
        child = TcpSocket(self.lab)
        child.flow, flow.owner, child.parent = flow, child, self
        child.local, child.remote = flow.local, flow.remote
        child.linger, child.options = self.linger, dict(self.options)
        self.opening.add(child)
        child.configure(**self.changes)
        flow.accept()

    def accept(self) -> TcpSocket:
        """Return the oldest connection that waits."""
        if not self.listening:
            raise Fault("EINVAL")
        if not self.ready:
            raise WouldBlock
        return self.ready.popleft()

    def connect(self, remote: Endpoint, port: int) -> int:
        """Open a connection, from `port` where the socket is not bound."""
        if self.connected:
            if self.waiting:  # the call that opened the connection comes back
                self.waiting = False
                return 0
            raise Fault("EISCONN")
        if self.flow is not None:
            self.pending_error()
            if not self.connecting:
                raise Fault("ECONNABORTED")
            raise Fault("EALREADY") if self.nonblocking else WouldBlock
        self.waiting = not self.nonblocking
        mine = self.local or (self.address, port)
        self.local = (mine[0] if any(mine[0]) else self.address, mine[1] or port)
        try:
            self.flow = self.lab.stack.tcp.connect(self.local, remote, self.lab.clock)
        except KeyError as e:
            raise Fault("EADDRNOTAVAIL") from e
        self.remote, self.flow.owner, self.connecting = remote, self, True
        self.configure(**self.changes)
        raise Fault("EINPROGRESS") if self.nonblocking else WouldBlock

    def flow_event(self, flow: Flow, now: float) -> None:
        """Take the connection's events."""
        while (event := flow.conn.next_event()) is not None:
            if event is Event.CONNECTED:
                self._opened()
            elif event in ERRORS:
                self.error = ERRORS[event]
                # RFC 9293 3.6: after the peer's FIN a reset is a broken pipe to the writer.
                if event is Event.RESET and flow.conn.rcv_fin >= 0:
                    self.error = "EPIPE"
            elif event is Event.CLOSED:
                self.connecting = False
                self._forgotten()

    def _opened(self) -> None:
        self.connected, self.connecting = True, False
        parent = self.parent
        if parent is not None and self in parent.opening:
            parent.opening.discard(self)
            parent.ready.append(self)

    def _forgotten(self) -> None:
        if self.parent is not None:
            self.parent.opening.discard(self)

    # Data.

    def send(self, data: bytes) -> int:
        """Queue what there is room for; the number of octets taken."""
        self.pending_error()
        conn = self.conn
        if conn is None or not (self.connected or self.connecting):
            raise Fault("EPIPE")
        if conn.fin_queued or conn.state is State.CLOSED:
            raise Fault("EPIPE")
        if self.connecting:
            raise WouldBlock
        taken = conn.send(data)
        self.touch()
        if not taken and data:
            raise WouldBlock
        return taken

    def recv(self, size: int, peek: bool = False) -> bytes:
        """Return up to `size` octets, none at the end of the stream."""
        conn = self.conn
        if conn is None or self.listening:
            raise Fault("ENOTCONN")
        if conn.rcv_queued:
            data = b"".join(bytes(part) for part in conn.received())[:size]
            if not peek:
                conn.consume(len(data))
                self.touch()
            return data
        self.pending_error()
        if conn.eof or conn.state is State.CLOSED:
            return b""
        raise WouldBlock

    # Ending.

    def shutdown(self, how: int) -> int:
        """End one direction or both."""
        conn = self.conn
        if conn is None or not self.connected or conn.state is State.CLOSED:
            raise Fault("ENOTCONN")
        if how:
            conn.shutdown()
            self.touch()
        return 0

    def close(self) -> int:
        """Close by the linger option; a listener resets what nobody accepted."""
        if self.listening and self.local is not None:
            addr, port = self.local
            self.lab.stack.tcp.listeners.pop((addr if any(addr) else None, port), None)
            for child in (*self.opening, *self.ready):
                child.abort()
        conn = self.conn
        if conn is None:
            return 0
        if self.linger[0] and not self.linger[1]:
            conn.abort()
        else:
            conn.close()
        self.touch()
        return 0

    def abort(self) -> None:
        """Reset the connection."""
        if self.conn is not None:
            self.conn.abort()
            self.touch()

    def queued(self, request: int) -> int:
        """Return what is unread, or not yet acknowledged."""
        conn = self.conn
        if conn is None or self.listening:
            raise Fault("EINVAL")
        return conn.rcv_queued if request == SIOCINQ else len(conn.snd_buf)

    def readiness(self) -> int:
        """Return the events of poll(2) that hold."""
        if self.listening:
            return 1 if self.ready else 0
        conn = self.conn
        if conn is None:
            return 4 | 16
        bits = 0
        done = conn.state is State.CLOSED
        over = done or (0 <= conn.rcv_fin < conn.rcv_nxt)
        if conn.rcv_queued or over:
            bits |= 1 | 64
        if over:
            bits |= 0x2000
        if self.connected and (conn.snd_space or conn.fin_queued or done):
            bits |= 4
        if done or (over and conn.fin_queued):
            bits |= 16 | 4
        return bits | (8 if self.error else 0)


def replaced(config: Config, changes: dict[str, Any]) -> Config:
    """Return `config` with `changes`, which must name fields of this stack's."""
    try:
        return replace(config, **changes)
    except TypeError as e:
        raise ScriptError(f"expected an option that this stack has, found {[*changes]}") from e

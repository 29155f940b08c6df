"""All connections of one guest, as a machine without I/O (virtio 1.2, 5.10.6).

Headers go in with `receive`, control packets come out of `transmit`; payload never comes here:
whoever drives the machine moves it, as `receive` (to whom, how much) and `data` (its header) say.
A guest that breaks a rule loses that connection, with RST; what is for nobody is answered with RST.
All that can wait here is bounded by `limit` connections and RESETS_MAX answers: while `full`, the
driver is to take nothing more from the guest.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import fields

from .connection import MASK, Cause, Connection, State, Want
from .events import Closed, Credit, Established, Event, Offered, PeerShutdown, Statistics
from .wire import HOST_CID, STREAM, Op, Repr, Shutdown, emit

BUF_ALLOC = 256 << 10  # bytes that a connection may hold for its host end, as Linux's default
LIMIT = 1024  # connections
RESETS_MAX = 256
LINGER = 30.0  # seconds from our SHUTDOWN to a RST, if the guest sends none (HyperKit's)
FIRST_PORT = 1 << 30  # of our own ends; those below are for services
_WANTS = (
    (Want.REQUEST, Op.REQUEST),
    (Want.RESPONSE, Op.RESPONSE),
    (Want.CREDIT_UPDATE, Op.CREDIT_UPDATE),
    (Want.CREDIT_REQUEST, Op.CREDIT_REQUEST),
    (Want.SHUTDOWN, Op.SHUTDOWN),
)


class Table:
    """The connections of the guest with `guest_cid`; see the module's docstring.

    `own_cid` is the host's; a guest for tests has its own there and the host's as `guest_cid`.
    """

    def __init__(
        self,
        guest_cid: int,
        *,
        limit: int = LIMIT,
        buf_alloc: int = BUF_ALLOC,
        own_cid: int = HOST_CID,
    ) -> None:
        self.guest_cid = guest_cid
        self._own_cid = own_cid
        self._limit = limit
        self._buf_alloc = buf_alloc
        self._connections: dict[tuple[int, int], Connection] = {}
        self._wanting: dict[Connection, None] = {}  # in order
        self._resets: dict[tuple[int, int, int, int], None] = {}  # cid, port, guest's, type
        self._events: deque[Event] = deque()
        self._timers: list[tuple[float, int, Connection]] = []
        self._serial = itertools.count()
        self._next_port = FIRST_PORT
        self._counters = {field.name: 0 for field in fields(Statistics)}

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def full(self) -> bool:
        """True while so many answers wait that nothing more should be received."""
        return len(self._resets) >= RESETS_MAX

    def statistics(self) -> Statistics:
        """Return counters since the table was made."""
        return Statistics(**self._counters | {"connections": len(self)})

    def _count(self, name: str, more: int = 1) -> None:
        self._counters[name] += more

    # The four verbs.

    def receive(self, packet: Repr, room: int, now: float) -> Connection | None:
        """Take a header with `room` bytes behind it.

        Returns the connection whose payload the first `packet.len` of them are, if there is one
        that wants it: its host end is to take them, and to say `consumed` when it did.
        """
        self._count("packets_in")
        ours = packet.src_cid == self.guest_cid and packet.dst_cid == self._own_cid
        if not ours or packet.type != STREAM:
            self._count("misaddressed")
            self._answer(packet)
            return None
        connection = self._connections.get((packet.src_port, packet.dst_port))
        if connection is None:
            self._receive_new(packet)
            return None
        blocked = not connection.credit
        if not connection.take_credit(packet):
            self._violate(connection, "consumed more than was sent")
            return None
        handler = _HANDLERS.get(packet.op)
        taker = handler and handler(self, connection, packet, room)
        if handler is None:
            self._violate(connection, f"operation {packet.op}")
        if blocked and connection.credit:
            self._events.append(Credit(connection))
        return taker

    def waiting(self, now: float) -> bool:
        """Say whether `transmit` has something."""
        self._expire(now)
        while self._wanting and not next(iter(self._wanting)).want:
            del self._wanting[next(iter(self._wanting))]
        return bool(self._wanting or self._resets)

    def transmit(self, now: float) -> bytes | None:
        """Return the next control packet; they go before any data."""
        if not self.waiting(now):
            return None
        if self._wanting:
            connection = next(iter(self._wanting))
            want, op = next(pair for pair in _WANTS if connection.want & pair[0])
            connection.want &= ~want
            flags = connection.shutdown if op is Op.SHUTDOWN else 0
            return self._emit(connection, op, flags=flags)
        key = next(iter(self._resets))
        del self._resets[key]
        self._count("packets_out")
        self._count("resets")
        cid, port, guest_port, kind = key
        return emit(Repr(cid, self.guest_cid, port, guest_port, type=kind, op=Op.RST))

    def deadline(self) -> float | None:
        """Return when `transmit` is to be called though nothing happened."""
        while self._timers and self._timers[0][2].deadline != self._timers[0][0]:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    @property
    def has_events(self) -> bool:
        """True while `next_event` has something."""
        return bool(self._events)

    def next_event(self) -> Event | None:
        """Return what happened next."""
        return self._events.popleft() if self._events else None

    # What the user of a connection does.

    def connect(self, guest_port: int, deadline: float) -> Connection | None:
        """Ask the guest for a connection; None when there are too many."""
        if len(self) >= self._limit or self.full:
            return None
        while (guest_port, self._next_port) in self._connections:
            self._take_port()
        connection = Connection(guest_port, self._next_port, State.REQUESTED, self._buf_alloc)
        self._take_port()
        self._connections[guest_port, connection.host_port] = connection
        self._arm(connection, deadline)
        self._ask(connection, Want.REQUEST)
        return connection

    def _take_port(self) -> None:
        self._next_port = FIRST_PORT | self._next_port + 1 & FIRST_PORT - 1

    def accept(self, connection: Connection) -> None:
        """Answer a connection that the guest offered."""
        if connection.move(Cause.ACCEPT):
            self._ask(connection, Want.RESPONSE)

    def data(self, connection: Connection, size: int) -> bytes:
        """Return the header of `size` bytes of payload, at most the connection's credit."""
        self.sent(connection, size, 1)
        return self._packet(connection, Op.RW, size)

    def header(self, connection: Connection) -> bytes:
        """Return a header of data as `data` does, without its length; `sent` follows."""
        return self._packet(connection, Op.RW)

    def sent(self, connection: Connection, size: int, packets: int) -> None:
        """Take note that so many packets with `header` carried `size` bytes."""
        assert 0 < size <= connection.credit
        connection.tx_cnt = connection.tx_cnt + size & MASK
        connection.want &= ~(Want.CREDIT_UPDATE | Want.CREDIT_REQUEST)
        connection.fwd_told = connection.fwd_cnt
        self._count("octets_out", size)
        self._count("packets_out", packets)

    def consumed(self, connection: Connection, size: int) -> None:
        """Say that the host's end took `size` of the bytes that it was given."""
        connection.consumed(size)
        if connection.want and connection.state is State.ESTABLISHED:
            self._wanting[connection] = None

    def blocked(self, connection: Connection) -> None:
        """Ask the guest for its room: there is something to send and none."""
        if connection.state is State.ESTABLISHED and not connection.asked:
            connection.asked = True
            self._ask(connection, Want.CREDIT_REQUEST)

    def shut_down(self, connection: Connection) -> None:
        """Send no more (half close)."""
        if connection.state is State.ESTABLISHED and not connection.shutdown & Shutdown.SEND:
            connection.shutdown |= Shutdown.SEND
            self._ask(connection, Want.SHUTDOWN)

    def close(self, connection: Connection, now: float) -> None:
        """Send and receive no more; what was sent still arrives."""
        if connection.state is not State.ESTABLISHED or connection.peer_shutdown == Shutdown.BOTH:
            self.reset(connection)  # 5.10.6.5: the answer to SHUTDOWN of both
            return
        connection.move(Cause.CLOSE)
        connection.shutdown = Shutdown.BOTH
        connection.fwd_cnt = connection.rx_cnt
        self._arm(connection, now + LINGER)
        self._ask(connection, Want.SHUTDOWN)

    def reset(self, connection: Connection) -> None:
        """End the connection at once; there is no event."""
        if connection.state is State.CLOSED:
            return
        if not connection.want & Want.REQUEST:  # else the guest never heard of it
            port, guest_port = connection.host_port, connection.guest_port
            self._resets[self._own_cid, port, guest_port, STREAM] = None
        self._drop(connection)

    def restart(self) -> None:
        """The driver begins anew: what it knew is gone, what it was not asked yet goes on."""
        self._resets.clear()
        for connection in list(self._connections.values()):
            if not connection.want & Want.REQUEST:
                self._drop(connection)
                self._events.append(Closed(connection, "the guest's driver was reset"))

    # Inside.

    def _ask(self, connection: Connection, want: int) -> None:
        connection.want |= want
        self._wanting[connection] = None

    def _arm(self, connection: Connection, deadline: float) -> None:
        connection.deadline = deadline
        heapq.heappush(self._timers, (deadline, next(self._serial), connection))
        if len(self._timers) > 4 * self._limit:  # of connections that ended in time, mostly
            self._timers = [timer for timer in self._timers if timer[2].deadline == timer[0]]
            heapq.heapify(self._timers)

    def _expire(self, now: float) -> None:
        while (deadline := self.deadline()) is not None and deadline <= now:
            connection = heapq.heappop(self._timers)[2]
            self.reset(connection)
            self._events.append(Closed(connection, "the guest does not answer"))

    def _drop(self, connection: Connection) -> None:
        connection.move(Cause.RESET)
        connection.deadline = 0.0
        connection.want = Want.NONE
        self._wanting.pop(connection, None)
        self._connections.pop((connection.guest_port, connection.host_port), None)

    def _emit(self, connection: Connection, op: Op, size: int = 0, flags: int = 0) -> bytes:
        self._count("packets_out")
        connection.fwd_told = connection.fwd_cnt
        return self._packet(connection, op, size, flags)

    def _packet(self, connection: Connection, op: Op, size: int = 0, flags: int = 0) -> bytes:
        return emit(
            Repr(
                self._own_cid,
                self.guest_cid,
                connection.host_port,
                connection.guest_port,
                size,
                STREAM,
                op,
                flags,
                connection.buf_alloc,
                connection.fwd_cnt & MASK,
            )
        )

    def _answer(self, packet: Repr) -> None:
        """Answer with RST, but never a RST."""
        if packet.op != Op.RST:
            self._resets[packet.dst_cid, packet.dst_port, packet.src_port, packet.type] = None

    def _violate(self, connection: Connection, why: str) -> None:
        self._count("violations")
        self.reset(connection)
        self._events.append(Closed(connection, f"the guest broke a rule: {why}"))

    def _receive_new(self, packet: Repr) -> None:
        if packet.op != Op.REQUEST:
            self._count("unknown")
            self._answer(packet)
        elif len(self) >= self._limit:
            self._count("over_limit")
            self._answer(packet)
        else:
            ports = packet.src_port, packet.dst_port
            connection = Connection(*ports, State.OFFERED, self._buf_alloc)
            connection.take_credit(packet)
            self._connections[ports] = connection
            self._events.append(Offered(connection))

    # One method an operation, on a connection that exists.

    def _response(self, connection: Connection, packet: Repr, room: int) -> None:
        if connection.want & Want.REQUEST or not connection.move(Cause.RESPONSE):
            self._violate(connection, "answered what was not asked")
            return
        connection.deadline = 0.0
        self._events.append(Established(connection))

    def _rst(self, connection: Connection, packet: Repr, room: int) -> None:
        clean = connection.state is State.CLOSING or connection.peer_shutdown == Shutdown.BOTH
        refused = connection.state is State.REQUESTED
        self._drop(connection)
        why = "the guest refused it" if refused else "the guest reset it"
        self._events.append(Closed(connection, why, clean))

    def _shutdown(self, connection: Connection, packet: Repr, room: int) -> None:
        if connection.state not in (State.ESTABLISHED, State.CLOSING):
            self._violate(connection, "shut down what was not established")
            return
        connection.peer_shutdown |= packet.flags & Shutdown.BOTH
        if connection.state is State.ESTABLISHED:
            self._events.append(PeerShutdown(connection))
        elif connection.peer_shutdown == Shutdown.BOTH:
            self.reset(connection)
            self._events.append(Closed(connection, "closed by both", True))

    def _rw(self, connection: Connection, packet: Repr, room: int) -> Connection | None:
        if connection.state not in (State.ESTABLISHED, State.CLOSING):
            self._violate(connection, "sent to what was not established")
        elif packet.len > room:
            self._violate(connection, f"{packet.len} bytes of payload in a buffer of {room}")
        elif connection.peer_shutdown & Shutdown.SEND and packet.len:
            self._violate(connection, "sent after it had said that it would not")
        elif not connection.receive(packet.len):
            self._violate(connection, f"{packet.len} bytes, more than it had credit for")
        elif connection.state is State.CLOSING:
            connection.fwd_cnt = connection.rx_cnt  # nobody is there to read it
        elif packet.len:
            self._count("octets_in", packet.len)
            return connection
        return None

    def _credit_update(self, connection: Connection, packet: Repr, room: int) -> None: ...

    def _credit_request(self, connection: Connection, packet: Repr, room: int) -> None:
        if connection.state in (State.ESTABLISHED, State.CLOSING):
            self._ask(connection, Want.CREDIT_UPDATE)

    def _request(self, connection: Connection, packet: Repr, room: int) -> None:
        self._violate(connection, "asked for it twice")


_Handler = Callable[[Table, Connection, Repr, int], Connection | None]
_HANDLERS: dict[int, _Handler] = {
    Op.REQUEST: Table._request,
    Op.RESPONSE: Table._response,
    Op.RST: Table._rst,
    Op.SHUTDOWN: Table._shutdown,
    Op.RW: Table._rw,
    Op.CREDIT_UPDATE: Table._credit_update,
    Op.CREDIT_REQUEST: Table._credit_request,
}

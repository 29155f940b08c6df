"""Tables of connections: a pair of them, host and guest, and packets that no guest should send."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hypervisor.vsock import wire
from hypervisor.vsock.connection import Connection, State, Want
from hypervisor.vsock.events import (
    Closed,
    Credit,
    Established,
    Event,
    Offered,
    PeerShutdown,
)
from hypervisor.vsock.table import FIRST_PORT, LINGER, RESETS_MAX, Table
from hypervisor.vsock.wire import Op, Repr, Shutdown

CID = 3
ROOM = 65536
BUFFER = 1000


class Pair:
    """A host's table and a guest's, with a wire between them and a clock that stands."""

    def __init__(self, **options: int) -> None:
        self.host = Table(CID, **options)
        self.guest = Table(2, own_cid=CID, **options)
        self.now = 0.0
        self.seen: list[str] = []

    def settle(self) -> list[Event]:
        """Move control packets until there are none; returns the events of both sides."""
        events: list[Event] = []
        for _ in range(100):
            moved = False
            for source, sink in ((self.host, self.guest), (self.guest, self.host)):
                while (data := source.transmit(self.now)) is not None:
                    moved = True
                    packet = wire.parse(data)
                    self.seen.append(Op(packet.op).name)
                    assert sink.receive(packet, 0, self.now) is None
                while (event := sink.next_event()) is not None:
                    events.append(event)
            if not moved:
                return events
        raise AssertionError("they never stop talking")

    def connect(self) -> tuple[Connection, Connection]:
        """Return both ends of a connection from the host."""
        ours = self.host.connect(80, self.now + 5)
        assert ours is not None
        (offered,) = self.settle()
        assert isinstance(offered, Offered)
        self.guest.accept(offered.connection)
        assert self.settle()[0] == Established(ours)
        return ours, offered.connection

    def send(self, source: Table, sink: Table, connection: Connection, size: int) -> None:
        packet = wire.parse(source.data(connection, size))
        taker = sink.receive(packet, size, self.now)
        assert taker is not None
        assert (taker.guest_port, taker.host_port) == (connection.host_port, connection.guest_port)


def test_request_and_response() -> None:
    pair = Pair()
    ours, theirs = pair.connect()
    assert ours.state is theirs.state is State.ESTABLISHED
    assert ours.host_port == FIRST_PORT
    assert pair.seen == ["REQUEST", "RESPONSE"]
    assert ours.credit == theirs.credit == 256 << 10
    assert len(pair.host) == len(pair.guest) == 1


def test_a_refusal() -> None:
    pair = Pair()
    ours = pair.host.connect(80, 5)
    (offered,) = pair.settle()
    pair.guest.reset(offered.connection)
    assert pair.settle() == [Closed(ours, "the guest refused it")]  # type: ignore[arg-type]
    assert len(pair.host) == len(pair.guest) == 0


def test_credit_runs_out_and_comes_back() -> None:
    pair = Pair(buf_alloc=BUFFER)
    ours, theirs = pair.connect()
    pair.send(pair.host, pair.guest, ours, 600)
    pair.send(pair.host, pair.guest, ours, 400)
    assert ours.credit == 0
    assert theirs.held == BUFFER
    pair.host.blocked(ours)
    pair.host.blocked(ours)  # asks once
    assert pair.settle() == []
    assert pair.seen[2:] == ["CREDIT_REQUEST", "CREDIT_UPDATE"]
    pair.guest.consumed(theirs, 100)
    pair.guest.consumed(theirs, 100)
    assert pair.settle() == [Credit(ours)]
    assert ours.credit == 200
    pair.guest.consumed(theirs, 800)
    pair.settle()
    assert ours.credit == BUFFER
    assert theirs.held == 0


def test_no_update_while_the_peer_has_plenty() -> None:
    pair = Pair(buf_alloc=BUFFER)
    ours, theirs = pair.connect()
    for _ in range(4):
        pair.send(pair.host, pair.guest, ours, 100)
        pair.guest.consumed(theirs, 100)
    assert pair.settle() == []
    pair.send(pair.host, pair.guest, ours, 100)
    pair.guest.consumed(theirs, 100)
    pair.settle()
    assert pair.seen[2:] == ["CREDIT_UPDATE"]


def test_data_carries_credit_too() -> None:
    pair = Pair(buf_alloc=BUFFER)
    ours, theirs = pair.connect()
    pair.send(pair.host, pair.guest, ours, 900)
    pair.guest.consumed(theirs, 900)
    assert theirs.want == Want.CREDIT_UPDATE
    pair.send(pair.guest, pair.host, theirs, 1)
    assert not pair.guest.waiting(pair.now)
    assert ours.credit == BUFFER


def test_counters_wrap() -> None:
    pair = Pair(buf_alloc=BUFFER)
    ours, theirs = pair.connect()
    ours.tx_cnt = ours.peer_fwd_cnt = 2**32 - 10
    theirs.rx_cnt = theirs.fwd_cnt = theirs.fwd_told = 2**32 - 10
    for _ in range(5):
        pair.send(pair.host, pair.guest, ours, BUFFER)
        pair.guest.consumed(theirs, BUFFER)
        pair.settle()
        assert ours.credit == BUFFER
    assert ours.tx_cnt == 5 * BUFFER - 10


def test_half_close_and_the_end() -> None:
    pair = Pair()
    ours, theirs = pair.connect()
    pair.host.shut_down(ours)
    assert pair.settle() == [PeerShutdown(theirs)]
    assert theirs.peer_shutdown == Shutdown.SEND
    assert ours.credit == 0
    pair.send(pair.guest, pair.host, theirs, 10)
    pair.guest.close(theirs, pair.now)
    assert pair.settle() == [PeerShutdown(ours)]
    assert ours.peer_shutdown == Shutdown.BOTH
    pair.host.close(ours, pair.now)
    assert pair.settle() == [Closed(theirs, "the guest reset it", True)]
    assert pair.seen[2:] == ["SHUTDOWN", "SHUTDOWN", "RST"]
    assert len(pair.host) == len(pair.guest) == 0


def test_both_close_at_once() -> None:
    pair = Pair()
    ours, theirs = pair.connect()
    pair.host.close(ours, pair.now)
    pair.guest.close(theirs, pair.now)
    assert all(isinstance(event, Closed) and event.clean for event in pair.settle())
    assert len(pair.host) == len(pair.guest) == 0


def test_a_peer_that_does_not_answer_a_close() -> None:
    pair = Pair()
    ours, theirs = pair.connect()
    pair.host.close(ours, pair.now)
    assert pair.host.deadline() == LINGER
    pair.settle()
    assert len(pair.host) == 1
    pair.now = LINGER
    events = pair.settle()
    assert Closed(ours, "the guest does not answer") in events
    assert Closed(theirs, "the guest reset it", True) in events
    assert pair.host.deadline() is None


def test_what_arrives_after_a_close_is_discarded() -> None:
    pair = Pair(buf_alloc=BUFFER)
    ours, theirs = pair.connect()
    pair.host.close(ours, pair.now)
    for _ in range(3):
        packet = wire.parse(pair.guest.data(theirs, BUFFER))
        assert pair.host.receive(packet, BUFFER, pair.now) is None
        theirs.peer_fwd_cnt = theirs.tx_cnt  # as a later packet would say
    assert pair.host.statistics().violations == 0


def test_a_request_times_out() -> None:
    table = Table(CID)
    ours = table.connect(80, 5)
    assert ours is not None
    assert table.deadline() == 5
    assert table.transmit(1) is not None
    assert table.transmit(5) is not None  # RST: the guest may have seen the request
    assert table.next_event() == Closed(ours, "the guest does not answer")


def test_a_driver_that_begins_anew() -> None:
    pair = Pair()
    ours, _ = pair.connect()
    waiting = pair.host.connect(81, 9)
    pair.host.restart()
    assert pair.host.next_event() == Closed(ours, "the guest's driver was reset")
    assert pair.host.next_event() is None
    packet = wire.parse(pair.host.transmit(0) or b"")
    assert (packet.op, packet.dst_port) == (Op.REQUEST, 81)
    assert waiting is not None
    assert waiting.state is State.REQUESTED


def test_limits() -> None:
    table = Table(CID, limit=2)
    for port in (1, 2, 3):
        table.receive(packet(Op.REQUEST, src_port=port), 0, 0)
    assert len(table) == 2
    assert table.statistics().over_limit == 1
    assert table.connect(80, 5) is None
    assert [op(table) for _ in range(2)] == [Op.RST, None]


def test_timers_are_bounded() -> None:
    """Connections that come and go behind one that waits leave only so many timers."""
    pair = Pair(limit=4)
    assert pair.host.connect(9, 0.5) is not None
    pair.settle()
    for _ in range(50):
        ours, theirs = pair.connect()
        pair.host.close(ours, pair.now)
        pair.settle()
        pair.guest.close(theirs, pair.now)
        pair.settle()
    assert len(pair.host) == 1
    assert len(pair.host._timers) <= 16
    assert pair.host.deadline() == 0.5


def test_answers_are_bounded() -> None:
    table = Table(CID)
    for port in range(RESETS_MAX - 1):
        table.receive(packet(Op.RW, src_port=port), 0, 0)
    assert not table.full
    table.receive(packet(Op.RW, src_port=99_999), 0, 0)
    assert table.full
    assert table.connect(80, 5) is None
    assert op(table) is Op.RST
    assert not table.full


def packet(op: int, **fields: int) -> Repr:
    """Return a packet of the guest's to port 80."""
    return replace(Repr(CID, 2, 1024, 80, op=op, buf_alloc=4096), **fields)  # type: ignore[arg-type]


def op(table: Table) -> Op | None:
    """Return what the table sends next."""
    data = table.transmit(0)
    return None if data is None else Op(wire.parse(data).op)


@pytest.mark.parametrize(
    ("found", "counter"),
    [
        (packet(Op.RW), "unknown"),
        (packet(Op.RESPONSE), "unknown"),
        (packet(Op.SHUTDOWN, flags=3), "unknown"),
        (packet(99), "unknown"),
        (packet(Op.REQUEST, dst_cid=1), "misaddressed"),
        (packet(Op.REQUEST, src_cid=4), "misaddressed"),
        (packet(Op.REQUEST, type=2), "misaddressed"),
        (packet(Op.REQUEST, type=0xFFFF), "misaddressed"),
    ],
    ids=str,
)
def test_what_is_for_nobody_is_answered_with_rst(found: Repr, counter: str) -> None:
    table = Table(CID)
    assert table.receive(found, 0, 0) is None
    answer = wire.parse(table.transmit(0) or b"")
    assert answer.op == Op.RST
    assert (answer.src_cid, answer.dst_cid) == (found.dst_cid, CID)
    assert (answer.src_port, answer.dst_port) == (found.dst_port, found.src_port)
    assert answer.type == found.type
    assert getattr(table.statistics(), counter) == 1
    assert table.receive(replace(found, op=Op.RST), 0, 0) is None
    assert table.transmit(0) is None


ESTABLISHED = [
    (packet(Op.REQUEST), 0, "asked for it twice"),
    (packet(Op.RESPONSE), 0, "not asked"),
    (packet(Op.INVALID), 0, "operation 0"),
    (packet(8), 0, "operation 8"),
    (packet(Op.RW, len=11), 10, "11 bytes of payload in a buffer of 10"),
    (packet(Op.RW, len=2**32 - 1), 10, "bytes of payload"),
    (packet(Op.RW, len=BUFFER + 1), ROOM, "more than it had credit for"),
    (packet(Op.CREDIT_UPDATE, fwd_cnt=1), 0, "consumed more than was sent"),
]


@pytest.mark.parametrize(("found", "room", "why"), ESTABLISHED, ids=lambda value: str(value))
def test_a_broken_rule_ends_that_connection_alone(found: Repr, room: int, why: str) -> None:
    table = Table(CID, buf_alloc=BUFFER)
    connections = []
    for port in (1024, 1025):
        table.receive(packet(Op.REQUEST, src_port=port), 0, 0)
        event = table.next_event()
        assert isinstance(event, Offered)
        table.accept(event.connection)
        connections.append(event.connection)
        assert op(table) is Op.RESPONSE
    assert table.receive(found, room, 0) is None
    event = table.next_event()
    assert isinstance(event, Closed)
    assert event.connection is connections[0]
    assert why in event.why
    assert op(table) is Op.RST
    assert table.statistics().violations == 1
    assert connections[0].state is State.CLOSED
    assert connections[1].state is State.ESTABLISHED


@pytest.mark.parametrize("kind", [Op.RW, Op.SHUTDOWN, Op.RESPONSE])
def test_nothing_before_an_answer(kind: Op) -> None:
    table = Table(CID)
    table.receive(packet(Op.REQUEST), 0, 0)
    table.receive(packet(kind, len=1), 1, 0)
    assert table.statistics().violations == 1


def test_data_after_shutdown_breaks_a_rule() -> None:
    pair = Pair()
    ours, theirs = pair.connect()
    pair.guest.shut_down(theirs)
    pair.settle()
    late = packet(Op.RW, src_port=80, dst_port=ours.host_port, len=1)
    assert pair.host.receive(late, 1, 0) is None
    assert pair.host.statistics().violations == 1


def test_an_older_packet_changes_no_count() -> None:
    """Two processors of the guest fill packets in one order and send them in the other."""
    pair = Pair(buf_alloc=BUFFER)
    ours, theirs = pair.connect()
    pair.send(pair.host, pair.guest, ours, 500)
    pair.guest.consumed(theirs, 500)
    pair.settle()
    assert ours.peer_fwd_cnt == 500
    older = packet(
        Op.CREDIT_UPDATE, src_port=80, dst_port=ours.host_port, fwd_cnt=400, buf_alloc=BUFFER
    )
    pair.host.receive(older, 0, 0)
    assert ours.peer_fwd_cnt == 500
    assert ours.state is State.ESTABLISHED


def test_a_guest_that_shrinks_its_buffer_has_no_room() -> None:
    pair = Pair(buf_alloc=BUFFER)
    ours, _ = pair.connect()
    pair.send(pair.host, pair.guest, ours, 500)
    smaller = packet(Op.CREDIT_UPDATE, src_port=80, dst_port=ours.host_port, buf_alloc=100)
    pair.host.receive(smaller, 0, 0)
    assert ours.credit == 0


def test_ports_of_ours_are_not_used_twice() -> None:
    table = Table(CID)
    table.receive(packet(Op.REQUEST, src_port=80, dst_port=FIRST_PORT), 0, 0)
    connection = table.connect(80, 5)
    assert connection is not None
    assert connection.host_port == FIRST_PORT + 1

"""The express lane in C: what it takes, what ends a lease, and what it leaves behind then."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from vpnstack.core._core import ffi, lib

from .test_fuzz_core import load

target, world = load("fuzz_lane"), load("laneworld")
MASK = 0xFFFFFFFF
WHY = {getattr(lib, f"LEASE_{n}"): n for n in (
    "GOES_ON", "UNEXPECTED", "HOST_FULL", "HOST_EOF", "BULK", "WINDOW", "TIMEOUT", "HOST_DEAD",
)}  # fmt: skip


@pytest.fixture(params=[4, 6])
def w(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = world.World(request.param)
    assert made.offer()
    yield made
    made.close()


def with_ce(tmpl: bytes) -> bytes:
    second = tmpl[15] | (3 if tmpl[14] >> 4 == 4 else 0x30)
    return tmpl[:15] + bytes([second]) + tmpl[16:]


def why(w: Any) -> str:
    return WHY[w.recall()]


def test_data_goes_to_the_host(w: Any) -> None:
    assert w.receive(w.data(100), w.data(200)) == 0
    assert w.take() == 300
    assert w.became.taken == 2
    assert w.became.made == 0
    assert w.lease.ack_bytes == 300


def test_every_second_full_segment_is_acknowledged(w: Any) -> None:
    w.receive(w.data(1448))
    w.receive(w.data(1448))
    assert w.g_una == 2896
    assert not w.owes()
    assert lib.lane_deadline(w.lane) == 0


def test_delayed_acknowledgement(w: Any) -> None:
    start = w.now
    w.receive(w.data(10))
    assert lib.lane_deadline(w.lane) == start + 0.04
    w.advance(0.03)
    assert w.g_una == 0
    w.advance(0.02)
    assert w.g_una == 10
    assert w.lease is not None
    assert lib.lane_deadline(w.lane) == 0


def test_answer_carries_the_acknowledgement(w: Any) -> None:
    w.receive(w.data(10))
    w.give(5)
    w.look()
    assert (w.g_una, w.g_rcv) == (10, 5)
    assert not w.owes()
    w.receive(w.data(10))
    assert w.lease.snd_una == w.lease.snd_nxt
    assert w.lease.ring_cap == 0


def test_sequence_numbers_wrap(w: Any) -> None:
    """Both directions cross 2**32 in exchanges of 700 octets."""
    for _ in range(12):
        assert w.receive(w.data(700)) == 0
        w.give(700)
        w.look()
    assert w.take() == w.g_rcv == 8400
    assert w.lease.rcv_nxt < 10_000 > w.lease.snd_nxt
    assert why(w) == "GOES_ON"


def test_acknowledgements_due_in_order() -> None:
    """A lease that began with its delay half over is due before older ones."""
    a, b = world.World(), world.World()
    a.offer()
    a.receive(a.data(1))
    b.now -= 0.01
    b.receive(b.data(1))
    b.now = a.now
    b.lane, b.key = a.lane, a.key[:32] + b"\1\1" + a.key[34:]
    b.offer()
    assert lib.lane_deadline(a.lane) == pytest.approx(a.now + 0.03)
    lib.lane_expire(a.lane, a.now + 0.03, a.out.array, 64, a.became)
    assert (a.became.n_look, a.became.made) == (0, 1)
    assert a.lease.owes
    assert not b.lease.owes
    lib.lane_recall(a.lane, b.lease)
    b.lease = None
    a.close()
    b.close()


HOSTILE = {
    "old data": lambda w: w.segment(w.g_nxt - 10, 10),
    "gap": lambda w: w.segment(w.g_nxt + 1, 10),
    "keepalive": lambda w: w.segment(w.g_nxt - 1, 0),
    "beyond the window": lambda w: w.segment(w.g_nxt, 9000, gso_size=1448),
    "FIN": lambda w: w.segment(w.g_nxt, 0, flags=0x11),
    "SYN": lambda w: w.segment(w.g_nxt, 0, flags=0x12),
    "RST": lambda w: w.segment(w.g_nxt, 0, flags=0x14),
    "URG": lambda w: w.segment(w.g_nxt, 3, flags=0x30, urg=1),
    "ECE": lambda w: w.segment(w.g_nxt, 0, flags=0x50),
    "CWR": lambda w: w.segment(w.g_nxt, 0, flags=0x90),
    "AE": lambda w: w.segment(w.g_nxt, 0, flags=0x110),
    "no ACK": lambda w: w.segment(w.g_nxt, 0, flags=0),
    "ACK of nothing sent": lambda w: w.segment(w.g_nxt, 0, ack=w.iss + 2 + w.g_rcv & MASK),
    "old ACK": lambda w: w.segment(w.g_nxt, 0, ack=w.iss & MASK),
    "SACK": lambda w: w.segment(w.g_nxt, 0, opts=b"\1\1\5\x0a" + bytes(8)),
    "no timestamp": lambda w: w.segment(w.g_nxt, 0, opts=b""),
    "old timestamp": lambda w: w.segment(w.g_nxt, 0, tsval=99),
    "bad options": lambda w: w.segment(w.g_nxt, 0, opts=b"\x08\x20\0\0"),
    "other station": lambda w: w.segment(w.g_nxt, 0, tmpl=w.to_us[:6] + b"\6" * 6 + w.to_us[12:]),
    "CE mark": lambda w: w.segment(w.g_nxt, 0, tmpl=with_ce(w.to_us)),
}


@pytest.mark.parametrize("kind", HOSTILE.values(), ids=HOSTILE.keys())
def test_unexpected_ends_the_lease(w: Any, kind: Callable[[Any], Any]) -> None:
    w.receive(w.data(100))
    e = w.lease
    e.rcv_adv = (e.rcv_nxt + 8000) & MASK  # for what is beyond the window
    took, rcv_nxt = e.bytes_in, e.rcv_nxt
    left, _ = w.carry(kind(w), w.segment(w.g_nxt, 5))
    assert left  # and nothing overtakes it:
    assert e.why == lib.LEASE_UNEXPECTED
    assert (e.bytes_in, e.rcv_nxt) == (took, rcv_nxt)
    assert w.take() == 100


def test_nothing_overtakes(w: Any) -> None:
    """Neither data nor an acknowledgement that would be expected."""
    w.give(10)
    w.look()
    left, _ = w.carry(w.segment(1, 10, flags=0x11), w.segment(0, 0), w.segment(0, 10))
    assert left == 3
    assert w.lease.snd_una != w.lease.snd_nxt
    assert why(w) == "UNEXPECTED"


def test_duplicate_acknowledgement_ends_the_lease(w: Any) -> None:
    w.give(10)
    w.lossy = 1
    w.look()
    assert w.receive(w.segment(0, 0)) == 1
    assert w.lease is None
    assert w.conn.snd_nxt - w.conn.snd_una == 10


def test_a_window_update_alone_goes_on(w: Any) -> None:
    w.g_wnd = 20480
    assert w.receive(w.segment(0, 0)) == 0
    assert w.lease.snd_wnd == 20480
    assert why(w) == "GOES_ON"
    assert w.conn.snd_wnd == 20480


@pytest.mark.parametrize("n", [1, 1448, 2896])
def test_data_with_a_closing_window_is_acknowledged(w: Any, n: int) -> None:
    """The lease ends with nothing left for Python: the debt must not be forgotten."""
    w.g_wnd = 0
    assert w.receive(w.data(n)) == 0
    assert w.lease.why == lib.LEASE_WINDOW
    w.advance(0.041)
    w.advance(0.041)
    assert w.g_una == n


def test_data_before_a_frame_that_goes_astray_is_acknowledged(w: Any) -> None:
    """The frame that ended the lease never gets to Python, as its source is no station's."""
    other = w.segment(1, 0, tmpl=w.to_us[:6] + b"\6" * 6 + w.to_us[12:])
    w.carry(w.data(1), other)
    assert w.lease.why == lib.LEASE_UNEXPECTED
    w.advance(0.041)
    assert w.g_una == 1


def full(w: Any, size: int = 1448) -> int:
    """Send until the host's socket is full and half a window waits; return how much it took."""
    w.host.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for _ in range(500):
        if w.lease.kept_n and w.edge - w.g_nxt <= w.lease.rcv_buf // 2:
            break
        w.receive(w.data(min(size, w.edge - w.g_nxt)))
    return int(w.g_nxt - w.lease.kept_n)


def test_full_host(w: Any) -> None:
    """What does not fit is kept, which closes the window; nothing is lost or doubled."""
    took = full(w)
    e = w.lease
    assert e.full
    assert w.writing
    while w.edge > w.g_nxt:
        w.receive(w.data(min(1448, w.edge - w.g_nxt)))
    w.receive(w.segment(w.g_nxt, 0))
    w.advance(0.05)
    assert w.g_una == w.g_nxt == w.edge
    assert e.kept_n == w.g_nxt - took <= e.rcv_buf < e.kept_n + 128
    assert w.take() == took
    w.look()
    assert w.edge > w.g_nxt + 4096  # a window update, before all is gone
    while w.take():
        w.look()
    assert w.got == w.g_nxt
    assert (e.full, e.kept_cap, w.writing) == (0, 0, False)
    assert w.edge == w.g_nxt + e.rcv_buf >> 7 << 7 or w.edge > w.g_nxt + e.rcv_buf // 2
    assert why(w) == "GOES_ON"


def test_kept_is_moved_and_grows() -> None:
    """A queue that is long and never empty, as the host takes only as much as comes."""
    w = world.World(sndbuf=4096, first_buf=1 << 18)
    w.offer()
    assert full(w, 9000)
    for n in (1, 700, 1448, 9000, 30000) * 20:
        w.take(n)
        w.look()
        w.receive(w.data(min(n, w.edge - w.g_nxt)))
        assert w.lease.kept_n
        assert w.lease.kept_cap <= 4 * 1 << 18
    while w.take():
        w.look()
    assert w.got == w.g_nxt
    assert why(w) == "GOES_ON"
    w.close()


@pytest.mark.parametrize("flags", [0x11, 0x14])
def test_end_of_the_guest_with_data_kept(w: Any, flags: int) -> None:
    """What was acknowledged goes to the host before a FIN; a reset needs no more."""
    took = full(w)
    n = w.g_nxt
    w.receive(w.segment(n, 0, flags=flags))
    assert w.lease is None
    if flags == 0x14:
        assert w.conn.state.name == "CLOSED"
        return
    assert w.conn.rcv_queued == n - took
    while w.take():
        w.look()
    assert w.got == n
    assert w.conn.fin_queued


def test_recall_with_data_kept(w: Any) -> None:
    """Python goes on with what waits, in front of what comes later."""
    full(w)
    assert w.recall() == lib.LEASE_GOES_ON
    w.receive(w.data(100))
    while w.take():
        w.look()
    assert w.got == w.g_nxt
    w.turn()
    assert w.offer()


def test_no_memory_gives_the_rest_of_a_burst_back() -> None:
    """The frame in the middle of a chain is cut, those behind it are whole; nothing is lost."""
    probe, w = world.World(sndbuf=4096), world.World(sndbuf=4096)
    room = probe.host.send(world.pattern(0, 60000))
    others = exhausted(w)
    w.offer()
    e = w.lease
    sizes = [room - 800, 1000, 700]  # of which the second is cut
    left, burst = w.carry(*[w.data(n) for n in sizes], merge=False)
    assert left == 2
    assert (e.why, e.bytes_in, e.data_in, e.segs_in) == (lib.LEASE_HOST_FULL, room, 1, 1)
    assert [f.data_len for f in burst if f.verdict == lib.FRAME_OK] == [200, 700]
    for f in burst:
        if f.verdict == lib.FRAME_OK:
            assert f.len >= 14  # the switch passes no less
            w.recall()
            w.conn.receive(world.segment_of(f), w.now)
    assert w.conn.rcv_queued == 900
    w.conn.own()
    while w.take():
        w.to_host()
    assert w.got == w.g_nxt == sum(sizes)
    for other in others:
        lib.lane_recall(w.lane, other)
        lib.lease_free(w.lane, other)
    probe.close()
    w.close()


def exhausted(w: Any) -> list[Any]:
    """Take all the memory that a lane has for rings and kept data."""
    n = (1 << 19) + 1  # makes a ring of a MiB
    held = ffi.new("char[]", n)
    leases = []
    while True:
        e = ffi.new("struct lease *")
        e.mss = 1
        e.key = len(leases).to_bytes(40, "big")
        if lib.lease_load(w.lane, e, held, n) < 0:
            break
        leases.append(e)
        assert lib.lane_lend(w.lane, e) == 0
        lib.lane_recall(w.lane, e)
    return leases


@pytest.mark.parametrize("kept", [False, True])
def test_dead_host(w: Any, kept: bool) -> None:
    """Found when writing, at once or when what was kept is to go."""
    if kept:
        full(w)
        w.far.close()
        assert lib.lane_drain(w.lane, w.lease, w.now, w.out.array) < 0
        assert why(w) == "GOES_ON"
        assert w.conn.rcv_queued
        return
    w.far.close()
    left, _ = w.carry(w.data(10))
    assert left == 1
    assert why(w) == "HOST_FULL"


def test_dead_host_is_no_end_of_the_stream() -> None:
    """A reset is told once, by the read that takes it; what was read before still leaves."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    w = bulk()
    near.setblocking(False)
    w.lease.fd = near.fileno()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    far.close()
    assert lib.lane_send(w.lane, w.lease, w.now, w.out.array, 64) == 0
    assert near.recv(1) == b""  # as Python would have read
    assert why(w) == "HOST_DEAD"
    near.close()
    w.close()


def test_host_eof(w: Any) -> None:
    w.far.shutdown(socket.SHUT_WR)
    assert lib.lane_send(w.lane, w.lease, w.now, w.out.array, 64) == 0
    assert why(w) == "HOST_EOF"


def test_nothing_to_read_goes_on(w: Any) -> None:
    assert lib.lane_send(w.lane, w.lease, w.now, w.out.array, 64) == 0
    assert why(w) == "GOES_ON"


def test_slow_start_is_pythons_and_in_order(w: Any) -> None:
    w.give(40000)
    w.look()
    assert w.lease is None
    w.turn()
    assert w.g_rcv == 14480  # the initial window, the lane's part of it included


def bulk(*, iss: int = world.MASK - 100_000, wnd: int = 1 << 21, cwnd: int = 1 << 21) -> Any:
    """Return a world with large windows, its connection lent."""
    w = world.World(cwnd=cwnd, iss=iss)
    w.g_wnd = wnd
    w.receive(w.segment(0, 0))
    w.turn()
    assert w.offer()
    w.look()
    return w


def pour(w: Any, n: int) -> None:
    """Give the host's socket `n` octets, and let the lane send what the windows allow."""
    while n:
        n -= w.give(min(n, 65521))
        w.look()
        w.turn()


def test_flight_is_bounded() -> None:
    """A MiB is in flight at most, whatever the windows are; it all goes back to Python."""
    w = bulk()
    w.lossy = 1000
    pour(w, (1 << 20) + 65536)
    assert w.lease.ring_cap == 1 << 20
    assert w.lease.hungry
    assert why(w) == "GOES_ON"
    assert (1 << 20) - w.conn.mss < len(w.conn.snd_buf) <= 1 << 20
    assert w.conn.snd_nxt - w.conn.snd_una == len(w.conn.snd_buf)
    for at in range(0, len(w.conn.snd_buf), 60000):
        part = bytes(w.conn.snd_buf.peek(at, min(60000, len(w.conn.snd_buf) - at)))
        assert part == world.pattern(at, len(part))
    w.close()


@pytest.mark.parametrize("iss", [0, world.MASK - 300_000, world.MASK, 12345, (1 << 20) - 2])
def test_rings_wrap_and_grow_with_data_in_flight(iss: int) -> None:
    """Of the ring, and of sequence numbers; acknowledgements come at unlucky places."""
    w = bulk(iss=iss)
    caps = set()
    for turn in range(120):
        pour(w, (1, 7000, 30000, 65521, 90000)[turn % 5])
        caps.add(w.lease.ring_cap)
        acked = w.g_una_of((3, 255, 128, 77)[turn % 4] if turn < 100 else 256)
        assert w.receive(w.segment(0, 0, ack=w.iss + 1 + acked & MASK)) == 0
        w.turn()
    assert w.g_rcv == w.sent > 4 << 20
    assert len(caps) > 2
    assert why(w) == "GOES_ON"
    w.close()


def test_a_ring_does_not_grow_below_frames_of_the_turn() -> None:
    """They point into it, and its memory would be the next flow's."""
    w = bulk()
    for _ in range(4):
        w.give(65521)
    made = lib.lane_send(w.lane, w.lease, w.now, w.out.array, 64)
    ring = int(ffi.cast("uintptr_t", w.lease.ring))
    for f in w.out[0], w.out[made - 1]:
        at = int(ffi.cast("uintptr_t", f.iov[f.iovcnt - 1].iov_base)) - ring
        assert 0 <= at < w.lease.ring_cap == 16384
    assert w.lease.queued
    w._made(made)
    w.turn()
    assert w.g_rcv > 16384
    pour(w, 1)
    w.turn()
    assert w.g_rcv == w.sent
    w.close()


def test_lent_with_what_is_in_flight(w: Any) -> None:
    """Its timer runs from when it left, its round trip is measured, its octets are there."""
    w.recall()
    w.turn()
    w.conn.cc.cwnd = 1 << 18
    w.lossy = 1000
    w.give(40000)
    w.look()
    w.turn()
    sent_at = w.now
    assert w.conn.snd_nxt - w.conn.snd_una == 40000
    w.now += 0.01
    assert w.offer()
    assert w.loaded == 1
    assert len(w.conn.snd_buf) == w.conn.sb.pipe == 0
    assert lib.lane_deadline(w.lane) == pytest.approx(sent_at + w.lease.pto)
    assert w.lease.timed_at == sent_at
    w.give(10000)  # nobody looks: the lane does by itself, as it cannot know
    w.lossy = 0
    w.turn()
    assert w.lease.snd_nxt == w.iss + 1 + w.sent & MASK
    w.g_rcv = 40000  # what was lost came another way
    w.now += 0.01
    w.receive(w.segment(0, 0))
    assert w.lease.rtt == pytest.approx(0.02)
    assert w.lease.bytes_acked == 40000
    assert why(w) == "GOES_ON"
    assert bytes(w.conn.snd_buf.peek(0, 10000)) == world.pattern(40000, 10000)


def test_end_of_the_host_with_data_in_flight() -> None:
    w = bulk()
    pour(w, 300_000)
    w.far.shutdown(socket.SHUT_WR)
    w.look()
    assert w.lease is None
    w.receive(w.segment(0, 0))
    w.turn()
    assert (w.g_rcv, w.g_fin) == (300_000, True)
    w.close()


def test_a_recalled_flow_that_is_hungry_says_so() -> None:
    """The windows stopped it, and no edge will tell of what is left."""
    w = bulk(wnd=20480)
    w.lossy = 1000
    pour(w, 65521)
    assert w.lease.hungry
    assert not lib.lane_waiting(w.lane)
    w.receive(w.segment(0, 0, flags=0x50))  # ECE ends the lease
    w.lossy, w.g_wnd = 0, 1 << 20
    w.g_rcv = 20480
    w.receive(w.segment(0, 0))
    w.turn()
    w.turn()
    assert w.g_rcv == w.sent
    w.close()


def test_a_stalled_port() -> None:
    """Its flows wait without being asked again and again, and then go on."""
    w = bulk()
    w.stall(True)
    pour(w, 65521)
    w.give(50000)
    assert w.lease.queued == 2
    assert lib.lane_waiting(w.lane) == 0
    assert w.g_rcv == 0
    w.stall(False)
    assert lib.lane_waiting(w.lane) == 1
    for _ in range(3):
        w.turn()
    assert w.g_rcv == w.sent
    assert why(w) == "GOES_ON"
    w.close()


def test_a_port_that_stalls_while_a_flow_waits() -> None:
    w = bulk()
    for _ in range(8):
        w.give(65521)
    w._made(lib.lane_send(w.lane, w.lease, w.now, w.out.array, 64))
    assert lib.lane_waiting(w.lane) == 1
    sent = w.g_rcv
    w.stall(True)
    w.turn()
    assert lib.lane_waiting(w.lane) == 0
    assert w.g_rcv == sent
    w.stall(False)
    w.stall(True)
    w.stall(False)
    assert lib.lane_waiting(w.lane) == 1
    assert why(w) == "GOES_ON"
    w.close()


def crowd(first: Any, count: int) -> list[Any]:
    """Return worlds whose connections are all on one lane."""
    worlds = [first]
    for i in range(1, count):
        one = world.World(cwnd=1 << 20, first_buf=1 << 19)
        one.g_wnd = 1 << 20
        one.receive(one.segment(0, 0))
        one.turn()
        one.lane = first.lane
        one.key = first.key[:32] + i.to_bytes(2, "big") + first.key[34:]
        assert one.offer()
        worlds.append(one)
    return worlds


def test_every_flow_has_its_turn() -> None:
    """A hundred that have much: none waits for more than two rounds, and a turn is four frames."""
    first = bulk()
    worlds = crowd(first, 100)
    by_lease = {w.lease: w for w in worlds}
    for w in worlds:
        for _ in range(3):
            w.give(65521)
        w._made(lib.lane_send(w.lane, w.lease, w.now, w.out.array, 64))
    assert lib.lane_waiting(first.lane) == 64
    had = {w: w.lease.data_out for w in worlds}
    for _ in range(7):
        lib.lane_resume(first.lane, first.now, first.out.array, 64, first.became)
        assert first.became.made <= 64
        assert first.became.n_look == 0
    turns = [w.lease.data_out - had[w] for w in worlds]
    assert min(turns) >= 1
    assert max(turns) <= 8
    for w in reversed(list(by_lease.values())):  # with all lists full
        w.lossy = 1 << 30
        e, w.lease = w.lease, None
        lib.lane_recall(w.lane, e)
        lib.lease_free(w.lane, e)
    assert lib.lane_octets(first.lane) == lib.lane_waiting(first.lane) == 0
    assert lib.lane_deadline(first.lane) == 0
    for w in reversed(worlds):
        w.close()


def test_more_than_64_silent_flows() -> None:
    """`look` has 64 places: who finds none is looked at next time."""
    first = bulk()
    worlds = crowd(first, 100)
    for w in worlds:
        w.give(100)
        lib.lane_send(w.lane, w.lease, w.now, w.out.array, 64)
    ended: list[Any] = []
    for expected in (64, 36):
        lib.lane_expire(first.lane, first.now + 9, first.out.array, 64, first.became)
        assert first.became.n_look == expected
        looks = [first.became.look[i] for i in range(expected)]
        for w in worlds:
            if w.lease in looks:
                lib.lane_recall(w.lane, w.lease)
                lib.lease_free(w.lane, w.lease)
                ended.append(w)
                w.lease = None
    assert len(set(map(id, ended))) == 100
    assert lib.lane_deadline(first.lane) == 0
    for w in reversed(worlds):
        w.close()


def test_partial_acknowledgements(w: Any) -> None:
    """What is held stays right while its front is acknowledged, again and again."""
    w.lease.cwnd = 60000
    for _ in range(200):
        w.give(700)
        w.look()
        assert w.lease is not None
        acked = (w.iss + 1 + w.g_rcv - 350) & MASK
        assert w.receive(w.segment(0, 0, ack=acked)) == 0
        assert w.lease.ring_cap <= 32768
    assert why(w) == "GOES_ON"
    assert bytes(w.conn.snd_buf.peek(0, 350)) == world.pattern(w.sent - 350, 350)


@pytest.mark.parametrize("window", ["guest", "congestion"])
def test_no_more_than_the_window(w: Any, window: str) -> None:
    if window == "guest":
        w.g_wnd = 2048
        w.receive(w.segment(0, 0))
    else:
        w.lease.cwnd = 2048
    w.give(5000)
    assert lib.lane_send(w.lane, w.lease, w.now, w.out.array, 64) == 1
    assert w.out[0].data_len == 2048
    assert w.lease.hungry
    assert w.lease.why == (lib.LEASE_GOES_ON if window == "guest" else lib.LEASE_BULK)


def test_silence_ends_the_lease(w: Any) -> None:
    w.give(10)
    w.lossy = 1
    w.look()
    pto, start = w.lease.pto, w.now
    w.advance(pto - 0.001)
    assert w.lease is not None
    w.advance(0.001)
    assert w.lease is None
    assert w.now == pytest.approx(start + pto)
    w.turn()
    assert w.g_rcv == 10  # the probe left at once, as it would have without a lease


def test_right_edge_stays(w: Any) -> None:
    """A smaller buffer shows no smaller window than was promised (checked by `arrive`)."""
    w.receive(w.data(1448), w.data(1448))
    w.lease.rcv_buf = 4096
    before = w.edge
    w.receive(w.data(1448), w.data(1448))
    assert w.g_una == 5792
    assert w.edge == before


def test_other_port(w: Any) -> None:
    left, _ = w.carry(w.segment(0, 10), port=2)
    assert left == 1
    assert why(w) == "GOES_ON"


def test_counts_segments_of_the_wire(w: Any) -> None:
    assert w.receive(w.data(4000), w.data(100)) == 0
    assert (w.became.taken, w.became.segments) == (2, 4)
    w.receive(w.data(100), w.data(100), w.data(50))
    assert (w.became.taken, w.became.segments) == (1, 3)  # coalesced


def test_what_cannot_be_lent() -> None:
    w = world.World()
    e = ffi.new("struct lease *")
    assert lib.lane_lend(w.lane, e) < 0  # no segment size
    e.mss, e.tmpl_len = 1448, 105
    assert lib.lane_lend(w.lane, e) < 0
    e.tmpl_len = 38
    assert lib.lane_lend(w.lane, e) == 0
    assert lib.lane_lend(w.lane, e) < 0  # it is
    lib.lane_recall(w.lane, e)
    lib.lane_recall(w.lane, e)
    assert lib.lane_new(3, 0) == ffi.NULL
    w.close()


def test_fuzz_lane() -> None:
    seen = target.run(150)
    assert seen["lent"] > 250
    assert seen["carried"] > 500
    assert min(seen[n] for n in ("loaded", "resumed", "parked", "kept", "kept_much", "flight")) > 0

"""The express lane in C under load: full hosts, rings, turns, stalled ports, many flows."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from vpnstack.core._core import ffi, lib

from .lanes import MASK, bulk, crowd, exhausted, full, pour, why, world


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

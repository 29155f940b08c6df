"""The express lane in C: what it takes, what ends a lease, and what it leaves behind then."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from vpnstack.core._core import ffi, lib

from .lanes import MASK, target, why, world


def with_ce(tmpl: bytes) -> bytes:
    second = tmpl[15] | (3 if tmpl[14] >> 4 == 4 else 0x30)
    return tmpl[:15] + bytes([second]) + tmpl[16:]


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


@pytest.mark.parametrize("count", [50, pytest.param(150, marks=pytest.mark.slow)])
def test_fuzz_lane(count: int) -> None:
    seen = target.run(count)
    assert seen["lent"] > count * 5 / 3
    assert seen["carried"] > count * 10 / 3
    assert min(seen[n] for n in ("loaded", "resumed", "parked", "kept", "kept_much", "flight")) > 0

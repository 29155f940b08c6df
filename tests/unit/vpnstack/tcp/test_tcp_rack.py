"""RFC 8985 (RACK-TLP), RFC 2018 and 2883 (SACK, DSACK), RFC 6937 (PRR)."""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import median

import pytest
from tcp_pair import Link, Pair, connected
from tcp_trace import established

from vpnstack.proto.tcp.block import Phase
from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.congestion.reno import Reno
from vpnstack.proto.tcp.scoreboard import OUT, SACKED
from vpnstack.proto.tcp.segment import Segment

DATA = random.Random(3).randbytes(200_000)


def drop_nth(*which: int) -> Callable[[Segment], bool]:
    """Drop data segments by their order of transmission."""
    seen = [0]

    def drop(seg: Segment) -> bool:
        if not seg.data:
            return False
        seen[0] += 1
        return seen[0] in which

    return drop


def lossy(*which: int, data: bytes = DATA) -> Pair:
    pair = connected(whole=False)
    pair.a.to_send = data
    pair.a.link.drop = drop_nth(*which)
    assert pair.b is not None
    pair.run(20)
    assert bytes(pair.b.got) == data
    return pair


def test_lost_retransmission_needs_no_timeout() -> None:
    pair = lossy(12, 21)  # the 21st is the retransmission of the 12th, or new data: both repaired
    assert pair.a.conn.n_timeouts == 0


def test_the_same_segment_lost_three_times() -> None:
    pair = connected(whole=False)
    assert pair.b is not None
    pair.a.to_send = DATA
    count = {}

    def drop(seg: Segment) -> bool:
        count[seg.seq] = count.get(seg.seq, 0) + 1
        return bool(seg.data) and seg.seq == (1001 + 1448 * 20) and count[seg.seq] <= 3

    pair.a.link.drop = drop
    pair.run(20)
    assert bytes(pair.b.got) == DATA
    assert pair.a.conn.n_timeouts == 0
    assert pair.a.conn.n_retrans == 3


def test_tail_loss_is_probed_before_the_timeout() -> None:
    pair = lossy(5, data=DATA[:5000])  # the last of the flight; 4 before it and nothing behind
    info = pair.a.conn.statistics()
    assert info.tcpi_total_rto == 0
    assert info.tcpi_total_retrans <= 1
    assert pair.b is not None


def test_whole_flight_lost_but_the_probe_shows_it() -> None:
    pair = lossy(7, 8, 9, 10, data=DATA[:14480])
    assert pair.a.conn.n_timeouts == 0


def test_rfc8985_7_4_probe_that_repairs_the_loss_still_halves() -> None:
    pair = connected(whole=False)
    cc = pair.a.conn.cc
    start = cc.cwnd
    pair.a.to_send = DATA[:14480]
    pair.a.link.drop = drop_nth(10)
    pair.run(2)
    pair.a.to_send = DATA[:1448]
    pair.run(2)
    assert cc.ssthresh < start
    assert pair.a.conn.n_timeouts == 0


@pytest.mark.parametrize("seed", range(3))
def test_reordering_is_not_loss_once_it_was_seen(seed: int) -> None:
    pair = connected(whole=False, seed=seed)
    assert pair.b is not None
    pair.a.link = Link(delay=0.02, jitter=0.004)
    pair.a.to_send = DATA * 10
    pair.run(60)
    assert bytes(pair.b.got) == DATA * 10
    assert pair.a.conn.sb.reordered
    assert pair.a.conn.n_timeouts == 0
    assert pair.a.conn.n_retrans <= 10  # of 1382 segments, nearly all of them out of order


def test_slow_start_doubles_on_a_path_that_reorders() -> None:
    """What a SACK tells first counts as much as what is acknowledged in order."""
    t = established(wnd=2000)
    t.conn.sb.reordered = 10_000
    t.conn.send(bytes(40_000))
    t.trace()
    start = t.conn.cc.cwnd
    t.wait(0.01)
    t.inject(".", ack=1, sacks=((1001, 6001),))
    assert t.conn.phase is Phase.OPEN
    t.inject(".", ack=10_001)
    assert t.conn.cc.cwnd == start + 10_000


def test_single_late_segments_cost_no_goodput() -> None:
    """The median of three links on which one segment in fifty arrives four milliseconds late."""
    ratios = []
    for seed in range(3):
        got = []
        for late in (0.0, 0.02):
            big = Config(rcv_buf=1 << 22, snd_buf=1 << 22)
            pair = connected(big, big, whole=False, seed=seed)
            pair.a.link = Link(delay=0.02, rate=2.5e6, queue=0.05, late=late)
            assert pair.b is not None
            pair.b.link.delay = 0.02
            pair.a.to_send = bytes(8_000_000)
            pair.run(3)
            assert pair.a.conn.n_timeouts == 0
            got.append(len(pair.b.got))
        ratios.append(got[1] / got[0])
    assert median(ratios) > 0.95


def test_sacked_neighbours_become_one_record() -> None:
    t = established(wnd=500)
    t.conn.send(bytes(10_000))
    t.trace()
    sb = t.conn.sb
    for left, right in ((3001, 4001), (5001, 6001), (4001, 5001)):
        t.inject(".", ack=1, sacks=((left, right),))
    assert [(r.seq - t.conn.snd_una, r.end - t.conn.snd_una, r.state) for r in sb.records] == [
        (0, 3000, OUT), (3000, 6000, SACKED), (6000, 10_000, OUT)
    ]  # fmt: skip
    assert sb.sacked == 3000
    t.inject(".", ack=1, sacks=((3001, 7001), (1001, 2001)))
    assert (sb.sacked, len(sb.records)) == (5000, 5)  # 0-1 is missing, 1-2 here, 2-3 missing, ...
    t.inject(".", ack=7001)
    assert (sb.sacked, sb.lost, len(sb.records)) == (0, 0, 1)


def test_a_burst_of_acks_over_a_long_flight_is_quick() -> None:
    """What an ACK costs does not grow with the window: 900 of them with a hole at the front."""
    t = established(Config(snd_buf=1 << 20), wnd=8000)
    t.conn.cc.cwnd = t.conn.snd_buf.limit = 1 << 20
    t.conn.send(bytes(1 << 20))
    while t.sent():
        pass
    n = 0
    for at in range(1001, 901_001, 1000):
        t.inject(".", ack=1, sacks=((1001, at + 1000),))
        n = max(n, len(t.conn.sb.records))
    assert t.conn.sb.sacked == 900_000
    assert n < 40  # super-segments of 64 KB, and what the SACKs have split off


def test_dsack_widens_the_window_once_a_round_trip() -> None:
    t = established(wnd=500)
    t.conn.send(bytes(5000))
    t.trace()
    assert t.conn.rack_mult == 1
    t.inject(".", ack=2001, sacks=((1, 1001),))
    assert t.conn.rack_mult == 2
    t.inject(".", ack=2001, sacks=((1, 1001),))
    assert t.conn.rack_mult == 2


def test_sack_marks_and_splits_a_super_segment() -> None:
    t = established()
    t.conn.send(bytes(10_000))
    assert t.trace() == ["P. 1:10001 ack 1"]
    t.wait(0.01)
    t.inject(".", ack=1001, sacks=((2001, 10001),))
    assert t.conn.phase is Phase.RECOVERY
    assert t.trace() == ["P. 1001:2001 ack 1"]
    assert t.conn.statistics().tcpi_sacked == 8


@pytest.mark.parametrize("block", [(5001, 2001), (2001, 90_001), (0, 0)])
def test_senseless_sack_blocks_are_ignored(block: tuple[int, int]) -> None:
    t = established()
    t.conn.send(bytes(10_000))
    t.trace()
    t.inject(".", ack=1, sacks=(block,))
    assert t.conn.sb.sacked == 0


def test_rfc2018_8_reneging_is_survived() -> None:
    t = established()
    t.conn.send(bytes(10_000))
    t.trace()
    t.inject(".", ack=1, sacks=((1, 5001),))  # SACKs the head and never acknowledges it
    while t.conn.sb.sacked:
        t.now = t.conn.deadline() or 0
        segs = t.trace()
    assert segs == ["P. 1:1001 ack 1"]


def test_rfc6937_prr_spreads_the_reduction() -> None:
    t = established(Config(tso=False, congestion=Reno), wnd=5000)
    t.conn.cc.cwnd = 20_000
    t.conn.send(bytes(60_000))
    assert len(t.trace()) == 20
    t.wait(0.02)
    sent = []
    for i in range(2, 20):
        t.inject(".", ack=1, wnd=5000, sacks=((1001, 1001 + 1000 * (i - 1)),))
        sent.append(len(t.trace()))
    assert t.conn.cc.ssthresh == 10_000
    assert max(sent) <= 3
    assert 9 <= sum(sent) <= 13  # about one for two delivered


def test_duplicate_out_of_order_data_is_reported() -> None:
    t = established()
    t.inject(".", seq=1001, data=bytes(100))
    t.trace()
    t.inject(".", seq=1001, data=bytes(100))
    assert t.trace() == [". 1:1 ack 1 sack 1001-1101 sack 1001-1101"]

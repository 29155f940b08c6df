"""Buffers that follow the flow, windows that shrink, probes that slow down, urgent data, cork."""

from __future__ import annotations

from itertools import pairwise

import pytest
from tcp_pair import Link, connected
from tcp_trace import established

from vpnstack.proto.tcp.block import Event
from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.segment import URG
from vpnstack.proto.tcp.state import State


def test_drs_grows_with_what_the_reader_takes_up_to_the_bound() -> None:
    config = Config(rcv_buf=1 << 20)
    pair = connected(config, config)
    pair.a.link = Link(delay=0.05)
    pair.a.to_send = bytes(20_000_000)
    assert pair.b is not None
    assert pair.b.conn.rcv_buf == 1 << 16
    pair.run(4)
    assert len(pair.b.got) == 20_000_000
    assert pair.b.conn.rcv_buf == 1 << 20
    assert max(s.wnd << pair.b.conn.rcv_wscale for _, s in pair.b.sent[1:]) <= 1 << 20


def test_drs_keeps_ahead_of_a_slow_start_from_its_first_round_trip_on() -> None:
    config = Config(rcv_buf=1 << 22, snd_buf=1 << 22)
    pair = connected(config, config)
    pair.a.link = Link(delay=0.05)
    pair.a.to_send = bytes(20_000_000)
    for _ in range(40):
        pair.run(0.01)
        flight = pair.a.conn.snd_nxt - pair.a.conn.snd_una
        assert flight + 1448 < pair.a.conn.snd_wnd  # the congestion window is the smaller one
    assert pair.a.conn.cc.cwnd > 500_000


def test_drs_gives_a_reader_that_does_not_read_nothing() -> None:
    pair = connected()
    pair.a.to_send = bytes(2_000_000)
    assert pair.b is not None
    pair.b.read = False
    pair.run(5)
    assert pair.b.conn.rcv_buf == 1 << 16
    assert pair.b.conn.rcv_queued <= 1 << 16


def test_send_buffer_grows_with_the_window_up_to_the_bound() -> None:
    config = Config(snd_buf=1 << 18)
    pair = connected(config)
    assert pair.a.conn.snd_space == 1 << 16
    pair.a.to_send = bytes(3_000_000)
    pair.run(3)
    assert pair.a.conn.snd_space == 1 << 18


def test_ack_of_every_second_segment_of_the_peers_size() -> None:
    t = established(mss=1460)
    seq, acks = 1, 0
    for _ in range(20):
        t.inject(".", seq=seq, data=bytes(600))
        seq += 600
        acks += len(t.sent())
    assert 9 <= acks <= 11
    assert t.conn.statistics().tcpi_rcv_mss == 600


def test_a_received_super_segment_counts_by_its_segments() -> None:
    t = established()
    t.inject(".", data=bytes(3000), gso_size=1000)
    assert t.conn.rcv_mss == 1000
    assert t.trace() == [". 1:1 ack 3001"]


def test_a_peer_may_shrink_its_window() -> None:
    t = established(Config(tso=False), wnd=500)
    t.conn.send(bytes(20_000))
    assert len(t.trace()) == 10
    t.inject(".", ack=1001, wnd=16)  # 2048 where 9000 are out
    assert t.trace() == []
    t.inject(".", ack=10_001, wnd=16)
    assert t.trace() == [". 10001:11001 ack 1", ". 11001:12001 ack 1"]


def test_we_never_take_an_offered_window_back() -> None:
    t = established(Config(rcv_buf=60_000))
    edge = t.conn.rcv_adv
    t.inject(".", seq=1, data=bytes(20_000))
    (ack,) = t.sent()
    assert t.conn.rcv_nxt + (ack.wnd << t.conn.rcv_wscale) >= edge


def test_zero_window_probes_slow_down() -> None:
    t = established(wnd=0)
    t.conn.send(b"x" * 100)
    assert t.trace() == []
    times = []
    for _ in range(6):
        t.now = t.conn.deadline() or 0.0
        times.append(t.now)
        assert t.trace() == [". 0:0 ack 1"]
        t.inject(".", wnd=0)
    gaps = [b - a for a, b in pairwise(times)]
    for shorter, longer in pairwise(gaps):
        assert longer == pytest.approx(2 * shorter)


def test_rfc9293_3_8_6_1_a_fin_waits_for_window() -> None:
    t = established(wnd=0)
    t.conn.shutdown()
    assert t.trace() == []
    t.now = t.conn.deadline() or 0.0
    assert t.trace() == [". 0:0 ack 1"]
    t.inject(".", wnd=10)
    assert t.trace() == ["F. 1:1 ack 1"]


def test_a_peer_cannot_hold_a_closed_connection_by_its_window() -> None:
    t = established(Config(orphan_probes=3), wnd=0)
    t.conn.send(b"x")
    t.conn.close()
    for _ in range(10):
        if t.conn.state is State.CLOSED:
            break
        t.now = t.conn.deadline() or 0.0
        t.trace()
        t.inject(".", wnd=0)
    assert t.conn.state is State.CLOSED
    assert t.conn.error is Event.TIMED_OUT


def test_rfc9293_3_10_7_4_a_reset_of_what_is_closed_is_no_error() -> None:
    t = established()
    t.inject("F.")
    t.conn.shutdown()
    t.trace()
    t.inject("R", seq=2)
    assert t.conn.state is State.CLOSED
    assert t.conn.error is None
    assert t.events()[-1] is Event.CLOSED


def test_cork_holds_short_segments_until_it_is_pulled_or_an_rto() -> None:
    t = established(Config(nodelay=True))
    t.conn.cork(True)
    t.conn.send(bytes(1500))
    assert t.trace() == [". 1:1001 ack 1"]
    t.conn.cork(False)
    assert t.trace() == ["P. 1001:1501 ack 1"]
    t.inject(".", ack=1501)
    t.conn.cork(True)
    t.conn.send(b"abc")
    assert t.trace() == []
    t.now = t.conn.deadline() or 0.0
    assert t.trace() == ["P. 1501:1504 ack 1"]


def test_urgent_data_is_sent_with_its_pointer_and_received_in_line() -> None:
    t = established()
    t.conn.send_urgent(b"stop!")
    (seg,) = t.sent()
    assert (seg.flags & URG, seg.urg, bytes(seg.data)) == (URG, 5, b"stop!")
    t.conn.send(bytes(10))
    t.inject(".", ack=6)
    (seg,) = t.sent()
    assert (seg.flags & URG, seg.urg) == (0, 0)
    t.inject("P.U", ack=6, data=b"abc!de", urg=4)
    assert Event.URGENT in t.events()
    assert t.conn.urgent_mark == 4
    assert bytes(t.conn.received()[0]) == b"abc!de"
    t.conn.consume(4)
    assert t.conn.urgent_mark == 0


def test_urgent_pointer_reaches_beyond_the_segment() -> None:
    t = established(Config(tso=True))
    t.conn.send_urgent(bytes(2500))
    assert [seg.urg for seg in t.sent()] == [2500, 1500, 500]
    t.inject(".U", data=b"abc", urg=100)
    assert t.conn.urgent_mark == 100


def test_no_sack_a_lost_super_segment_is_repaired_in_steps_that_double() -> None:
    pair = connected(Config(sack=False), Config(), whole=False)
    assert pair.b is not None
    first = 1001 + 60 * 1448
    missing = {first + 1448 * i for i in range(40)}

    def drop(seg) -> bool:
        if seg.seq in missing:
            missing.remove(seg.seq)
            return True
        return False

    pair.a.to_send = bytes(1_000_000)
    pair.a.link.drop = drop
    pair.run(0.6)
    assert not missing
    assert len(pair.b.got) == 1_000_000  # one a round trip of 20 ms would have taken 0.8 s
    assert pair.a.conn.n_timeouts == 0


def test_rfc2861_the_window_decays_while_idle_and_is_remembered() -> None:
    pair = connected()
    pair.a.to_send = bytes(1_000_000)
    pair.run(2)
    cc = pair.a.conn.cc
    before = cc.cwnd
    cc.on_idle(0.5, 0.24)
    assert cc.cwnd == before // 4
    assert cc.ssthresh >= before * 3 // 4


def test_statistics_ages_and_counts() -> None:
    pair = connected(whole=False)
    pair.a.to_send = bytes(100_000)
    pair.run(1)
    assert pair.b is not None
    ours, theirs = pair.a.conn.statistics(pair.now), pair.b.conn.statistics(pair.now)
    assert (ours.tcpi_state, ours.tcpi_delivered) == (1, 70)
    assert theirs.tcpi_data_segs_in == 70
    assert theirs.tcpi_rcv_mss == 1448
    assert 800 <= ours.tcpi_last_data_sent <= 1000
    assert 40_000 <= ours.tcpi_busy_time <= 200_000
    assert ours.tcpi_pmtu == 1500

"""Data both ways: super-segments, Nagle, silly windows, probes, delayed ACKs, reassembly."""

from __future__ import annotations

import pytest
from tcp_trace import established

from vpnstack.errors import UsageError
from vpnstack.proto.tcp.block import Event
from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.state import State


def test_super_segment_is_whole_segments_and_the_tail_waits_for_nagle() -> None:
    t = established()
    t.conn.send(b"x")
    assert t.trace() == ["P. 1:2 ack 1"]
    t.conn.send(bytes(3500))
    segs = t.sent()
    assert [(len(s.data), s.gso_size) for s in segs] == [(3000, 1000)]
    t.inject(".", ack=3002)
    assert t.trace() == ["P. 3002:3502 ack 1"]


def test_minshall_a_short_tail_waits_for_short_segments_only() -> None:
    t = established()
    t.conn.send(bytes(3500))
    assert t.trace() == ["P. 1:3501 ack 1"]
    t.conn.send(bytes(1500))
    assert t.trace() == [". 3501:4501 ack 1"]
    t.inject(".", ack=3501)
    assert t.trace() == ["P. 4501:5001 ack 1"]


def test_nodelay_sends_the_tail_with_it() -> None:
    t = established(Config(nodelay=True))
    t.conn.send(bytes(3500))
    assert [(len(s.data), s.gso_size) for s in t.sent()] == [(3500, 1000)]


def test_nagle_holds_the_second_small_write() -> None:
    t = established()
    t.conn.send(b"a")
    assert t.trace() == ["P. 1:2 ack 1"]
    t.conn.send(b"b")
    t.conn.send(b"c")
    assert t.trace() == []
    t.inject(".", ack=2)
    assert t.trace() == ["P. 2:4 ack 1"]


def test_fin_sends_the_tail_in_spite_of_nagle() -> None:
    t = established()
    t.conn.send(b"a")
    t.trace()
    t.conn.send(b"b")
    t.conn.shutdown()
    assert t.trace() == ["FP. 2:3 ack 1"]


def test_without_tso_every_segment_leaves_alone() -> None:
    t = established(Config(tso=False))
    t.conn.send(bytes(2500))
    assert t.trace() == [". 1:1001 ack 1", ". 1001:2001 ack 1", "P. 2001:2501 ack 1"]


def test_budget_bounds_a_call_and_the_rest_follows() -> None:
    t = established(Config(tso=False))
    t.conn.send(bytes(5000))
    assert len(t.trace(budget=2)) == 2
    assert t.conn.wants_transmit
    assert len(t.trace(budget=64)) == 3
    assert not t.conn.wants_transmit


def test_super_segment_stays_below_64_kib() -> None:
    t = established(Config(first_buf=1 << 18), wnd=2000)
    t.conn.cc.cwnd = 1 << 20
    assert t.conn.send(bytes(200_000)) == 200_000
    for seg in t.sent():
        assert len(seg.data) <= 65435
        assert len(seg.data) % 1000 == 0


def test_initial_window_is_ten_segments() -> None:
    t = established()
    t.conn.send(bytes(50_000))
    assert t.trace() == [". 1:10001 ack 1"]


def test_the_peers_window_bounds_and_never_splits_a_segment() -> None:
    t = established(wnd=20)  # 2560 bytes
    t.conn.send(bytes(10_000))
    assert t.trace() == [". 1:2001 ack 1"]
    t.inject(".", ack=2001, wnd=4)  # 512 bytes: less than a segment, less than half the largest
    assert t.trace() == []


def test_sws_override_after_the_persist_time() -> None:
    t = established(wnd=20)
    t.conn.send(bytes(10_000))
    t.trace()
    t.inject(".", ack=2001, wnd=4)
    t.trace()
    due = t.conn.deadline()
    assert due is not None
    t.now = due
    assert t.trace() == ["P. 2001:2513 ack 1"]


def test_zero_window_probes_back_off_and_never_give_up_while_answered() -> None:
    t = established(wnd=8)
    t.conn.send(bytes(3000))
    assert t.trace() == [". 1:1001 ack 1"]
    t.inject(".", ack=1001, wnd=0)
    assert t.trace() == []
    gaps, last = [], t.now
    for _ in range(40):
        due = t.conn.deadline()
        assert due is not None
        gaps.append(round(due - last, 3))
        t.now = last = due
        assert t.trace() == [". 1000:1000 ack 1"]
        t.inject(".", ack=1001, wnd=0)
        assert t.trace() == []
    assert gaps[1] == pytest.approx(2 * gaps[0], rel=0.01)
    assert gaps[-1] == 60.0
    t.inject(".", ack=1001, wnd=8)
    assert t.trace() == [". 1001:2001 ack 1"]


def test_zero_window_unanswered_gives_up() -> None:
    t = established(Config(retries=4), wnd=8)
    t.conn.send(bytes(3000))
    t.trace()
    t.inject(".", ack=1001, wnd=0)
    t.trace()
    while (due := t.conn.deadline()) is not None:
        t.now = due
        last = t.sent()
    assert last[0].flags & 4
    assert t.conn.error is Event.TIMED_OUT


def test_window_shrink_is_tolerated() -> None:
    t = established(wnd=80)
    t.conn.send(bytes(10_000))
    assert t.trace() == ["P. 1:10001 ack 1"]
    t.inject(".", ack=2001, wnd=1)  # took 8000 bytes of promise back
    assert t.trace() == []
    t.now = t.conn.deadline() or 0
    assert t.trace() == ["P. 2001:3001 ack 1"]  # RFC 9293 3.8.6: the head is sent again
    t.inject(".", ack=10001, wnd=80)
    assert t.conn.snd_una == t.conn.snd_nxt


def test_delayed_ack_after_40_ms_or_two_segments() -> None:
    t = established()
    t.inject("P.", data=b"x")
    assert t.trace() == []
    assert t.conn.deadline() == pytest.approx(t.now + 0.04)
    t.wait(0.04)
    assert t.trace() == [". 1:1 ack 2"]
    t.inject(".", seq=2, data=bytes(1000))
    assert t.trace() == []
    t.inject(".", seq=1002, data=bytes(1000))
    assert t.trace() == [". 1:1 ack 2002"]


def test_data_carries_the_ack() -> None:
    t = established()
    t.inject("P.", data=b"ping")
    t.conn.send(b"pong")
    assert t.trace() == ["P. 1:5 ack 5"]
    assert t.conn.t_ack == float("inf")


def test_out_of_order_is_kept_and_sacked_newest_first() -> None:
    t = established()
    t.inject(".", seq=1001, data=b"b" * 10)
    assert t.trace() == [". 1:1 ack 1 sack 1001-1011"]
    t.inject(".", seq=2001, data=b"c" * 10)
    assert t.trace() == [". 1:1 ack 1 sack 2001-2011 sack 1001-1011"]
    t.inject(".", seq=1, data=b"a" * 1000)
    assert t.trace() == [". 1:1 ack 1011 sack 2001-2011"]
    assert t.conn.rcv_queued == 1010
    assert t.events() == [Event.READABLE]


def test_peer_without_sack_counts_duplicate_acks() -> None:
    t = established(sack_permitted=False)
    for seq in (1001, 2001, 3001):
        t.inject(".", seq=seq, data=bytes(1000))
    assert t.trace() == [". 1:1 ack 1"] * 3


def test_gaps_are_bounded() -> None:
    t = established(Config(max_gaps=4))
    for i in range(50):
        t.inject(".", seq=10 + 2 * i, data=b"x")
    assert t.conn.assembler is not None
    assert len(t.conn.assembler.ranges) == 4


def test_fin_out_of_order_waits_for_the_data() -> None:
    t = established()
    t.inject("F.", seq=4, data=b"def")
    assert t.conn.state is State.ESTABLISHED
    t.inject(".", seq=1, data=b"abc")
    assert t.conn.state is State.CLOSE_WAIT
    assert b"".join(t.conn.received()) == b"abcdef"
    assert t.trace() == [". 1:1 ack 8"]
    assert not t.conn.eof
    t.conn.consume(6)
    assert t.conn.eof


def test_old_and_new_bytes_in_one_segment() -> None:
    t = established()
    t.inject(".", seq=1, data=b"abc")
    t.inject(".", seq=1, data=b"abcdef")
    assert b"".join(t.conn.received()) == b"abcdef"
    assert t.trace() == [". 1:1 ack 7 sack 1-4"]  # RFC 2883


def test_rfc2883_each_duplicate_of_a_burst_is_reported() -> None:
    t = established()
    t.inject(".", seq=1, data=bytes(6000))
    assert t.trace() == [". 1:1 ack 6001"]
    for seq in (1, 1001, 4001):
        t.inject(".", seq=seq, data=bytes(1000))
    assert t.trace() == [". 1:1 ack 6001 sack 1-2001", ". 1:1 ack 6001 sack 4001-5001"]
    assert t.trace() == []


def test_no_duplicate_is_reported_to_a_peer_without_sack() -> None:
    t = established(sack_permitted=False)
    t.inject(".", seq=1, data=b"abc")
    t.inject(".", seq=1, data=b"abc")
    assert t.trace() == [". 1:1 ack 4"]


def test_duplicate_data_is_acknowledged_at_once() -> None:
    t = established()
    t.inject(".", seq=1, data=b"abc")
    t.inject(".", seq=1, data=b"abc")
    assert t.trace() == [". 1:1 ack 4 sack 1-4"]  # RFC 2883
    assert t.conn.rcv_queued == 3


def test_data_beyond_the_window_is_cut() -> None:
    t = established(Config(rcv_buf=4096))
    t.inject(".", seq=1, data=bytes(6000))
    assert t.conn.rcv_queued == 4096
    (ack,) = t.sent()
    assert ack.wnd == 0
    t.inject(".", seq=4097, data=b"x")
    assert t.conn.rcv_queued == 4096
    assert t.trace() == [". 1:1 ack 4097"]


def test_window_opens_by_no_less_than_a_segment() -> None:
    t = established(Config(rcv_buf=4096))
    t.inject(".", seq=1, data=bytes(4096), gso_size=1000)
    assert t.sent()[0].wnd == 0
    t.conn.consume(500)
    assert not t.conn.wants_transmit  # RFC 9293 3.8.6.2.2
    t.conn.consume(500)
    assert t.sent()[0].wnd == 1000


def test_full_window_still_takes_acknowledgements() -> None:
    t = established(Config(rcv_buf=4096))
    t.conn.send(b"q")
    t.trace()
    t.inject(".", seq=1, data=bytes(4096))
    t.trace()
    t.inject(".", seq=4097, ack=2, data=b"probe")
    assert t.conn.snd_una == t.conn.snd_nxt


def test_received_is_borrowed_until_own() -> None:
    t = established()
    frame = bytearray(b"abc")
    t.inject(".", seq=1, data=memoryview(frame))
    t.conn.own()
    frame[:] = b"xyz"
    assert b"".join(t.conn.received()) == b"abc"


def test_many_small_pieces_are_joined() -> None:
    t = established()
    for i in range(5000):
        t.inject(".", seq=1 + i, data=b"x")
        t.conn.own()
    assert t.conn.rcv_queued == 5000
    assert len(t.conn.received()) <= 4


def test_consume_too_much_is_misuse() -> None:
    t = established()
    with pytest.raises(UsageError, match="expected at most 0 bytes"):
        t.conn.consume(1)


def test_send_buffer_is_bounded_and_writable_says_so() -> None:
    t = established(Config(snd_buf=4000))
    assert t.conn.send(bytes(10_000)) == 4000
    assert t.conn.snd_space == 0
    t.trace()
    t.inject(".", ack=2001)
    assert t.events() == [Event.WRITABLE]
    assert t.conn.snd_space == 2000


def test_fill_in_place() -> None:
    t = established()
    room = t.conn.send_buffer.writable()
    room[:5] = b"hello"
    t.conn.send_buffer.commit(5)
    (seg,) = t.sent()
    assert bytes(seg.data) == b"hello"
    t.inject(".", ack=6)
    t.conn.send_buffer.writable()
    t.conn.send_buffer.commit(0)
    assert t.conn.snd_buf.allocated == 0


def test_rfc7323_paws_drops_an_old_duplicate() -> None:
    t = established(ts=(1000, 0))
    t.inject(".", seq=1, data=b"abc", ts=(1001, 0))
    t.trace()
    t.inject(".", seq=4, data=b"old", ts=(999, 0))
    assert t.conn.rcv_queued == 3
    assert t.trace() == [". 1:1 ack 4"]
    assert t.conn.ts_recent == 1001


def test_rfc7323_timestamp_is_not_taken_from_above_the_ack() -> None:
    t = established(ts=(1000, 0))
    t.inject(".", seq=101, data=b"abc", ts=(1005, 0))
    assert t.conn.ts_recent == 1000


def test_rfc5961_ack_of_unsent_data_is_challenged() -> None:
    t = established()
    t.inject(".", ack=100)
    assert t.trace() == [". 1:1 ack 1"]
    assert t.conn.snd_una == t.conn.iss + 1


def test_segment_without_ack_is_dropped() -> None:
    t = established()
    t.inject("P", data=b"x")
    t.inject("F")
    assert t.conn.rcv_queued == 0
    assert t.conn.state is State.ESTABLISHED


def test_rfc5961_challenges_are_limited() -> None:
    t = established()
    answers = []
    for _ in range(30):
        t.inject(".", ack=100)
        answers += t.trace()
    assert len(answers) == 10
    t.wait(1.0)
    t.inject(".", ack=100)
    assert len(t.trace()) == 1

"""Ending: RFC 9293 3.6, resets by RFC 5961, TIME_WAIT and its reuse by RFC 6191, keepalive."""

from __future__ import annotations

import pytest
from tcp_trace import IRS, ISS, MASK, Trace, client, established, server, syn

from vpnstack.errors import UsageError
from vpnstack.proto.tcp.block import Event
from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.segment import RST
from vpnstack.proto.tcp.state import State


def test_active_close() -> None:
    t = established()
    t.conn.shutdown()
    assert t.trace() == ["F. 1:1 ack 1"]
    assert t.conn.state is State.FIN_WAIT_1
    t.inject(".", ack=2)
    assert t.conn.state is State.FIN_WAIT_2
    t.inject("P.", ack=2, data=b"late")  # half-close: data still flows
    assert t.conn.rcv_queued == 4
    t.inject("F.", seq=5, ack=2)
    assert t.conn.state is State.TIME_WAIT
    assert t.trace() == [". 2:2 ack 6"]
    assert t.conn.deadline() == t.now + 60
    t.wait(60)
    assert t.trace() == []
    assert t.events() == [Event.READABLE, Event.CLOSED]


def test_passive_close() -> None:
    t = established()
    t.inject("F.")
    assert t.conn.state is State.CLOSE_WAIT
    assert t.conn.eof
    assert t.trace() == [". 1:1 ack 2"]
    t.conn.send(b"bye")
    t.conn.shutdown()
    assert t.trace() == ["FP. 1:4 ack 2"]
    assert t.conn.state is State.LAST_ACK
    t.inject(".", seq=2, ack=5)
    assert t.conn.state is State.CLOSED
    assert t.events() == [Event.READABLE, Event.CLOSED]
    assert t.conn.deadline() is None


def test_simultaneous_close() -> None:
    t = established()
    t.conn.shutdown()
    t.trace()
    t.inject("F.", ack=1)
    assert t.conn.state is State.CLOSING
    assert t.trace() == [". 2:2 ack 2"]
    t.inject(".", seq=2, ack=2)
    assert t.conn.state is State.TIME_WAIT


def test_fin_and_ack_of_fin_in_one_segment() -> None:
    t = established()
    t.conn.shutdown()
    t.trace()
    t.inject("F.", ack=2)
    assert t.conn.state is State.TIME_WAIT


def test_fin_is_retransmitted() -> None:
    t = established()
    t.conn.shutdown()
    t.trace()
    t.now = t.conn.deadline() or 0
    assert t.trace() == ["FP. 1:1 ack 1"]


def test_shutdown_before_the_handshake_is_complete() -> None:
    t = server()
    t.trace()
    t.conn.send(b"hi")
    t.conn.shutdown()
    t.inject(".")
    assert t.trace() == ["FP. 1:3 ack 1"]
    assert t.conn.state is State.FIN_WAIT_1


def test_send_after_shutdown_is_misuse() -> None:
    t = established()
    t.conn.shutdown()
    with pytest.raises(UsageError, match="after shutdown"):
        t.conn.send(b"x")


def test_close_with_unread_data_resets() -> None:
    t = established()
    t.inject("P.", data=b"unread")
    t.conn.close()
    assert t.trace() == ["R. 1:1 ack 7"]
    assert t.conn.state is State.CLOSED


def test_data_after_close_resets() -> None:
    t = established()
    t.conn.close()
    t.trace()
    t.inject("P.", ack=2, data=b"more")
    assert t.conn.state is State.CLOSED
    (seg,) = t.sent()
    assert seg.flags & RST


def test_fin_wait_2_of_a_closed_user_ends() -> None:
    t = established()
    t.conn.close()
    t.trace()
    t.inject(".", ack=2)
    assert t.conn.state is State.FIN_WAIT_2
    t.wait(61)
    t.trace()
    assert t.conn.state is State.CLOSED


def test_abort() -> None:
    t = established()
    t.conn.send(b"lost")
    t.conn.abort()
    assert t.trace() == ["R. 1:1 ack 1"]
    assert t.events() == [Event.CLOSED]
    assert len(t.conn.snd_buf) == 0
    t.conn.abort()
    assert not t.conn.wants_transmit


def test_close_in_syn_sent_is_silent() -> None:
    t = client()
    t.conn.close()
    assert t.trace() == []
    assert t.conn.state is State.CLOSED


def test_segment_for_a_closed_connection_is_reset() -> None:
    t = client()
    t.conn.close()
    t.inject(".", ack=9)
    (seg,) = t.sent()
    assert (seg.flags, seg.seq) == (RST, (ISS + 9) & MASK)


def test_rfc5961_reset_exact() -> None:
    t = established()
    t.inject("R", seq=1)
    assert t.events() == [Event.RESET, Event.CLOSED]


def test_rfc5961_reset_in_window_is_challenged() -> None:
    t = established()
    t.inject("R", seq=100)
    assert t.trace() == [". 1:1 ack 1"]
    assert t.conn.state is State.ESTABLISHED


def test_rfc5961_reset_outside_the_window_is_dropped() -> None:
    t = established()
    t.inject("R", seq=-5)
    t.inject("R", seq=3 << 20)
    assert t.trace() == []
    assert t.conn.state is State.ESTABLISHED


def time_wait() -> Trace:
    t = established(ts=(1000, 0))
    t.conn.shutdown()
    t.trace()
    t.inject("F.", ack=2, ts=(1001, 0))
    t.trace()
    assert t.conn.state is State.TIME_WAIT
    return t


def test_time_wait_answers_a_repeated_fin_and_starts_again() -> None:
    t = time_wait()
    t.wait(30)
    t.inject("F.", ack=2, ts=(1002, 0))
    assert t.trace() == [". 2:2 ack 2"]
    assert t.conn.deadline() == t.now + 60


def test_rfc1337_time_wait_ignores_a_reset() -> None:
    t = time_wait()
    t.inject("R", seq=2)
    assert t.conn.state is State.TIME_WAIT


def test_rfc6191_time_wait_reuse() -> None:
    t = time_wait()
    assert t.conn.reusable_by(syn(ts=(1002, 0)))
    assert not t.conn.reusable_by(syn(ts=(999, 0)))
    newer = syn(ts=(1001, 0))._replace(seq=(IRS + 1000) & MASK)
    assert t.conn.reusable_by(newer)
    assert not t.conn.reusable_by(syn(ts=(1001, 0)))
    assert not established().conn.reusable_by(newer)


def test_keepalive_probes_then_gives_up() -> None:
    config = Config(keepalive=True, keepalive_idle=100, keepalive_interval=10, keepalive_probes=2)
    t = established(config)
    start = t.now
    for after in (100, 110):
        t.now = t.conn.deadline() or 0
        assert t.now == pytest.approx(start + after)
        assert t.trace() == [". 0:0 ack 1"]
    t.now = t.conn.deadline() or 0
    assert t.trace() == ["R. 1:1 ack 1"]
    assert t.conn.error is Event.TIMED_OUT


def test_keepalive_answered_goes_on() -> None:
    t = established(Config(keepalive=True, keepalive_idle=100, keepalive_interval=10))
    for _ in range(5):
        t.now = t.conn.deadline() or 0
        while not t.trace():
            t.now = t.conn.deadline() or 0
        t.inject(".")
    assert t.conn.state is State.ESTABLISHED


def test_keepalive_probe_of_the_peer_is_answered() -> None:
    t = established()
    t.inject(".", seq=0)
    assert t.trace() == [". 1:1 ack 1"]
    t.inject(".", seq=0, data=b"\0")
    assert t.trace() == [". 1:1 ack 1 sack 0-1"]  # RFC 2883: the byte was a duplicate


def test_retransmissions_give_up_with_a_reset() -> None:
    t = established(Config(retries=3))
    t.conn.send(b"x")
    t.trace()
    count = 0
    while t.conn.state is not State.CLOSED:
        t.now = t.conn.deadline() or 0
        last = t.sent()
        count += 1
    assert count == 5  # the probe, three retransmissions, the reset
    assert last[0].flags & RST
    assert t.conn.error is Event.TIMED_OUT


def test_user_timeout() -> None:
    t = established(Config(user_timeout=5.0))
    t.conn.send(b"x")
    start = t.now
    t.trace()
    while t.conn.state is not State.CLOSED:
        t.now = t.conn.deadline() or 0
        t.sent()
    assert 5 < t.now - start < 15

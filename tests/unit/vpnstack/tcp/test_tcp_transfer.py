"""Whole transfers between two connections: whatever the link does, exactly the bytes arrive."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tcp_pair import End, Link, Pair, connected

from vpnstack.proto.tcp.block import Event
from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.segment import SYN, Segment
from vpnstack.proto.tcp.state import State

UP = random.Random(1).randbytes(300_000)
DOWN = random.Random(2).randbytes(100_000)


def transfer(pair: Pair, link: Link, back: Link) -> None:
    """Send UP and DOWN at the same time and close; check what arrived."""
    pair.a.link, pair.link_b = link, back
    pair.a.to_send = UP

    def reply(end: End) -> None:
        end.to_send = DOWN

    pair.prepare_b = reply
    pair.run()
    assert pair.b is not None
    assert bytes(pair.b.got) == UP
    assert bytes(pair.a.got) == DOWN
    for end in (pair.a, pair.b):
        assert end.conn.state is State.CLOSED
        assert end.conn.error is None
        assert end.events[0] is Event.CONNECTED
        assert end.events[-1] is Event.CLOSED
        assert len(end.conn.snd_buf) == 0


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("sack", [True, False])
@pytest.mark.parametrize("timestamps", [True, False])
def test_clean(whole: bool, sack: bool, timestamps: bool) -> None:
    pair = Pair(Config(sack=sack, timestamps=timestamps), iss_a=0xFFFF0000, whole=whole)
    transfer(pair, Link(), Link())
    assert pair.a.conn.n_retrans == 0


links = st.builds(
    Link,
    delay=st.sampled_from([0.0, 0.001, 0.05]),
    jitter=st.sampled_from([0.0, 0.002, 0.1]),
    loss=st.sampled_from([0.0, 0.01, 0.1, 0.2]),
    duplicate=st.sampled_from([0.0, 0.1]),
    rate=st.sampled_from([0.0, 1e6]),
)


BAD = Link(delay=0.05, jitter=0.1, loss=0.2, duplicate=0.1, rate=1e6)
QUICK = Link(delay=0.0, jitter=0.002, loss=0.2, duplicate=0.1)


@settings(max_examples=40, deadline=None)
@example(BAD, BAD, 82, True, True, True, 4000)
@example(BAD, QUICK, 82, False, False, False, 4000)
@example(BAD, BAD, 284, False, True, False, 1 << 20)
@example(QUICK, BAD, 284, True, False, True, 4000)
@example(QUICK, QUICK, 519, True, False, False, 1 << 20)
@example(BAD, QUICK, 519, False, True, True, 4000)
@given(links, links, st.integers(0, 1000), st.booleans(), st.booleans(), st.booleans(),
       st.sampled_from([4000, 1 << 20]))  # fmt: skip
def test_any_link_delivers_exactly_the_bytes(
    link: Link, back: Link, seed: int, whole: bool, sack: bool, ts: bool, buf: int
) -> None:
    # msl: a FIN may be repeated after max_rto and must still find TIME_WAIT.
    config = Config(sack=sack, timestamps=ts, rcv_buf=buf, retries=60, syn_retries=60, msl=600.0)
    pair = Pair(config, config, seed=seed, iss_a=0xFFFFFFF0, whole=whole)
    transfer(pair, link, back)


def test_lost_syn_ack_of_a_server_that_speaks_first() -> None:
    """No tail probe before the handshake is done: it would send data in the place of the SYN."""
    pair = Pair(Config(syn_rto=3.0))  # the client is slower to repeat its SYN
    pair.a.to_send = UP
    first: list[float] = []

    def speak(end: End) -> None:
        end.to_send = DOWN

        def lose_the_first(seg: Segment) -> bool:
            first.append(pair.now)
            return len(first) == 1

        end.link.drop = lose_the_first

    pair.prepare_b = speak
    pair.run()
    assert pair.b is not None
    assert [bool(seg.flags & SYN) for _, seg in pair.b.sent[:2]] == [True, True]
    assert bytes(pair.a.got) == DOWN
    assert bytes(pair.b.got) == UP


def test_slow_reader_stops_the_sender_and_loses_nothing() -> None:
    pair = connected(Config(), Config(rcv_buf=50_000))
    assert pair.b is not None
    pair.b.read = False
    pair.a.to_send = UP
    pair.run(30)
    assert 0 < pair.b.conn.rcv_queued <= 50_000
    pair.b.read = True
    pair.b.conn.own()
    pair.a.finish = pair.b.finish = True
    pair.run()
    assert bytes(pair.b.got) == UP


def test_lost_window_update_is_found_by_probing() -> None:
    pair = connected(Config(), Config(rcv_buf=20_000))
    assert pair.b is not None
    pair.b.read = False
    pair.a.to_send = UP
    pair.run(10)
    pair.b.link.drop = lambda seg: True
    pair.b.read = True
    pair.run(1)
    pair.b.link.drop = None
    pair.a.finish = pair.b.finish = True
    pair.run()
    assert bytes(pair.b.got) == UP


def test_silly_window_never_makes_tiny_segments() -> None:
    pair = connected(Config(), Config(rcv_buf=30_000))
    assert pair.b is not None
    pair.b.read = False
    pair.a.to_send = UP
    for _ in range(3000):
        pair.run(0.001)
        if n := min(pair.b.conn.rcv_queued, 100):
            pair.b.conn.consume(n)
    sizes = [len(seg.data) for _, seg in pair.a.sent if seg.data]
    assert len(sizes) > 50
    assert len([n for n in sizes if n < 1000]) <= 1  # the override of RFC 9293 3.8.6.2.1, once


def test_rfc5681_slow_start_doubles_then_loss_halves() -> None:
    pair = connected(whole=False)
    pair.a.to_send = bytes(4_000_000)
    cc = pair.a.conn.cc
    start = cc.cwnd
    pair.run(0.0205)
    assert cc.cwnd == 2 * start
    pair.run(0.021)
    assert cc.cwnd == 4 * start
    before = cc.cwnd
    lost = []

    def drop(seg) -> bool:
        if seg.data and not lost:
            lost.append(seg.seq)
            return True
        return False

    pair.a.link.drop = drop
    pair.run(0.06)
    assert pair.a.conn.n_retrans == 1
    assert pair.a.conn.n_timeouts == 0
    assert before / 2 <= cc.ssthresh <= 2 * before


@pytest.mark.parametrize("sack", [True, False])
def test_fast_retransmit_needs_no_timeout(sack: bool) -> None:
    pair = connected(Config(sack=sack), whole=False)
    assert pair.b is not None
    pair.a.to_send = UP
    seen = []

    def drop(seg) -> bool:
        seen.append(seg.seq)
        return seg.data and len(seen) in (20, 23)

    pair.a.link.drop = drop
    pair.a.finish = pair.b.finish = True
    pair.run()
    assert bytes(pair.b.got) == UP
    assert pair.a.conn.n_timeouts == 0
    assert pair.a.conn.n_retrans == 2


def test_rfc5681_idle_restarts_from_the_initial_window() -> None:
    pair = connected()
    pair.a.to_send = UP
    pair.run(5)
    assert pair.a.conn.cc.cwnd > 100_000
    pair.a.to_send = b"x"
    pair.run(1)
    assert pair.a.conn.cc.cwnd <= 14600 + 1


def test_statistics_has_linux_names() -> None:
    pair = connected()
    pair.a.to_send = UP
    pair.run(5)
    info = pair.a.conn.statistics()
    assert info.tcpi_bytes_acked == len(UP)
    assert info.tcpi_bytes_sent == len(UP)
    assert info.tcpi_total_retrans == 0
    assert 20_000 <= info.tcpi_rtt <= 70_000
    assert info.tcpi_unacked == 0
    assert info.state is State.ESTABLISHED

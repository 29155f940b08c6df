"""Controllers alone and in a connection: Reno, CUBIC (RFC 9438), HyStart++ (RFC 9406), a user's."""

from __future__ import annotations

import pytest
from tcp_pair import Link, connected
from tcp_trace import Trace, established

from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.congestion.base import Congestion, initial_window
from vpnstack.proto.tcp.congestion.cubic import BETA, Cubic
from vpnstack.proto.tcp.congestion.hystart import HyStart
from vpnstack.proto.tcp.congestion.reno import Reno
from vpnstack.proto.tcp.rtt import Rtt

MSS = 1000


@pytest.mark.parametrize(("mss", "window"), [(1460, 14600), (536, 5360), (9000, 18000),
                                             (2000, 14600)])  # fmt: skip
def test_rfc6928_initial_window(mss: int, window: int) -> None:
    assert initial_window(mss) == window


def test_reno_slow_start_then_one_segment_a_window() -> None:
    cc = Reno(MSS)
    cc.on_ack(64_000, 0.01, 1.0, 10_000)  # a whole super-segment counts
    assert cc.cwnd == 74_000
    cc.on_loss(1.0, 74_000)
    assert cc.cwnd == cc.ssthresh == 37_000
    for _ in range(37):
        cc.on_ack(1000, 0.01, 1.0, 37_000)
    assert cc.cwnd == 38_000
    cc.on_rto(1.0, 30_000)
    assert (cc.cwnd, cc.ssthresh) == (MSS, 15_000)


def test_cubic_returns_to_w_max_after_k_and_is_flat_there() -> None:
    cc = Cubic(MSS)
    cc.cwnd = 1_000_000
    cc.on_loss(10.0, 1_000_000)
    assert cc.cwnd == int(BETA * 1_000_000)
    k = (300 / 0.4) ** (1 / 3)  # 9.09 s
    now, rtt, sizes = 10.0, 0.1, {}
    while now < 10 + 1.5 * k:
        for _ in range(10):
            cc.on_ack(cc.cwnd // 10, rtt, now, cc.cwnd)
            now += rtt / 10
        sizes[round((now - 10) / k, 1)] = cc.cwnd
    assert sizes[1.0] == pytest.approx(1_000_000, rel=0.02)
    assert sizes[0.3] - 700_000 > 150_000  # concave: most of the way early
    assert sizes[1.5] > 1_030_000  # and convex behind


def test_cubic_is_friendly_to_reno_on_short_paths() -> None:
    cc = Cubic(MSS)
    cc.cwnd = 20_000
    cc.on_loss(1.0, 20_000)
    now = 1.0
    for _ in range(100):  # 100 round trips of 1 ms: the curve alone would not have moved
        cc.on_ack(cc.cwnd, 0.001, now, cc.cwnd)
        now += 0.001
    assert cc.cwnd > 14_000 + 50 * MSS


def test_cubic_fast_convergence_and_timeout() -> None:
    cc = Cubic(MSS)
    cc.cwnd = 100_000
    cc.on_loss(1.0, 100_000)
    cc.on_loss(2.0, 70_000)
    assert cc._w_max == pytest.approx(70_000 * 0.85)
    cc.on_rto(3.0, 49_000)
    assert cc.cwnd == MSS


def test_hystart_leaves_slow_start_when_the_round_trip_grows() -> None:
    hystart, rtt, window, rounds = HyStart(), 0.02, 10_000, 0
    while rounds < 40:
        rounds += 1
        for _ in range(10):
            grow = hystart.growth(window // 10, rtt, window)
            if grow < 0:
                break
            window += grow
        else:
            rtt += 0.005
            continue
        break
    assert 6 < rounds < 12


def test_hystart_stays_while_the_round_trip_is_steady() -> None:
    hystart, window = HyStart(), 10_000
    for _ in range(100):
        grow = hystart.growth(1000, 0.02, 10_000)
        assert grow == 1000
        window += grow


def test_hystart_takes_back_a_spurious_exit() -> None:
    hystart = HyStart()
    grown = []
    for rtt in (0.02, 0.03, 0.02, 0.02):
        grown.append(sum(hystart.growth(1000, rtt, 10_000) for _ in range(10)))
    assert grown[0] == 10_000
    assert grown[1] < 10_000
    assert grown[3] == 10_000


def test_cubic_recovers_on_a_long_path_sooner_than_reno() -> None:
    sent = {}
    for congestion in (Reno, Cubic):
        big = Config(congestion=congestion, rcv_buf=1 << 22, snd_buf=1 << 22)
        pair = connected(big, big, whole=False)
        once = [1001 + 1448 * 600]  # one loss, at the same place for both
        pair.a.link = Link(delay=0.05, drop=lambda seg, once=once: seg.seq in once and once.pop())
        assert pair.b is not None
        pair.b.link.delay = 0.05
        pair.a.to_send = bytes(40_000_000)
        pair.run(7)
        assert pair.a.conn.n_retrans == 1
        sent[congestion.name] = pair.a.conn.n_bytes_acked
    assert sent["cubic"] > 1.2 * sent["reno"]


class Timid(Congestion):
    """What a user writes: never more than four segments."""

    __slots__ = ()
    name = "timid"

    def __init__(self, mss: int) -> None:
        super().__init__(mss)
        self.cwnd = 4 * mss


def test_a_users_controller_is_obeyed() -> None:
    pair = connected(Config(congestion=Timid), whole=False)
    pair.a.to_send = bytes(100_000)
    pair.run(5)
    assert pair.b is not None
    assert len(pair.b.got) == 100_000
    assert max(len(seg.data) for _, seg in pair.a.sent) <= 4 * 1448


def test_rfc6298_estimator() -> None:
    rtt = Rtt(0.2, 60.0, 1.0)
    assert rtt.timeout() == 1.0
    rtt.sample(0.1)
    assert (rtt.srtt, rtt.rttvar, rtt.timeout()) == (0.1, 0.05, pytest.approx(0.3))
    rtt.sample(0.1)
    assert rtt.rttvar == pytest.approx(0.0375)
    rtt.backoff = 2
    assert rtt.timeout() == pytest.approx(1.2)
    rtt.backoff = 40
    assert rtt.timeout() == 60.0
    rtt.sample(0.1)
    assert rtt.backoff == 0


def full_window(ssthresh: int) -> Trace:
    t = established(Config(tso=False, congestion=Reno), wnd=5000)
    t.conn.cc.ssthresh = ssthresh
    t.conn.send(bytes(60_000))
    assert len(t.trace()) == 10
    t.wait(0.04)
    return t


@pytest.mark.parametrize(("ssthresh", "window"), [(1 << 30, 20_000), (10_000, 11_000)])
def test_rfc7661_a_burst_of_acks_grows_the_window_like_acks_one_by_one(
    ssthresh: int, window: int
) -> None:
    t = full_window(ssthresh)
    for i in range(1, 11):  # nothing leaves in between: the flight falls to nothing
        t.inject(".", ack=1 + 1000 * i, wnd=5000)
    assert t.conn.cc.cwnd == window


def test_rfc7661_an_unused_window_does_not_grow() -> None:
    t = full_window(1 << 30)
    t.inject(".", ack=10_001, wnd=5000)
    t.trace()
    assert t.conn.cc.cwnd == 20_000
    t.inject(".", ack=30_001, wnd=5000)
    t.trace()
    t.inject(".", ack=60_001, wnd=5000)
    t.trace()
    before = t.conn.cc.cwnd
    for i in range(1, 20):
        t.conn.send(bytes(1000))
        assert len(t.trace()) == 1
        t.wait(0.01)
        t.inject(".", ack=60_001 + 1000 * i, wnd=5000)
    assert t.conn.cc.cwnd <= before


def test_rfc9438_reduces_from_the_flight_size_not_from_what_sacks_left_of_it() -> None:
    t = established(Config(tso=False), wnd=5000)
    t.conn.send(bytes(60_000))
    assert len(t.trace()) == 10
    t.wait(0.04)
    t.inject(".", ack=1, wnd=5000, sacks=((1001, 9001),))
    t.trace()
    assert t.conn.cc.ssthresh == int(10_000 * BETA)

"""BBR, pacing and the delivery rate that it stands on, over links in virtual time."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from tcp_pair import Link, Pair, connected
from tcp_trace import established

from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.congestion.base import Congestion
from vpnstack.proto.tcp.congestion.bbr import Bbr, Mode
from vpnstack.proto.tcp.congestion.cubic import Cubic

RATE = 1.25e6  # 10 Mbit/s; with 40 ms: 50,000 bytes in flight


def loaded(congestion: type[Congestion], loss: float = 0.0, queue: float = 0.4) -> Pair:
    config = Config(congestion=congestion)
    pair = connected(config, config, whole=False)
    pair.a.link = Link(delay=0.02, loss=loss, rate=RATE, queue=queue)
    assert pair.b is not None
    pair.b.link.delay = 0.02
    pair.a.to_send = bytes(40_000_000)
    return pair


def test_bbr_finds_the_bandwidth_and_keeps_the_queue_short() -> None:
    pair = loaded(Bbr)
    pair.run(8)
    cc = pair.a.conn.cc
    assert isinstance(cc, Bbr)
    assert cc.mode is Mode.PROBE_BW
    assert cc.bandwidth == pytest.approx(RATE * 1448 / 1488, rel=0.05)
    assert pair.a.conn.rtt.srtt < 0.06
    assert pair.b is not None
    assert len(pair.b.got) > 0.85 * RATE * 8
    other = loaded(Cubic)
    other.run(2)
    assert other.a.conn.rtt.srtt > 0.1  # what the queue costs where it is filled


@pytest.mark.parametrize(("loss", "share"), [(0.01, 0.8), (0.05, 0.2)])
def test_bbr_is_indifferent_to_small_losses_and_yields_to_great_ones(
    loss: float, share: float
) -> None:
    pair = loaded(Bbr, loss)
    pair.run(8)
    assert pair.b is not None
    assert len(pair.b.got) > share * RATE * 8
    assert len(pair.b.got) * (1 + loss) > pair.a.conn.n_bytes_acked


def test_bbr_probes_the_round_trip_every_ten_seconds() -> None:
    pair = loaded(Bbr)
    seen = set()
    for _ in range(130):
        pair.run(0.1)
        assert isinstance(pair.a.conn.cc, Bbr)
        seen.add(pair.a.conn.cc.mode)
        if pair.a.conn.cc.mode is Mode.PROBE_RTT:
            assert pair.a.conn.cc.cwnd == 4 * pair.a.conn.mss
    assert Mode.PROBE_RTT in seen
    assert pair.a.conn.cc.mode is Mode.PROBE_BW


def test_bbr_overflowing_a_short_queue_ends_startup() -> None:
    pair = loaded(Bbr, queue=0.01)
    pair.run(6)
    assert pair.b is not None
    assert len(pair.b.got) > 0.6 * RATE * 6
    assert pair.a.conn.n_bytes_retrans < 0.1 * pair.a.conn.n_bytes_acked


class Paced(Congestion):
    """A fixed rate."""

    __slots__ = ()
    name = "paced"

    def __init__(self, mss: int) -> None:
        super().__init__(mss)
        self.cwnd = 1 << 20
        self.pacing_rate = 100_000.0


def test_pacing_spreads_segments_over_time() -> None:
    pair = connected(Config(congestion=Paced), whole=False)
    pair.a.to_send = bytes(100_000)
    start = pair.now
    pair.run(5)
    data = [(t - start, len(seg.data)) for t, seg in pair.a.sent if seg.data]
    assert pair.a.conn.n_bytes_sent == 100_000
    assert data[-1][0] == pytest.approx(1.0, abs=0.1)
    assert max(n for _, n in data) <= 2 * 1448
    for i in range(len(data) - 10):
        assert data[i + 10][0] - data[i][0] > 0.1


def test_a_pure_ack_does_not_wait_for_the_pace() -> None:
    t = established(Config(congestion=Paced, delayed_ack=0.0))
    t.conn.send(bytes(20_000))
    assert len(t.trace()) == 1
    t.inject(".", data=b"x")
    assert t.trace() == [". 2001:2001 ack 2"]


def test_delivery_rate_is_the_links() -> None:
    pair = loaded(Cubic, queue=0.1)
    pair.run(3)
    info = pair.a.conn.statistics(pair.now)
    assert info.tcpi_delivery_rate == pytest.approx(RATE * 1448 / 1488, rel=0.05)
    assert not info.tcpi_delivery_rate_app_limited
    assert info.tcpi_delivered * 1448 >= info.tcpi_bytes_acked


def test_a_user_without_data_is_noted() -> None:
    pair = connected()
    pair.a.to_send = bytes(1000)
    pair.run(1)
    pair.a.to_send = bytes(1000)
    pair.run(1)
    assert pair.a.conn.statistics().tcpi_delivery_rate_app_limited


def test_the_example_keeps_the_queue_shorter_than_cubic() -> None:
    where = Path(__file__).parents[4] / "examples" / "congestion.py"
    spec = importlib.util.spec_from_file_location("congestion_example", where)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    path = example.Path(example.Delay)
    path.run(6.0)
    assert path.received > 0.85 * example.RATE * 5
    assert path.sender.rtt.srtt < 0.04

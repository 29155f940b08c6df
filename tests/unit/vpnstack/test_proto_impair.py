"""An imperfect link as a machine: when packets arrive, and which do not."""

from __future__ import annotations

import itertools
import random

import pytest

from vpnstack.errors import UsageError
from vpnstack.proto.impair import (
    Frame,
    GilbertElliott,
    Impairment,
    Machine,
    mark_ce,
    normal,
    pareto,
    parse_rate,
)
from vpnstack.wire import ip

VNET = bytes(12)


def frame(number: int = 0, size: int = 1000) -> Frame:
    return VNET, bytes(12) + b"\x88\xb5" + number.to_bytes(4) + bytes(size - 18)


def number(f: Frame) -> int:
    return int.from_bytes(f[1][14:18])


def machine(seed: int = 1, **options: object) -> Machine:
    return Machine(Impairment(**options), random.Random(seed))  # type: ignore[arg-type]


def drain(m: Machine) -> list[tuple[float, Frame]]:
    out = []
    while (at := m.deadline()) is not None:
        assert m.transmit(at - 1e-6) is None
        f = m.transmit(at)
        assert f is not None
        out.append((at, f))
    return out


def test_latency_keeps_order_and_time() -> None:
    m = machine(latency=0.04)
    for i in range(3):
        m.receive(frame(i), 10 + i * 0.001)
    assert [(round(at, 6), number(f)) for at, f in drain(m)] == [
        (10.04, 0), (10.041, 1), (10.042, 2),
    ]  # fmt: skip


@pytest.mark.parametrize("jitter", [0.02, normal(0.01), pareto(0.01)])
def test_jitter_delays_and_keeps_order(jitter: object) -> None:
    m = machine(latency=0.04, jitter=jitter)
    for i in range(200):
        m.receive(frame(i), i * 0.001)
    got = drain(m)
    assert [number(f) for _, f in got] == list(range(200))
    delays = [at - number(f) * 0.001 for at, f in got]
    assert min(delays) >= 0.04
    assert max(delays) > 0.045


def test_loss_has_its_rate() -> None:
    m = machine(loss=0.1)
    for i in range(10_000):
        m.receive(frame(i), 0.0)
    assert 900 < m.statistics().lost < 1100
    assert m.statistics().passed + len(drain(m)) == 10_000 - m.statistics().lost


def test_gilbert_elliott_loses_in_bursts() -> None:
    m = machine(loss=GilbertElliott(p=0.01, r=0.25))
    for i in range(20_000):
        m.receive(frame(i), 0.0)
    arrived = {number(f) for _, f in drain(m)}
    lost = [i for i in range(20_000) if i not in arrived]
    # Stationary: p / (p + r) of all packets; a burst lasts 1 / r packets.
    assert 0.025 < len(lost) / 20_000 < 0.055
    bursts = sum(i - 1 not in set(lost) for i in lost)
    assert 3 < len(lost) / bursts < 5


def test_rate_spaces_packets() -> None:
    m = machine(rate="8mbit")  # 1000 octets a millisecond
    for i in range(3):
        m.receive(frame(i), 0.0)
    m.receive(frame(3), 0.010)
    assert [round(at, 6) for at, _ in drain(m)] == [0.001, 0.002, 0.003, 0.011]


def test_token_bucket_passes_a_burst_at_once() -> None:
    m = machine(rate=8e6, burst=2000)
    for i in range(4):
        m.receive(frame(i), 1.0)
    assert [round(at, 6) for at, _ in drain(m)] == [1.0, 1.0, 1.001, 1.002]


def test_queue_drops_its_tail() -> None:
    m = machine(rate=8e6, queue=2)
    for i in range(5):
        m.receive(frame(i), 0.0)
    m.receive(frame(5), 0.0015)  # one has left
    assert [number(f) for _, f in drain(m)] == [0, 1, 5]
    assert m.statistics().queue_full == 3


def test_queue_counts_octets() -> None:
    m = machine(rate=8e6, queue_octets=2500)
    for i in range(4):
        m.receive(frame(i), 0.0)
    m.receive(frame(9, 400), 0.0)
    assert [number(f) for _, f in drain(m)] == [0, 1, 9]


def test_reorder_lets_later_packets_overtake() -> None:
    m = machine(latency=0.01, reorder=0.05, reorder_delay=0.005)
    for i in range(1000):
        m.receive(frame(i), i * 0.001)
    got = [number(f) for _, f in drain(m)]
    assert sorted(got) == list(range(1000))
    late = sum(b < a for a, b in itertools.pairwise(got))
    assert 20 < late < 80
    assert m.statistics().reordered >= late


def test_duplicates_and_mtu() -> None:
    m = machine(duplicate=1.0, mtu=900)
    m.receive(frame(1, 914), 0.0)
    m.receive(frame(2, 915), 0.0)
    assert [number(f) for _, f in drain(m)] == [1, 1]
    assert (m.statistics().too_big, m.statistics().duplicated) == (1, 1)


def test_corruption_flips_one_bit_and_nobody_vouches() -> None:
    m = machine(corrupt=1.0)
    sent = (b"\x02" + bytes(11), frame(7)[1])
    m.receive(sent, 0.0)
    ((_, got),) = drain(m)
    changed = int.from_bytes(got[1]) ^ int.from_bytes(sent[1])
    assert changed.bit_count() == 1
    assert got[1][:14] == sent[1][:14]
    assert got[0][0] == 0  # VIRTIO_NET_HDR_F_DATA_VALID is gone


@pytest.mark.parametrize("addr", [bytes([10, 0, 0, 1]), bytes(15) + b"\1"])
def test_ecn_marks_from_a_threshold(addr: bytes) -> None:
    kind = b"\x08\x00" if len(addr) == 4 else b"\x86\xdd"
    capable = bytes(12) + kind + ip.emit(ip.Repr(addr, addr, 253, tos=2), bytes(1000))
    deaf = bytes(12) + kind + ip.emit(ip.Repr(addr, addr, 253), bytes(1000))
    m = machine(rate=8e6, ecn=1)
    for octets in (capable, capable, deaf):
        m.receive((VNET, octets), 0.0)
    got = [ip.parse(f[1][14:])[0].tos for _, f in drain(m)]  # parsing checks the header checksum
    assert got == [2, 3, 0]
    assert m.statistics().marked == 1
    assert mark_ce(bytes(14)) is None


def test_same_seed_same_fate_whatever_the_time() -> None:
    fates = []
    for start in (0.0, 1000.0):
        m = machine(3, loss=0.2, reorder=0.1, duplicate=0.1, corrupt=0.1)
        for i in range(500):
            m.receive(frame(i), start + i)
        fates.append([f for _, f in drain(m)])
    assert fates[0] == fates[1]


def test_impairment_may_change_and_the_cable_be_cut() -> None:
    m = machine(latency=1.0)
    m.receive(frame(0), 0.0)
    m.clear()
    assert m.deadline() is None
    m.impairment = Impairment(rate=8e6)
    m.receive(frame(1), 5.0)
    assert [round(at, 6) for at, _ in drain(m)] == [5.001]
    assert m.statistics().lost == 1


def test_rates_in_text() -> None:
    assert parse_rate("10mbit") == 1e7
    assert parse_rate("1.5gbit") == 1.5e9
    for text in ("10", "mbit", "ten mbit"):
        with pytest.raises(UsageError, match="expected a rate"):
            parse_rate(text)


@pytest.mark.parametrize("options", [{"loss": 2}, {"corrupt": -1}, {"latency": -1}])
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected"):
        Impairment(**options)  # type: ignore[arg-type]

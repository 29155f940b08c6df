"""Router advertisements, RFC 4861 6.2."""

from __future__ import annotations

import random

from vpnstack.proto.ra import Config, Router, Transmit
from vpnstack.wire import ip, ndp

HOST = ip.parse_address("fe80::2")
MAC = b"\x02\0\0\0\0\x02"
PREFIX = ndp.Prefix(ip.parse_address("fd00:127::"))
RA = ndp.RouterAdvertisement(slla=b"\x02\0\0\0\0\x01", mtu=1500, prefixes=(PREFIX,))
ALL = Transmit(ip.ALL_NODES, RA)


def router(**more: float) -> Router:
    made = Router(Config(RA, **more), random.Random(7))  # type: ignore[arg-type]
    made.start(0.0)
    return made


def test_silent_before_start() -> None:
    made = Router(Config(RA), random.Random(7))
    made.receive_rs(HOST, ndp.RouterSolicitation(), 0.0)
    assert made.deadline() is None
    assert made.transmit(1e6) == []


def test_first_three_come_quickly_then_at_random_intervals() -> None:
    made, times, now = router(), list[float](), 0.0
    for _ in range(50):
        due = made.deadline()
        assert due is not None
        assert made.transmit(due - 0.001) == []
        assert made.transmit(due) == [ALL]
        times.append(due - now)
        now = due
    assert times[:3] == [0.0, 16.0, 16.0]
    assert all(200 <= gap <= 600 for gap in times[3:])
    assert len(set(times[3:])) > 40
    assert made.statistics().advertisements == 50


def test_solicitation_is_answered_unicast_within_half_a_second() -> None:
    made = router()
    made.transmit(0.0)
    made.receive_rs(HOST, ndp.RouterSolicitation(MAC), 10.0)
    made.receive_rs(HOST, ndp.RouterSolicitation(MAC), 10.0)
    due = made.deadline()
    assert due is not None
    assert 10.0 <= due <= 10.5
    assert made.transmit(due) == [Transmit(HOST, RA, MAC)]
    assert made.deadline() == 16.0


def test_solicitation_without_address_gets_a_group_answer() -> None:
    made = router(max_ra_delay=0.0)
    made.transmit(0.0)
    made.receive_rs(ip.UNSPECIFIED_V6, ndp.RouterSolicitation(), 10.0)
    assert made.transmit(10.0) == [ALL]


def test_group_answers_are_three_seconds_apart() -> None:
    made = router(max_ra_delay=0.0)
    made.transmit(0.0)
    sent = 0
    for tick in range(1, 41):
        made.receive_rs(ip.UNSPECIFIED_V6, ndp.RouterSolicitation(), tick * 0.25)
        sent += len(made.transmit(tick * 0.25))
    assert sent == 3  # at 3, 6 and 9 seconds


def test_flood_of_solicitations_is_bounded() -> None:
    made = router(unicast_pending=8)
    made.transmit(0.0)
    for i in range(1000):
        made.receive_rs(HOST[:14] + i.to_bytes(2), ndp.RouterSolicitation(), 5.0)
    out = made.transmit(5.5)
    assert len(out) == 9
    assert out[-1] == ALL


def test_update_and_cease() -> None:
    made = router()
    made.transmit(0.0)
    changed = ndp.RouterAdvertisement(mtu=1400)
    made.update(changed, 1.0)
    assert made.transmit(2.9) == []
    assert made.transmit(3.0) == [Transmit(ip.ALL_NODES, changed)]
    assert made.cease().message.lifetime == 0
    assert made.deadline() is None

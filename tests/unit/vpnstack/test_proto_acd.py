"""RFC 5227, RFC 3927, and the cache of path MTUs, under virtual time."""

from __future__ import annotations

import itertools
import random

import pytest

from vpnstack.proto import acd, linklocal, pmtu
from vpnstack.wire import arp, ip

MAC, OTHER = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"
ADDR, PEER = ip.parse_address("10.0.0.5"), ip.parse_address("10.0.0.6")


def run(claim: acd.Claim, until: float) -> list[tuple[float, arp.Repr]]:
    out = []
    while (at := claim.deadline()) is not None and at <= until:
        out += [(at, message) for message in claim.transmit(at)]
    return out


def test_probes_then_announcements() -> None:
    claim = acd.Claim(ADDR, MAC, 0.0, random.Random(1))
    sent = run(claim, 30)
    assert [m.is_probe for _, m in sent] == [True] * 3 + [False] * 2
    times = [at for at, _ in sent]
    assert times[0] <= 1
    assert all(1 <= b - a <= 2 for a, b in itertools.pairwise(times[:3]))
    assert [times[3] - times[2], times[4] - times[3]] == pytest.approx([2, 2])
    assert sent[-1][1].is_gratuitous
    assert claim.next_event() is acd.Event.USABLE
    assert claim.state is acd.State.CLAIMED


@pytest.mark.parametrize(
    "message",
    [
        arp.Repr(arp.Op.REPLY, OTHER, ADDR, MAC, bytes(4)),
        arp.request(OTHER, ADDR, PEER),
        arp.request(OTHER, bytes(4), ADDR),
    ],
)
def test_conflict_while_probing(message: arp.Repr) -> None:
    claim = acd.Claim(ADDR, MAC, 0.0, random.Random(1))
    run(claim, 1.5)
    claim.receive(message, 1.6)
    assert claim.next_event() is acd.Event.CONFLICT
    assert claim.deadline() is None
    assert claim.rival == OTHER


def test_what_is_no_conflict() -> None:
    claim = acd.Claim(ADDR, MAC, 0.0, random.Random(1))
    for message in (
        arp.request(MAC, bytes(4), ADDR), arp.request(OTHER, PEER, ADDR),
        arp.request(OTHER, bytes(4), PEER),
    ):  # fmt: skip
        claim.receive(message, 0.1)
    run(claim, 30)
    claim.receive(arp.request(OTHER, bytes(4), ADDR), 31.0)  # a probe is answered, not feared
    assert [claim.next_event(), claim.next_event()] == [acd.Event.USABLE, None]


def test_defended_once_in_ten_seconds() -> None:
    claim = acd.Claim(ADDR, MAC, 0.0, random.Random(1))
    run(claim, 30)
    claim.next_event()
    rival = arp.request(OTHER, ADDR, ADDR)
    claim.receive(rival, 100.0)
    assert claim.transmit(100.0) == [arp.request(MAC, ADDR, ADDR)]
    claim.receive(rival, 111.0)
    claim.transmit(111.0)
    claim.receive(rival, 115.0)
    events = [claim.next_event() for _ in range(4)]
    assert events == [acd.Event.DEFENDED, acd.Event.DEFENDED, acd.Event.CONFLICT, None]
    assert not claim.usable


def test_link_local_choice_is_stable_and_in_range_and_slows_down() -> None:
    ours = linklocal.LinkLocal(MAC, 0.0, random.Random(1))
    assert ours.claim.addr == linklocal.LinkLocal(MAC, 0.0, random.Random(9)).claim.addr
    seen = set[bytes]()
    for _ in range(12):
        addr = ours.claim.addr
        seen.add(addr)
        assert b"\xa9\xfe\1\0" <= addr <= b"\xa9\xfe\xfe\xff"
        ours.receive(arp.request(OTHER, addr, addr), 1.0)
        assert ours.next_event(1.0) == (acd.Event.CONFLICT, addr)
    assert len(seen) == 12
    due = ours.deadline()
    assert due is not None
    assert due >= 61.0


def test_pmtu_is_lowered_kept_and_forgotten() -> None:
    cache = pmtu.Cache()
    assert cache.too_big(PEER, 1300, 0.0, link_mtu=1500) == 1300
    assert cache.too_big(PEER, 1400, 1.0, link_mtu=1500) == 1300  # never up
    assert cache.get(PEER, 599.0, 1500) == 1300
    assert cache.get(PEER, 600.0, 1500) == 1500
    assert cache.statistics().entries == 0


def test_pmtu_floors_and_plateaus() -> None:
    cache = pmtu.Cache()
    assert cache.too_big(PEER, 68, 0.0, link_mtu=1500) == 552
    six = ip.parse_address("fd00::1")
    assert cache.too_big(six, 1000, 0.0, link_mtu=1500) == 1500  # RFC 8201 4
    assert cache.too_big(six, 1280, 0.0, link_mtu=1500) == 1280
    assert cache.too_big(ADDR, 0, 0.0, link_mtu=1500, sent=1500) == 1492
    assert cache.too_big(ADDR, 0, 0.0, link_mtu=1500, sent=1492) == 1006


def test_pmtu_is_bounded() -> None:
    cache = pmtu.Cache(capacity=10)
    for n in range(100):
        cache.too_big(n.to_bytes(4), 1000, 0.0, link_mtu=1500)
    assert cache.statistics().entries == 10

"""The switch between in-process ports: who receives what, and what a spoofer gets."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from vpnstack.core.access import parse_burst
from vpnstack.core.burst import Burst
from vpnstack.link.pair import PairPort, pair
from vpnstack.link.switch import Switch

GATEWAY, GROUP = b"\2\0\0\0\0\xfe", b"\xff" * 6
A, B, C = (b"\2\0\0\0\0" + bytes([i]) for i in (1, 2, 3))


def frame(dst: bytes, src: bytes, number: int = 0) -> bytes:
    return dst + src + b"\x88\xb5" + struct.pack(">I", number)


@dataclass
class Lan:
    """A switch with machines a, b and c; `send` and `got` are on the machines' side."""

    switch: Switch
    near: list[PairPort] = field(default_factory=list)
    far: list[PairPort] = field(default_factory=list)
    burst: Burst = field(default_factory=Burst)

    def send(self, who: int, *frames: bytes) -> list[bytes]:
        """Send from a machine through the switch; return what stays for the stack."""
        out = Burst(len(frames))
        for one in frames:
            out.append(one)
        self.far[who].tx_burst(out)
        local = []
        while self.near[who].rx_burst(self.burst):
            parse_burst(self.burst)
            here = self.switch.ingress(self.near[who], self.burst)
            local += [self.burst.octets(i) for i, f in enumerate(self.burst) if f in here]
            self.near[who].rx_done(self.burst)
        return local

    def got(self, who: int) -> list[bytes]:
        out, burst = [], Burst()
        while self.far[who].rx_burst(burst):
            out += [burst.octets(i) for i in range(burst.count)]
        return out


@pytest.fixture
def lan() -> Iterator[Lan]:
    made = Lan(Switch(GATEWAY, stations_max=8))
    for name in "abc":
        near, far = pair(name, f"far-{name}")
        made.switch.attach(near)
        made.near.append(near)
        made.far.append(far)
    yield made
    for port in made.near + made.far:
        port.close()


def test_unknown_destination_is_flooded_and_then_learned(lan: Lan) -> None:
    first, back = frame(B, A), frame(A, B)
    assert lan.send(0, first) == []
    assert [lan.got(i) for i in range(3)] == [[], [first], [first]]
    lan.send(1, back)
    assert [lan.got(i) for i in range(3)] == [[back], [], []]


def test_group_goes_to_all_and_the_stack(lan: Lan) -> None:
    one = frame(GROUP, A)
    assert lan.send(0, one) == [one]
    assert [lan.got(i) for i in range(3)] == [[], [one], [one]]


def test_gateway_frames_stay(lan: Lan) -> None:
    one = frame(GATEWAY, A)
    assert lan.send(0, one) == [one]
    assert [lan.got(i) for i in range(3)] == [[], [], []]


def test_unicast_between_two_ports_loses_nothing(lan: Lan) -> None:
    lan.send(1, frame(GATEWAY, B))
    got = []
    for start in range(0, 20000, 500):
        lan.send(0, *(frame(B, A, n) for n in range(start, start + 500)))
        got += lan.got(1)
    assert got == [frame(B, A, n) for n in range(20000)]
    assert lan.near[1].statistics().tx_dropped == 0
    assert lan.got(2) == []


@pytest.mark.parametrize("src", [GATEWAY, GROUP, b"\1\0\x5e\0\0\1"])
def test_source_nobody_may_use_is_refused(lan: Lan, src: bytes) -> None:
    assert lan.send(0, frame(GROUP, src), frame(GATEWAY, src), frame(B, src)) == []
    assert [lan.got(i) for i in range(3)] == [[], [], []]
    assert lan.switch.refused == 3
    assert lan.switch.stations(lan.near[0]) == []


def test_moved_station_is_followed(lan: Lan) -> None:
    lan.send(0, frame(GATEWAY, A))
    lan.send(2, frame(GATEWAY, A))
    assert lan.switch.moved == 1
    assert (lan.switch.stations(lan.near[0]), lan.switch.stations(lan.near[2])) == ([], [A])
    lan.send(1, frame(A, B))
    assert [lan.got(i) for i in range(3)] == [[], [], [frame(A, B)]]


def test_flood_of_sources_forgets_only_its_own(lan: Lan) -> None:
    lan.send(1, frame(GATEWAY, B))
    many = [bytes([6, 0, 0, 0, 0, n]) for n in range(200)]
    lan.send(0, *(frame(GATEWAY, src) for src in many))
    assert lan.switch.stations(lan.near[0]) == many[-8:]
    assert lan.switch.stations(lan.near[1]) == [B]
    lan.send(2, frame(B, C))
    assert [lan.got(i) for i in range(3)] == [[], [frame(B, C)], []]


def test_detach_forgets(lan: Lan) -> None:
    lan.send(1, frame(GATEWAY, B))
    lan.switch.detach(lan.near[1])
    lan.switch.detach(lan.near[1])
    assert lan.switch.stations(lan.near[1]) == []
    lan.send(0, frame(B, A))
    assert [lan.got(i) for i in range(3)] == [[], [], [frame(B, A)]]
    lan.switch.attach(lan.near[1])
    lan.send(1, frame(GATEWAY, B))
    assert lan.switch.stations(lan.near[1]) == [B]


def test_runts_and_broken_frames_are_counted_and_not_forwarded(lan: Lan) -> None:
    lan.send(0, frame(B, A)[:13], B + A + b"\x08\x00\x45")
    assert [lan.got(i) for i in range(3)] == [[], [], []]
    assert lan.switch.invalid == 2


def test_blocked_is_the_port_behind(lan: Lan) -> None:
    lan.send(0, frame(GATEWAY, A))
    assert not lan.switch.blocked(A)
    big = Burst()
    for _ in range(64):
        big.append(frame(A, GATEWAY) + bytes(65500))
    lan.switch.egress(big)
    assert lan.near[0].stalled
    assert lan.switch.blocked(A)
    assert not lan.switch.blocked(B)


def test_egress_skips_what_could_not_be_built(lan: Lan) -> None:
    burst = Burst()
    burst.append(b"")
    burst.append(frame(GROUP, GATEWAY))
    lan.switch.egress(burst)
    assert [lan.got(i) for i in range(3)] == [[frame(GROUP, GATEWAY)]] * 3

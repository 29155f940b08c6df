"""Reassembly: RFC 791, RFC 8200 4.5, RFC 5722, RFC 1858, RFC 3128, and its bounds."""

from __future__ import annotations

import random

import pytest

from vpnstack.proto.reassembly import Config, Fault, Fragment, Reassembler, parse
from vpnstack.wire import ip

A4, B4 = bytes([192, 168, 127, 2]), bytes([192, 168, 127, 1])
A6, B6 = ip.parse_address("fd00:127::2"), ip.parse_address("fd00:127::1")
ENDS = pytest.mark.parametrize(("src", "dst"), [(A4, B4), (A6, B6)], ids=["v4", "v6"])


def packet(size: int, src: bytes = A4, dst: bytes = B4, seed: int = 1) -> bytes:
    return ip.emit(ip.Repr(src, dst, ip.UDP), random.Random(seed).randbytes(size))


def cut(octets: bytes, ident: int = 7, mtu: int = 1500) -> list[Fragment]:
    at = 20 if octets[0] >> 4 == 4 else 48
    return [parse(part, at) for part in ip.fragments(octets, mtu, ident)]


def piece(offset: int, size: int, more: bool = True, **fields: object) -> Fragment:
    """A part of an IPv4 packet, filled with its own position."""
    head = ip.Repr(A4, B4, ip.UDP, ident=7, more=more, offset=offset)
    data = bytes((offset + i) & 0xFF for i in range(size))
    made = parse(ip.emit(head, data), 20)
    values = {name: getattr(made, name) for name in Fragment.__slots__}
    return Fragment(**(values | fields))  # type: ignore[arg-type]


def octets_of(whole: object) -> tuple[ip.Repr, bytes]:
    assert isinstance(whole, bytes)
    return ip.parse(whole)


@ENDS
@pytest.mark.parametrize("size", [1481, 8192, 65507])
def test_any_order(src: bytes, dst: bytes, size: int) -> None:
    original = packet(size, src, dst)
    parts = cut(original)
    for seed in range(3):
        order = random.Random(seed).sample(parts, len(parts))
        machine = Reassembler()
        made = [machine.receive(part, 0.0) for part in order]
        assert made[:-1] == [None] * (len(parts) - 1)
        header, payload = octets_of(made[-1])
        assert payload == original[len(original) - size :]
        assert (header.src, header.dst, header.proto) == (src, dst, ip.UDP)
        assert not header.more
        assert header.offset == 0
        stats = machine.statistics()
        assert (stats.packets, stats.octets, stats.whole) == (0, 0, 1)


def test_two_packets_mixed() -> None:
    machine = Reassembler()
    one, two = cut(packet(3000, seed=1), 1), cut(packet(3000, seed=2), 2)
    made = [machine.receive(f, 0.0) for pair in zip(one, two, strict=True) for f in pair]
    assert octets_of(made[-2])[1] == packet(3000, seed=1)[20:]
    assert octets_of(made[-1])[1] == packet(3000, seed=2)[20:]


def test_ipv6_extension_headers_stay() -> None:
    """The unfragmentable part comes first and names what the fragment header named."""
    options = bytes([ip.FRAGMENT, 0, 1, 4, 0, 0, 0, 0])
    body = bytes(range(256)) * 8

    def part(offset: int, more: bool) -> Fragment:
        data = body[offset:1024] if more else body[offset:]
        extension = bytes([ip.UDP, 0]) + (offset | more).to_bytes(2) + bytes(4)
        return parse(ip.emit(ip.Repr(A6, B6, ip.DESTINATION), options + extension + data), 56)

    machine = Reassembler()
    assert machine.receive(part(0, True), 0.0) is None
    header, payload = octets_of(machine.receive(part(1024, False), 0.0))
    assert header.proto == ip.DESTINATION
    assert payload == bytes([ip.UDP]) + options[1:] + body


def test_exact_repetition_is_harmless() -> None:
    machine = Reassembler()
    first, *_, last = parts = cut(packet(4000))
    for part in parts[:-1]:
        machine.receive(part, 0.0)
        assert machine.receive(part, 0.0) is None
    assert machine.receive(first, 0.0) is None
    assert isinstance(machine.receive(last, 0.0), bytes)


OVERLAPS = {
    "tail": [piece(0, 64), piece(56, 64)],
    "head": [piece(64, 64), piece(0, 72)],
    "inside": [piece(0, 128), piece(64, 8)],
    "around": [piece(64, 8), piece(0, 128)],
    "teardrop": [piece(0, 64), piece(24, 8, more=False)],
    "same place, other octets": [piece(0, 64), piece(0, 64, data=bytes(64))],
    "same place, longer": [piece(0, 64), piece(0, 72)],
    "two ends": [piece(64, 8, more=False), piece(128, 8, more=False)],
    "beyond the end": [piece(64, 8, more=False), piece(72, 8)],
    "end before what came": [piece(128, 8), piece(64, 8, more=False)],
}


@pytest.mark.parametrize("parts", OVERLAPS.values(), ids=OVERLAPS.keys())
def test_row5_overlap_condemns(parts: list[Fragment]) -> None:
    """RFC 5722: the packet goes, and with it the fragments that are still to come."""
    machine = Reassembler()
    assert machine.receive(parts[0], 0.0) is None
    assert machine.receive(parts[1], 0.0) is Fault.OVERLAP
    for part in [piece(0, 64), piece(64, 64), piece(128, 64, more=False)]:
        assert machine.receive(part, 1.0) is None
    assert machine.statistics().whole == 0
    assert machine.statistics().octets < 1024
    assert machine.expire(30.0) == []
    assert machine.deadline() is None
    assert machine.receive(piece(0, 8), 31.0) is None  # the identification may be used again
    assert isinstance(machine.receive(piece(8, 8, more=False), 31.0), bytes)


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        (piece(65528, 8, more=False), Fault.TOO_LONG),
        (piece(65504, 64), Fault.TOO_LONG),
        (piece(0, 63), Fault.UNALIGNED),
        (piece(0, 0), Fault.UNALIGNED),
        (piece(0, 8, proto=ip.TCP), Fault.TINY),
        (piece(8, 64, proto=ip.TCP), Fault.TINY),
    ],
)
def test_row5_faults(part: Fragment, fault: Fault) -> None:
    machine = Reassembler()
    assert machine.receive(part, 0.0) is fault
    assert machine.statistics().packets == 0
    assert machine.statistics().faults == {fault.name.lower(): 1}


def test_row5_largest_packet() -> None:
    machine = Reassembler()
    assert machine.receive(piece(0, 65496), 0.0) is None
    assert len(octets_of(machine.receive(piece(65496, 19, more=False), 0.0))[1]) == 65515


@ENDS
def test_row5_timer(src: bytes, dst: bytes) -> None:
    """With the first fragment here it is reported, RFC 1122 3.3.2 and RFC 8200 4.5."""
    limit = 30.0 if len(src) == 4 else 60.0
    machine = Reassembler()
    parts = cut(packet(4000, src, dst))
    machine.receive(parts[0], 5.0)
    machine.receive(parts[1], 20.0)  # does not set the timer again
    assert machine.deadline() == 5.0 + limit
    assert machine.expire(4.9 + limit) == []
    assert machine.expire(5.0 + limit) == [parts[0].packet]
    assert machine.statistics().octets == 0


def test_row5_first_missing_is_not_reported() -> None:
    machine = Reassembler()
    for part in cut(packet(4000))[1:]:
        machine.receive(part, 0.0)
    assert machine.expire(30.0) == []
    assert machine.statistics().expired == 1


def test_row5_flood_of_one_source() -> None:
    """It evicts its own packets only, and its memory stays within the bound."""
    machine = Reassembler(Config(octets_source=64 << 10, packets_source=16))
    other = cut(packet(3000, A6, B6))
    machine.receive(other[0], 0.0)
    for ident in range(2000):
        for part in cut(packet(4000), ident)[:-1]:
            machine.receive(part, 0.0)
        assert machine.statistics().octets <= (64 << 10) + 8192
        assert machine.statistics().packets <= 17
    made = [machine.receive(part, 0.0) for part in other[1:]]
    assert isinstance(made[-1], bytes)


def test_row5_flood_of_many_sources() -> None:
    machine = Reassembler(Config(octets=256 << 10, packets=64))
    for i in range(2000):
        machine.receive(cut(packet(3000, i.to_bytes(4), B4))[0], 0.0)
    stats = machine.statistics()
    assert stats.packets <= 64
    assert stats.octets <= 256 << 10
    assert stats.evicted == 2000 - stats.packets


def test_row5_too_many_pieces() -> None:
    machine = Reassembler(Config(pieces=16))
    made = [machine.receive(piece(i * 16, 8), 0.0) for i in range(17)]
    assert made == [None] * 16 + [Fault.MANY]

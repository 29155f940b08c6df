"""Parsing, emitting and softening: C and the reference under the same named vectors."""

from __future__ import annotations

import random
import socket
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vpnstack.core._core import ffi, lib

from vpnstack.core import pure
from vpnstack.core.burst import Burst
from vpnstack.core.pure import Verdict
from vpnstack.link.soft import Softener

A4, B4 = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
A6, B6 = bytes.fromhex("fd" + "00" * 14 + "01"), bytes.fromhex("fd" + "00" * 14 + "02")
ETH4, ETH6 = bytes(12) + b"\x08\x00", bytes(12) + b"\x86\xdd"


def c_fields(vnet: bytes, data: bytes, cuts: list[int]) -> dict[str, Any]:
    burst = Burst(1)
    frame = burst.append(data, vnet)
    edges = [0, *sorted(cuts), len(data)]
    frame.iovcnt = len(edges) - 1
    for i in range(frame.iovcnt):
        piece = ffi.new("uint8_t[]", data[edges[i] : edges[i + 1]] or b"\0")
        burst.keep(piece)
        frame.iov[i].iov_base, frame.iov[i].iov_len = piece, edges[i + 1] - edges[i]
    lib.frame_parse_burst(burst.array, 1)
    out = {n: getattr(frame, n) for n in pure.FIELDS[:-3]}
    out["src"], out["dst"] = bytes(ffi.buffer(frame.src)), bytes(ffi.buffer(frame.dst))
    out["sack"] = tuple(frame.sack[i] for i in range(2 * frame.sack_n))
    return out


def p_fields(vnet: bytes, data: bytes, cuts: list[int]) -> dict[str, Any]:
    parsed = pure.parse(vnet, data)
    return {n: getattr(parsed, n) for n in pure.FIELDS}


@pytest.fixture(params=[c_fields, p_fields], ids=["c", "pure"])
def parse(request: pytest.FixtureRequest) -> Any:
    return lambda data, vnet=bytes(12): request.param(vnet, data, [])


def seal(data: bytes) -> bytes:
    return struct.pack(">H", 0xFFFF - pure.checksum(data))


def ip4(l4: bytes, proto: int = 17, src: bytes = A4, dst: bytes = B4, frag: int = 0,
        first: int = 0x45, total: int | None = None) -> bytes:  # fmt: skip
    total = 20 + len(l4) if total is None else total
    h = struct.pack(">BBHHHBBH", first, 0, total, 7, frag, 64, proto, 0) + src + dst
    return ETH4 + h[:10] + seal(h) + h[12:] + l4


def ip6(rest: bytes, kind: int, dst: bytes = B6, src: bytes = A6) -> bytes:
    return ETH6 + struct.pack(">IHBB", 6 << 28, len(rest), kind, 9) + src + dst + rest


def udp(size: int | None = None, data: bytes = b"hello", csum: int = 0) -> bytes:
    return struct.pack(">HHHH", 5, 53, 8 + len(data) if size is None else size, csum) + data


def tcp(opts: bytes = b"", doff: int | None = None, flags: int = 16, data: bytes = b"") -> bytes:
    doff = 5 + len(opts) // 4 if doff is None else doff
    raw = struct.pack(">HHIIHHHH", 9, 80, 1, 2, doff << 12 | flags, 3, 0, 0) + opts + data
    return raw[:16] + seal(A4 + B4 + struct.pack(">II", len(raw), 6) + raw) + raw[18:]


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        pytest.param(bytes(13), Verdict.SHORT, id="row2-runt"),
        pytest.param(bytes(12) + b"\x81\x00\0\1", Verdict.SHORT, id="row2-vlan-cut"),
        pytest.param(bytes(12) + b"\x12\x34", Verdict.OK, id="row2-unknown-ethertype"),
        pytest.param(ip4(udp()), Verdict.OK, id="row7-checksum-0-ipv4"),
        pytest.param(ip4(udp(csum=1)), Verdict.BAD_L4_CSUM, id="row7-checksum-wrong"),
        pytest.param(ip6(udp(), 17), Verdict.BAD_L4_CSUM, id="row7-checksum-0-ipv6"),
        pytest.param(ip4(udp(7)), Verdict.BAD_L4, id="row7-length-7"),
        pytest.param(ip4(udp(14)), Verdict.BAD_L4, id="row7-length-past-payload"),
        pytest.param(ip4(udp(), first=0x65), Verdict.BAD_IP, id="row4-version"),
        pytest.param(ip4(udp(), first=0x44), Verdict.BAD_IP, id="row4-ihl-4"),
        pytest.param(ip4(udp(), first=0x4F), Verdict.BAD_IP, id="row4-ihl-past-length"),
        pytest.param(ip4(udp(), total=19), Verdict.BAD_IP, id="row4-total-below-ihl"),
        pytest.param(ip4(udp(), total=34), Verdict.BAD_IP, id="row4-total-past-frame"),
        pytest.param(ETH4 + b"\x45" + bytes(9) + b"\1" + bytes(9), Verdict.BAD_IP,
                     id="row4-total-0"),
        pytest.param(ip4(udp()).replace(b"\x40\x11", b"\x41\x11", 1), Verdict.BAD_IP_CSUM,
                     id="row4-bad-checksum"),
        pytest.param(ip4(udp(), src=b"\x7f\0\0\1"), Verdict.BAD_ADDR, id="row4-src-loopback"),
        pytest.param(ip4(udp(), src=b"\0\0\0\1"), Verdict.BAD_ADDR, id="row4-src-net-0"),
        pytest.param(ip4(udp(), src=b"\xe0\0\0\1"), Verdict.BAD_ADDR, id="row4-src-multicast"),
        pytest.param(ip4(udp(), src=b"\xff" * 4), Verdict.BAD_ADDR, id="row4-src-broadcast"),
        pytest.param(ip4(udp(), dst=bytes(4)), Verdict.BAD_ADDR, id="dst-unspecified-ipv4"),
        pytest.param(ip6(udp(), 17, dst=bytes(16)), Verdict.BAD_ADDR, id="dst-unspecified-ipv6"),
        pytest.param(ip4(tcp(), 6), Verdict.OK, id="tcp"),
        pytest.param(ip4(tcp(), 6) + bytes(6), Verdict.OK, id="tcp-padding"),
        pytest.param(ip4(tcp(doff=4), 6), Verdict.BAD_L4, id="row6-doff-4"),
        pytest.param(ip4(tcp(doff=6), 6), Verdict.BAD_L4, id="row6-doff-past-segment"),
        pytest.param(ip4(bytes(7), 1), Verdict.BAD_L4, id="row8-short-icmp"),
        pytest.param(ip4(bytes(8), 17, frag=0x2000), Verdict.OK, id="fragment"),
        pytest.param(ip6(bytes([0, 0, 1, 4, 0, 0, 0, 0]) * 2, 0), Verdict.BAD_EXT,
                     id="row11-second-hop-by-hop"),
        pytest.param(ip6(bytes([60, 0, 1, 4, 0, 0, 0, 0]) * 9, 60), Verdict.BAD_EXT,
                     id="row11-chain-of-9"),
        pytest.param(ip6(bytes([59, 1, 1, 4, 0, 0, 0, 0]), 0), Verdict.BAD_EXT,
                     id="row11-extension-past-end"),
    ],
)  # fmt: skip
def test_verdict(parse: Any, data: bytes, verdict: Verdict) -> None:
    assert parse(data)["verdict"] == verdict


@pytest.mark.parametrize("multicast", [False, True])
@pytest.mark.parametrize(("option", "codes"), [
    (0x1E, (None, None)), (0x5E, (0xFF, 0xFF)), (0x9E, (2, 2)), (0xDE, (2, 0xFF)),
])  # fmt: skip
def test_row11_unknown_option_action(
    parse: Any, option: int, codes: tuple[int | None, int | None], multicast: bool
) -> None:
    dst = b"\xff\x02" + bytes(13) + b"\1" if multicast else B6
    got = parse(ip6(bytes([59, 0, option, 4, 0, 0, 0, 0]), 0, dst=dst))
    code = codes[multicast]
    assert got["verdict"] == (Verdict.OK if code is None else Verdict.BAD_EXT)
    assert got["param_code"] == (0xFF if code is None else code)
    assert got["param_ptr"] == (42 if code == 2 else 0)


@pytest.mark.parametrize("opts", [b"\x02\0\0\0", b"\x02\x01\0\0", b"\x02\x05\0\0"])
def test_row6_bad_option_length(parse: Any, opts: bytes) -> None:
    got = parse(ip4(tcp(opts), 6))
    assert (got["verdict"], got["opts"]) == (Verdict.OK, 128)


def test_atomic_fragment_is_whole(parse: Any) -> None:
    got = parse(ip6(bytes([59, 0, 0, 0, 0, 0, 0, 9]), 44))
    assert (got["verdict"], got["is_frag"], got["ip_id"]) == (Verdict.OK, 0, 9)


@pytest.mark.parametrize(("start", "offset", "size", "ok"), [
    (34, 16, 100, True), (34, 16, 1, False), (34, 16, 0, False), (26, 0, 100, False),
    (34, 6, 100, False), (65535, 65535, 100, False),
])  # fmt: skip
def test_offload_fields(parse: Any, start: int, offset: int, size: int, ok: bool) -> None:
    vnet = struct.pack("<BBHHHHH", 1, 1, 54, size, start, offset, 0)
    got = parse(ip4(tcp(data=bytes(3000)), 6), vnet)
    assert got["verdict"] == (Verdict.OK if ok else Verdict.BAD_VNET)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.binary(min_size=12, max_size=12), st.binary(max_size=300), st.randoms())
def test_implementations_agree(vnet: bytes, tail: bytes, rng: random.Random) -> None:
    for data in (tail, ETH4 + tail, ETH6 + tail, ip4(tail, 6), ip6(tail, rng.choice((0, 6, 60)))):
        cuts = [rng.randrange(len(data) + 1) for _ in range(rng.randrange(20))]
        for header in (vnet, bytes(12)):
            assert c_fields(header, data, cuts) == p_fields(header, data, cuts)


@pytest.mark.parametrize("size", [0, 1, 2, 31, 32, 33, 63, 65535])
def test_checksum_agrees(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert lib.csum_partial(data, size, 0) == socket.htons(pure.checksum(data))
    full = b"\xff" * size
    assert lib.csum_partial(full, size, 0) == socket.htons(pure.checksum(full))


@pytest.mark.parametrize("version", [4, 6])
def test_emit_segment_reassemble(version: int) -> None:
    head = (ip4(b"", 6) if version == 4 else ip6(b"", 6)) + struct.pack(">HH", 9, 80)
    payload = random.Random(1).randbytes(10001)
    kept, burst, out = ffi.from_buffer(payload), Burst(1), Burst(4)
    lib.frame_emit_tcp(
        burst[0], head, len(head), 2**32 - 5000, 7, 0x19, 500, 0, ffi.NULL, 0, kept, 10001, 1460
    )
    got, cursor, flags = b"", ffi.new("uint32_t *"), []
    while True:
        made = lib.frame_soften(burst.array, 0, cursor, out.array, 4)
        for i in range(made):
            raw = out.octets(i)
            p = pure.parse(bytes(12), raw)  # no vouching: every checksum is computed
            assert (p.verdict, p.ip_version) == (Verdict.OK, version)
            assert p.seq == (2**32 - 5000 + len(got)) % 2**32
            got += raw[p.data :]
            flags.append(p.tcp_flags)
        if not cursor[0]:
            break
    assert got == payload
    assert flags == [0x10] * 6 + [0x19]


def test_emit_refuses_lengths_ip_cannot_say() -> None:
    head, burst = ip4(b"", 6) + bytes(4), Burst(1)
    data = bytes(65535)
    for n, made in ((65495, 65549), (65496, 0)):
        lib.frame_emit_tcp(burst[0], head, len(head), 0, 0, 16, 0, 0, ffi.NULL, 0,
                           ffi.from_buffer(data), n, 0)  # fmt: skip
        assert burst[0].len == made


@pytest.mark.parametrize("options", [3, 8, 11, 12, 19, 21, 24])
@pytest.mark.parametrize("cuts", [[], [100], [127, 129], [60, 128, 200], list(range(1, 19))])
def test_headers_beyond_the_first_bytes_are_taken_on_demand(options: int, cuts: list[int]) -> None:
    """The UDP header lies around offset 128 and then around 256, where the copy ends."""
    size = 8 * (options + 1)
    rest = bytes((17, options, 1, size - 4)) + bytes(size - 4) + udp(data=bytes(300))
    rest = rest[: size + 6] + b"\0\1" + rest[size + 8 :]
    data = ip6(rest, 60)
    vouched = b"\2" + bytes(11)
    want = p_fields(vouched, data, cuts)
    assert c_fields(vouched, data, cuts) == want
    assert want["verdict"] == (Verdict.BAD_L4 if 54 + size + 8 > 256 else Verdict.OK)


@pytest.mark.parametrize("start", [100, 126, 127, 128, 200, 238, 239, 300])
def test_checksum_field_beyond_the_first_bytes_can_be_completed(start: int) -> None:
    """A tunnel's inner checksum: it is written into the private copy of the headers."""
    data = bytearray(ip4(udp(data=bytes(random.Random(1).randbytes(400)))))
    data[start + 16 : start + 18] = b"\0\0"
    vnet = struct.pack("<BBHHHHH", 1, 0, 0, 0, start, 16, 0)
    burst = Burst(1)
    burst.append(bytes(data), vnet)
    lib.frame_parse_burst(burst.array, 1)
    soft = Softener()
    got = [out.octets(0) for out in soft(burst, 0)]
    assert len(got) == (1 if start + 18 <= 256 else 0)
    assert soft.dropped == 1 - len(got)
    if got:
        assert pure.checksum(got[0][start:]) == 0xFFFF

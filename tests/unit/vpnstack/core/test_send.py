"""Emitting and softening: C and the reference do the same, and dpkt reads what they made."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vpnstack.core._core import ffi, lib

from vpnstack.core import pure, puresend
from vpnstack.core.burst import Burst
from vpnstack.core.puresend import Frame, Tcp
from vpnstack.link.soft import Softener
from vpnstack.stack.headers import template

A4, B4 = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
A6, B6 = bytes.fromhex("fd" + "00" * 14 + "01"), bytes.fromhex("fd" + "00" * 14 + "02")
TAG = b"\x81\x00\x20\x05"


def head(version: int, proto: int, tagged: bool = False) -> bytes:
    src, dst = (A4, B4) if version == 4 else (A6, B6)
    made = template(b"\2" * 6, b"\4" * 6, (src, 4000, dst, 80), proto)
    return made[:12] + TAG + made[12:] if tagged else made


def c_tcp(tmpl: bytes, tcp: Tcp, data: bytes) -> tuple[Burst, Frame]:
    burst, kept = Burst(1), ffi.from_buffer(data)
    burst.keep(kept)
    opts = tcp.opts or ffi.NULL
    lib.frame_emit_tcp(
        burst[0], tmpl, len(tmpl), tcp.seq, tcp.ack, tcp.flags, tcp.wnd, tcp.urg, opts,
        len(tcp.opts), kept, len(data), tcp.gso_size,
    )  # fmt: skip
    burst.count = 1
    return burst, Frame(burst.vnet(0), burst.octets(0))


def c_udp(tmpl: bytes, data: bytes) -> tuple[Burst, Frame]:
    burst, kept = Burst(1), ffi.from_buffer(data)
    burst.keep(kept)
    lib.frame_emit_udp(burst[0], tmpl, len(tmpl), kept, len(data))
    burst.count = 1
    return burst, Frame(burst.vnet(0), burst.octets(0))


def c_soften(frame: Frame, offload: int) -> list[Frame]:
    burst, soft = Burst(1), Softener()
    burst.append(frame.octets, frame.vnet)
    lib.frame_parse_burst(burst.array, 1)
    return [Frame(b.vnet(i), b.octets(i)) for b in soft(burst, offload) for i in range(b.count)]


Soften = Callable[[Frame, int], list[Frame]]


@pytest.fixture(params=[c_soften, puresend.soften], ids=["c", "pure"])
def soften(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=[lambda *a: c_tcp(*a)[1], puresend.emit_tcp], ids=["c", "pure"])
def emit_tcp(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=[lambda *a: c_udp(*a)[1], puresend.emit_udp], ids=["c", "pure"])
def emit_udp(request: pytest.FixtureRequest) -> Any:
    return request.param


def read(octets: bytes) -> tuple[pure.Parsed, Any, Any]:
    """Parse with every checksum verified, and compare with dpkt field by field."""
    p = pure.parse(bytes(12), octets)
    assert p.verdict == pure.Verdict.OK
    ip = dpkt.ethernet.Ethernet(octets).data
    l4 = ip.data
    skip = 12 if p.ip_version == 4 else 0
    assert (p.src[skip:], p.dst[skip:], p.ip_version) == (ip.src, ip.dst, ip.v)
    assert (p.sport, p.dport) == (l4.sport, l4.dport)
    if p.ip_version == 4:
        assert (p.ip_len, p.ip_id, p.ttl, p.proto, p.tos) == (ip.len, ip.id, ip.ttl, ip.p, ip.tos)
    else:
        assert (p.ip_len, p.ttl, p.proto, p.tos) == (ip.plen + 40, ip.hlim, ip.nxt, ip.fc)
    if p.proto == 6:
        assert (p.seq, p.ack, p.tcp_flags, p.wnd, p.urg) == (
            l4.seq, l4.ack, l4.flags, l4.win, l4.urp,
        )  # fmt: skip
        options = {kind: body for kind, body in dpkt.tcp.parse_opts(l4.opts) if kind > 1}
        assert bool(p.opts & 1) == (2 in options)
        assert not p.opts & 1 or p.mss == int.from_bytes(options[2], "big")
        assert not p.opts & 8 or options[8] == struct.pack(">II", p.tsval, p.tsecr)
    else:
        assert p.data_len + 8 == l4.ulen
    assert octets[p.data : p.data + p.data_len] == l4.data
    return p, ip, l4


U32, U16 = st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1)
OPTS = st.sampled_from([b"", b"\2\4\5\xb4", b"\1\1\x08\x0a" + bytes(range(8)), b"\1" * 40])
SEGMENTS = st.builds(Tcp, U32, U32, st.integers(0, 255), U16, U16, OPTS, st.integers(0, 1460))
QUICK = settings(derandomize=True, deadline=None, max_examples=150)


@QUICK
@given(st.sampled_from([4, 6]), st.booleans(), SEGMENTS, st.binary(max_size=300))
def test_parse_of_emit_tcp(version: int, tagged: bool, tcp: Tcp, data: bytes) -> None:
    tmpl = head(version, 6, tagged)
    burst, made = c_tcp(tmpl, tcp, data)
    assert made == puresend.emit_tcp(tmpl, tcp, data)
    p = pure.parse(made.vnet, made.octets)
    many = tcp.gso_size and len(data) // tcp.gso_size > pure.SEGMENTS_MAX
    assert p.verdict == (pure.Verdict.BAD_VNET if many else pure.Verdict.OK)
    assert (p.seq, p.ack, p.tcp_flags, p.wnd, p.urg) == (
        tcp.seq, tcp.ack, tcp.flags, tcp.wnd, tcp.urg,
    )  # fmt: skip
    assert (p.vlan, p.sport, p.dport) == (0x2005 if tagged else 0xFFFF, 4000, 80)
    assert made.octets[p.data - len(tcp.opts) : p.data] == tcp.opts
    assert made.octets[p.data :] == data
    noted = burst[0]  # what emitting notes in the descriptor is what parsing would find
    skip = {"opts", "mss", "tsval", "tsecr", "verdict"}
    assert [
        n for n in pure.FIELDS[:-3] if n not in skip and getattr(noted, n) != getattr(p, n)
    ] == []


@QUICK
@given(st.sampled_from([4, 6]), st.booleans(), st.binary(max_size=300))
def test_parse_of_emit_udp(version: int, tagged: bool, data: bytes) -> None:
    tmpl = head(version, 17, tagged)
    _, made = c_udp(tmpl, data)
    assert made == puresend.emit_udp(tmpl, data)
    p = pure.parse(made.vnet, made.octets)
    assert (p.verdict, p.sport, p.dport) == (pure.Verdict.OK, 4000, 80)
    assert made.octets[p.data :] == data


@QUICK
@given(st.sampled_from([4, 6]), st.booleans(), SEGMENTS, st.binary(max_size=400),
       st.integers(0, 15))  # fmt: skip
def test_softening_agrees(version: int, tagged: bool, tcp: Tcp, data: bytes, offload: int) -> None:
    made = puresend.emit_tcp(head(version, 6, tagged), tcp, data)
    assert c_soften(made, offload) == puresend.soften(made, offload)


@pytest.mark.parametrize("tagged", [False, True])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", [1, 536, 1460, 9999, 10000, 10001])
def test_super_segment_comes_back_together(
    emit_tcp: Any, soften: Soften, version: int, tagged: bool, size: int
) -> None:
    data = random.Random(size).randbytes(1000 if size == 1 else 10001)
    start = 2**32 - 500
    tcp = Tcp(start, 7, 0xD9, 500, 3, b"\1\1\x08\x0a" + bytes(range(8)), size)
    parts = soften(emit_tcp(head(version, 6, tagged), tcp, data), 0)
    assert len(parts) == -(-len(data) // size)
    got = b""
    for i, part in enumerate(parts):
        p, _, l4 = read(part.octets)
        assert p.vlan == (0x2005 if tagged else 0xFFFF)
        assert (p.seq, p.ip_id) == ((start + len(got)) % 2**32, i if version == 4 else 0)
        last = i == len(parts) - 1
        assert p.tcp_flags == 0x50 | (0x80 if i == 0 else 0) | (9 if last else 0)
        got += l4.data
    assert got == data


@pytest.mark.parametrize("tagged", [False, True])
@pytest.mark.parametrize("version", [4, 6])
def test_uso_cuts_equal_datagrams(
    emit_udp: Any, soften: Soften, version: int, tagged: bool
) -> None:
    data = random.Random(version).randbytes(3500)
    made = emit_udp(head(version, 17, tagged), data)
    fields = list(puresend.VNET.unpack(made.vnet))
    fields[1], fields[3] = pure.GSO_UDP_L4, 1000
    parts = soften(Frame(puresend.VNET.pack(*fields), made.octets), puresend.CSUM)
    payloads = [read(part.octets)[2].data for part in parts]
    assert [len(one) for one in payloads] == [1000, 1000, 1000, 500]
    assert b"".join(payloads) == data


def test_udp_checksum_of_zero_is_sent_as_ones(emit_udp: Any, soften: Soften) -> None:
    base = soften(emit_udp(head(4, 17), b"\0\0"), 0)[0].octets
    fix = base[40:42]  # these two bytes as payload bring the sum to zero
    made = soften(emit_udp(head(4, 17), fix), 0)[0].octets
    assert made[40:42] == b"\xff\xff"
    read(made)


def test_segmentation_without_checksums_is_not_taken(soften: Soften) -> None:
    made = puresend.emit_tcp(head(4, 6), Tcp(gso_size=100), bytes(250))
    assert len(soften(made, puresend.TSO4)) == 3
    assert soften(made, puresend.TSO4 | puresend.CSUM) == [made]


@pytest.mark.parametrize(("tmpl", "opts", "size"), [
    (head(4, 6)[:37], b"", 0), (head(4, 6), b"\1", 0), (head(4, 6), b"\1" * 44, 0),
    (head(4, 6), b"", 65496), (head(6, 6), b"", 65516), (head(4, 6), b"", 65536),
    (b"\0" * 14 + b"\x50" + bytes(23), b"", 0),
])  # fmt: skip
def test_what_cannot_be_is_empty(emit_tcp: Any, tmpl: bytes, opts: bytes, size: int) -> None:
    assert emit_tcp(tmpl, Tcp(opts=opts), bytes(size)) == Frame()


def test_frames_without_bytes_are_counted_and_not_sent() -> None:
    burst, _ = c_tcp(head(4, 6), Tcp(opts=b"\1"), b"")
    soft = Softener()
    assert list(soft(burst, 15)) == []
    assert soft.dropped == 1


@pytest.mark.parametrize(("first", "dropped"), [(256, 0), (257, 1)])
def test_twenty_pieces_that_would_need_another(first: int, dropped: int) -> None:
    made = puresend.emit_tcp(head(4, 6), Tcp(), bytes(1000))
    burst, soft = Burst(1), Softener()
    f = burst.append(made.octets, made.vnet)
    edges = [0, *range(first, first + 19), len(made.octets)]
    f.iovcnt, whole = 20, f.iov[0].iov_base
    for i in range(20):
        f.iov[i].iov_base = ffi.cast("char *", whole) + edges[i]
        f.iov[i].iov_len = edges[i + 1] - edges[i]
    lib.frame_parse_burst(burst.array, 1)
    assert f.verdict == 0
    got = [b.octets(i) for b in soft(burst, 0) for i in range(b.count)]
    assert (len(got), soft.dropped) == (1 - dropped, dropped)
    if got:
        read(got[0])

"""Segments and options: the codec's round trip, malformed lists, resets for nobody's segments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpnstack.proto.tcp.isn import initial_sequence, timestamp_offset
from vpnstack.proto.tcp.options import emit_options, parse_options
from vpnstack.proto.tcp.segment import ACK, FIN, RST, SYN, Segment, reset_for
from vpnstack.proto.tcp.seq import before, unwrap

number = st.integers(0, 0xFFFFFFFF)
pairs = st.tuples(number, number)
segments = st.builds(
    Segment,
    seq=number,
    ack=number,
    flags=st.just(ACK),
    wnd=st.integers(0, 65535),
    mss=st.integers(0, 65535),
    wscale=st.integers(-1, 14),
    sack_permitted=st.booleans(),
    ts=st.none() | pairs,
    sacks=st.lists(pairs, max_size=2).map(tuple),
)


@given(segments)
def test_options_round_trip(seg: Segment) -> None:
    data = emit_options(seg)
    assert len(data) % 4 == 0
    assert len(data) <= 40
    got = parse_options(data)
    assert (got.mss, got.wscale, got.sack_permitted, got.ts) == seg[6:10]
    assert got.sacks == seg.sacks[: len(got.sacks)]
    assert not got.malformed
    full = bool(seg.mss) + (seg.wscale >= 0) + seg.sack_permitted == 3 and seg.ts is not None
    assert got.sacks == seg.sacks or full


@given(st.binary(max_size=40))
def test_any_bytes_parse(data: bytes) -> None:
    got = parse_options(data)
    assert 0 <= got.mss <= 65535
    assert -1 <= got.wscale <= 14


@pytest.mark.parametrize("data", [b"\x02", b"\x02\x00", b"\x02\x01", b"\x03\x03", b"\x08\x0a12"])
def test_option_length_zero_one_or_past_the_end(data: bytes) -> None:
    assert parse_options(b"\x02\x04\x05\xb4" + data).malformed
    assert parse_options(b"\x02\x04\x05\xb4" + data).mss == 1460


def test_window_scale_above_14_counts_as_14() -> None:
    assert parse_options(b"\x03\x03\xff\x00").wscale == 14


def test_rfc9293_3_10_7_1_reset_for_a_segment_without_connection() -> None:
    assert reset_for(Segment(1, 2, RST, 0)) is None
    assert reset_for(Segment(1, 77, ACK, 0)) == Segment(77, 0, RST, 0)
    answer = reset_for(Segment(0xFFFFFFFF, 0, SYN | FIN, 0, b"abc"))
    assert answer == Segment(0, 4, RST | ACK, 0)


def test_segment_reads_as_tcpdump() -> None:
    seg = Segment(7, 9, SYN | ACK, 100, mss=1460, wscale=5, sack_permitted=True, ts=(1, 2))
    assert str(seg) == (
        "Flags [S.], seq 7, ack 9, win 100, "
        "options [mss 1460,sackOK,TS val 1 ecr 2,wscale 5], length 0"
    )
    data = Segment(7, 9, ACK, 100, bytes(3000), gso_size=1448, sacks=((1, 2),))
    assert str(data).endswith("options [sack 1 {1:2}], length 3000 gso 1448")


@given(number, st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**40))
def test_unwrap_finds_the_closest(start: int, distance: int, laps: int) -> None:
    near = start + (laps << 32)
    assert unwrap((near + distance) & 0xFFFFFFFF, near) == near + distance


def test_before_wraps_around() -> None:
    assert before(0xFFFFFFFF, 0)
    assert not before(0, 0xFFFFFFFF)
    assert not before(5, 5)


def test_rfc6528_initial_sequence_differs_by_flow_and_grows_with_time() -> None:
    a = initial_sequence(b"k" * 16, b"flow a", 100.0)
    assert initial_sequence(b"k" * 16, b"flow b", 100.0) != a
    assert initial_sequence(b"j" * 16, b"flow a", 100.0) != a
    assert (initial_sequence(b"k" * 16, b"flow a", 101.0) - a) & 0xFFFFFFFF == 250_000
    assert timestamp_offset(b"k" * 16, b"a") != timestamp_offset(b"k" * 16, b"b")

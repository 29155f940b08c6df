"""Objects behind the quote of an ICMP error (RFC 4884)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpnstack.wire import icmp, icmpext, ip
from vpnstack.wire.icmp import Kind
from vpnstack.wire.icmpext import Object

A4, B4 = b"\xc0\xa8\x7f\x02", b"\xc0\xa8\x7f\x01"
A6, B6 = bytes.fromhex("fd000127" + "00" * 11 + "02"), bytes.fromhex("fd000127" + "00" * 11 + "01")
VERSIONS = pytest.mark.parametrize("version", [4, 6])

objects = st.lists(
    st.builds(
        Object, st.integers(0, 255), st.integers(0, 255),
        st.integers(0, 8).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n)),
    ),
    max_size=8,
)  # fmt: skip


def quoting(version: int, size: int = 20) -> icmp.Error:
    ends = (A4, B4) if version == 4 else (A6, B6)
    body = bytes.fromhex("1234003500080000") + b"x" * size
    return icmp.error(Kind.TTL_EXCEEDED, version, ip.emit(ip.Repr(*ends, ip.UDP), body))


@given(objects, st.sampled_from([4, 6]), st.integers(0, 300))
def test_round_trip(given: list[Object], version: int, size: int) -> None:
    error = quoting(version, size)
    ends = (B4, A4) if version == 4 else (B6, A6)
    wire = icmp.parse(icmp.emit(icmpext.emit(error, given), *ends), *ends)
    assert isinstance(wire, icmp.Error)
    quote, found = icmpext.parse(wire)
    assert found == tuple(given)
    assert quote == error.quote[: icmpext.QUOTE_MIN]
    assert icmp.quoted(wire) == icmp.quoted(error)


def test_mpls_labels_as_a_router_sends_them() -> None:
    """RFC 4950: label 100449, EXP 0, bottom of the stack, TTL 1; the layout by hand."""
    label = (100449 << 12 | 1 << 8 | 1).to_bytes(4)
    made = icmpext.emit(quoting(4), [Object(1, 1, label)])
    assert made.value == 32 << 16  # 128 octets in words of 32 bits
    assert made.quote[128:130] == b"\x20\0"
    assert made.quote[132:] == bytes.fromhex("00080101") + label
    assert str(icmpext.parse(made)[1][0]) == "MPLS labels, type 1, length 4"


@VERSIONS
def test_without_a_length_there_are_none(version: int) -> None:
    made = icmpext.emit(quoting(version), [Object(2, 1, b"four")])
    assert icmpext.parse(replace(made, value=0)) == (made.quote, ())
    assert icmpext.parse(quoting(version)) == (quoting(version).quote, ())


@VERSIONS
def test_packet_too_big_keeps_its_mtu(version: int) -> None:
    """The second word of ICMPv6's is all MTU; that of IPv4 has room for both."""
    error = icmp.error(Kind.TOO_BIG, version, quoting(version).quote, 0x20000500 & 0xFFFF)
    if version == 6:
        with pytest.raises(ValueError, match="type"):
            icmpext.emit(error, [])
        assert icmpext.parse(replace(error, value=0xFF000500)) == (error.quote, ())
    else:
        assert icmpext.emit(error, []).value & 0xFFFF == 0x500


@pytest.mark.parametrize(
    ("at", "value"),
    [(128, 0x10), (131, 0xEE), (133, 3), (133, 9), (133, 0), (132, 0xFF)],
    ids=["version", "checksum", "short", "long", "none", "huge"],
)
def test_broken_structure_is_as_good_as_none(at: int, value: int) -> None:
    made = icmpext.emit(quoting(4), [Object(1, 1, b"four")])
    quote = bytearray(made.quote)
    quote[at] = value
    if at > 131:
        quote[130:132] = bytes(2)  # so that it is not the checksum that refuses it
    found = icmpext.parse(replace(made, quote=bytes(quote)))
    assert found == (quoting(4).quote, ())


def test_objects_without_end_are_bounded() -> None:
    made = icmpext.emit(quoting(4), [Object(9, 9)] * (icmpext.OBJECTS_MAX + 1))
    assert icmpext.parse(made)[1] == ()


@given(st.binary(max_size=300), st.integers(0, 2**32 - 1), st.sampled_from([4, 6]))
def test_any_octets_are_read(quote: bytes, value: int, version: int) -> None:
    error = icmp.Error(version, 3, 0, value, quote)
    found, _ = icmpext.parse(error)
    assert quote.startswith(found)

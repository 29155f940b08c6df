"""ICMP and ICMPv6 messages; row 8 of the defence checklist."""

from __future__ import annotations

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpnstack.wire import icmp, ip
from vpnstack.wire.malformed import Malformed

A4, B4 = b"\xc0\xa8\x7f\x02", b"\xc0\xa8\x7f\x01"
A6 = bytes.fromhex("fd000127000000000000000000000002")
B6 = bytes.fromhex("fd000127000000000000000000000001")
PAIRS = [(A4, B4), (A6, B6)]

u16 = st.integers(0, 0xFFFF)
echoes = st.builds(icmp.Echo, st.booleans(), u16, u16, st.binary(max_size=100))


@given(echoes, st.sampled_from(PAIRS))
def test_echo_round_trip(echo: icmp.Echo, pair: tuple[bytes, bytes]) -> None:
    assert icmp.parse(icmp.emit(echo, *pair), *pair) == echo


@given(
    st.sampled_from(icmp.Kind),
    st.sampled_from(PAIRS),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=500),
)
def test_error_round_trip(
    kind: icmp.Kind, pair: tuple[bytes, bytes], value: int, quote: bytes
) -> None:
    error = icmp.error(kind, 4 if len(pair[0]) == 4 else 6, quote, value)
    parsed = icmp.parse(icmp.emit(error, *pair), *pair)
    assert parsed == error
    assert isinstance(parsed, icmp.Error)
    assert parsed.kind is kind


def test_checksum_agrees_with_dpkt() -> None:
    for data in (b"", b"x", bytes(31), bytes(range(256)) * 3):
        message = icmp.emit(icmp.Echo(False, 7, 9, data), A4, B4)
        packet = dpkt.icmp.ICMP(type=8, data=dpkt.icmp.ICMP.Echo(id=7, seq=9, data=data))
        assert message == bytes(packet)
        six = dpkt.ip6.IP6(src=A6, dst=B6, nxt=58, plen=8 + len(data))
        six.data = dpkt.icmp6.ICMP6(type=128, data=dpkt.icmp6.ICMP6.Echo(id=7, seq=9, data=data))
        assert icmp.emit(icmp.Echo(False, 7, 9, data), A6, B6) == bytes(six)[40:]


@pytest.mark.parametrize("pair", PAIRS)
def test_short_header(pair: tuple[bytes, bytes]) -> None:
    whole = icmp.emit(icmp.Echo(False, 1, 1), *pair)
    for length in range(8):
        with pytest.raises(Malformed, match="at least 8"):
            icmp.parse(whole[:length], *pair)


@pytest.mark.parametrize("pair", PAIRS)
def test_bad_checksum(pair: tuple[bytes, bytes]) -> None:
    whole = bytearray(icmp.emit(icmp.Echo(False, 1, 1, b"data"), *pair))
    whole[-1] ^= 1
    with pytest.raises(Malformed, match="checksum"):
        icmp.parse(bytes(whole), *pair)


def test_redirect_from_guest_is_refused() -> None:
    redirect = icmp.emit(icmp.Error(4, 5, 1, 0, bytes(28)), A4, B4)
    with pytest.raises(Malformed, match="found type 5"):
        icmp.parse(redirect, A4, B4)


def test_echo_longer_than_mtu_keeps_its_length() -> None:
    # Row 8: a reply is as long as what came, never as long as what a header claims.
    echo = icmp.parse(icmp.emit(icmp.Echo(False, 1, 1, bytes(9000)), A4, B4), A4, B4)
    assert isinstance(echo, icmp.Echo)
    assert len(echo.data) == 9000


def packet(pair: tuple[bytes, bytes], proto: int, body: bytes) -> bytes:
    return ip.emit(ip.Repr(*pair, proto), body)


@pytest.mark.parametrize("pair", PAIRS)
def test_nested_header_truncated(pair: tuple[bytes, bytes]) -> None:
    version = 4 if len(pair[0]) == 4 else 6
    whole = packet(pair, ip.UDP, bytes.fromhex("1234003500080000"))
    for length in range(len(whole)):
        assert icmp.quoted(icmp.Error(version, 3, 3, 0, whole[:length])) is None
    flow = icmp.quoted(icmp.Error(version, 3, 3, 0, whole))
    assert flow == icmp.Quoted(ip.UDP, *pair, 0x1234, 53)


def test_nested_header_of_the_other_family() -> None:
    whole = packet((A6, B6), ip.UDP, bytes(8))
    assert icmp.quoted(icmp.Error(4, 3, 3, 0, whole)) is None


def test_quoted_echo_gives_its_identifier() -> None:
    message = icmp.emit(icmp.Echo(False, 77, 1), A4, B4)
    flow = icmp.quoted(icmp.Error(4, 11, 0, 0, packet((A4, B4), ip.ICMP, message)))
    assert flow == icmp.Quoted(ip.ICMP, A4, B4, 77, 0)


def test_quote_behind_extension_headers() -> None:
    options = bytes([ip.UDP, 0]) + bytes(6)
    whole = packet((A6, B6), ip.DESTINATION, options + bytes.fromhex("1234003500080000"))
    flow = icmp.quoted(icmp.Error(6, 1, 4, 0, whole))
    assert flow == icmp.Quoted(ip.UDP, A6, B6, 0x1234, 53)


def test_str() -> None:
    assert str(icmp.Echo(True, 5, 1, b"12")) == "ICMP echo reply, id 5, seq 1, length 10"
    error = icmp.error(icmp.Kind.TOO_BIG, 6, b"", 1280)
    assert str(error) == "ICMP too big, type 2, code 0, value 1280"

"""IPv4 and IPv6 headers and address arithmetic."""

from __future__ import annotations

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpnstack.wire import ip
from vpnstack.wire.malformed import Malformed

A4, B4 = b"\xc0\xa8\x7f\x02", b"\xc0\xa8\x7f\x01"
A6 = bytes.fromhex("fd000127000000000000000000000002")
B6 = bytes.fromhex("fd000127000000000000000000000001")

octet = st.integers(0, 255)
v4 = st.builds(
    ip.Repr,
    src=st.binary(min_size=4, max_size=4),
    dst=st.binary(min_size=4, max_size=4),
    proto=octet,
    ttl=octet,
    tos=octet,
    ident=st.integers(0, 65535),
    dont_fragment=st.booleans(),
    more=st.booleans(),
    offset=st.integers(0, 8191).map(lambda n: n * 8),
)
v6 = st.builds(
    ip.Repr,
    src=st.binary(min_size=16, max_size=16),
    dst=st.binary(min_size=16, max_size=16),
    proto=octet,
    ttl=octet,
    tos=octet,
    flow_label=st.integers(0, 0xFFFFF),
)


@given(v4 | v6, st.binary(max_size=100), st.binary(max_size=20))
def test_round_trip(header: ip.Repr, payload: bytes, padding: bytes) -> None:
    assert ip.parse(ip.emit(header, payload) + padding) == (header, payload)


@given(st.binary(max_size=200))
def test_checksum_agrees_with_dpkt(data: bytes) -> None:
    assert ip.checksum(data) == dpkt.in_cksum(data)


@given(st.binary(min_size=2, max_size=200))
def test_checksum_over_itself_is_zero(data: bytes) -> None:
    even = data[: len(data) // 2 * 2]
    assert ip.checksum(even + ip.checksum(even).to_bytes(2)) == 0


def test_emit_agrees_with_dpkt() -> None:
    packet = ip.emit(ip.Repr(A4, B4, ip.UDP, 5, 8, 77, dont_fragment=True), b"payload")
    assert packet == bytes(
        dpkt.ip.IP(src=A4, dst=B4, p=17, ttl=5, tos=8, id=77, df=1, len=27, data=b"payload")
    )
    parsed = dpkt.ip6.IP6(ip.emit(ip.Repr(A6, B6, 59, 5), b"payload"))
    assert (parsed.src, parsed.dst, parsed.nxt, parsed.hlim, parsed.plen) == (A6, B6, 59, 5, 7)


GOOD = ip.emit(ip.Repr(A4, B4, 17), b"payload")


def with_sum(header: bytes) -> bytes:
    zero = header[:10] + bytes(2) + header[12:]
    return zero[:10] + ip.checksum(zero[:20]).to_bytes(2) + zero[12:]


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x50" + GOOD[1:],  # version 5
        *(GOOD[:n] for n in range(1, 27)),
        b"\x44" + GOOD[1:],  # header length 16
        b"\x4f" + GOOD[1:],  # header length 60, past the end
        with_sum(GOOD[:2] + b"\0\x13" + GOOD[4:]),  # total length 19
        with_sum(GOOD[:2] + b"\0\x1c" + GOOD[4:]),  # total length past the end
        GOOD[:8] + b"\x01" + GOOD[9:],  # ttl changed, checksum not
        ip.emit(ip.Repr(A6, B6, 17), b"payload")[:-1],
        ip.emit(ip.Repr(A6, B6, 17), b"payload")[:39],
    ],
)
def test_malformed(packet: bytes) -> None:
    with pytest.raises(Malformed):
        ip.parse(packet)


def test_extension_header_chains_are_bounded() -> None:
    # Row 11: a header that names itself, and a chain without end.
    chain = bytes([ip.DESTINATION, 0]) + bytes(6)
    assert ip.upper(ip.emit(ip.Repr(A6, B6, ip.DESTINATION), chain * 1000)) is None
    seven = chain * 6 + bytes([ip.UDP, 0]) + bytes(6)
    found = ip.upper(ip.emit(ip.Repr(A6, B6, ip.DESTINATION), seven))
    assert found == ip.Upper(ip.UDP, 40 + 56)
    past = bytes([ip.UDP, 255]) + bytes(6)
    assert ip.upper(ip.emit(ip.Repr(A6, B6, ip.HOP_BY_HOP), past)) == ip.Upper(ip.UDP, 2088)
    assert ip.upper(ip.emit(ip.Repr(A6, B6, ip.HOP_BY_HOP), b"\x11")) is None


def test_addresses() -> None:
    assert ip.solicited_node(A6) == ip.parse_address("ff02::1:ff00:2")
    assert ip.multicast_mac(ip.solicited_node(A6)).hex(":") == "33:33:ff:00:00:02"
    assert ip.multicast_mac(ip.parse_address("239.129.2.3")).hex(":") == "01:00:5e:01:02:03"
    mac = bytes.fromhex("5254001234ff")
    assert ip.format_address(ip.eui64(mac)) == "fe80::5054:ff:fe12:34ff"
    assert ip.format_address(ip.eui64(mac, A6)) == "fd00:127::5054:ff:fe12:34ff"
    assert ip.is_link_local(ip.parse_address("febf::1"))
    assert not ip.is_link_local(ip.parse_address("fec0::1"))
    assert ip.is_multicast(ip.parse_address("224.0.0.1"))
    assert not ip.is_multicast(ip.parse_address("240.0.0.1"))


def test_str() -> None:
    assert str(ip.Repr(A4, B4, 17)) == "IP 192.168.127.2 > 192.168.127.1: proto 17, ttl 64"

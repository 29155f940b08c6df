"""DHCPv6 messages."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpnstack.wire import dhcpv6
from vpnstack.wire.malformed import Malformed

u32, u16 = st.integers(0, 2**32 - 1), st.integers(0, 65535)
octets = st.binary(min_size=16, max_size=16)
duid = st.none() | st.binary(min_size=3, max_size=130)
address = st.builds(dhcpv6.Address, octets, u32, u32, u16)
prefix = st.builds(dhcpv6.Prefix, octets, st.integers(0, 128), u32, u32, u16)
na = st.builds(dhcpv6.IaNa, u32, u32, u32, st.lists(address, max_size=3).map(tuple), u16)
pd = st.builds(dhcpv6.IaPd, u32, u32, u32, st.lists(prefix, max_size=3).map(tuple), u16)
messages = st.builds(
    dhcpv6.Repr, st.sampled_from(dhcpv6.Type), st.integers(0, 2**24 - 1), duid, duid,
    st.lists(na, max_size=2).map(tuple), st.lists(pd, max_size=2).map(tuple),
    st.lists(u16, max_size=5).map(tuple), st.none() | st.integers(0, 255), st.none() | u16,
    st.none() | u16, st.booleans(), st.lists(octets, max_size=3).map(tuple),
    st.sampled_from([(), ("a.example",), ("a", "b.c.example")]), st.none() | u32, st.none() | u32,
)  # fmt: skip


@given(messages)
def test_round_trip(message: dhcpv6.Repr) -> None:
    assert dhcpv6.parse(dhcpv6.emit(message)) == message
    assert str(message).startswith("dhcp6 ")


def one(code: int, value: bytes) -> bytes:
    return b"\1\0\0\1" + dhcpv6.option(code, value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\1\0\0", "at least"),
        (b"\x0c\0\0\1", "message type"),
        (b"\1\0\0\1\0\1\0", "within its message"),
        (b"\1\0\0\1\0\1\0\x09abc", "within its message"),
        (b"\1\0\0\1" + dhcpv6.option(99, b"") * 129, "within its message"),
        (one(1, b"ab"), "DUID"),
        (one(1, bytes(131)), "DUID"),
        (one(6, b"abc"), "option codes"),
        (one(7, b"ab"), "1 octets"),
        (one(23, bytes(15)), "whole addresses"),
        (one(24, b"\xc0\0"), "label"),
        (one(13, b"\0"), "status"),
        (one(3, bytes(11)), "IA_NA"),
        (one(3, bytes(12) + dhcpv6.option(5, bytes(23))), "IA address"),
        (one(3, bytes(12) + b"\0\5\0\xff"), "within its message"),
        (one(25, bytes(12) + dhcpv6.option(26, bytes(24))), "IA prefix"),
        (one(25, bytes(12) + dhcpv6.option(26, struct.pack("!IIB16x", 1, 1, 129))), "at most 128"),
    ],
)
def test_malformed(data: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        dhcpv6.parse(data)

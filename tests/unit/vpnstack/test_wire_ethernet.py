"""Ethernet headers and MAC addresses; row 2 of the defence checklist at the codec."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpnstack.wire import ethernet
from vpnstack.wire.malformed import Malformed

macs = st.binary(min_size=6, max_size=6)


@given(st.builds(ethernet.Repr, macs, macs, st.integers(0x600, 0xFFFF)), st.binary(max_size=50))
def test_round_trip(header: ethernet.Repr, payload: bytes) -> None:
    assert ethernet.parse(ethernet.emit(header, payload)) == (header, payload)


@given(macs)
def test_mac_round_trip(mac: bytes) -> None:
    assert ethernet.parse_mac(ethernet.format_mac(mac)) == mac
    assert ethernet.parse_mac(mac.hex("-").upper()) == mac


@pytest.mark.parametrize(
    "text", ["", "02:00:00:00:00", "02:00:00:00:00:0g", "020000000000", "02:00-00:00:00:01", "1:2:"]
)
def test_mac_refused(text: str) -> None:
    with pytest.raises(ValueError, match="MAC"):
        ethernet.parse_mac(text)


@pytest.mark.parametrize("frame", [b"", bytes(13), bytes(12) + b"\x05\xff"])
def test_runt_or_length_field(frame: bytes) -> None:
    with pytest.raises(Malformed, match="ethernet"):
        ethernet.parse(frame)


def test_unicast() -> None:
    assert ethernet.is_unicast(b"\x02\0\0\0\0\x01")
    assert not any(map(ethernet.is_unicast, (ethernet.BROADCAST, ethernet.ZERO, b"\x01" * 6, b"")))


def test_str() -> None:
    header = ethernet.Repr(ethernet.BROADCAST, b"\x02\0\0\0\0\x01", ethernet.TYPE_ARP)
    assert str(header) == "02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff, ethertype 0x0806"

"""ARP messages; row 3 of the defence checklist."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpnstack.wire import arp
from vpnstack.wire.malformed import Malformed

MAC, IP = b"\x02\0\0\0\0\x02", b"\xc0\xa8\x7f\x02"
US = b"\xc0\xa8\x7f\x01"
GOOD = arp.emit(arp.request(MAC, IP, US))

macs = st.binary(min_size=6, max_size=6)
stations = macs.map(lambda m: bytes([m[0] & 0xFE]) + m[1:5] + b"\x01")
hosts = st.binary(min_size=4, max_size=4).map(lambda a: bytes([a[0] & 0x7F]) + a[1:])
messages = st.builds(arp.Repr, st.sampled_from(arp.Op), stations, hosts, macs, hosts)


@given(messages, st.binary(max_size=18))
def test_round_trip(message: arp.Repr, padding: bytes) -> None:
    assert arp.parse(arp.emit(message) + padding) == message


def test_request_on_the_wire() -> None:
    assert GOOD.hex() == "0001080006040001020000000002c0a87f02000000000000c0a87f01"
    answer = arp.reply(arp.parse(GOOD), b"\x02\0\0\0\0\x01")
    assert str(answer) == "ARP, Reply 192.168.127.1 is-at 02:00:00:00:00:01"
    assert (answer.tha, answer.tpa) == (MAC, IP)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (7, b"\0"), (7, b"\x03"), (6, b"\xff"),  # operation 0, 3, 0xff01
        (4, b"\0"), (4, b"\x10"), (5, b"\0"), (5, b"\x10"),  # lengths
        (0, b"\x02"), (2, b"\x86\xdd"),  # hardware and protocol
        (8, b"\x01"), (8, bytes(6)), (8, b"\xff" * 6),  # sender a group, nobody, all
        (14, b"\xe0"), (14, b"\xff" * 4),  # sender's IP a group's, all
    ],
)  # fmt: skip
def test_row3_bad_field(at: int, value: bytes) -> None:
    with pytest.raises(Malformed, match="arp"):
        arp.parse(GOOD[:at] + value + GOOD[at + len(value) :])


@pytest.mark.parametrize("length", range(28))
def test_row3_short_body(length: int) -> None:
    with pytest.raises(Malformed, match="at least 28"):
        arp.parse(GOOD[:length])


def test_row3_gratuitous_and_probe_are_recognised() -> None:
    gratuitous = arp.parse(arp.emit(arp.request(MAC, US, US)))
    assert gratuitous.is_gratuitous
    probe = arp.parse(arp.emit(arp.request(MAC, bytes(4), US)))
    assert probe.is_probe
    assert not arp.parse(GOOD).is_probe

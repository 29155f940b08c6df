"""DHCP messages; row 9 of the defence checklist at the codec."""

from __future__ import annotations

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpnstack.wire import dhcp, names
from vpnstack.wire.malformed import Malformed

MAC = b"\x02\0\0\0\0\x02"
addr = st.binary(min_size=4, max_size=4)
text = st.binary(max_size=60).map(lambda b: b.rstrip(b"\0"))
codes = st.integers(1, 254).filter(lambda code: code != 52)
options = st.lists(
    st.tuples(codes, st.binary(max_size=600)), max_size=8, unique_by=lambda pair: pair[0]
).map(tuple)
messages = st.builds(
    dhcp.Repr, st.sampled_from([1, 2]), st.integers(0, 2**32 - 1), st.binary(max_size=16),
    options, st.integers(0, 255), st.integers(0, 255), st.integers(0, 65535), st.booleans(),
    addr, addr, addr, addr, text, text,
)  # fmt: skip


@given(messages)
def test_round_trip(message: dhcp.Repr) -> None:
    assert dhcp.parse(dhcp.emit(message)) == message


def test_dpkt_reads_what_we_write() -> None:
    message = dhcp.Repr(1, 0x1234, MAC, ((53, b"\x01"), (12, b"vm1")))
    packet = dpkt.dhcp.DHCP(dhcp.emit(message))
    assert (packet.xid, packet.chaddr[:6]) == (0x1234, MAC)
    assert list(packet.opts) == [(53, b"\x01"), (12, b"vm1")]


FIXED = dhcp.emit(dhcp.Repr(1, 1, MAC))[:240]


def raw(area: bytes, sname: bytes = b"", file: bytes = b"") -> bytes:
    return FIXED[:44] + sname.ljust(64, b"\0") + file.ljust(128, b"\0") + FIXED[236:] + area


@pytest.mark.parametrize("length", [0, 1, 44, 236, 239])
def test_row9_shorter_than_240(length: int) -> None:
    with pytest.raises(Malformed, match="at least 240"):
        dhcp.parse(FIXED[:length])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (FIXED[:236] + b"\x63\x82\x53\x62\xff", "cookie"),
        (FIXED[:2] + b"\x11" + FIXED[3:] + b"\xff", "0 to 16"),
        (b"\x03" + FIXED[1:] + b"\xff", "op 1 or 2"),
        (raw(b"\x35\x02\x01"), "within"),
        (raw(b"\x35"), "within"),
        (raw(b"\x35\xff\x01\xff"), "within"),
        (raw(b""), "END"),
        (raw(b"\x35\x01\x01"), "END"),
        (raw(bytes(60)), "END"),
        (raw(b"\x34\x01\x04\xff"), "overload"),
        (raw(b"\x34\x02\x01\x01\xff"), "overload"),
        (raw(b"\x34\x01\x01\xff", file=bytes(128)), "END"),
        (raw(b"\x34\x01\x02\xff", sname=b"\x0c\x40" + b"a" * 62), "within"),
        (raw(b"\x0c\x00" * 257 + b"\xff"), "within"),
    ],
)
def test_row9_malformed(data: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        dhcp.parse(data)


def test_row9_overload_reads_file_then_sname() -> None:
    overload = b"\x34\x01\x03"
    file = b"\x0c\x02cd" + overload + b"\xff"  # an overload inside means nothing
    message = dhcp.parse(raw(b"\x0c\x02ab" + overload + b"\xff", b"\x0c\x02ef\xff", file))
    assert message.options == ((12, b"abcdef"),)
    assert (message.sname, message.file) == (b"", b"")


def test_rfc3396_long_option() -> None:
    value = bytes(range(256)) * 3
    data = dhcp.emit(dhcp.Repr(1, 1, MAC, ((61, value),)))
    assert data[240:242] == b"\x3d\xff"
    assert dhcp.parse(data).get(61) == value


def test_rfc3442_routes() -> None:
    routes = [(b"\x0a\0\0\0", 8, b"\x01\x02\x03\x04"), (bytes(4), 0, b"\x05\x06\x07\x08")]
    assert dhcp.emit_routes(routes).hex() == "080a01020304" + "0005060708"


def test_type_out_of_range_is_none() -> None:
    for value in (b"", b"\0", b"\x09", b"\x01\x01"):
        assert dhcp.Repr(1, 1, MAC, ((53, value),)).type is None


label = st.text("abc0-", min_size=1, max_size=63)


@given(st.lists(st.lists(label, min_size=1, max_size=3).map(".".join), max_size=5).map(tuple))
def test_names_round_trip(domains: tuple[str, ...]) -> None:
    assert names.parse(names.emit(domains) + bytes(3), "dhcp") == domains


@pytest.mark.parametrize("name", ["", "a..b", "a" * 64, ".".join(["a" * 63] * 4)])
def test_names_refused(name: str) -> None:
    with pytest.raises(ValueError):
        names.emit([name])


def test_str() -> None:
    message = dhcp.Repr(2, 0x10, MAC, ((53, b"\x02"),), yiaddr=b"\x0a\0\0\x05")
    assert str(message) == ("DHCP OFFER xid 0x00000010 client 02:00:00:00:00:02 your-ip 10.0.0.5")

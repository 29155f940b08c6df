"""IGMP and MLD messages, and the options of IPv4 that go with them."""

from __future__ import annotations

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpnstack.wire import igmp, ip, ipopt, mld
from vpnstack.wire.malformed import Malformed

LL, HOST = ip.parse_address("fe80::1"), ip.parse_address("10.0.0.2")
G4, G6 = ip.parse_address("239.1.2.3"), ip.parse_address("ff15::1")


def addresses(size: int) -> st.SearchStrategy[tuple[bytes, ...]]:
    return st.lists(st.binary(min_size=size, max_size=size), max_size=5).map(tuple)


def records(size: int, first: bytes) -> st.SearchStrategy[tuple[igmp.Record, ...]]:
    groups = st.binary(min_size=size - 1, max_size=size - 1).map(lambda b: first + b)
    record = st.builds(igmp.Record, st.sampled_from(igmp.Mode), groups, addresses(size))
    return st.lists(record, max_size=4).map(tuple)


byte, flag = st.integers(0, 255), st.booleans()
v3 = st.builds(
    igmp.Query, st.just(G4) | st.just(bytes(4)), byte, st.just(3), flag, st.integers(0, 7), byte,
    addresses(4),
)  # fmt: skip
v2 = st.builds(
    mld.Query, st.just(G6) | st.just(bytes(16)), st.integers(0, 65535), st.just(2), flag,
    st.integers(0, 7), byte, addresses(16),
)  # fmt: skip
igmps = st.one_of(
    v3, st.builds(igmp.ReportV3, records(4, b"\xe1")),
    st.builds(igmp.Report, st.just(G4), st.just(2), flag), st.just(igmp.Report(G4, 1)),
    st.just(igmp.Query(G4, 100, 2, robustness=2)), st.just(igmp.Query(code=0, version=1)),
)  # fmt: skip
mlds = st.one_of(
    v2, st.builds(mld.ReportV2, records(16, b"\xff")), st.builds(mld.Report, st.just(G6), flag),
    st.just(mld.Query(G6, 500, 1)),
)  # fmt: skip


@given(igmps)
def test_igmp_round_trip(message: igmp.Repr) -> None:
    assert igmp.parse(igmp.emit(message)) == message
    assert str(message).startswith("igmp")


@given(mlds)
def test_mld_round_trip(message: mld.Repr) -> None:
    assert mld.parse(mld.emit(message, LL, G6), LL, G6, 1) == message
    assert str(message).startswith("ICMP6")


def test_packets_have_router_alert_and_one_hop() -> None:
    header, body = ip.parse(igmp.packet(HOST, igmp.V3_REPORTS, igmp.ReportV3(())))
    assert (header.ttl, header.options, header.proto) == (1, igmp.ROUTER_ALERT, 2)
    assert igmp.parse(body) == igmp.ReportV3(())
    packet = mld.packet(LL, mld.V2_REPORTS, mld.ReportV2(()))
    where = ip.upper(packet)
    assert packet[7] == 1
    assert where is not None
    assert (where.proto, where.offset) == (58, 48)
    assert packet[40:48] == bytes([58, 0, 5, 2, 0, 0, 1, 0])


def test_dpkt_reads_our_igmp() -> None:
    message = dpkt.igmp.IGMP(igmp.emit(igmp.Report(G4)))
    assert (message.type, message.group) == (0x16, G4)


@pytest.mark.parametrize(
    ("code", "mantissa", "value"),
    [(127, 4, 127), (128, 4, 128), (0xFF, 4, 31744), (0x8000, 12, 32768), (0xFFFF, 12, 8387584)],
)
def test_floating_codes(code: int, mantissa: int, value: int) -> None:
    """RFC 3376 4.1.1, RFC 3810 5.1.3."""
    assert igmp.decode(code, mantissa) == value


def sealed(data: bytes) -> bytes:
    return data[:2] + ip.checksum(data).to_bytes(2) + data[4:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x11\0\0", "at least"),
        (igmp.emit(igmp.Report(G4))[:-1] + b"\xff", "checksum"),
        (sealed(b"\x99\0\0\0" + G4), "a query, a report"),
        (sealed(b"\x16\0\0\0" + HOST), "a group"),
        (sealed(b"\x11\0\0\0" + HOST), "a group"),
        (sealed(b"\x11\0\0\0" + G4 + b"\0"), "version 3"),
        (sealed(b"\x11\0\0\0" + G4 + b"\2\x7d\0\2" + HOST), "sources"),
        (sealed(b"\x22\0\0\0\0\0\xff\xff"), "records"),
        (sealed(b"\x22\0\0\0\0\0\0\1\1\0\0\1" + G4), "sources"),
        (sealed(b"\x22\0\0\0\0\0\0\1\1\x09\0\0" + G4), "within the message"),
        (sealed(b"\x22\0\0\0\0\0\0\1\1\0\0\0" + HOST), "a group"),
    ],
)
def test_malformed_igmp(data: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        igmp.parse(data)


def test_mld_wants_one_hop_and_a_link_local_source() -> None:
    query = mld.Query(G6)
    for src, hops in ((LL, 2), (G6[:1].replace(b"\xff", b"\xfd") + LL[1:], 1), (bytes(16), 1)):
        with pytest.raises(Malformed):
            mld.parse(mld.emit(query, src, G6), src, G6, hops)


def test_ipv4_options() -> None:
    assert ipopt.parse(igmp.ROUTER_ALERT) == {148}
    assert ipopt.parse(b"\1\x83\3\4\0\xff") == {1, 131}
    for bad in (b"\x07", b"\x07\0", b"\x07\1", b"\1\x07\4\0"):
        with pytest.raises(ipopt.BadOption):
            ipopt.parse(bad)

"""Neighbour discovery messages; row 11 of the defence checklist."""

from __future__ import annotations

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpnstack.wire import ip, ndp
from vpnstack.wire.malformed import Malformed

LL = ip.parse_address("fe80::1")
HOST = ip.parse_address("fd00:127::2")
MAC = b"\x02\0\0\0\0\x02"
GROUP = ip.solicited_node(HOST)

macs = st.none() | st.binary(min_size=5, max_size=5).map(lambda m: b"\x02" + m)
u16, u32 = st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1)
addrs = st.binary(min_size=16, max_size=16)
targets = addrs.map(lambda a: b"\xfd" + a[1:])
label = st.text("abcxyz019-", min_size=1, max_size=20)
domain = st.lists(label, min_size=1, max_size=4).map(".".join)
prefix = st.builds(ndp.Prefix, addrs, st.integers(0, 128), st.booleans(), st.booleans(), u32, u32)
rdnss = st.builds(ndp.Rdnss, u32, st.lists(addrs, min_size=1, max_size=4).map(tuple))
dnssl = st.builds(ndp.Dnssl, u32, st.lists(domain, max_size=4).map(tuple))


def several(of: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(of, max_size=3).map(tuple)


ra = st.builds(
    ndp.RouterAdvertisement, st.integers(0, 255), u16, st.booleans(), st.booleans(), u32, u32,
    macs, st.none() | u32, several(prefix), several(rdnss), several(dnssl),
)  # fmt: skip
words = st.integers(1, 40).flatmap(lambda n: st.binary(min_size=8 * n, max_size=8 * n))
redirects = targets.flatmap(
    lambda to: st.builds(ndp.Redirect, st.just(LL) | st.just(to), st.just(to), macs, words)
)
messages = st.one_of(
    st.builds(ndp.RouterSolicitation, macs),
    st.builds(
        ndp.NeighbourSolicitation, targets, macs, st.none() | st.binary(min_size=6, max_size=6)
    ),
    redirects,
    st.builds(
        ndp.NeighbourAdvertisement, targets, macs, st.booleans(), st.booleans(), st.booleans()
    ),
    ra,
)


@given(messages)
def test_round_trip(message: ndp.Repr) -> None:
    data = ndp.emit(message, LL, HOST)
    assert len(data) % 8 == 0
    assert ndp.parse(data, LL, HOST, 255) == message


def test_dpkt_reads_what_we_write() -> None:
    message = ndp.emit(ndp.NeighbourSolicitation(HOST, MAC), LL, GROUP)
    packet = dpkt.ip6.IP6(ip.emit(ip.Repr(LL, GROUP, ip.ICMPV6, 255), message))
    assert packet.icmp6.type == 135
    assert bytes(packet)[40:] == message  # dpkt computes the same checksum


def sealed(kind: int, body: bytes, src: bytes = LL, dst: bytes = HOST) -> bytes:
    data = bytes([kind, 0, 0, 0]) + body
    right = ip.checksum(data, ip.pseudo_sum(src, dst, ip.ICMPV6, len(data)))
    return data[:2] + right.to_bytes(2) + data[4:]


@pytest.mark.parametrize("hops", [0, 1, 64, 254])
def test_row11_hop_limit_must_be_255(hops: int) -> None:
    data = ndp.emit(ndp.NeighbourSolicitation(HOST, MAC), LL, GROUP)
    with pytest.raises(Malformed, match="hop limit 255"):
        ndp.parse(data, LL, GROUP, hops)


@pytest.mark.parametrize("kind", [133, 134, 135, 136])
def test_row11_option_length_zero_ends(kind: int) -> None:
    fixed = {133: 4, 134: 12, 135: 20, 136: 20}[kind]
    for option in (b"\x01\0" + bytes(6), b"\x01\x02" + bytes(6), b"\x01"):
        with pytest.raises(Malformed, match="option length"):
            ndp.parse(sealed(kind, bytes(fixed) + option), LL, HOST, 255)


def test_row11_too_many_options() -> None:
    with pytest.raises(Malformed, match="option length"):
        ndp.parse(sealed(133, bytes(4) + (b"\x63\x01" + bytes(6)) * 65), LL, HOST, 255)


def test_row11_router_advertisement_must_be_link_local() -> None:
    data = ndp.emit(ndp.RouterAdvertisement(), HOST, LL)
    with pytest.raises(Malformed, match="link-local"):
        ndp.parse(data, HOST, LL, 255)


def test_unknown_options_are_skipped() -> None:
    body = bytes(4) + b"\x63\x01" + bytes(6) + b"\x01\x01" + MAC
    assert ndp.parse(sealed(133, body), LL, HOST, 255) == ndp.RouterSolicitation(MAC)


BAD = [
    (sealed(138, bytes(36)), LL, HOST, "type 133"),
    (sealed(137, bytes(20)), LL, HOST, "at least"),
    (sealed(137, bytes(4) + LL + HOST, src=HOST), HOST, HOST, "link-local source"),
    (sealed(137, bytes(4) + LL + GROUP), LL, HOST, "unicast destination"),
    (sealed(137, bytes(4) + HOST + HOST[:-1] + b"\x63"), LL, HOST, "router or the destination"),
    (sealed(135, HOST), LL, HOST, "at least"),
    (sealed(135, bytes(4) + GROUP), LL, HOST, "unicast target"),
    (sealed(136, b"\x40" + bytes(3) + HOST, dst=ip.ALL_NODES), LL, ip.ALL_NODES, "solicited flag"),
    (sealed(135, bytes(4) + HOST + b"\x01\x01\x01" + MAC[1:]), LL, HOST, "station"),
    (sealed(135, bytes(4) + HOST + b"\x01\x02" + bytes(14)), LL, HOST, "station"),
    (sealed(135, bytes(4) + HOST, bytes(16)), bytes(16), HOST, "probe"),
    (ndp.emit(ndp.NeighbourSolicitation(HOST, MAC), bytes(16), GROUP), bytes(16), GROUP, "probe"),
    (ndp.emit(ndp.RouterSolicitation(MAC), bytes(16), HOST), bytes(16), HOST, "unspecified"),
    (sealed(134, bytes(12) + b"\x03\x01" + bytes(6)), LL, HOST, "prefix option"),
    (sealed(134, bytes(12) + b"\x03\x04\x81" + bytes(29)), LL, HOST, "prefix option"),
    (sealed(134, bytes(12) + b"\x19\x02" + bytes(14)), LL, HOST, "RDNSS"),
    (sealed(134, bytes(12) + b"\x1f\x02" + bytes(6) + b"\xc0\x04" + bytes(6)), LL, HOST, "label"),
    (sealed(134, bytes(12) + b"\x1f\x02" + bytes(6) + b"\x07" + b"a" * 7), LL, HOST, "ends"),
    (ndp.emit(ndp.RouterSolicitation(), LL, HOST)[:-1] + b"\x01", LL, HOST, "checksum"),
]


@pytest.mark.parametrize(("data", "src", "dst", "reason"), BAD)
def test_row11_malformed(data: bytes, src: bytes, dst: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        ndp.parse(data, src, dst, 255)


def test_probe_from_unspecified_address_passes() -> None:
    probe = ndp.NeighbourSolicitation(HOST)
    assert ndp.parse(ndp.emit(probe, bytes(16), GROUP), bytes(16), GROUP, 255) == probe


def test_str() -> None:
    assert str(ndp.NeighbourSolicitation(HOST)) == (
        "ICMP6, neighbor solicitation, who has fd00:127::2"
    )

"""Which ICMP errors may be sent (RFC 1122 3.2.2, RFC 4443 2.4) and how often."""

from __future__ import annotations

import pytest

from vpnstack.proto.icmp import Errors, Limiter, Statistics
from vpnstack.wire import icmp, ip
from vpnstack.wire.icmp import Kind

GUEST, US, FAR = b"\xc0\xa8\x7f\x02", b"\xc0\xa8\x7f\x01", b"\x08\x08\x08\x08"
GUEST6 = bytes.fromhex("fd000127000000000000000000000002")
US6 = bytes.fromhex("fd000127000000000000000000000001")
FAR6 = bytes.fromhex("20010db8000000000000000000000008")
UDP = bytes.fromhex("1234003500080000")


def v4(
    src: bytes = GUEST, dst: bytes = FAR, body: bytes = UDP, proto: int = ip.UDP, offset: int = 0
) -> bytes:
    return ip.emit(ip.Repr(src, dst, proto, offset=offset), body)


def v6(src: bytes = GUEST6, dst: bytes = FAR6, body: bytes = UDP, proto: int = ip.UDP) -> bytes:
    return ip.emit(ip.Repr(src, dst, proto), body)


def test_error_quotes_the_packet_and_names_the_flow() -> None:
    for offender, us in ((v4(), US), (v6(), US6)):
        packet = Errors().build(offender, Kind.PORT_UNREACHABLE, us, 0.0)
        assert packet is not None
        header, body = ip.parse(packet)
        assert (header.src, header.dst) == (us, ip.parse(offender)[0].src)
        error = icmp.parse(body, header.src, header.dst)
        assert isinstance(error, icmp.Error)
        assert (error.kind, error.quote) == (Kind.PORT_UNREACHABLE, offender)
        flow = icmp.quoted(error)
        assert flow is not None
        assert (flow.proto, flow.sport, flow.dport) == (ip.UDP, 0x1234, 53)


def test_too_big_carries_the_mtu_and_stays_within_limits() -> None:
    for offender, us, limit in ((v4(body=bytes(5000)), US, 576), (v6(body=bytes(5000)), US6, 1280)):
        packet = Errors().build(offender, Kind.TOO_BIG, us, 0.0, value=1400)
        assert packet is not None
        assert len(packet) == limit
        error = icmp.parse(ip.parse(packet)[1], us, ip.parse(packet)[0].dst)
        assert isinstance(error, icmp.Error)
        assert error.value == 1400


@pytest.mark.parametrize(
    "offender",
    [
        v4(dst=b"\xe0\0\0\x01"),
        v4(dst=ip.BROADCAST_V4),
        v4(dst=b"\xc0\xa8\x7f\xff"),
        v4(src=b"\0\0\0\0"),
        v4(src=b"\x7f\0\0\x01"),
        v4(src=b"\xe0\0\0\x01"),
        v4(src=b"\xff\xff\xff\xff"),
        v4(src=b"\xc0\xa8\x7f\xff"),
        v4(offset=1480),
        *(v4(proto=ip.ICMP, body=bytes([kind]) + bytes(7)) for kind in (3, 4, 5, 11, 12)),
        v4(proto=ip.ICMP, body=b""),
        v6(dst=ip.ALL_NODES),
        v6(src=ip.UNSPECIFIED_V6),
        v6(src=ip.ALL_NODES),
        v6(proto=ip.FRAGMENT, body=bytes([17, 0, 5, 168]) + bytes(8)),
        *(v6(proto=ip.ICMPV6, body=bytes([kind]) + bytes(7)) for kind in (1, 2, 3, 4, 100, 137)),
        v6(proto=ip.NO_NEXT),
        v4()[:19],
        b"",
    ],
)
def test_no_error_about(offender: bytes) -> None:
    errors = Errors(broadcasts={b"\xc0\xa8\x7f\xff"})
    assert errors.build(offender, Kind.HOST_UNREACHABLE, US, 0.0) is None
    assert errors.statistics() == Statistics(forbidden=1)


def test_no_error_about_a_link_broadcast() -> None:
    built = Errors().build(v4(), Kind.HOST_UNREACHABLE, US, 0.0, link_multicast=True)
    assert built is None


def test_errors_about_echo_and_first_fragment() -> None:
    errors = Errors()
    echo = v4(proto=ip.ICMP, body=bytes([8]) + bytes(7))
    assert errors.build(echo, Kind.TTL_EXCEEDED, US, 0.0)
    first = ip.emit(ip.Repr(GUEST, FAR, ip.UDP, more=True), UDP)
    assert errors.build(first, Kind.REASSEMBLY_EXCEEDED, US, 0.0)


def test_packet_too_big_answers_multicast() -> None:
    assert Errors().build(v6(dst=ip.ALL_NODES), Kind.TOO_BIG, US6, 0.0, value=1280)


def test_limiter_allows_the_burst_then_the_rate() -> None:
    limiter = Limiter(rate=8, burst=5)
    assert [limiter.allow(100.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [limiter.allow(100.125) for _ in range(2)] == [True, False]
    assert sum(limiter.allow(100.125 + i / 1024) for i in range(1, 10241)) == 80
    assert not limiter.allow(50.0)  # a clock that went back gives nothing


def test_limited_errors_are_counted() -> None:
    errors = Errors(Limiter(rate=1, burst=2))
    built = [errors.build(v4(), Kind.PORT_UNREACHABLE, US, 1.0) for _ in range(5)]
    assert [b is not None for b in built] == [True, True, False, False, False]
    assert errors.statistics() == Statistics(sent=2, limited=3)

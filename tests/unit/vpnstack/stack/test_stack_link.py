"""The stack below TCP: ARP, NDP, echo, UDP, ICMP errors and fragments, packet by packet."""

from __future__ import annotations

import pytest
from stackpair import (
    ENDS,
    GUEST4,
    GUEST6,
    GUEST_MAC,
    HOST4,
    HOST6,
    HOST_MAC,
    Net,
    Udp,
    ask_arp,
    ask_ndp,
    echo,
    message,
)  # fmt: skip

from vpnstack.stack.udp import packet
from vpnstack.wire import arp, icmp, ip, ndp
from vpnstack.wire.icmp import Kind

VERSIONS = pytest.mark.parametrize("version", [4, 6])


def test_arp_answer() -> None:
    [answer] = Net(guest=False).send(ask_arp(HOST4))
    assert answer[:6] == GUEST_MAC
    reply = arp.parse(answer[14:])
    assert (reply.op, reply.sha, reply.spa, reply.tpa) == (arp.Op.REPLY, HOST_MAC, HOST4, GUEST4)


def test_arp_for_others_is_silent() -> None:
    assert Net(guest=False).send(ask_arp(ip.parse_address("192.168.127.77"))) == []


def test_ndp_answer() -> None:
    [answer] = Net(guest=False).send(ask_ndp(GUEST6, HOST6))
    header, body = ip.parse(answer[14:])
    said = ndp.parse(body, header.src, header.dst, header.ttl)
    assert said == ndp.NeighbourAdvertisement(HOST6, HOST_MAC, router=False, solicited=True)
    assert (answer[:6], header.dst) == (GUEST_MAC, GUEST6)


def test_duplicate_address_detection_is_answered_to_all() -> None:
    [answer] = Net(guest=False).send(ask_ndp(ip.UNSPECIFIED_V6, HOST6))
    header, _ = ip.parse(answer[14:])
    assert header.dst == ip.ALL_NODES


@VERSIONS
@pytest.mark.parametrize("size", [0, 56, 1472, 1473, 3000, 60000])
def test_echo(version: int, size: int) -> None:
    """Above the MTU both question and answer go in fragments."""
    net = Net(guest=False)
    net.introduce(version)
    guest, host = ENDS[version]
    data = bytes(i & 0xFF for i in range(size))
    whole = echo(guest, host, data)
    parts = [whole] if len(whole) <= 1500 else ip.fragments(whole, 1500, 9)
    kind = b"\x08\x00" if version == 4 else b"\x86\xdd"
    answers = net.send(*(HOST_MAC + GUEST_MAC + kind + part for part in parts))
    assert len(answers) == len(parts)
    assert all(len(answer) <= 1514 for answer in answers)
    bodies = [ip.parse(answer[14:])[1] for answer in answers]
    joined = b"".join(b[8:] if len(parts) > 1 and version == 6 else b for b in bodies)
    reply = icmp.parse(joined, host, guest)
    assert reply == icmp.Echo(True, 7, 1, data)
    assert net.host.stack.statistics().packets_reassembled == (len(parts) > 1)


def test_echo_to_an_address_that_is_not_ours_is_silent() -> None:
    net = Net(guest=False, forwarding=True)
    net.introduce()
    assert net.packet(echo(GUEST4, ip.parse_address("9.9.9.9"))) == []


@VERSIONS
def test_row5_fragment_timer_reports_time_exceeded(version: int) -> None:
    net = Net(guest=False)
    net.introduce(version)
    first, *_ = ip.fragments(echo(*ENDS[version], bytes(4000)), 1500, 9)
    assert net.packet(first) == []
    net.run(29.0 if version == 4 else 59.0)
    net.introduce(version)  # again: nobody answered for it meanwhile
    net.run(2.0)
    errors = [message(f) for f in net.frames() if f[12:14] != b"\x08\x06" and _is_error(f)]
    assert [e.kind for e in errors if isinstance(e, icmp.Error)] == [Kind.REASSEMBLY_EXCEEDED]


def _is_error(frame: bytes) -> bool:
    header, body = ip.parse(frame[14:])
    return icmp.is_error(4 if len(header.src) == 4 else 6, body[0])


@pytest.mark.parametrize("case", ["first missing", "overlap", "spoofed source"])
def test_row5_no_answer(case: str) -> None:
    net = Net(guest=False)
    net.introduce()
    source = ip.parse_address("10.9.8.7") if case == "spoofed source" else GUEST4
    parts = ip.fragments(echo(source, HOST4, bytes(4000)), 1500, 9)
    if case == "first missing":
        parts = parts[1:]
    if case == "overlap":
        header, body = ip.parse(parts[1])
        parts.insert(
            2, ip.emit(ip.Repr(header.src, header.dst, 1, ident=9, more=True, offset=8), body)
        )
    for part in parts:
        assert net.packet(part) == []
    net.run(40.0)
    assert not [f for f in net.frames() if f[12:14] == b"\x08\x00"]
    assert net.host.stack.statistics().packets_reassembled == 0


def test_row5_ipv6_unaligned_fragment_is_a_parameter_problem() -> None:
    """RFC 8200 4.5: the pointer is at the payload length."""
    net = Net(guest=False)
    net.introduce(6)
    extension = bytes([ip.UDP, 0, 0, 1]) + bytes(4)
    frames = net.packet(ip.emit(ip.Repr(GUEST6, HOST6, ip.FRAGMENT), extension + bytes(13)))
    [error] = [message(f) for f in frames]
    assert isinstance(error, icmp.Error)
    assert (error.kind, error.value) == (Kind.PARAMETER_PROBLEM, 4)


@VERSIONS
@pytest.mark.parametrize("size", [0, 1, 1400, 8192, 65487])
def test_udp_both_ways(version: int, size: int) -> None:
    net = Net()
    guest, host = ENDS[version]
    here, there = Udp(), Udp()
    net.host.stack.udp.ports[(None, 53)] = here
    net.guest.stack.udp.ports[(None, 4000)] = there
    data = bytes(i % 251 for i in range(size))
    assert net.guest.stack.udp.send((guest, 4000), (host, 53), data, net.now)
    net.run()
    assert here.got == [((guest, 4000), (host, 53), data)]
    assert net.host.stack.udp.send((host, 53), (guest, 4000), data, net.now)
    net.run()
    assert there.got == [((host, 53), (guest, 4000), data)]


@pytest.mark.parametrize(("version", "size"), [(4, 65507), (6, 65527)])
def test_udp_longest(version: int, size: int) -> None:
    net = Net()
    guest, host = ENDS[version]
    here = Udp()
    net.host.stack.udp.ports[(None, 53)] = here
    assert not net.guest.stack.udp.send((guest, 1), (host, 53), bytes(size + 1), net.now)
    assert net.guest.stack.udp.send((guest, 1), (host, 53), bytes(size), net.now)
    net.run()
    assert here.got == [((guest, 1), (host, 53), bytes(size))]


@VERSIONS
def test_udp_to_a_closed_port(version: int) -> None:
    net = Net()
    guest, host = ENDS[version]
    owner = Udp()
    net.guest.stack.udp.ports[(None, 4000)] = owner
    net.guest.stack.udp.send((guest, 4000), (host, 9), b"anyone?", net.now)
    net.run()
    assert [e.kind for e in owner.errors] == [Kind.PORT_UNREACHABLE]


def test_no_error_about_a_broadcast() -> None:
    """RFC 1122 3.2.2, whichever broadcast address was used."""
    net = Net(guest=False)
    net.introduce()
    for dst in ("192.168.127.255", "255.255.255.255", "224.0.0.251"):
        octets = packet((GUEST4, 4000), (ip.parse_address(dst), 9), b"hello")
        assert net.packet(octets) == []


def test_errors_are_limited() -> None:
    net = Net(guest=False)
    net.introduce()
    octets = packet((GUEST4, 4000), (HOST4, 9), b"hello")
    frames = net.send(*[HOST_MAC + GUEST_MAC + b"\x08\x00" + octets] * 500)
    assert 0 < len(frames) <= 60


def test_unknown_protocol() -> None:
    net = Net(guest=False)
    net.introduce()
    [frame] = net.packet(ip.emit(ip.Repr(GUEST4, HOST4, 132), bytes(20)))
    error = message(frame)
    assert isinstance(error, icmp.Error)
    assert error.kind is Kind.PROTOCOL_UNREACHABLE

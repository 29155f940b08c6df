"""The defence checklist against a whole stack: UDP, ICMP and IPv6; codecs have their own."""

from __future__ import annotations

import pytest
from stackpair import (
    ENDS,
    GUEST4,
    GUEST6,
    GUEST_MAC,
    HOST4,
    HOST6,
    Net,
    Udp,
    echo,
    listening,
    message,
    opened,
    parsed,
)

from vpnstack.proto.neighbour import Cache, Config
from vpnstack.proto.tcp.state import State
from vpnstack.stack.udp import packet
from vpnstack.wire import icmp, ip, ndp

OTHER4, BROADCAST4 = ip.parse_address("192.168.127.3"), ip.parse_address("192.168.127.255")
VERSIONS = pytest.mark.parametrize("version", [4, 6])


# Row 7: UDP.


@pytest.mark.parametrize("dst", [BROADCAST4, ip.BROADCAST_V4, ip.parse_address("224.0.0.9")])
def test_row7_group_destination_without_owner_is_silent(dst: bytes) -> None:
    net = Net(guest=False)
    net.introduce()
    assert net.packet(packet((GUEST4, 9), (dst, 7), b"x"), dst=ip.multicast_mac(dst)) == []


def test_row7_one_datagram_from_each_port_keeps_nothing() -> None:
    net = Net(guest=False)
    net.introduce()
    for port in range(1, 65536, 97):
        net.packet(packet((GUEST4, port), (HOST4, 7), b"x"))
    assert len(net.host.stack.interface.queue) == 0
    assert net.host.stack.udp.counters.no_port == len(range(1, 65536, 97))


# Row 8: ICMP.


def about(src: bytes, dst: bytes, proto: int, body: bytes, reporter: bytes) -> bytes:
    """An error from `reporter` to `src` that quotes what went from `src` to `dst`."""
    version = 4 if len(src) == 4 else 6
    quote = ip.emit(ip.Repr(src, dst, proto), body)
    made = icmp.emit(icmp.error(icmp.Kind.PORT_UNREACHABLE, version, quote), reporter, src)
    return ip.emit(ip.Repr(reporter, src, ip.ICMP if version == 4 else ip.ICMPV6), made)


@pytest.mark.parametrize("reporter", [GUEST4, OTHER4], ids=["its-own-end", "another-guest"])
def test_row8_error_about_another_guests_flow(reporter: bytes) -> None:
    net, owner = Net(guest=False), Udp()
    net.host.stack.udp.ports[HOST4, 53] = owner
    body = packet((HOST4, 53), (GUEST4, 4000), b"answer")[20:]
    net.packet(about(HOST4, GUEST4, ip.UDP, body, reporter))
    assert len(owner.errors) == (reporter == GUEST4)
    assert net.host.stack.icmp.counters.errors_refused == (reporter != GUEST4)


def test_row8_error_about_numbers_that_are_not_in_flight() -> None:
    """RFC 5927 4.1."""
    net, _ = listening()
    flow = net.host.stack.tcp.connect((HOST4, 5000), (GUEST4, 7), net.now)
    net.run()
    [syn] = parsed(net.frames())
    for seq, state in ((syn.seq - 1, State.SYN_SENT), (syn.seq, State.CLOSED)):
        body = bytes.fromhex("13880007") + (seq & 0xFFFFFFFF).to_bytes(4, "big") + bytes(12)
        net.packet(about(HOST4, GUEST4, ip.TCP, body, GUEST4))
        assert flow.conn.state is state


def test_row8_source_quench_is_ignored() -> None:
    """RFC 6633 3: hosts discard it, for it slows senders that trust it."""
    net, owner = listening()
    answer = opened(net)
    conn = owner.flows[0].conn
    conn.send(b"data")
    owner.flows[0].touch()
    net.run()
    before = conn.cc.cwnd, conn.state
    body = bytes.fromhex("00500fa0") + ((answer.seq + 1) & 0xFFFFFFFF).to_bytes(4) + bytes(12)
    quote = ip.emit(ip.Repr(HOST4, GUEST4, ip.TCP), body)
    quench = icmp.emit(icmp.Error(4, 4, 0, 0, quote), GUEST4, HOST4)
    net.packet(ip.emit(ip.Repr(GUEST4, HOST4, ip.ICMP), quench))
    assert (conn.cc.cwnd, conn.state) == before
    assert net.host.stack.icmp.counters.errors_in == 0


def test_row8_redirect_from_a_guest_changes_no_route() -> None:
    net = Net(guest=False)
    net.introduce()
    before = net.host.stack.interface.next_hop(GUEST4)
    quote = ip.emit(ip.Repr(HOST4, GUEST4, ip.UDP), bytes(8))
    redirect = icmp.emit(icmp.Error(4, 5, 1, int.from_bytes(OTHER4), quote), GUEST4, HOST4)
    assert net.packet(ip.emit(ip.Repr(GUEST4, HOST4, ip.ICMP), redirect)) == []
    assert net.host.stack.icmp.counters.malformed == 1
    assert net.host.stack.interface.next_hop(GUEST4) == before


@VERSIONS
def test_row8_reply_without_request_is_silent(version: int) -> None:
    net = Net(guest=False)
    net.introduce(version)
    guest, host = ENDS[version]
    body = icmp.emit(icmp.Echo(True, 7, 1, b"x"), guest, host)
    proto = ip.ICMP if version == 4 else ip.ICMPV6
    assert net.packet(ip.emit(ip.Repr(guest, host, proto), body)) == []


def test_rfc6864_echo_replies_differ_in_their_identification() -> None:
    net = Net(guest=False)
    net.introduce()
    answers = [net.packet(echo(GUEST4, HOST4, b"x" * 10))[0][14:] for _ in range(3)]
    assert len({packet[4:6] for packet in answers}) == 3
    assert all(not packet[6] & 0x40 for packet in answers)  # they may be cut on the way


def test_row8_answer_is_as_long_as_the_question() -> None:
    """A length in the header that exceeds the frame is not answered; padding is not, either."""
    net = Net(guest=False)
    net.introduce()
    asked = echo(GUEST4, HOST4, b"x" * 10)
    [answer] = net.packet(asked + b"secret")
    made = message(answer)
    assert isinstance(made, icmp.Echo)
    assert made.data == b"x" * 10
    longer = bytearray(asked)
    longer[2:4] = (len(asked) + 4).to_bytes(2, "big")
    assert net.packet(bytes(longer)) == []


# Row 11: IPv6.


def discovery(made: ndp.Repr, src: bytes, dst: bytes, hops: int = 255) -> bytes:
    return ip.emit(ip.Repr(src, dst, ip.ICMPV6, ttl=hops), ndp.emit(made, src, dst))


def test_row11_router_advertisement_from_a_guest_is_nothing_to_a_router() -> None:
    net = Net(guest=False)
    guest = ip.eui64(GUEST_MAC)
    made = ndp.RouterAdvertisement(slla=GUEST_MAC, prefixes=(ndp.Prefix(GUEST6),))
    interface = net.host.stack.interface
    before = interface.next_hop(ip.parse_address("2001:db8::1")), set(interface.local)
    assert net.packet(discovery(made, guest, ip.ALL_NODES), ip.multicast_mac(ip.ALL_NODES)) == []
    assert (interface.next_hop(ip.parse_address("2001:db8::1")), interface.local) == before
    assert len(interface.neighbours) == 0


@pytest.mark.parametrize("hops", [0, 64, 254])
def test_row11_discovery_from_afar_is_refused(hops: int) -> None:
    net = Net(guest=False)
    made = ndp.NeighbourSolicitation(HOST6, GUEST_MAC)
    assert net.packet(discovery(made, GUEST6, HOST6, hops)) == []
    assert net.host.stack.resolution.malformed == 1


def test_row11_solicitation_in_our_own_name_is_not_learned() -> None:
    net = Net(guest=False)
    net.packet(discovery(ndp.NeighbourSolicitation(HOST6, GUEST_MAC), HOST6, HOST6))
    assert net.host.stack.interface.neighbours.state(HOST6) is None


def test_row11_flood_of_solicitations_is_bounded() -> None:
    net = Net(guest=False)
    net.host.stack.interface.neighbours = Cache(Config(capacity=16))
    for i in range(64):
        src = GUEST6[:14] + (1000 + i).to_bytes(2, "big")
        net.packet(discovery(ndp.NeighbourSolicitation(HOST6, GUEST_MAC), src, HOST6))
    assert len(net.host.stack.interface.neighbours) == 16

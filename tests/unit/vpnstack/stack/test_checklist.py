"""The defence checklist against a whole stack: the link, IPv4 and TCP; codecs have their own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from stackpair import (
    ACK,
    FIN,
    GUEST4,
    GUEST_MAC,
    HOST4,
    HOST_MAC,
    RST,
    SYN,
    Fields,
    Net,
    Tcp,
    Udp,
    ask_arp,
    echo,
    here,
    listening,
    opened,
    parsed,
    segment,
)

from vpnstack.proto.tcp.block import Event
from vpnstack.proto.tcp.state import State
from vpnstack.stack import held, tcp, timers
from vpnstack.stack.udp import packet
from vpnstack.wire import arp, ip

OTHER4, BROADCAST4 = ip.parse_address("192.168.127.3"), ip.parse_address("192.168.127.255")
VERSIONS = pytest.mark.parametrize("version", [4, 6])


# Row 2: Ethernet.


def test_row2_vlan_tag_of_another_network_is_received_by_its_content() -> None:
    """A priority tag (VLAN 0) is stepped over; nothing here trunks."""
    frame = ask_arp(HOST4)
    tagged = frame[:12] + b"\x81\x00\x00\x00" + frame[12:]
    [answer] = Net(guest=False).send(tagged)
    assert arp.parse(answer[14:]).op is arp.Op.REPLY


@pytest.mark.parametrize("kind", [b"\x88\xcc", b"\x00\x40", b"\xff\xff"])
def test_row2_unknown_ethertype_is_silent(kind: bytes) -> None:
    net = Net(guest=False)
    assert net.send(HOST_MAC + GUEST_MAC + kind + bytes(60)) == []
    assert not net.host.stack.statistics().dropped


@pytest.mark.parametrize("mac", [b"\xff" * 6, b"\x01\0\x5e\0\0\1"], ids=["broadcast", "group"])
def test_row2_packet_for_one_in_a_frame_for_many(mac: bytes) -> None:
    """RFC 1122 3.3.6: nothing is opened, delivered or answered."""
    net, owner = listening()
    inbox = net.host.stack.udp.ports[None, 7] = Udp()
    for made in (segment(Fields(1, 0, SYN)), segment(Fields(1, 0, ACK))):
        assert net.send(mac + made[6:]) == []
    assert net.packet(echo(GUEST4, HOST4), dst=mac) == []
    for port in (7, 8):
        assert net.packet(packet((GUEST4, 9), (HOST4, port), b"x"), dst=mac) == []
    assert (owner.flows, inbox.got) == ([], [])
    assert net.host.stack.interface.counters.framed_to_group == 5


# Row 3: ARP.


@pytest.mark.parametrize(("at", "value"), [(7, 0), (7, 3), (4, 5), (5, 16)])
def test_row3_malformed_is_counted(at: int, value: int) -> None:
    net = Net(guest=False)
    frame = bytearray(ask_arp(HOST4))
    frame[14 + at] = value
    assert net.send(bytes(frame)) == []
    assert net.host.stack.resolution.malformed == 1


def test_row3_gateways_address_claimed_by_a_guest() -> None:
    net = Net(guest=False)
    net.send(ask_arp(HOST4, sender=HOST4))
    claim = arp.emit(arp.request(GUEST_MAC, HOST4, HOST4))
    [answer] = net.send(b"\xff" * 6 + GUEST_MAC + b"\x08\x06" + claim)
    assert arp.parse(answer[14:]).sha == HOST_MAC  # RFC 5227 2.4: we defend it
    assert len(net.host.stack.interface.neighbours) == 0


# Row 4: IPv4 sources that name nobody who could be answered.


@pytest.mark.parametrize("src", [HOST4, BROADCAST4], ids=["gateway", "broadcast"])
def test_row4_source_that_is_no_other_host(src: bytes) -> None:
    net, owner = listening()
    udp = net.host.stack.udp.forward = Udp()
    assert net.send(segment(Fields(1, 0, SYN), src=src)) == []
    assert net.packet(echo(src, HOST4)) == []
    assert net.packet(packet((src, 9), (HOST4, 7), b"x")) == []
    for piece in ip.fragments(packet((src, 9), (HOST4, 7), b"x" * 3000), 1500, 1):
        assert net.packet(piece) == []
    assert (owner.flows, udp.got) == ([], [])
    spoofed, own = net.host.stack.udp.counters.spoofed, net.host.stack.statistics().own_source
    assert (spoofed, own) == ((0, 6) if src == HOST4 else (1, 0))


@pytest.mark.parametrize("dst", ["127.0.0.1", "0.0.0.1", "240.0.0.1", "192.168.127.255"])
def test_row4_nothing_is_forwarded_to_what_is_no_host(dst: str) -> None:
    """Such an address could not be the source of an answer, either."""
    net = Net(guest=False, forwarding=True)
    owner = net.host.stack.tcp.forward = Tcp()
    net.introduce()
    assert net.send(segment(Fields(1, 0, SYN), dst=ip.parse_address(dst))) == []
    assert owner.flows == []


# Row 6: TCP.


def test_row6_syn_flood_of_forwarded_flows_is_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent destination fills its own part of the table only."""
    monkeypatch.setattr(held, "HELD_EACH", 8)
    net = Net(guest=False, forwarding=True)
    owner = net.host.stack.tcp.forward = Tcp("hold")
    net.introduce()
    for port in range(1000, 1100):
        assert net.send(segment(Fields(1, 0, SYN), ports=(port, 80))) == []
    assert len(owner.flows) == len(net.host.stack.tcp.flows) == 8
    assert net.host.stack.statistics().syns_refused == 92
    net.send(segment(Fields(1, 0, SYN), ports=(1000, 81)))
    assert len(owner.flows) == 9  # another one's
    owner.flows[0].refuse()
    assert [one.tcp_flags & RST for one in parsed(net.send())] == [RST]
    net.send(segment(Fields(1, 0, SYN), ports=(2000, 80)))
    assert len(owner.flows) == 10  # room again


def test_row6_the_oldest_syn_makes_room_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "HELD_MAX", 4)
    net = Net(guest=False, forwarding=True)
    owner = net.host.stack.tcp.forward = Tcp("hold")
    net.introduce()
    for port in range(1000, 1010):
        net.send(segment(Fields(1, 0, SYN), ports=(port, 80)))
    assert len(owner.flows) == len(net.host.stack.tcp.flows) == 4
    net.now += held.PATIENCE
    for port in range(2000, 2010):
        net.send(segment(Fields(1, 0, SYN), ports=(port, 80)))
    states = [flow.conn.state for flow in owner.flows]
    assert states == [State.CLOSED] * 4 + [State.LISTEN] * 4
    assert owner.events == [Event.CLOSED] * 4
    assert net.host.stack.statistics().syns_refused == 12


def test_row6_syn_flood_to_a_listener_is_answered_and_not_kept() -> None:
    """Beyond the queue of half-open connections, cookies: who completes is let in."""
    net, owner = listening()
    net.host.stack.tcp.syn_queue.limit = 8
    answers = [
        one for port in range(1000, 1100)
        for one in parsed(net.send(segment(Fields(77, 0, SYN, 9000), ports=(port, 80))))
    ]  # fmt: skip
    assert [one.tcp_flags for one in answers] == [SYN | ACK] * 100
    assert len(net.host.stack.tcp.flows) == 8
    last = Fields(78, (answers[-1].seq + 1) & 0xFFFFFFFF, ACK, 9000)
    net.send(segment(last, b"hello", ports=(1099, 80)))
    assert owner.data == b"hello"
    [refused] = parsed(net.send(segment(replace(last, ack=5), ports=(1098, 80))))
    assert refused.tcp_flags & RST  # a guess


def test_row6_dropped_syns_leave_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    net, owner = listening()
    owner.decide = "drop"
    for port in range(1000, 1300):
        assert net.send(segment(Fields(77, 0, SYN, 9000), ports=(port, 80))) == []
    assert len(net.host.stack.tcp.flows) == 0
    assert net.host.stack.tcp.syn_queue.cookies_out == 0


def test_row6_zero_window_for_ever_is_probed_and_bounded() -> None:
    net, owner = listening()
    answer = opened(net)
    [flow] = owner.flows
    closed = Fields(101, (answer.seq + 1) & 0xFFFFFFFF, ACK, 0)
    net.send(segment(closed))
    queued = 0
    while n := flow.conn.send(b"x" * 10_000):
        queued += n
    flow.touch()
    assert queued <= flow.conn.config.snd_buf
    probes = 0
    for _ in range(200):  # 50 minutes
        net.run(15.0)
        if sent := parsed(net.frames() + net.send(here())):
            assert all(one.data_len == 0 for one in sent)
            probes += len(sent)
            net.send(segment(closed))
    assert flow.conn.state is State.ESTABLISHED  # RFC 9293 3.8.6.1: an answering peer may wait
    assert 40 <= probes <= 80  # once a minute in the end


def test_row6_window_of_one_byte_makes_no_tiny_segments() -> None:
    net, owner = listening()
    answer = opened(net)
    [flow] = owner.flows
    una = answer.seq + 1
    net.send(segment(Fields(101, una & 0xFFFFFFFF, ACK, 1)))
    flow.conn.send(b"x" * 5000)
    flow.touch()
    sent = 0
    for _ in range(20):
        net.run(1.0)
        for one in parsed(net.frames()):
            una = max(una, one.seq + one.data_len) if one.data_len else una
            sent += one.data_len > 0
            net.send(segment(Fields(101, una & 0xFFFFFFFF, ACK, 1)))
    assert sent <= 20  # at most one a second, none without the timer's leave


@pytest.mark.parametrize("seq", [101 - 1, 101 + (1 << 24), 101 - 70_000])
def test_row6_reset_outside_the_window_is_nothing(seq: int) -> None:
    net, owner = listening()
    opened(net)
    assert net.send(segment(Fields(seq & 0xFFFFFFFF, 0, RST))) == []
    assert owner.flows[0].conn.state is State.ESTABLISHED


def test_row6_ack_of_data_never_sent_is_challenged() -> None:
    net, owner = listening()
    answer = opened(net)
    early = Fields(101, (answer.seq + 5000) & 0xFFFFFFFF, ACK, 60000)
    [challenge] = parsed(net.send(segment(early, b"evil")))
    assert (challenge.tcp_flags, challenge.ack) == (ACK, 101)
    assert owner.data == b""


def test_row6_ack_of_a_syn_that_has_not_left() -> None:
    """The SYN-ACK waits for the neighbour's address; who acknowledges it has guessed."""
    net, owner = Net(guest=False), Tcp()
    net.host.stack.tcp.listeners[None, 80] = owner
    net.send(segment(Fields(100, 0, SYN)))
    conn = owner.flows[0].conn
    net.send(segment(Fields(101, (conn.iss + 1) & 0xFFFFFFFF, ACK)))
    assert conn.state is State.SYN_RECEIVED


def test_row6_data_in_the_syn_is_sent_again_by_the_peer() -> None:
    """RFC 9293 3.10.7.2 lets us drop it; it is not acknowledged and not delivered."""
    net, owner = listening()
    [answer] = parsed(net.send(segment(Fields(100, 0, SYN), b"early")))
    assert answer.ack == 101
    early = Fields(101, (answer.seq + 1) & 0xFFFFFFFF, ACK)
    net.send(segment(early, b"early"))
    assert owner.data == b"early"


def test_row6_second_fin_changes_nothing() -> None:
    net, owner = listening()
    answer = opened(net)
    ack = (answer.seq + 1) & 0xFFFFFFFF
    net.send(segment(Fields(101, ack, ACK | FIN), b"end"))
    net.send(segment(Fields(105, ack, ACK | FIN)))
    net.send(segment(Fields(105, ack, ACK | FIN), b"more"))
    conn = owner.flows[0].conn
    assert (owner.data, conn.eof, conn.state) == (b"end", True, State.CLOSE_WAIT)


def test_row6_fin_before_data_that_is_here_already() -> None:
    net, owner = listening()
    answer = opened(net)
    ack = (answer.seq + 1) & 0xFFFFFFFF
    net.send(segment(Fields(104, ack, ACK), b"beyond"))
    net.send(segment(Fields(101, ack, ACK | FIN), b"end"))
    conn = owner.flows[0].conn
    assert (owner.data, conn.eof, conn.assembler) == (b"end", True, None)


def test_row6_data_across_the_end_of_the_numbers() -> None:
    net, owner = listening()
    [answer] = parsed(net.send(segment(Fields(0xFFFFFFFD, 0, SYN, 60000))))
    ack = (answer.seq + 1) & 0xFFFFFFFF
    net.send(segment(Fields(0, ack, ACK), b"234"), segment(Fields(0xFFFFFFFE, ack, ACK), b"01"))
    assert owner.data == b"01234"


def test_row6_old_timers_do_not_pile_up() -> None:
    """Each exchange sets an earlier timer than the one of long ago."""
    net, owner = listening()
    answer = opened(net)
    seq, layer = 101, net.host.stack.tcp
    for _ in range(400):
        net.send(segment(Fields(seq, (answer.seq + 1) & 0xFFFFFFFF, ACK, 60000), b"x"))
        net.run(0.05)
        seq += 1
    assert len(owner.data) == 400
    assert len(layer.timers) <= timers.SLACK + 2

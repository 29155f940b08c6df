"""Flows of the stack: decisions on SYNs, both closes and resets, neighbours, stalled links."""

from __future__ import annotations

import hashlib
import random

import pytest
from stackpair import ENDS, GUEST4, GUEST_MAC, HOST4, HOST_MAC, Net, Tcp, ask_arp

from vpnstack.proto.tcp.block import Event
from vpnstack.proto.tcp.state import State
from vpnstack.stack.interface import Wire
from vpnstack.wire import ip

VERSIONS = pytest.mark.parametrize("version", [4, 6])


def opened(net: Net, version: int = 4) -> tuple[Tcp, Tcp]:
    """Open a flow from the guest to the host's port 80."""
    guest, host = ENDS[version]
    server, client = Tcp(), Tcp()
    net.host.stack.tcp.forward = server
    flow = net.guest.stack.tcp.connect((guest, 4000), (host, 80), net.now)
    flow.owner = client
    client.flows.append(flow)
    net.run()
    return client, server


@VERSIONS
def test_transfer_both_ways(version: int) -> None:
    net = Net()
    client, server = opened(net, version)
    blob = random.Random(5).randbytes(3 << 20)
    for sender, receiver in ((client, server), (server, client)):
        sent = 0
        while sent < len(blob):
            sent += sender.flows[0].conn.send(memoryview(blob)[sent:])
            sender.flows[0].touch()
            net.run()
        net.run(1.0)
        assert len(receiver.data) == len(blob)
        assert hashlib.sha256(receiver.data).digest() == hashlib.sha256(blob).digest()


def test_nobody_listens() -> None:
    net = Net()
    client = Tcp()
    flow = net.guest.stack.tcp.connect((GUEST4, 4000), (HOST4, 80), net.now)
    flow.owner = client
    net.run()
    assert client.events == [Event.REFUSED, Event.CLOSED]
    assert not net.guest.stack.tcp.flows
    assert not net.host.stack.tcp.flows


@pytest.mark.parametrize("decide", ["accept", "refuse", "drop"])
def test_syn_held_until_decided(decide: str) -> None:
    net = Net()
    server, client = Tcp("hold"), Tcp()
    net.host.stack.tcp.forward = server
    flow = net.guest.stack.tcp.connect((GUEST4, 4000), (HOST4, 80), net.now)
    flow.owner = client
    net.run(0.5)
    assert client.events == []
    assert flow.conn.state is State.SYN_SENT
    getattr(server.flows[0], decide)()
    net.run()
    if decide == "accept":
        assert client.events == [Event.CONNECTED]
    elif decide == "refuse":
        assert client.events == [Event.REFUSED, Event.CLOSED]
    else:
        assert client.events == []
        assert not net.host.stack.tcp.flows


@pytest.mark.parametrize("first", [0, 1], ids=["guest first", "host first"])
def test_half_close(first: int) -> None:
    net = Net()
    ends = opened(net)
    one, other = ends[first], ends[1 - first]
    one.flows[0].conn.shutdown()
    one.flows[0].touch()
    net.run()
    assert other.flows[0].conn.eof
    other.flows[0].conn.send(b"still talking")
    other.flows[0].touch()
    net.run(1.0)
    assert one.data == b"still talking"
    other.flows[0].conn.close()
    other.flows[0].touch()
    net.run(61.0)
    assert one.events[-1] is Event.CLOSED
    assert other.events[-1] is Event.CLOSED
    assert not net.host.stack.tcp.flows
    assert not net.guest.stack.tcp.flows


@pytest.mark.parametrize("first", [0, 1], ids=["guest", "host"])
def test_reset(first: int) -> None:
    net = Net()
    ends = opened(net)
    ends[first].flows[0].conn.abort()
    ends[first].flows[0].touch()
    net.run()
    assert ends[1 - first].events[-2:] == [Event.RESET, Event.CLOSED]
    assert not net.host.stack.tcp.flows


def test_slow_reader_closes_the_window_and_bounds_memory() -> None:
    net = Net()
    client, server = opened(net)
    server.reading = False
    conn = client.flows[0].conn
    total = 0
    for _ in range(200):
        total += conn.send(bytes(1 << 16))
        client.flows[0].touch()
        net.run(0.1)
    held = server.flows[0].conn
    assert held.rcv_queued <= held.config.rcv_buf
    assert total <= held.config.rcv_buf + conn.config.snd_buf
    server.reading = True
    server.read(server.flows[0])
    net.run(2.0)
    assert len(server.data) == total


def test_many_flows_wait_for_one_neighbour() -> None:
    """More than the neighbour cache keeps packets for."""
    net = Net()
    server, client = Tcp(), Tcp()
    net.guest.stack.tcp.forward = server
    for port in range(200):
        flow = net.host.stack.tcp.connect((HOST4, 5000 + port), (GUEST4, 80), net.now)
        flow.owner = client
    net.run()
    assert client.events == [Event.CONNECTED] * 200


def test_absent_neighbour_ends_an_opening_flow() -> None:
    net = Net(guest=False)
    client = Tcp()
    flow = net.host.stack.tcp.connect((HOST4, 5000), (GUEST4, 80), net.now)
    flow.owner = client
    net.run(10.0)
    assert client.events == [Event.UNREACHABLE, Event.CLOSED]
    assert not net.host.stack.tcp.flows
    assert len(net.frames()) == 3  # questions


def test_neighbour_that_vanished_ends_the_flow_in_time() -> None:
    """Established flows survive soft errors, but not for ever, and nothing spins meanwhile."""
    net = Net()
    client, server = opened(net)
    net.sides.remove(net.guest)
    net.host.stack.interface.neighbours.forget(GUEST4)
    server.flows[0].conn.send(b"anybody there?")
    server.flows[0].touch()
    net.run(60.0)
    assert Event.CLOSED not in server.events
    assert net.host.stack.tcp.counters.undelivered > 0
    net.run(3600.0)
    assert server.events[-2:] == [Event.TIMED_OUT, Event.CLOSED]
    assert not net.host.stack.tcp.flows
    assert client.data == b""


def test_blocked_link_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flow whose timer is due while its port takes nothing leaves no deadline in the past."""
    net = Net()
    client, server = opened(net)
    server.flows[0].conn.send(b"lost")
    server.flows[0].touch()
    assert net.host.stack.transmit(net.now) is not None  # and never sent
    monkeypatch.setattr(Wire, "blocked", lambda wire, mac: True)
    net.run(30.0)
    monkeypatch.undo()
    net.host.stack.tcp.unblock()
    net.run()
    assert client.data == b"lost"


def test_unroutable_syn_leaves_nothing_behind() -> None:
    net = Net(guest=False, forwarding=True)
    net.host.stack.tcp.forward = Tcp()
    net.introduce()
    tcp = bytes.fromhex("0fa0 0050 00000001 00000000 5002 ffff 0000 0000")
    for source in ("10.1.2.3", "192.168.127.1"):
        header = ip.Repr(ip.parse_address(source), HOST4, ip.TCP)
        pseudo = ip.pseudo_sum(header.src, header.dst, ip.TCP, len(tcp))
        right = ip.checksum(tcp, pseudo).to_bytes(2)
        assert net.packet(ip.emit(header, tcp[:16] + right + tcp[18:])) == []
    assert net.host.stack.tcp.counters.unroutable == 1
    assert net.host.stack.statistics().own_source == 1
    assert not net.host.stack.tcp.flows


def test_flow_of_a_lost_station() -> None:
    net = Net()
    _, server = opened(net)
    net.host.stack.tcp.lost({GUEST_MAC})
    net.sides.remove(net.guest)
    net.run()
    assert server.events[-2:] == [Event.UNREACHABLE, Event.CLOSED]
    assert not net.host.stack.tcp.flows
    assert HOST_MAC != GUEST_MAC


def test_replaced_time_wait_keeps_its_successor() -> None:
    """RFC 6191: the old connection's end must not take the new one out of the table."""
    net = Net()
    client, server = opened(net)
    server.flows[0].conn.close()
    server.flows[0].touch()
    net.run()
    client.flows[0].conn.close()
    client.flows[0].touch()
    net.run()
    assert server.flows[0].conn.state is State.TIME_WAIT
    net.now += 2.0
    again = net.guest.stack.tcp.connect((GUEST4, 4000), (HOST4, 80), net.now)
    again.owner = client
    net.run(90.0)
    assert again.conn.state is State.ESTABLISHED
    assert [f.conn.state for f in net.host.stack.tcp.flows.values()] == [State.ESTABLISHED]


def test_arp_is_answered_while_flows_wait() -> None:
    net = Net(guest=False)
    net.host.stack.tcp.connect((HOST4, 5000), (GUEST4, 80), net.now)
    net.run()
    answers = net.send(ask_arp(HOST4))
    assert any(frame[12:14] == b"\x08\x00" for frame in answers)  # the SYN

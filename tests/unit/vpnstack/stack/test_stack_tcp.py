"""TCP in its place: floods, cookies, simultaneous opens, marks of routers, through real frames."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import pytest
from stackpair import ENDS, GUEST4, GUEST_MAC, HOST4, HOST_MAC, Net, Tcp, ask_arp
from vpnstack.core._core import ffi

from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.isn import sequence_beyond
from vpnstack.proto.tcp.segment import ACK, RST, SYN, Segment
from vpnstack.proto.tcp.seq import HALF, MASK
from vpnstack.proto.tcp.state import State
from vpnstack.stack import headers
from vpnstack.wire import ip

OPTIONS = {"mss": 1460, "wscale": 7, "sack_permitted": True, "ts": (7, 0)}


def frame(seg: Segment, sport: int, dport: int = 80, src: bytes = GUEST4) -> bytes:
    """Return a segment from the guest's side in an Ethernet frame."""
    header, tcp = ip.parse(headers.packet((src, sport, HOST4, dport), seg))
    body = bytearray(tcp) + seg.data
    body[16:18] = bytes(2)
    right = ip.checksum(bytes(body), ip.pseudo_sum(src, HOST4, headers.TCP, len(body)))
    body[16:18] = right.to_bytes(2, "big")
    return HOST_MAC + GUEST_MAC + b"\x08\x00" + ip.emit(header, bytes(body))


def segments(frames: list[bytes]) -> list[tuple[int, int, int, int]]:
    """Return (destination port, flags, sequence number, length of header) of TCP frames."""
    out = []
    for octets in frames:
        if octets[12:14] == b"\x08\x00" and octets[23] == headers.TCP:
            tcp = octets[34:]
            seq = int.from_bytes(tcp[4:8], "big")
            out.append((int.from_bytes(tcp[2:4], "big"), tcp[13], seq, tcp[12] >> 4 << 2))
    return out


def test_a_flood_of_syns_takes_bounded_memory_and_keeps_nobody_out() -> None:
    net, owner = Net(guest=False), Tcp()
    layer = net.host.stack.tcp
    layer.listeners[None, 80] = owner
    net.introduce()
    ((_, _, iss, _),) = segments(net.send(frame(Segment(100, 0, SYN, 9000), 1000)))
    net.send(frame(Segment(101, iss + 1 & MASK, ACK, 9000), 1000))
    rng = random.Random(5)
    tracemalloc.start()
    try:
        for n in range(3000):
            if n == 1000:
                before = tracemalloc.get_traced_memory()[0]
            net.send(frame(Segment(rng.getrandbits(32), 0, SYN, 9000, **OPTIONS), 2000 + n))
        assert tracemalloc.get_traced_memory()[0] - before < 1 << 18
    finally:
        tracemalloc.stop()
    assert len(layer.flows) == 1 + layer.syn_queue.limit
    assert layer.syn_queue.cookies_out == 3000 - layer.syn_queue.limit
    net.send(frame(Segment(101, iss + 1 & MASK, ACK, 9000, b"hello"), 1000))
    assert owner.data == b"hello"
    ((_, flags, cookie, size),) = segments(
        net.send(frame(Segment(500, 0, SYN, 9000, **OPTIONS), 1001))
    )
    assert (flags, size) == (SYN | ACK, 44)
    net.send(frame(Segment(501, cookie + 1 & MASK, ACK, 9000, b" world", ts=(8, 0)), 1001))
    assert owner.data == b"hello world"
    assert layer.syn_queue.cookies_taken == 1


def test_a_cookie_that_waits_for_a_neighbour_keeps_its_options() -> None:
    net = Net(guest=False)
    layer = net.host.stack.tcp
    layer.listeners[None, 80] = Tcp()
    layer.syn_queue.limit = 0
    asked = net.send(frame(Segment(500, 0, SYN, 9000, **OPTIONS), 1001))
    assert segments(asked) == []
    (found,) = segments(net.send(ask_arp(HOST4)))
    assert (found[0], found[1], found[3]) == (1001, SYN | ACK, 44)


def test_every_reset_is_counted_once() -> None:
    net, owner = Net(guest=False), Tcp("refuse")
    net.host.stack.tcp.listeners[None, 80] = owner
    net.introduce()
    for n, port in enumerate((80, 81), 1):
        ((_, flags, _, _),) = segments(net.send(frame(Segment(1, 0, SYN, 9), 1000, port)))
        assert flags & RST
        assert net.host.stack.statistics().resets_out == n


@pytest.mark.parametrize("version", [4, 6])
def test_both_ends_open_at_once(version: int) -> None:
    net = Net()
    guest, host = ENDS[version]
    owners = Tcp(), Tcp()
    flows = (
        net.host.stack.tcp.connect((host, 7), (guest, 8), net.now),
        net.guest.stack.tcp.connect((guest, 8), (host, 7), net.now),
    )
    for flow, owner in zip(flows, owners, strict=True):
        flow.owner = owner
        flow.conn.send(b"hello")
    net.run(1.0)
    assert [flow.conn.state for flow in flows] == [State.ESTABLISHED] * 2
    assert [owner.data for owner in owners] == [b"hello"] * 2
    assert max(flow.conn.n_segs_out for flow in flows) < 8
    assert flows[0].conn.ts_offset != flows[1].conn.ts_offset  # RFC 7323, 5.4


def mark(side: Any) -> None:
    """Have a router before `side` say that it is congested (RFC 3168, 5)."""
    take = side.port.rx_burst

    def rx_burst(burst: Any) -> int:
        n: int = take(burst)
        for i in range(n):
            octets = bytearray(burst.octets(i))
            if octets[12:14] == b"\x08\x00" and octets[15] & 3 == 2:
                octets[15] |= 3
                octets[24:26] = bytes(2)
                octets[24:26] = ip.checksum(bytes(octets[14:34])).to_bytes(2, "big")
            elif octets[12:14] == b"\x86\xdd" and octets[15] >> 4 & 3 == 2:
                octets[15] |= 0x30
            overwrite(burst[i], octets)
        return n

    side.port.rx_burst = rx_burst


def overwrite(f: Any, octets: bytearray) -> None:
    """Write the first 54 octets of a frame that lies in one piece."""
    size = min(54, len(octets))
    ffi.memmove(f.iov[0].iov_base, bytes(octets[:size]), size)


@pytest.mark.parametrize("version", [4, 6])
def test_rfc3168_a_mark_on_the_way_halves_the_window_and_loses_nothing(version: int) -> None:
    net = Net(tcp_config=lambda v, mtu: Config(mss=mtu - 60, ecn=1))
    guest, host = ENDS[version]
    owner, server = Tcp(), Tcp()
    net.guest.stack.tcp.listeners[None, 80] = server
    flow = net.host.stack.tcp.connect((host, 7), (guest, 80), net.now)
    flow.owner = owner
    net.run()
    assert flow.conn.ecn
    mark(net.guest)
    before = flow.conn.cc.cwnd
    flow.conn.send(bytes(60_000))
    flow.touch()
    net.run(1.0)
    assert len(server.data) == 60_000
    assert server.flows[0].conn.n_ce > 0
    assert flow.conn.n_delivered_ce > 0
    assert flow.conn.n_retrans == 0
    assert flow.conn.cc.ssthresh <= before


def test_rfc6191_the_newer_connection_begins_above_the_older() -> None:
    assert sequence_beyond(10, 5) == 10
    for iss, old in ((5, 5), (4, 5), (HALF + 9, 5), (MASK, 3)):
        assert 0 < (sequence_beyond(iss, old) - old) & MASK < HALF


def test_rfc6056_a_chosen_port_is_nobodys() -> None:
    net = Net()
    layer = net.host.stack.tcp
    port = layer.choose_port(HOST4, (GUEST4, 80))
    flow = layer.connect((HOST4, port), (GUEST4, 80), net.now)
    ports = {layer.choose_port(HOST4, (GUEST4, 80)) for _ in range(100)}
    assert flow.local[1] not in ports
    assert len(ports) == 100
    layer.listeners[None, max(ports) + 1] = Tcp()
    assert max(ports) + 1 not in {layer.choose_port(HOST4, (GUEST4, 80)) for _ in range(100)}

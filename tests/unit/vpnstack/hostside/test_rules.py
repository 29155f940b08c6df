"""What a stack takes and sends: VLANs, IPv4 options, groups, path MTUs."""

from __future__ import annotations

from typing import Any

import pytest

from vpnstack.stack import udp
from vpnstack.wire import icmp, ip

A, B, G = (ip.parse_address(a) for a in ("10.0.0.1", "10.0.0.2", "239.1.1.1"))
FAR = ip.parse_address("192.0.2.9")
MAC_A, MAC_B = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"


class Inbox:
    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.errors: list[icmp.Error] = []

    def datagram_received(self, remote: Any, local: Any, data: bytes, now: float) -> None:
        self.got.append(data)

    def icmp_received(self, remote: Any, local: Any, error: icmp.Error, now: float) -> None:
        self.errors.append(error)


def tagged(vid: int | None, packet: bytes) -> bytes:
    tag = b"" if vid is None else b"\x81\0" + vid.to_bytes(2)
    return MAC_A + MAC_B + tag + b"\x08\0" + packet


def ping(options: bytes = b"") -> bytes:
    body = icmp.emit(icmp.Echo(False, 1, 1, b"x"), B, A)
    return ip.emit(ip.Repr(B, A, ip.ICMP, options=options), body)


@pytest.mark.parametrize(
    ("own", "vid", "taken"),
    [
        (None, None, True), (None, 0x2000, True), (None, 7, False), (7, 7, True),
        (7, 0x6007, True), (7, 8, False), (7, None, False),
    ],
)  # fmt: skip
def test_vlan(lan: Any, own: int | None, vid: int | None, taken: bool) -> None:
    """A tag of VLAN 0 is a priority; priority bits do not matter otherwise."""
    stack = lan.stack(1, "10.0.0.1/24", vlan=own)
    lan.inject(stack, tagged(vid, ping()))
    assert stack.statistics().echoes_answered == int(taken)
    assert stack.statistics().wrong_vlan == int(not taken)


def test_everything_from_a_vlan_is_tagged(lan: Any) -> None:
    one, two = lan.stack(1, "10.0.0.1/24", vlan=7), lan.stack(2, "10.0.0.2/24", vlan=7)
    lan.stack(3, "10.0.0.3/24")
    inbox = two.udp.ports[None, 9] = Inbox()
    one.udp.send((A, 9), (B, 9), b"x" * 3000, lan.now)
    one.udp.send((A, 9), (B, 9), b"y", lan.now)
    one.tcp.connect((A, 9), (B, 9), lan.now)
    lan.run(1)
    assert inbox.got == [b"x" * 3000, b"y"] or inbox.got == [b"y", b"x" * 3000]
    assert {frame[12:16] for _, frame in lan.frames} == {b"\x81\0\0\7"}


@pytest.mark.parametrize(
    ("options", "answered", "counted"),
    [
        (b"\x07\x07\4\0\0\0\0\0", 1, 0),  # record route: not recorded
        (b"\x83\x07\4\x0a\0\0\1\0", 0, 1),
        (b"\x89\x07\4\x0a\0\0\1\0", 0, 1),
        (b"\1\1\1\0", 1, 0),
        (b"\x07\x09\4\0", 0, 0),
    ],
)
def test_ipv4_options(lan: Any, options: bytes, answered: int, counted: int) -> None:
    stack = lan.stack(1, "10.0.0.1/24")
    lan.inject(stack, tagged(None, ping(options)))
    assert stack.statistics().echoes_answered == answered
    assert stack.statistics().source_routed == counted


def test_bad_option_is_reported_with_its_place(lan: Any) -> None:
    stack = lan.stack(1, "10.0.0.1/24")
    lan.stack(2, "10.0.0.2/24")
    lan.inject(stack, tagged(None, ping(b"\1\x07\x09\4")))
    lan.run(1)
    errors = [f[34:] for _, f in lan.frames if f[12:14] == b"\x08\0" and f[23] == 1]
    assert [(e[0], e[4]) for e in errors] == [(12, 21)]


def test_group_before_and_after_joining(lan: Any) -> None:
    one, two = lan.stack(1, "10.0.0.1/24"), lan.stack(2, "10.0.0.2/24")
    inbox = two.udp.ports[None, 9] = Inbox()
    one.udp.send((A, 9), (G, 9), b"early", lan.now)
    lan.run(1)
    assert two.groups.join(G, lan.now)
    one.udp.send((A, 9), (G, 9), b"late", lan.now)
    lan.run(1)
    two.groups.leave(G, lan.now)
    one.udp.send((A, 9), (G, 9), b"over", lan.now)
    lan.run(1)
    assert inbox.got == [b"late"]
    assert not two.groups.join(A, lan.now)
    ttls = {f[22] for _, f in lan.frames if f[30:34] == G and f[23] == 17}
    assert ttls == {1}


def too_big(local: tuple[bytes, int], remote: tuple[bytes, int], mtu: int) -> bytes:
    quote = udp.packet(local, remote, b"x" * 100)
    error = icmp.emit(icmp.error(icmp.Kind.TOO_BIG, 4, quote, mtu), B, A)
    return tagged(None, ip.emit(ip.Repr(B, A, ip.ICMP), error))


def test_path_mtu_for_datagrams_and_connections(lan: Any) -> None:
    stack = lan.stack(1, "10.0.0.1/24", gateway4=B)
    lan.stack(2, "10.0.0.2/24")
    stack.udp.ports[None, 9] = Inbox()
    lan.inject(stack, too_big((A, 9), (FAR, 9), 1000))
    stack.udp.send((A, 9), (FAR, 9), b"x" * 1400, lan.now)
    lan.run(1)
    sizes = [len(f) - 14 for _, f in lan.frames if f[30:34] == FAR]
    assert len(sizes) == 2
    assert max(sizes) <= 1000
    flow = stack.tcp.connect((A, 1), (FAR, 80), lan.now)
    assert flow.conn.config.send_mss == 960
    assert flow.conn.config.mss == 1460  # what we receive is not the path's matter
    lan.run(600)
    assert stack.interface.path_mtu(FAR, lan.now) == 1500


def test_path_mtu_is_not_believed_about_what_we_did_not_send(lan: Any) -> None:
    stack = lan.stack(1, "10.0.0.1/24", gateway4=B)
    lan.inject(stack, too_big((A, 9), (FAR, 9), 1000))
    assert stack.interface.path_mtu(FAR, lan.now) == 1500

"""What looks malformed and where it is decided: in parsing only what no host can mean.

Each test names the rule.  What parsing lets pass is refused above it, or is harmless.
"""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
from vpnstack.core._core import lib

from vpnstack.core import pure, puresend
from vpnstack.core.access import payload
from vpnstack.core.burst import Burst
from vpnstack.core.pure import Parsed, Verdict
from vpnstack.core.puresend import Tcp
from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.connection import Connection
from vpnstack.proto.tcp.options import MAX_WSCALE
from vpnstack.proto.tcp.segment import Segment
from vpnstack.stack.headers import template
from vpnstack.stack.interface import Interface, InterfaceConfig, addresses_of
from vpnstack.stack.stack import Stack

A4, B4 = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
A6, B6 = bytes.fromhex("fd" + "00" * 14 + "01"), bytes.fromhex("fd" + "00" * 14 + "02")
MAC, PEER = b"\2" * 6, b"\4" * 6
PLAIN = Tcp()


def c_parse(octets: bytes) -> Any:
    burst = Burst(1)
    f = burst.append(octets)
    lib.frame_parse_burst(burst.array, 1)
    f.token = len(octets)
    return f, burst


@pytest.fixture(params=["c", "pure"])
def parse(request: pytest.FixtureRequest) -> Any:
    keep: list[Burst] = []

    def in_c(octets: bytes) -> Any:
        f, burst = c_parse(octets)
        keep.append(burst)
        return f

    return in_c if request.param == "c" else lambda octets: pure.parse(bytes(12), octets)


def segment(tcp: Tcp = PLAIN, data: bytes = b"", ports: tuple[int, int] = (4000, 80),
            src: bytes = A4, ttl: int = 64, mac: bytes = PEER) -> bytes:  # fmt: skip
    tmpl = template(MAC, mac, (src, ports[0], B4, ports[1]), 6, ttl)
    return puresend.soften(puresend.emit_tcp(tmpl, tcp, data), 0)[0].octets


def datagram(sport: int, dport: int) -> bytes:
    tmpl = template(MAC, PEER, (A4, sport, B4, dport), 17)
    made = puresend.emit_udp(tmpl, b"x")
    p = Parsed()
    p.l4, p.data, p.data_len = 34, 42, 1
    return puresend.complete(made.octets, p, 34, 6)[0].octets


def test_row4_ttl_0_is_received(parse: Any) -> None:
    """RFC 1122 3.2.1.7: not discarded for a TTL below 2 by the host that it is for."""
    f = parse(segment(ttl=0))
    assert (f.verdict, f.ttl) == (Verdict.OK, 0)


def test_row4_link_local_source_is_a_host(parse: Any) -> None:
    """RFC 3927 2.6: a neighbour without a lease; that it is not forwarded is the stack's."""
    assert parse(segment(src=bytes([169, 254, 1, 2]))).verdict == Verdict.OK


@pytest.mark.parametrize("options", [
    b"\x83\x07\4\x0a\0\0\1\0", b"\x89\x07\4\x0a\0\0\1\0", b"\7\0\0\0", b"\7\xff\0\0",
    b"\x94\4\0\0",
], ids=["lsrr", "ssrr", "length-0", "length-past-end", "router-alert"])  # fmt: skip
def test_row4_options_are_stepped_over(parse: Any, options: bytes) -> None:
    """RFC 1122 3.2.1.8: ignored; nothing here forwards by them, so a source route goes nowhere."""
    plain = template(MAC, PEER, (A4, 4000, B4, 80), 6)
    tmpl = plain[:14] + bytes([0x45 + len(options) // 4]) + plain[15:34] + options + plain[34:]
    f = parse(puresend.soften(puresend.emit_tcp(tmpl, Tcp(seq=9), b"data"), 0)[0].octets)
    assert (f.verdict, f.l4, f.seq, f.data_len) == (Verdict.OK, 34 + len(options), 9, 4)


@pytest.mark.parametrize("ports", [(0, 80), (4000, 0), (0, 0)])
def test_row6_port_0_is_nobody(parse: Any, ports: tuple[int, int]) -> None:
    """RFC 6335 6."""
    assert parse(segment(ports=ports)).verdict == Verdict.BAD_L4


@pytest.mark.parametrize(("ports", "verdict"), [
    ((0, 53), Verdict.OK), ((5, 0), Verdict.BAD_L4), ((5, 53), Verdict.OK),
])  # fmt: skip
def test_row7_port_0(parse: Any, ports: tuple[int, int], verdict: Verdict) -> None:
    """RFC 768: a source of 0 wants no answer; RFC 6335 6: nobody is at 0."""
    assert parse(datagram(*ports)).verdict == verdict


def test_row6_urgent_pointer_past_data_moves_nothing(parse: Any) -> None:
    """RFC 6093: urgent data stays in line; the pointer is carried and never used as a length."""
    octets = segment(Tcp(flags=0x38, urg=65535), b"abc")
    f = parse(octets)
    assert (f.verdict, f.urg, f.data_len) == (Verdict.OK, 65535, 3)
    f, burst = c_parse(octets)
    assert (bytes(payload(f)), burst.count) == (b"abc", 1)


@pytest.mark.parametrize("shift", [14, 15, 255])
def test_row6_wscale_is_taken_as_14_at_most(parse: Any, shift: int) -> None:
    """RFC 7323 2.3."""
    f = parse(segment(Tcp(flags=2, opts=bytes([3, 3, shift, 0]))))
    assert (f.verdict, f.wscale) == (Verdict.OK, shift)
    syn = Segment(1, 0, 2, 9000, b"", 0, 1000, shift, False, None)
    conn = Connection.passive(Config(), syn, 0.0, 5, hold=False)
    assert conn.snd_wscale == MAX_WSCALE


class Ask:
    """A link that keeps what is sent and an acceptor that counts who asks."""

    def __init__(self) -> None:
        self.asked = 0

    def egress(self, burst: Burst) -> None:
        raise AssertionError("nothing is sent without a burst")

    def blocked(self, mac: bytes) -> bool:
        return False

    def flow_arrived(self, flow: Any, now: float) -> None:
        self.asked += 1


@pytest.mark.parametrize(("flags", "asked", "resets"), [
    (2, 1, 0), (3, 0, 0), (6, 0, 0), (0x3F, 0, 0), (0, 0, 1), (1, 0, 1),
])  # fmt: skip
def test_row6_flags_that_open_nothing(flags: int, asked: int, resets: int) -> None:
    """SYN with FIN or RST opens no flow and gets no answer; RFC 9293 3.10.7.1 for the others."""
    ask = Ask()
    interface = Interface(InterfaceConfig(MAC, addresses_of(["10.0.0.2/24"])), ask)
    stack = Stack(interface, rng=random.Random(1))
    stack.tcp.forward = ask
    interface.neighbours.receive_solicitation(A4, PEER, 0.0)
    f, _burst = c_parse(segment(Tcp(flags=flags)))
    stack.receive([f], 0.0)
    assert (ask.asked, len(stack.tcp.flows)) == (asked, asked)
    assert (stack.statistics().resets_out, len(interface.queue)) == (resets, resets)


def ip6(rest: bytes, kind: int, length: int | None = None) -> bytes:
    size = len(rest) if length is None else length
    return MAC + PEER + b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, size, kind, 9) + A6 + B6 + rest


@pytest.mark.parametrize("kind", [0, 2, 3, 4, 253])
@pytest.mark.parametrize("left", [0, 1, 255])
def test_row11_segments_left(parse: Any, kind: int, left: int) -> None:
    """RFC 8200 4.4, RFC 5095: ignored at the end of its route, a problem before it."""
    f = parse(ip6(bytes([59, 0, kind, left, 0, 0, 0, 0]), 43))
    if left:
        assert (f.verdict, f.param_code, f.param_ptr) == (Verdict.BAD_EXT, 0, 42)
    else:
        assert (f.verdict, f.param_code) == (Verdict.OK, 0xFF)


def test_row11_jumbogram(parse: Any) -> None:
    """RFC 2675 is not offered: the option is unknown, and without a length there is no packet."""
    jumbo = bytes([59, 0, 0xC2, 4, 0, 1, 0, 0])
    f = parse(ip6(jumbo, 0))
    assert (f.verdict, f.param_code, f.param_ptr) == (Verdict.BAD_EXT, 2, 42)
    assert parse(ip6(jumbo, 0, length=0)).verdict == Verdict.BAD_EXT


@pytest.mark.parametrize("size", [0, 1, 4, 7])
def test_row8_short_icmp(parse: Any, size: int) -> None:
    assert parse(ip6(bytes(size), 58)).verdict == Verdict.BAD_L4


def test_row2_source_mac_is_the_switch_s(parse: Any) -> None:
    """IEEE 802.3 3.2.3: no group as a source; parsing has no say, `Switch` refuses it."""
    assert parse(segment(mac=b"\xff" * 6)).verdict == Verdict.OK

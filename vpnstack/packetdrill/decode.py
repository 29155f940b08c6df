"""From a frame that the stack sent to a script's packet; its checksums are verified."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from ..core import access
from ..core.burst import Burst
from ..core.pure import Verdict
from ..wire import ip
from .errors import Mismatch
from .script import Icmp, IpInfo, Option, Packet, Quote, Tcp, Udp

_NAMES = {0: "eol", 1: "nop", 2: "mss", 3: "wscale", 4: "sackOK", 5: "sack", 8: "TS"}
_SIZES = {"mss": (2,), "wscale": (1,), "sackOK": (0,), "TS": (8,), "sack": (8, 16, 24, 32)}


@dataclass(frozen=True, slots=True)
class Sent:
    """A packet of the stack's, numbers as on the wire; `at` is when it left."""

    at: float
    packet: Packet
    src: bytes
    dst: bytes
    sport: int  # of the quoted packet, seen from us, for an ICMP error
    dport: int


def decode(octets: bytes, vnet: bytes, now: float) -> Sent | None:
    """Parse a frame; None for what is not TCP, UDP or ICMP.

    Raises `Mismatch` where the core would drop it: the stack must not send that.
    """
    burst = Burst(1)
    f = burst.append(octets, vnet)
    access.parse_burst(burst)
    if f.verdict:
        raise Mismatch(f"the stack sent a frame that is dropped: {Verdict(f.verdict).name}")
    if not f.ip_version or f.is_frag:
        return None
    src, dst = access.source(f), access.destination(f)
    info = IpInfo(ecn=f.tos & 3, ttl=f.ttl, tos=f.tos)
    if f.proto == ip.TCP:
        return Sent(now, _tcp(f, info, octets), src, dst, f.sport, f.dport)
    if f.proto == ip.UDP:
        return Sent(now, Udp(info, f.data_len), src, dst, f.sport, f.dport)
    if f.proto == (ip.ICMP if f.ip_version == 4 else ip.ICMPV6):
        return _icmp(f, info, octets, now, src, dst)
    return None


def _tcp(f: Any, info: IpInfo, octets: bytes) -> Tcp:
    flags, ack = f.tcp_flags & 0xFF, f.ack
    options = parse_options(octets[f.l4 + 20 : f.data])
    return Tcp(info, flags, f.seq, f.data_len, ack, f.wnd, f.urg, options)


def parse_options(data: bytes) -> tuple[Option, ...]:
    """Read a list of options, each of them, in its order; stops at a fault."""
    out: list[Option] = []
    at = 0
    while at < len(data):
        kind = data[at]
        if kind < 2:
            out.append(Option(_NAMES[kind]))
            at += 1
            continue
        size = data[at + 1] if at + 1 < len(data) else 0
        if size < 2 or size > len(data) - at:
            break
        out.append(_option(kind, data[at + 2 : at + size]))
        at += size
    return tuple(out)


def _option(kind: int, body: bytes) -> Option:
    name = _NAMES.get(kind, "")
    if len(body) not in _SIZES.get(name, ()):
        return Option("kind", (kind, *body))
    if name == "mss":
        return Option(name, struct.unpack("!H", body))
    if name in ("wscale", "sackOK"):
        return Option(name, tuple(body))
    return Option(name, struct.unpack(f"!{len(body) // 4}I", body))


def _icmp(
    f: Any, info: IpInfo, octets: bytes, now: float, src: bytes, dst: bytes
) -> Sent | None:  # fmt: skip
    kind, code = f.sport >> 8, f.sport & 255
    if f.ip_version == 6 and (133 <= kind <= 137 or kind == 143):
        return None  # neighbour discovery and MLD
    body = octets[f.l4 : f.data + f.data_len]
    if kind in (0, 8, 128, 129):
        ident, seq = struct.unpack_from("!HH", body, 4)
        echo = Icmp(info, kind, code, None, None, ident, seq, len(body) - 8)
        return Sent(now, echo, src, dst, 0, 0)
    quote, ports = _quote(body[8:])
    message = Icmp(info, kind, code, int.from_bytes(body[4:8], "big"), quote)
    return Sent(now, message, src, dst, *ports)


def _quote(data: bytes) -> tuple[Quote | None, tuple[int, int]]:
    """Read the packet that an error of ours quotes: it came from the peer."""
    where = ip.upper(data)
    if where is None or not where.first or len(data) < where.offset + 8:
        return None, (0, 0)
    sport, dport, word = struct.unpack_from("!HHI", data, where.offset)
    total = int.from_bytes(data[2:4], "big") if data[0] >> 4 == 4 else (
        int.from_bytes(data[4:6], "big") + ip.V6_HEADER_LEN
    )  # fmt: skip
    if where.proto == ip.UDP:
        return Quote("udp", 0, (word >> 16) - 8), (dport, sport)
    if where.proto != ip.TCP:
        return None, (0, 0)
    header = data[where.offset + 12] >> 4 << 2 if len(data) > where.offset + 12 else 20
    return Quote("tcp", word, total - where.offset - header), (dport, sport)

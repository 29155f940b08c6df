"""IPv4 (RFC 791) and IPv6 (RFC 8200) headers for packets off the fast path, and address arithmetic.

Addresses are raw octets, 4 or 16 of them; their length is the family.  The fast path's headers
are parsed and built in C (`core/frame.h`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from ipaddress import ip_address

from .malformed import Malformed, need

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
HOP_BY_HOP, ROUTING, FRAGMENT, NO_NEXT, DESTINATION = 0, 43, 44, 59, 60
V4_HEADER_LEN, V6_HEADER_LEN = 20, 40
EXTENSIONS_MAX = 8  # headers in a chain that we walk; real packets have at most three

UNSPECIFIED_V4, UNSPECIFIED_V6 = bytes(4), bytes(16)
BROADCAST_V4 = b"\xff" * 4
ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
ALL_ROUTERS = bytes.fromhex("ff020000000000000000000000000002")
LINK_LOCAL = bytes.fromhex("fe80000000000000")

_V4 = struct.Struct("!BBHHHBBH4s4s")
_V6 = struct.Struct("!IHBB16s16s")
_DONT_FRAGMENT, _MORE = 0x4000, 0x2000


@dataclass(frozen=True, slots=True)
class Repr:
    """A network header; the family is the length of the addresses.

    `ident`, `dont_fragment`, `more`, `offset` (octets) and `options` (whole words) are IPv4's;
    `flow_label` is IPv6's.
    """

    src: bytes
    dst: bytes
    proto: int
    ttl: int = 64
    tos: int = 0
    ident: int = 0
    dont_fragment: bool = False
    more: bool = False
    offset: int = 0
    flow_label: int = 0
    options: bytes = b""

    def __str__(self) -> str:
        family = "IP" if len(self.src) == 4 else "IP6"
        ends = f"{format_address(self.src)} > {format_address(self.dst)}"
        return f"{family} {ends}: proto {self.proto}, ttl {self.ttl}"


@dataclass(frozen=True, slots=True)
class Upper:
    """Where the transport header of a packet lies: its protocol and offset in octets.

    `first` is False in a fragment that does not carry the start of the payload.
    """

    proto: int
    offset: int
    first: bool = True


def checksum(data: bytes, start: int = 0) -> int:
    """Compute the Internet checksum (RFC 1071) over `data`, adding the partial sum `start`.

    Over data that contains its own right checksum the result is 0.
    """
    # A number in base 2**16 is congruent to the sum of its digits modulo 2**16 - 1.
    total = int.from_bytes(data if len(data) % 2 == 0 else data + b"\0") + start
    return 0xFFFF - (total % 0xFFFF or (0xFFFF if total else 0))


def pseudo_sum(src: bytes, dst: bytes, proto: int, length: int) -> int:
    """Return the pseudo header's partial sum (RFC 9293 3.1, RFC 8200 8.1) for `checksum`."""
    return int.from_bytes(src + dst) % 0xFFFF + proto + length % 0xFFFF


def parse(packet: bytes) -> tuple[Repr, bytes]:
    """Split a packet into its header and payload, dropping link padding.

    IPv6 extension headers stay in the payload; `upper` walks them.
    """
    need("ip", "a header", packet, 1)
    version = packet[0] >> 4
    if version == 4:
        return _parse_v4(packet)
    if version == 6:
        return _parse_v6(packet)
    raise Malformed("ip", "version 4 or 6", version)


def _parse_v4(packet: bytes) -> tuple[Repr, bytes]:
    need("ip", "a header", packet, V4_HEADER_LEN)
    first, tos, total, ident, frag, ttl, proto, _, src, dst = _V4.unpack_from(packet)
    header_len = (first & 15) * 4
    if not V4_HEADER_LEN <= header_len <= total <= len(packet):
        raise Malformed(
            "ip", "20 <= header <= total <= packet octets", (header_len, total, len(packet))
        )
    if checksum(packet[:header_len]):
        raise Malformed("ip", "a right header checksum", packet[10:12].hex())
    header = Repr(
        src, dst, proto, ttl, tos, ident,
        bool(frag & _DONT_FRAGMENT), bool(frag & _MORE), (frag & 0x1FFF) * 8,
        options=packet[V4_HEADER_LEN:header_len],
    )  # fmt: skip
    return header, packet[header_len:total]


def _parse_v6(packet: bytes) -> tuple[Repr, bytes]:
    need("ip6", "a header", packet, V6_HEADER_LEN)
    first, length, proto, hops, src, dst = _V6.unpack_from(packet)
    if length > len(packet) - V6_HEADER_LEN:
        raise Malformed("ip6", f"{length} octets of payload", len(packet) - V6_HEADER_LEN)
    header = Repr(src, dst, proto, hops, first >> 20 & 0xFF, flow_label=first & 0xFFFFF)
    return header, packet[V6_HEADER_LEN : V6_HEADER_LEN + length]


def emit(repr: Repr, payload: bytes) -> bytes:
    """Build the packet: the header, its checksum, and `payload`."""
    if len(repr.src) == 16:
        first = 6 << 28 | repr.tos << 20 | repr.flow_label
        fixed = _V6.pack(first, len(payload), repr.proto, repr.ttl, repr.src, repr.dst)
        return fixed + payload
    frag = repr.offset // 8 | (repr.dont_fragment and _DONT_FRAGMENT) | (repr.more and _MORE)
    total = V4_HEADER_LEN + len(repr.options) + len(payload)
    first = 0x45 + len(repr.options) // 4
    fields = (first, repr.tos, total, repr.ident, frag, repr.ttl, repr.proto)
    right = checksum(_V4.pack(*fields, 0, repr.src, repr.dst) + repr.options)
    return _V4.pack(*fields, right, repr.src, repr.dst) + repr.options + payload


def fragments(whole: bytes, mtu: int, ident: int) -> list[bytes]:
    """Cut a packet without options or extensions into fragments of at most `mtu` octets.

    RFC 791 3.2 and RFC 8200 4.5: every fragment but the last carries a multiple of 8 octets.
    """
    header, payload = parse(whole)
    v4 = len(header.src) == 4
    room = (mtu - (V4_HEADER_LEN if v4 else V6_HEADER_LEN + 8)) & ~7
    out = []
    for offset in range(0, len(payload), room):
        part = payload[offset : offset + room]
        more = offset + room < len(payload)
        if v4:
            repr = replace(
                header, ident=ident & 0xFFFF, dont_fragment=False, more=more, offset=offset
            )
        else:
            part = struct.pack("!BBHI", header.proto, 0, offset | more, ident) + part
            repr = replace(header, proto=FRAGMENT)
        out.append(emit(repr, part))
    return out


def upper(packet: bytes) -> Upper | None:
    """Find the transport header; None where the chain is broken, too long or ends in nothing.

    Works on the truncated packets that ICMP errors quote, so it does not ask for the payload.
    """
    if len(packet) >= V4_HEADER_LEN and packet[0] >> 4 == 4:
        offset = int.from_bytes(packet[6:8]) & 0x1FFF
        header_len = (packet[0] & 15) * 4
        return Upper(packet[9], header_len, not offset) if header_len >= V4_HEADER_LEN else None
    if len(packet) >= V6_HEADER_LEN and packet[0] >> 4 == 6:
        return _upper_v6(packet)
    return None


def _upper_v6(packet: bytes) -> Upper | None:
    proto, at = packet[6], V6_HEADER_LEN
    for _ in range(EXTENSIONS_MAX):
        if proto not in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION):
            return Upper(proto, at) if proto != NO_NEXT else None
        if len(packet) - at < 8:
            return None
        if proto == FRAGMENT and int.from_bytes(packet[at + 2 : at + 4]) & 0xFFF8:
            return Upper(packet[at], at + 8, first=False)
        proto, at = packet[at], at + (8 if proto == FRAGMENT else 8 + packet[at + 1] * 8)
    return None


def format_address(addr: bytes) -> str:
    """Write 4 or 16 octets as an address in text."""
    return str(ip_address(addr))


def parse_address(text: str) -> bytes:
    """Read an IPv4 or IPv6 address; raises ValueError on anything else."""
    return ip_address(text).packed


def is_multicast(addr: bytes) -> bool:
    """Tell whether `addr` is a group's (RFC 1112 4, RFC 4291 2.7)."""
    return addr[0] >> 4 == 14 if len(addr) == 4 else addr[0] == 0xFF


def is_link_local(addr: bytes) -> bool:
    """Tell whether `addr` holds on its link only (RFC 3927, RFC 4291 2.5.6)."""
    if len(addr) == 4:
        return addr[:2] == b"\xa9\xfe"
    return addr[0] == 0xFE and addr[1] & 0xC0 == 0x80


def solicited_node(addr: bytes) -> bytes:
    """Return the solicited-node group of an IPv6 address (RFC 4291 2.7.1)."""
    return bytes.fromhex("ff0200000000000000000001ff") + addr[13:]


def multicast_mac(addr: bytes) -> bytes:
    """Return the Ethernet address of a group (RFC 1112 6.4, RFC 2464 7)."""
    if len(addr) == 4:
        return b"\x01\x00\x5e" + bytes([addr[1] & 0x7F]) + addr[2:]
    return b"\x33\x33" + addr[12:]


def eui64(mac: bytes, prefix: bytes = LINK_LOCAL) -> bytes:
    """Return the address that `mac` makes under a /64 `prefix` (RFC 4291 appendix A)."""
    return prefix[:8] + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]

"""Reference of what transmits, in Python: `emit.c`, `segment.c` and the taking of `framed.c`."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from . import pure

CSUM, TSO4, TSO6, USO = 1, 2, 4, 8  # link/port.py's Offload
VNET = struct.Struct("<BBHHHHH")
GSO_NEEDS = {pure.GSO_TCPV4: TSO4, pure.GSO_TCPV6: TSO6, pure.GSO_UDP_L4: USO}
CHECKSUM_FIELD = {6: 16, 17: 6}


@dataclass(frozen=True, slots=True)
class Frame:
    """A virtio-net header of 12 bytes and an Ethernet frame; empty where there is none."""

    vnet: bytes = bytes(12)
    octets: bytes = b""


@dataclass(frozen=True, slots=True)
class Tcp:
    """What `emit_tcp` says; `opts` are padded to a multiple of 4."""

    seq: int = 0
    ack: int = 0
    flags: int = 16
    wnd: int = 0
    urg: int = 0
    opts: bytes = b""
    gso_size: int = 0


class ProtocolError(ValueError):
    """A stream of frames announced one longer than `LEN_MAX` (-EPROTO in C)."""


def network_offset(head: bytes) -> int:
    """Return where the network header of an Ethernet frame stands."""
    return 18 if head[12:14] == b"\x81\x00" else 14


def template_ok(template: bytes, l4_len: int) -> bool:
    """Tell whether IP can say these lengths, without IPv6 extensions (RFC 791 3.1, RFC 8200 3)."""
    if not 38 <= len(template) <= 100:
        return False
    l3 = network_offset(template)
    ip_len = len(template) - 4 - l3
    if ip_len < 20:
        return False
    if template[l3] >> 4 == 4:
        return ip_len == (template[l3] & 15) * 4 and l4_len <= 65535 - ip_len
    return template[l3] >> 4 == 6 and ip_len == 40 and l4_len <= 65535


def complement(data: bytes) -> bytes:
    """Return the checksum over `data` as it is stored."""
    return struct.pack(">H", 0xFFFF - pure.checksum(data))


def ip_header(head: bytes, l4_len: int, index: int = 0) -> bytes:
    """Return a network header with the length for `l4_len` bytes, identified `index` later."""
    if head[0] >> 4 == 6:
        return head[:4] + struct.pack(">H", len(head) - 40 + l4_len) + head[6:]
    ident = (int.from_bytes(head[4:6], "big") + index) & 0xFFFF
    zero = head[:2] + struct.pack(">HH", len(head) + l4_len, ident) + head[6:10] + b"\0\0"
    zero += head[12:]
    return zero[:10] + complement(zero) + zero[12:]


def pseudo_sum(network: bytes, proto: int, l4_len: int) -> bytes:
    """Return the pseudo-header's sum as a checksum field left to the link holds it."""
    version = network[0] >> 4
    ends = network[12:20] if version == 4 else network[8:40]
    return struct.pack(">H", pure.checksum(ends + struct.pack(">II", l4_len, proto)))


def _finish(template: bytes, l4: bytes, data: bytes, gso: tuple[int, int] = (0, 0)) -> Frame:
    l3, at = network_offset(template), len(template) - 4
    network = ip_header(template[l3:at], len(l4) + len(data))
    proto = network[9] if network[0] >> 4 == 4 else network[6]
    field = 6 if len(l4) == 8 else 16
    l4 = l4[:field] + pseudo_sum(network, proto, len(l4) + len(data)) + l4[field + 2 :]
    vnet = VNET.pack(pure.NEEDS_CSUM, gso[0], at + len(l4), gso[1], at, field, 0)
    return Frame(vnet, template[:l3] + network + l4 + data)


def emit_tcp(template: bytes, tcp: Tcp, data: bytes = b"") -> Frame:
    """Build a segment or super-segment (RFC 9293 3.1); an empty frame where that cannot be."""
    l4_len = 20 + len(tcp.opts) + len(data)
    bad = len(tcp.opts) > 40 or len(tcp.opts) % 4 or len(data) > 65535
    if bad or not template_ok(template, l4_len):
        return Frame()
    word = (5 + len(tcp.opts) // 4) << 12 | tcp.flags & 0x1FF
    fixed = struct.pack(">IIHHHH", tcp.seq, tcp.ack, word, tcp.wnd, 0, tcp.urg)
    gso = (0, 0)
    if 0 < tcp.gso_size < len(data):
        version = template[network_offset(template)] >> 4
        gso = (pure.GSO_TCPV4 if version == 4 else pure.GSO_TCPV6, tcp.gso_size)
    return _finish(template, template[-4:] + fixed + tcp.opts, data, gso)


def emit_udp(template: bytes, data: bytes) -> Frame:
    """Build a datagram (RFC 768); an empty frame where that cannot be."""
    if len(data) > 65535 or not template_ok(template, 8 + len(data)):
        return Frame()
    l4 = template[-4:] + struct.pack(">HH", (8 + len(data)) & 0xFFFF, 0)
    return _finish(template, l4, data)


def lacks(vnet: bytes, offload: int) -> int:
    """Return the offloads that a frame needs and a link does not have; none goes without CSUM."""
    flags, gso = vnet[0], vnet[1] & 0x7F
    bits = (CSUM if flags & pure.NEEDS_CSUM else 0) | GSO_NEEDS.get(gso, 0)
    return bits & ~(offload if offload & CSUM else 0)


def soften(frame: Frame, offload: int) -> list[Frame]:
    """Return what `frame` is without the offloads that are missing; empty where that cannot be.

    `frame` must parse without fault, as for `frame_soften`.
    """
    missing = lacks(frame.vnet, offload)
    if not missing or not frame.octets:
        return [frame] if frame.octets else []
    p = pure.parse(frame.vnet, frame.octets)
    _, _, _, size, start, offset, _ = VNET.unpack(frame.vnet)
    if not missing & ~CSUM or p.data_len <= size:
        return complete(frame.octets, p, start, offset)
    if start != p.l4 or offset != CHECKSUM_FIELD.get(p.proto, 6) or not p.l4:
        return []
    made: list[Frame] = []
    for octets in segments(frame.octets, p, size):
        made += complete(octets, pure.parse(frame.vnet, octets), start, offset)
    return made


def complete(octets: bytes, p: pure.Parsed, start: int, offset: int) -> list[Frame]:
    """Write the checksum whose field holds the pseudo-header's sum (virtio 1.2, 5.1.6.2)."""
    at = start + offset
    end = p.data + p.data_len if p.l4 and start == p.l4 else len(octets)
    if start >= len(octets) or at + 2 > min(len(octets), pure.HEAD_MAX) or end > len(octets):
        return []
    stored = complement(octets[start:end])
    if stored == b"\0\0" and offset == 6:
        stored = b"\xff\xff"  # RFC 768: zero would mean that there is none
    octets = octets[:at] + stored + octets[at + 2 :]
    return [Frame(bytes([pure.DATA_VALID]) + bytes(11), octets)]


def segments(octets: bytes, p: pure.Parsed, size: int) -> Iterator[bytes]:
    """Cut a super-segment; checksum fields hold the pseudo-header's sum."""
    for index, off in enumerate(range(0, p.data_len, size)):
        data = octets[p.data + off : p.data + min(off + size, p.data_len)]
        l4 = bytearray(octets[p.l4 : p.data])
        l4_len = len(l4) + len(data)
        if p.proto == 6:
            _cut_tcp(l4, p.seq + off, index == 0, off + size >= p.data_len)
        else:
            l4[4:6] = struct.pack(">H", l4_len)
        network = ip_header(octets[p.l3 : p.l4], l4_len, index)
        front = pure.pseudo(p.src, p.dst, p.ip_version, p.proto, l4_len)
        field = CHECKSUM_FIELD[p.proto]
        l4[field : field + 2] = struct.pack(">H", pure.checksum(front))
        yield octets[: p.l3] + network + bytes(l4) + data


def _cut_tcp(l4: bytearray, seq: int, first: bool, last: bool) -> None:
    l4[4:8] = struct.pack(">I", seq & 0xFFFFFFFF)
    if not last:
        l4[13] &= ~9 & 0xFF  # FIN and PSH
    if not first:
        l4[13] &= 0x7F  # CWR (RFC 3168 6.1.2: once)


def take(data: bytes, most: int) -> tuple[list[bytes], bytes]:
    """Take up to `most` whole frames, each behind its length; return them and the rest."""
    frames: list[bytes] = []
    while len(frames) < most and len(data) >= 4:
        size = int.from_bytes(data[:4], "big")
        if size > pure.LEN_MAX:
            if frames:
                break
            raise ProtocolError(f"expected a frame of at most {pure.LEN_MAX} bytes, found {size}")
        if len(data) - 4 < size:
            break
        frames.append(data[4 : 4 + size])
        data = data[4 + size :]
    return frames, data

"""Reference parser of frames in pure Python: what `parse.c` does, by frame.h and the RFCs."""

from __future__ import annotations

import struct
from enum import IntEnum
from ipaddress import IPv6Address

HEAD_MAX, LEN_MAX, EXT_MAX, SEGMENTS_MAX = 256, 65589, 8, 1024
NEEDS_CSUM, DATA_VALID = 1, 2
GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 1, 4, 5, 0x80
MAPPED = bytes(10) + b"\xff\xff"


class Verdict(IntEnum):
    """`enum frame_verdict`: why a frame is dropped."""

    (
        OK, SHORT, BAD_VNET, BAD_IP, BAD_IP_CSUM, BAD_L4, BAD_L4_CSUM, BAD_EXT, BAD_ADDR, MERGED,
        TAKEN,
    ) = range(11)  # fmt: skip


class Drop(Exception):
    """Ends the parsing of one frame; never leaves this module."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict


_INTS = (
    "verdict",
    "ethertype",
    "vlan",
    "l3",
    "l4",
    "data",
    "data_len",
    "ip_version",
    "proto",
    "ttl",
    "tos",
    "frag_off",
    "frag_more",
    "is_frag",
    "ip_id",
    "ip_len",
    "sport",
    "dport",
    "key_proto",
    "seq",
    "ack",
    "wnd",
    "urg",
    "tcp_flags",
    "mss",
    "opts",
    "wscale",
    "sack_n",
    "param_code",
    "param_ptr",
    "tsval",
    "tsecr",
)
FIELDS = (*_INTS, "src", "dst", "sack")


class Parsed:
    """What parsing finds; fields and units are those of `struct frame`."""

    __slots__ = FIELDS

    def __init__(self) -> None:
        for name in _INTS:
            setattr(self, name, 0)
        self.vlan, self.param_code = 0xFFFF, 0xFF
        self.src = self.dst = bytes(16)
        self.sack: tuple[int, ...] = ()

    verdict: int
    ethertype: int
    vlan: int
    l3: int
    l4: int
    data: int
    data_len: int
    ip_version: int
    proto: int
    ttl: int
    tos: int
    frag_off: int
    frag_more: int
    is_frag: int
    ip_id: int
    ip_len: int
    sport: int
    dport: int
    key_proto: int
    seq: int
    ack: int
    wnd: int
    urg: int
    tcp_flags: int
    mss: int
    opts: int
    wscale: int
    sack_n: int
    param_code: int
    param_ptr: int
    tsval: int
    tsecr: int
    src: bytes
    dst: bytes


def checksum(data: bytes) -> int:
    """Return the folded, uncomplemented ones' complement sum (RFC 1071), 0..0xffff.

    65536 is 1 modulo 65535, so the whole buffer is one number taken modulo 65535.
    """
    number = int.from_bytes(data + bytes(len(data) & 1), "big")
    return (number % 0xFFFF or 0xFFFF) if number else 0


def pseudo(src: bytes, dst: bytes, version: int, proto: int, length: int) -> bytes:
    """Return bytes that sum as the pseudo-header does (RFC 9293 3.1, RFC 8200 8.1)."""
    skip = 12 if version == 4 else 0
    return src[skip:] + dst[skip:] + struct.pack(">II", length, proto)


def parse(vnet: bytes, data: bytes) -> Parsed:
    """Parse the Ethernet frame `data` behind the 12-byte header `vnet`; never raises."""
    p = Parsed()
    try:
        _Parser(vnet, data, p).run()
    except Drop as drop:
        p.verdict = drop.verdict
    return p


class _Parser:
    def __init__(self, vnet: bytes, data: bytes, p: Parsed) -> None:
        (self.flags, self.gso, _, self.size, self.start, self.offset, _) = struct.unpack(
            "<BBHHHHH", vnet
        )
        self.frame, self.head, self.p = data, data[:HEAD_MAX], p

    def need(self, end: int, verdict: Verdict) -> None:
        if end > len(self.head):
            raise Drop(verdict)

    def u16(self, at: int) -> int:
        return int.from_bytes(self.head[at : at + 2], "big")

    def u32(self, at: int) -> int:
        return int.from_bytes(self.head[at : at + 4], "big")

    def run(self) -> None:
        p = self.p
        if not 14 <= len(self.frame) <= LEN_MAX:
            raise Drop(Verdict.SHORT)
        self.check_vnet()
        p.ethertype, p.l3 = self.u16(12), 14
        if p.ethertype == 0x8100:
            self.need(18, Verdict.SHORT)
            p.vlan, p.ethertype, p.l3 = self.u16(14), self.u16(16), 18
        p.data, p.data_len = p.l3, len(self.frame) - p.l3
        if p.ethertype == 0x0800:
            self.ipv4()
        elif p.ethertype == 0x86DD:
            self.ipv6()
        self.check_offload()

    def check_vnet(self) -> None:
        needs = self.flags & NEEDS_CSUM
        if needs and self.start + self.offset + 2 > len(self.frame):
            raise Drop(Verdict.BAD_VNET)
        if self.gso and not (
            self.gso & 0x7F in (GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4) and needs and self.size
        ):
            raise Drop(Verdict.BAD_VNET)

    def check_offload(self) -> None:
        p = self.p
        field = {6: 16, 17: 6}.get(p.proto, 2)
        own = p.l4 and self.start == p.l4
        if self.flags & NEEDS_CSUM and self.start < p.data and not (own and self.offset == field):
            raise Drop(Verdict.BAD_VNET)
        if not self.gso:
            return
        kinds = {GSO_TCPV4: ((4, 6),), GSO_TCPV6: ((6, 6),), GSO_UDP_L4: ((4, 17), (6, 17))}
        fits = own and (p.ip_version, p.proto) in kinds[self.gso & 0x7F]
        if not fits or p.data_len // self.size > SEGMENTS_MAX:
            raise Drop(Verdict.BAD_VNET)

    def ipv4(self) -> None:
        p, at, h = self.p, self.p.l3, self.head
        self.need(at + 20, Verdict.SHORT)
        ihl, total = (h[at] & 15) * 4, self.u16(at + 2)
        if h[at] >> 4 != 4 or not 20 <= ihl <= total <= len(self.frame) - at:
            raise Drop(Verdict.BAD_IP)
        self.need(at + ihl, Verdict.BAD_IP)
        p.ip_version = 4
        if checksum(h[at : at + ihl]) != 0xFFFF:
            raise Drop(Verdict.BAD_IP_CSUM)
        p.tos, p.ip_len, p.ip_id, p.ttl = h[at + 1], total, self.u16(at + 4), h[at + 8]
        p.proto = p.key_proto = h[at + 9]
        src, dst = h[at + 12 : at + 16], h[at + 16 : at + 20]
        p.src, p.dst = MAPPED + src, MAPPED + dst
        # RFC 1122 3.2.1.3
        if src[0] == 127 or src[0] >= 224 or dst[0] in (0, 127) or (src[0] == 0 and any(src)):
            raise Drop(Verdict.BAD_ADDR)
        bits = self.u16(at + 6)
        if bits & 0x3FFF:
            p.is_frag, p.frag_more, p.frag_off = 1, bits >> 13 & 1, (bits & 0x1FFF) * 8
            p.data, p.data_len = at + ihl, total - ihl
        else:
            self.transport(at + ihl, at + total)

    def ipv6(self) -> None:
        p, at, h = self.p, self.p.l3, self.head
        self.need(at + 40, Verdict.SHORT)
        total = 40 + self.u16(at + 4)
        if h[at] >> 4 != 6 or total > len(self.frame) - at:
            raise Drop(Verdict.BAD_IP)
        p.ip_version, p.tos, p.ip_len, p.ttl = 6, self.u16(at) >> 4 & 0xFF, total, h[at + 7]
        p.src, p.dst = h[at + 8 : at + 24], h[at + 24 : at + 40]
        src, dst = IPv6Address(p.src), IPv6Address(p.dst)
        if src.is_multicast or src.is_loopback or dst.is_loopback or dst.is_unspecified:
            raise Drop(Verdict.BAD_ADDR)
        if src.ipv4_mapped or dst.ipv4_mapped:
            raise Drop(Verdict.BAD_ADDR)
        off, kind = self.extensions(at + 40, at + total, h[at + 6])
        p.proto = p.key_proto = kind
        p.data, p.data_len = off, at + total - off
        if not p.is_frag and kind != 59:
            self.transport(off, at + total)

    def extensions(self, off: int, end: int, kind: int) -> tuple[int, int]:
        """Walk the chain (RFC 8200 4); return where it ends and what follows."""
        seen = 0
        while kind in (0, 43, 44, 60) and not self.p.is_frag:
            if seen == EXT_MAX:
                raise Drop(Verdict.BAD_EXT)
            if kind == 0 and seen:
                self.problem(1, off)
            off, kind = self.extension(off, end, kind)
            seen += 1
        return off, kind

    def extension(self, off: int, end: int, kind: int) -> tuple[int, int]:
        p, h = self.p, self.head
        if off + 8 > min(end, len(h)):
            raise Drop(Verdict.BAD_EXT)
        size = 8 if kind == 44 else (h[off + 1] + 1) * 8
        if off + size > min(end, len(h)):
            raise Drop(Verdict.BAD_EXT)
        if kind == 43 and h[off + 3]:
            self.problem(0, off + 2)
        if kind == 44:
            p.frag_off, p.frag_more = self.u16(off + 2) & 0xFFF8, h[off + 3] & 1
            p.ip_id = self.u32(off + 4)
            p.is_frag = int(bool(p.frag_off or p.frag_more))
        if kind in (0, 60):
            self.options(off + 2, off + size)
        return off + size, h[off]

    def options(self, off: int, end: int) -> None:
        while off < end:
            kind = self.head[off]
            if kind == 0:
                off += 1
                continue
            if off + 2 > end or off + 2 + self.head[off + 1] > end:
                self.problem(0, off)
            action = kind >> 6
            if action == 1 or (action == 3 and self.p.dst[0] == 0xFF):
                raise Drop(Verdict.BAD_EXT)
            if action:
                self.problem(2, off)
            off += 2 + self.head[off + 1]

    def problem(self, code: int, off: int) -> None:
        """RFC 4443 3.4; 2.4 (e): a multicast packet is answered for an unknown option only."""
        self.p.param_code = 0xFF if self.p.dst[0] == 0xFF and code != 2 else code
        self.p.param_ptr = off - self.p.l3
        raise Drop(Verdict.BAD_EXT)

    def transport(self, off: int, end: int) -> None:
        p = self.p
        p.l4, p.data, p.data_len = off, off, end - off
        if p.proto == 6:
            self.tcp(off, end)
        elif p.proto == 17:
            self.udp(off, end)
        elif p.proto == (1 if p.ip_version == 4 else 58):
            self.ports(off, end, 8)
            p.sport, p.dport = self.u16(off), self.u16(off + 4)
            self.verify(off, end)

    def ports(self, off: int, end: int, size: int) -> None:
        if off + size > min(end, len(self.head)):
            raise Drop(Verdict.BAD_L4)
        self.p.sport, self.p.dport = self.u16(off), self.u16(off + 2)
        self.p.data, self.p.data_len = off + size, end - off - size

    def verify(self, off: int, end: int) -> None:
        p = self.p
        if self.flags & (NEEDS_CSUM | DATA_VALID):
            return
        front = b"" if p.proto == 1 else pseudo(p.src, p.dst, p.ip_version, p.proto, end - off)
        if checksum(front + self.frame[off:end]) != 0xFFFF:
            raise Drop(Verdict.BAD_L4_CSUM)

    def udp(self, off: int, end: int) -> None:
        if off + 8 > min(end, len(self.head)):
            raise Drop(Verdict.BAD_L4)
        size = self.u16(off + 4)
        if not 8 <= size <= end - off:
            raise Drop(Verdict.BAD_L4)
        self.ports(off, off + size, 8)
        if not self.p.dport:  # RFC 6335 6; a source of 0 wants no answer (RFC 768)
            raise Drop(Verdict.BAD_L4)
        if self.u16(off + 6):
            self.verify(off, off + size)
        elif self.p.ip_version == 6:
            raise Drop(Verdict.BAD_L4_CSUM)

    def tcp(self, off: int, end: int) -> None:
        p = self.p
        if off + 20 > min(end, len(self.head)):
            raise Drop(Verdict.BAD_L4)
        size = (self.head[off + 12] >> 4) * 4
        if size < 20 or off + size > min(end, len(self.head)):
            raise Drop(Verdict.BAD_L4)
        self.ports(off, end, size)
        p.seq, p.ack = self.u32(off + 4), self.u32(off + 8)
        p.tcp_flags, p.wnd, p.urg = self.u16(off + 12) & 511, self.u16(off + 14), self.u16(off + 18)
        if not (p.sport and p.dport):  # RFC 6335 6
            raise Drop(Verdict.BAD_L4)
        self.tcp_options(self.head[off + 20 : off + size])
        self.verify(off, end)

    def tcp_options(self, raw: bytes) -> None:
        p = self.p
        while raw and raw[0]:
            if raw[0] == 1:
                raw = raw[1:]
                continue
            if len(raw) < 2 or not 2 <= raw[1] <= len(raw):
                p.opts |= 128
                return
            kind, body, raw = raw[0], raw[2 : raw[1]], raw[raw[1] :]
            if kind == 2 and len(body) == 2:
                p.mss, p.opts = int.from_bytes(body, "big"), p.opts | 1
            elif kind == 3 and len(body) == 1:
                p.wscale, p.opts = body[0], p.opts | 2
            elif kind == 4 and not body:
                p.opts |= 4
            elif kind == 8 and len(body) == 8:
                p.tsval, p.tsecr = struct.unpack(">II", body)
                p.opts |= 8
            elif kind == 5 and body and len(body) % 8 == 0:
                p.sack_n, p.opts = len(body) // 8, p.opts | 16
                p.sack = struct.unpack(f">{len(body) // 4}I", body)

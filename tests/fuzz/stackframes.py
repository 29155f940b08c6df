"""Frames for `fuzz_stack`: one of each protocol, near to what the stack has under way."""

from __future__ import annotations

import struct
from typing import Any

from stackworld import HOST4, HOST6, HOST_MAC, NET6, World, stream

from vpnstack.core import access
from vpnstack.core.burst import Burst
from vpnstack.proto.tcp.segment import Segment
from vpnstack.proto.tcp.state import State
from vpnstack.stack import headers, segments, udp
from vpnstack.wire import arp, dhcp, icmp, ip, ndp

GUEST_MAC = b"\x02\0\0\0\0\x02"
GUESTS4 = tuple(ip.parse_address(a) for a in ("192.168.127.2", "192.168.127.3", "10.9.8.7"))
GUESTS6 = tuple(ip.parse_address(a) for a in ("fd00:127::2", "fd00:127::3", "2001:db8::7"))
OTHERS = {4: (HOST4, HOST4, HOST4, b"\x08\x08\x08\x08", b"\xc0\xa8\x7f\xff", b"\xff" * 4),
          6: (HOST6, HOST6, HOST6, ip.parse_address("2001:db8::1"), ip.ALL_NODES,
              ip.eui64(HOST_MAC))}  # fmt: skip
MASK = 0xFFFFFFFF
FLAGS = (16, 16, 16, 16, 16, 24, 24, 24, 24, 17, 48, 208)
RARE = (2, 18, 4, 20, 0, 1, 3, 6, 63, 255, 2, 194)
STEPS = (0, 0, 0, 0, 0, -1, 1, 10, 1000, 1460, -1000, 5000, 11_999, 24_000, -70_000, 1 << 31)
SIZES = (0, 0, 0, 1, 2, 100, 536, 1460, 2920, 11_999, 24_001, 60_000)
SMALL = (0, 1, 7, 8, 100, 576, 1400, 1472, 2000, 4000, 9000, 20_000)
MTUS = (0, 68, 552, 576, 1280, 1400, 1499, 65535)
ACK, FIN, SYN = 16, 1, 2
QUERY = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + b"\3lab\0\0\1\0\1"
DISCOVER = dhcp.emit(dhcp.Repr(1, 1, GUEST_MAC, ((53, b"\1"), (55, b"\1\3\6\x0f"), (61, b"\0id"))))
REQUEST = dhcp.emit(dhcp.Repr(1, 2, GUEST_MAC, ((53, b"\3"), (54, HOST4), (50, b"\xc0\xa8\x7f\n"))))


class Source:
    """Bytes of the fuzzer as small choices; zeros when they run out."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.pos = 0

    @property
    def left(self) -> bool:
        """Tell whether there are bytes left."""
        return self.pos < len(self.data)

    def byte(self) -> int:
        """Return the next byte."""
        self.pos += 1
        return self.data[self.pos - 1] if self.pos <= len(self.data) else 0

    def choose(self, values: Any) -> Any:
        """Return one of `values`."""
        return values[self.byte() % len(values)]


def ethernet(packet: bytes) -> bytes:
    """Put an IP packet behind the guest's Ethernet header."""
    kind = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
    return HOST_MAC + GUEST_MAC + kind + packet


def ends(src: Source) -> tuple[bytes, bytes]:
    """Choose a guest and whom it talks to."""
    if src.byte() & 1:
        return src.choose(GUESTS6), src.choose(OTHERS[6])
    return src.choose(GUESTS4), src.choose(OTHERS[4])


def flow(world: World, src: Source) -> Any:
    """Choose a flow, None when there is none."""
    flows = tuple(world.stack.tcp.flows.values())
    return src.choose(flows) if flows else None


def built(template: bytes, seg: Segment) -> tuple[bytes, bytes]:
    """Return a segment's frame and its virtio-net header."""
    burst = Burst(1)
    segments.emit(burst, template, seg)
    return burst.octets(0), burst.vnet(0)


def opening(world: World, src: Source) -> tuple[bytes, bytes]:
    """A SYN of a new flow, most often to the listener."""
    guest, target = ends(src)
    there = (guest, 1000 + src.byte() % 6, target, (80, 80, 80, 81)[src.byte() & 3])
    ts = (world_ts(world), 0) if src.byte() & 1 else None
    seq = (0xFFFFFF00, 1, 0x7FFFFFF0, MASK)[src.byte() & 3]
    mss, scale = src.choose((1460, 0, 1, 88, 536, 9000, 65535)), src.byte() % 17 - 1
    data = stream(seq + 1, src.choose((0, 0, 0, 5)))
    seg = Segment(seq, 0, src.choose((SYN, SYN, SYN, SYN | 192, SYN | FIN)), src.choose(
        (65535, 8000, 0, 1)), data, 0, mss, scale, bool(src.byte() & 1), ts)  # fmt: skip
    return built(headers.template(HOST_MAC, GUEST_MAC, there, headers.TCP), seg)


def world_ts(world: World) -> int:
    """The guest's timestamp clock."""
    return int(world.now * 1000) & MASK


def segment(world: World, src: Source) -> tuple[bytes, bytes] | None:
    """A segment near what a connection expects; half of them exactly what it waits for."""
    one = flow(world, src)
    if one is None:
        return opening(world, src)
    c = one.conn
    plain = src.byte() & 1
    seq = (c.rcv_nxt or 77) + (0 if plain else src.choose(STEPS))
    ack = (c.snd_nxt if plain else c.snd_una) + (0 if plain else src.choose(STEPS))
    flags = ACK if plain else src.choose(FLAGS) if src.byte() & 31 else src.choose(RARE)
    if c.state is State.SYN_SENT and plain:
        flags |= SYN
    size = src.choose(SIZES)
    tsecr = (c.timestamp(world.now) - src.byte()) & MASK
    ts = (world_ts(world), tsecr) if c.ts_ok or not src.byte() & 7 else None
    sacks = () if plain else tuple(block(c, src) for _ in range(src.byte() & 3))
    wnd = 60_000 if plain else src.choose((60_000, 8000, 1000, 100, 1, 0))
    gso = 1000 if size > 1400 else 0
    data = stream(seq + (flags >> 1 & 1), size)
    seg = Segment(seq & MASK, ack & MASK, flags, wnd, data, 0 if plain else src.byte(), 0, -1,
                  False, ts, sacks[: 3 if ts else 4], gso)  # fmt: skip
    if flags & SYN:
        seg = seg._replace(mss=1460, wscale=src.byte() % 15, sack_permitted=True)
    there = (*one.remote, *one.local)
    octets, vnet = built(headers.template(HOST_MAC, GUEST_MAC, there, headers.TCP), seg)
    return (marked(octets) if not plain and not src.byte() & 7 else octets), vnet


def marked(octets: bytes) -> bytes:
    """Say congestion experienced (RFC 3168)."""
    second = octets[15] | (3 if octets[14] >> 4 == 4 else 0x30)
    return octets[:15] + bytes((second,)) + octets[16:]


def block(c: Any, src: Source) -> tuple[int, int]:
    """A SACK block, mostly of what is in flight."""
    if not src.byte() & 15:
        return (c.snd_una + src.choose(STEPS)) & MASK, (c.snd_nxt + src.choose(STEPS)) & MASK
    flight = max(c.snd_nxt - c.snd_una, 1)
    left = c.snd_una + src.byte() * flight // 256
    return left & MASK, (left + src.byte() * flight // 256) & MASK


def datagram(world: World, src: Source) -> bytes:
    """A UDP packet: to nobody, to the DHCP server, to the DNS, with anything in it."""
    guest, target = ends(src)
    port, data = src.choose(((7, None), (53, QUERY), (67, DISCOVER), (67, REQUEST), (9, None)))
    if data is None:
        data = stream(0, src.choose(SMALL))
    if port == 67:
        guest, target = src.choose(((bytes(4), b"\xff" * 4), (GUESTS4[0], HOST4)))
    sport = 68 if port == 67 else 2000 + src.byte() % 4
    return udp.packet((guest, sport), (target, port), data)


def control(world: World, src: Source) -> bytes:
    """An ICMP packet: echo, or an error about a segment of ours."""
    guest, target = ends(src)
    one = flow(world, src)
    version = 4 if len(guest) == 4 else 6
    if one is None or src.byte() & 3 == 0:
        message: Any = icmp.Echo(bool(src.byte() & 1), 7, 1, stream(0, src.choose(SMALL)))
    else:
        version = 4 if len(one.remote[0]) == 4 else 6
        guest = GUESTS4[0] if version == 4 else GUESTS6[0]
        target = one.local[0]
        seq = (one.conn.snd_una + src.choose(STEPS)) & MASK
        head = struct.pack(">HHI", one.local[1], one.remote[1], seq) + bytes(12)
        quote = ip.emit(ip.Repr(one.local[0], one.remote[0], ip.TCP), head)
        kind = src.choose(tuple(icmp.Kind))
        message = icmp.error(kind, version, quote, src.choose(MTUS))
    proto = ip.ICMP if version == 4 else ip.ICMPV6
    return ip.emit(ip.Repr(guest, target, proto), icmp.emit(message, guest, target))


def neighbour(world: World, src: Source) -> bytes:
    """A frame of ARP or neighbour discovery."""
    if src.byte() & 1:
        spa, tpa = src.choose((*GUESTS4, HOST4, bytes(4))), src.choose((HOST4, *GUESTS4))
        sha = GUEST_MAC[:5] + bytes((src.byte() & 3,))
        message = arp.request(sha, spa, tpa)
        if src.byte() & 1:
            message = arp.Repr(arp.Op.REPLY, sha, spa, HOST_MAC, HOST4)
        return b"\xff" * 6 + GUEST_MAC + b"\x08\x06" + arp.emit(message)
    here = src.choose((*GUESTS6, ip.eui64(GUEST_MAC), bytes(16)))
    mac = GUEST_MAC if src.byte() & 1 else None
    there = src.choose((HOST6, ip.solicited_node(HOST6), ip.ALL_NODES))
    target = src.choose((HOST6, *GUESTS6))
    message6: Any = src.choose((
        ndp.NeighbourSolicitation(target, mac),
        ndp.NeighbourAdvertisement(target, mac, False, bool(src.byte() & 1), bool(src.byte() & 1)),
        ndp.RouterSolicitation(mac),
        ndp.RouterAdvertisement(slla=mac, prefixes=(ndp.Prefix(NET6),)),
    ))  # fmt: skip
    body = ndp.emit(message6, here, there)
    return ethernet(ip.emit(ip.Repr(here, there, ip.ICMPV6, ttl=255), body))


def extended(packet: bytes, src: Source) -> bytes:
    """Put extension headers in front of what an IPv6 packet carries; IPv4 gets options."""
    if packet[0] >> 4 == 4:
        options = bytes(src.byte() for _ in range(4 * (src.byte() % 4)))
        length = (len(packet) + len(options)).to_bytes(2, "big")
        first = bytes((0x45 + len(options) // 4,))
        return first + packet[1:2] + length + packet[4:20] + options + packet[20:]
    kind, rest = packet[6], packet[40:]
    for _ in range(src.byte() % 4):
        body = bytes((kind, 0, src.choose((1, 5, 0xC2, 0x80, 0)), src.choose((4, 2, 255, 0)), 0, 0,
                      0, 0))  # fmt: skip
        kind, rest = src.choose((0, 60, 43, 44)), body + rest
    return packet[:4] + len(rest).to_bytes(2, "big") + bytes((kind,)) + packet[7:40] + rest


def pieces(packet: bytes, src: Source, ident: int) -> list[bytes]:
    """Cut a packet into fragments; some are lost, come twice, or in another order."""
    cut = ip.fragments(packet, src.choose((68, 576, 1280, 1500)) + (1240 if packet[0] >> 4 == 6
                                                                   else 0), ident)  # fmt: skip
    cut = cut[:12]
    if src.byte() & 1:
        cut.reverse()
    lost = src.byte()
    return [ethernet(one) for i, one in enumerate(cut) if lost < 128 or not lost >> (i & 7) & 1]


def mutate(octets: bytes, src: Source) -> bytearray:
    """Change a few octets among the headers, or cut the frame, or make it longer."""
    out = bytearray(octets)
    for _ in range(1 + (src.byte() & 3)):
        at = 12 + src.byte() % 90
        if at < len(out):
            out[at] = src.choose((0, 1, 255, out[at] ^ 1, out[at] ^ 0x80, src.byte()))
    how = src.byte()
    if how < 16:
        del out[src.byte() :]
    elif how < 24:
        out += bytes(src.byte())
    return out


def sealed(octets: bytearray, src: Source) -> bytearray | None:
    """Make a changed frame's checksums right again, and its data what belongs at its number.

    None where that cannot be: a fragment of TCP, whose data nobody can know here.
    """
    if len(octets) >= 34 and octets[12:14] == b"\x08\x00":
        size = max((octets[14] & 15) * 4, 20)
        octets[24:26] = bytes(2)
        octets[24:26] = ip.checksum(bytes(octets[14 : 14 + size])).to_bytes(2, "big")
    burst = Burst(1)
    f = burst.append(bytes(octets), b"\2" + bytes(11))
    access.parse_frame(f)
    if f.verdict or not f.ip_version:
        return octets
    if f.is_frag:
        return None if f.proto == ip.TCP else octets
    at = f.data
    if f.proto == ip.TCP:
        octets[at : at + f.data_len] = stream(f.seq + (f.tcp_flags >> 1 & 1), f.data_len)
    field = {ip.TCP: 16, ip.UDP: 6, ip.ICMP: 2, ip.ICMPV6: 2}.get(f.proto)
    if field is None or (f.proto == ip.UDP and src.byte() < 16):
        return octets
    _checksum(octets, f, f.l4 + field)
    return octets


def _checksum(octets: bytearray, f: Any, at: int) -> None:
    body = f.l4, f.data + f.data_len
    octets[at : at + 2] = bytes(2)
    pseudo = 0
    if f.proto != ip.ICMP:
        pseudo = ip.pseudo_sum(access.source(f), access.destination(f), f.proto, body[1] - body[0])
    right = ip.checksum(bytes(octets[body[0] : body[1]]), pseudo)
    octets[at : at + 2] = (right or (0xFFFF if f.proto == ip.UDP else 0)).to_bytes(2, "big")

"""Reassembly of fragments (RFC 791 3.2, RFC 8200 4.5) as a sans-IO machine.

Theory of operation.  Fragments of one packet collect under their key, sorted by offset.  Any
overlap but an exact repetition condemns the packet: its fragments go, and those still to come are
dropped until the timer ends (RFC 5722, which IPv4 gets too).  Atomic fragments never come here
(RFC 6946: each is whole by itself).  Memory is bounded for each source and in all; over a bound
the oldest packet goes.  A packet that was not finished in time is reported with its first
fragment; without that one there is nothing to report (RFC 1122 3.3.2, RFC 8200 4.5).
"""

from __future__ import annotations

import bisect
import enum
from collections import OrderedDict
from dataclasses import dataclass, field

from ..wire import ip

LENGTH_MAX = 65535  # what the length fields can say: IPv4's counts its header, IPv6's does not
TIMEOUT = {4: 30.0, 6: 60.0}  # RFC 1122 3.3.2 wants 60 to 120 s, everyone takes 30; RFC 8200 4.5
OVERHEAD = 256  # octets that keeping a fragment costs besides its own
TINY = 16  # octets of TCP that a first fragment must have, RFC 1858 3.2.1


class Fault(enum.Enum):
    """Why a fragment was dropped."""

    OVERLAP = "it overlaps another (RFC 5722)"
    TOO_LONG = "the packet would exceed 65,535 octets"
    UNALIGNED = "it is not the last and no multiple of 8 octets"
    TINY = "it hides the transport header (RFC 1858, RFC 3128)"
    MANY = "the packet has too many fragments"


@dataclass(frozen=True, slots=True)
class Config:
    """Bounds of the memory: octets, packets and fragments of a packet."""

    octets: int = 4 << 20
    octets_source: int = 1 << 20
    packets: int = 256
    packets_source: int = 64
    pieces: int = 512


@dataclass(frozen=True, slots=True)
class Fragment:
    """A fragment: `head` is the part that every fragment repeats, patched to stand alone.

    `packet` is the fragment as it came, for an error about it.
    """

    key: bytes
    source: bytes
    proto: int
    offset: int
    more: bool
    head: bytes
    data: bytes
    packet: bytes


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters since the machine was made, and what it holds now."""

    packets: int = 0
    octets: int = 0
    whole: int = 0
    expired: int = 0
    evicted: int = 0
    faults: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Packet:
    source: bytes
    until: float
    octets: int = OVERHEAD
    total: int = -1  # octets of the payload, known from the last fragment
    have: int = 0
    offsets: list[int] = field(default_factory=list)
    pieces: dict[int, bytes] = field(default_factory=dict)
    head: bytes = b""
    first: bytes = b""  # the first fragment as it came
    condemned: bool = False


def parse(packet: bytes, data_at: int) -> Fragment:
    """Read a fragment whose headers were verified; its part of the payload is at `data_at`."""
    if packet[0] >> 4 == 4:
        word = int.from_bytes(packet[6:8])
        head = packet[:6] + bytes(2) + packet[8:data_at]
        key = packet[9:10] + packet[4:6] + packet[12:20]
        fields = (packet[12:16], packet[9], (word & 0x1FFF) * 8, bool(word & 0x2000))
    else:
        at = data_at - 8
        word = int.from_bytes(packet[at + 2 : at + 4])
        proto = packet[at]
        head = _without_fragment_header(packet[:at], proto)
        key = packet[at + 4 : at + 8] + packet[8:40]
        fields = (packet[8:24], proto, word & 0xFFF8, bool(word & 1))
    return Fragment(key, *fields, head, packet[data_at:], packet)


def _without_fragment_header(head: bytes, proto: int) -> bytes:
    """Have the last header before the fragment header name what follows that one."""
    out = bytearray(head)
    link, at = 6, ip.V6_HEADER_LEN
    while at < len(head):
        link, at = at, at + 8 + head[at + 1] * 8
    out[link] = proto
    return bytes(out)


def whole(head: bytes, payload: bytes) -> bytes:
    """Build the packet from the header of its first fragment and all of its payload."""
    out = bytearray(head)
    if head[0] >> 4 == 4:
        out[2:4] = (len(head) + len(payload)).to_bytes(2)
        out[10:12] = bytes(2)
        out[10:12] = ip.checksum(bytes(out)).to_bytes(2)
    else:
        out[4:6] = (len(head) - ip.V6_HEADER_LEN + len(payload)).to_bytes(2)
    return bytes(out) + payload


class Reassembler:
    """Puts packets together again; `receive` fragments, and `expire` those that never end."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self._packets: OrderedDict[bytes, _Packet] = OrderedDict()  # oldest first
        self._sources: dict[bytes, list[int]] = {}  # octets and packets
        self._octets = 0
        self._whole = self._expired = self._evicted = 0
        self._faults = dict.fromkeys(Fault, 0)

    def receive(self, fragment: Fragment, now: float) -> bytes | Fault | None:
        """Take a fragment; return the whole packet when it was the last missing one."""
        fault = self._fault(fragment)
        if fault is not None:
            self._faults[fault] += 1
            return fault
        packet = self._packets.get(fragment.key) or self._open(fragment, now)
        if packet.condemned:
            return None
        fault = self._conflict(packet, fragment)
        if fault is not None:
            self._faults[fault] += 1
            self._condemn(packet)
            return fault
        if fragment.offset in packet.pieces:
            return None  # an exact repetition
        self._add(packet, fragment)
        if packet.have == packet.total:
            self._whole += 1
            self._close(fragment.key)
            return whole(packet.head, b"".join(packet.pieces[at] for at in packet.offsets))
        self._make_room(fragment)
        return None

    def _fault(self, fragment: Fragment) -> Fault | None:
        size = len(fragment.data)
        end = fragment.offset + size
        if fragment.more and (size % 8 or not size):
            return Fault.UNALIGNED
        v4 = len(fragment.source) == 4
        head = len(fragment.head) - (0 if v4 else ip.V6_HEADER_LEN)
        if head + end > LENGTH_MAX:
            return Fault.TOO_LONG
        if fragment.proto == ip.TCP and (
            fragment.offset == 8 or (not fragment.offset and size < TINY)
        ):
            return Fault.TINY
        return None

    def _conflict(self, packet: _Packet, fragment: Fragment) -> Fault | None:
        start, end = fragment.offset, fragment.offset + len(fragment.data)
        last = not fragment.more
        if packet.total >= 0 and (end > packet.total or (last and end != packet.total)):
            return Fault.OVERLAP
        offsets, pieces = packet.offsets, packet.pieces
        if last and offsets and offsets[-1] + len(pieces[offsets[-1]]) > end:
            return Fault.OVERLAP
        if start in pieces:
            same = pieces[start] == fragment.data and (end == packet.total) == last
            return None if same else Fault.OVERLAP
        at = bisect.bisect_left(offsets, start)
        if at and offsets[at - 1] + len(pieces[offsets[at - 1]]) > start:
            return Fault.OVERLAP
        if at < len(offsets) and offsets[at] < end:
            return Fault.OVERLAP
        return Fault.MANY if len(offsets) >= self.config.pieces else None

    def _open(self, fragment: Fragment, now: float) -> _Packet:
        until = now + TIMEOUT[4 if len(fragment.source) == 4 else 6]
        packet = self._packets[fragment.key] = _Packet(fragment.source, until)
        self._sources.setdefault(fragment.source, [0, 0])[1] += 1
        self._charge(packet, OVERHEAD)
        return packet

    def _charge(self, packet: _Packet, octets: int) -> None:
        self._octets += octets
        self._sources[packet.source][0] += octets

    def _add(self, packet: _Packet, fragment: Fragment) -> None:
        bisect.insort(packet.offsets, fragment.offset)
        packet.pieces[fragment.offset] = fragment.data
        packet.have += len(fragment.data)
        if not fragment.more:
            packet.total = fragment.offset + len(fragment.data)
        size = len(fragment.data) + OVERHEAD
        if not fragment.offset:
            packet.head, packet.first = fragment.head, fragment.packet
            size += len(fragment.head) + len(fragment.packet)
        packet.octets += size
        self._charge(packet, size)

    def _condemn(self, packet: _Packet) -> None:
        self._charge(packet, OVERHEAD - packet.octets)
        packet.octets = OVERHEAD
        packet.condemned = True
        packet.offsets, packet.pieces, packet.first = [], {}, b""

    def _close(self, key: bytes) -> _Packet:
        packet = self._packets.pop(key)
        self._octets -= packet.octets
        account = self._sources[packet.source]
        account[0] -= packet.octets
        account[1] -= 1
        if not account[1]:
            del self._sources[packet.source]
        return packet

    def _make_room(self, fragment: Fragment) -> None:
        """Let the oldest packets go while a bound is exceeded: of this source, then of all."""
        config, source = self.config, fragment.source
        while self._sources.get(source, (0, 0))[0] > config.octets_source or (
            self._sources.get(source, (0, 0))[1] > config.packets_source
        ):
            self._evict(next(k for k, p in self._packets.items() if p.source == source))
        while self._octets > config.octets or len(self._packets) > config.packets:
            self._evict(next(iter(self._packets)))

    def _evict(self, key: bytes) -> None:
        self._evicted += 1
        self._close(key)

    def expire(self, now: float) -> list[bytes]:
        """Drop what was not finished in time; return the first fragments to be reported."""
        out = []
        for key in [key for key, packet in self._packets.items() if packet.until <= now]:
            packet = self._close(key)
            self._expired += 1
            if packet.first:
                out.append(packet.first)
        return out

    def deadline(self) -> float | None:
        """Return when `expire` has something to do next."""
        return min((packet.until for packet in self._packets.values()), default=None)

    def statistics(self) -> Statistics:
        """Return a snapshot of the counters."""
        return Statistics(
            packets=len(self._packets),
            octets=self._octets,
            whole=self._whole,
            expired=self._expired,
            evicted=self._evicted,
            faults={fault.name.lower(): n for fault, n in self._faults.items() if n},
        )

"""IGMP versions 1 to 3 (RFC 1112, RFC 2236, RFC 3376): who wants which IPv4 group.

`parse` checks length, checksum and counts; the hop limit and Router Alert are the IP header's.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from . import ip
from .malformed import Malformed, need

PROTO = 2
ALL_HOSTS, ALL_ROUTERS = b"\xe0\0\0\1", b"\xe0\0\0\2"
V3_REPORTS = b"\xe0\0\0\x16"
ROUTER_ALERT = b"\x94\x04\0\0"  # RFC 2113
QUERY, V1_REPORT, V2_REPORT, LEAVE, V3_REPORT = 0x11, 0x12, 0x16, 0x17, 0x22
SOURCES_MAX = 366  # what fits an Ethernet frame (RFC 3376 4.1.8)
RECORDS_MAX = 366

_HEAD = struct.Struct("!BBH4s")
_V3_QUERY = struct.Struct("!BBH")
_RECORD = struct.Struct("!BBH4s")


class Mode(enum.IntEnum):
    """Types of group records, RFC 3376 4.2.12 and RFC 3810 5.2.12."""

    IS_INCLUDE = 1
    IS_EXCLUDE = 2
    TO_INCLUDE = 3
    TO_EXCLUDE = 4
    ALLOW = 5
    BLOCK = 6


@dataclass(frozen=True, slots=True)
class Record:
    """What a host wants of one group; the group's address has 4 octets here, 16 in `mld`."""

    mode: Mode
    group: bytes
    sources: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Query:
    """A membership query; `group` is 0.0.0.0 in a general one, `code` as on the wire."""

    group: bytes = ip.UNSPECIFIED_V4
    code: int = 100
    version: int = 3
    suppress: bool = False
    robustness: int = 2
    interval_code: int = 125
    sources: tuple[bytes, ...] = ()

    @property
    def max_response(self) -> float:
        """Seconds within which to answer (RFC 3376 4.1.1, RFC 2236 2.2)."""
        if self.version == 1:
            return 10.0
        return (decode(self.code, 4) if self.version == 3 else self.code) / 10

    def __str__(self) -> str:
        return f"igmp query v{self.version} {ip.format_address(self.group)}"


@dataclass(frozen=True, slots=True)
class Report:
    """A report (`version` 1 or 2) or, with `leave`, a leave of one group."""

    group: bytes
    version: int = 2
    leave: bool = False

    def __str__(self) -> str:
        what = "leave" if self.leave else f"v{self.version} report"
        return f"igmp {what} {ip.format_address(self.group)}"


@dataclass(frozen=True, slots=True)
class ReportV3:
    """A version 3 report."""

    records: tuple[Record, ...]

    def __str__(self) -> str:
        return f"igmp v3 report, {len(self.records)} group record(s)"


Repr = Query | Report | ReportV3


def decode(code: int, mantissa: int) -> int:
    """Read the floating-point codes of RFC 3376 4.1.1 (4 bits) and RFC 3810 5.1.3 (12 bits)."""
    if code < 1 << (mantissa + 3):
        return code
    return (code & ((1 << mantissa) - 1) | 1 << mantissa) << ((code >> mantissa & 7) + 3)


def parse(data: bytes) -> Repr:
    """Read an IGMP message, the payload of an IPv4 packet."""
    need("igmp", "a message", data, _HEAD.size)
    if ip.checksum(data):
        raise Malformed("igmp", "a right checksum", data[2:4].hex())
    kind, code, _, group = _HEAD.unpack_from(data)
    if kind == QUERY:
        return _parse_query(data, code, group)
    if kind == V3_REPORT:
        return ReportV3(parse_records(data, 4, "igmp"))
    if kind not in (V1_REPORT, V2_REPORT, LEAVE):
        raise Malformed("igmp", "a query, a report or a leave", kind)
    if not ip.is_multicast(group):
        raise Malformed("igmp", "a group address", ip.format_address(group))
    return Report(group, 1 if kind == V1_REPORT else 2, kind == LEAVE)


def _parse_query(data: bytes, code: int, group: bytes) -> Query:
    if group != ip.UNSPECIFIED_V4 and not ip.is_multicast(group):
        raise Malformed("igmp", "a group or 0.0.0.0", ip.format_address(group))
    if len(data) == _HEAD.size:  # RFC 3376 7.1
        return Query(group, code, 1 if code == 0 else 2)
    need("igmp", "a query of version 3", data, _HEAD.size + _V3_QUERY.size)
    flags, interval, count = _V3_QUERY.unpack_from(data, _HEAD.size)
    sources = split(data[_HEAD.size + _V3_QUERY.size :], count, 4, "igmp")
    return Query(group, code, 3, bool(flags & 8), flags & 7, interval, sources)


def split(data: bytes, count: int, size: int, protocol: str) -> tuple[bytes, ...]:
    """Cut `count` addresses of `size` octets from the start of `data`."""
    if count > SOURCES_MAX or count * size > len(data):
        raise Malformed(protocol, "sources within the message", count)
    return tuple(data[i : i + size] for i in range(0, count * size, size))


def parse_records(data: bytes, size: int, protocol: str) -> tuple[Record, ...]:
    """Read the group records of a report; those of an unknown type are skipped."""
    count, at = int.from_bytes(data[6:8]), 8
    if count > RECORDS_MAX:
        raise Malformed(protocol, f"at most {RECORDS_MAX} records", count)
    found = []
    for _ in range(count):
        need(protocol, "a group record", data[at:], 4 + size)
        mode, extra, n = struct.unpack_from("!BBH", data, at)
        group = data[at + 4 : at + 4 + size]
        sources = split(data[at + 4 + size :], n, size, protocol)
        end = at + 4 + size + n * size + extra * 4
        if end > len(data) or not ip.is_multicast(group):
            raise Malformed(
                protocol, "a record of a group within the message", data[at:].hex()[:32]
            )
        if 1 <= mode <= 6:
            found.append(Record(Mode(mode), group, sources))
        at = end
    return tuple(found)


def emit_records(records: tuple[Record, ...]) -> bytes:
    """Build the reserved field, the count and the records of a report."""
    parts = [struct.pack("!HH", 0, len(records))]
    for record in records:
        parts.append(struct.pack("!BBH", record.mode, 0, len(record.sources)) + record.group)
        parts.extend(record.sources)
    return b"".join(parts)


def emit(repr: Repr) -> bytes:
    """Build the message."""
    if isinstance(repr, ReportV3):
        data = bytes([V3_REPORT, 0, 0, 0]) + emit_records(repr.records)
    elif isinstance(repr, Report):
        kind = LEAVE if repr.leave else V1_REPORT if repr.version == 1 else V2_REPORT
        data = _HEAD.pack(kind, 0, 0, repr.group)
    else:
        data = _HEAD.pack(QUERY, repr.code, 0, repr.group)
        if repr.version == 3:
            flags = repr.suppress << 3 | repr.robustness
            data += _V3_QUERY.pack(flags, repr.interval_code, len(repr.sources))
            data += b"".join(repr.sources)
    return data[:2] + ip.checksum(data).to_bytes(2) + data[4:]


def packet(src: bytes, dst: bytes, repr: Repr) -> bytes:
    """Build the whole IP packet: TTL 1, Router Alert, precedence 6 (RFC 3376 4)."""
    header = ip.Repr(src, dst, PROTO, ttl=1, tos=0xC0, options=ROUTER_ALERT)
    return ip.emit(header, emit(repr))

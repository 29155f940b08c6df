"""Multicast listener discovery (RFC 2710, RFC 3810): IGMP's twin for IPv6, within ICMPv6.

`parse` checks what RFC 3810 6.2 wants of a message and of its IP header.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from . import ip
from .igmp import Mode, Record, decode, emit_records, parse_records, split
from .malformed import Malformed, need

__all__ = ["Mode", "Query", "Record", "Report", "ReportV2", "emit", "packet", "parse"]

QUERY, V1_REPORT, DONE, V2_REPORT = 130, 131, 132, 143
TYPES = frozenset({QUERY, V1_REPORT, DONE, V2_REPORT})
V2_REPORTS = bytes.fromhex("ff020000000000000000000000000016")
# A hop-by-hop header with Router Alert (RFC 2711, value 0: MLD) and padding.
HOP_BY_HOP = bytes([ip.ICMPV6, 0, 5, 2, 0, 0, 1, 0])

_HEAD = struct.Struct("!BBHHH16s")
_V2_QUERY = struct.Struct("!BBH")


@dataclass(frozen=True, slots=True)
class Query:
    """A listener query; `group` is :: in a general one, `code` as on the wire."""

    group: bytes = ip.UNSPECIFIED_V6
    code: int = 10000
    version: int = 2
    suppress: bool = False
    robustness: int = 2
    interval_code: int = 125
    sources: tuple[bytes, ...] = ()

    @property
    def max_response(self) -> float:
        """Seconds within which to answer (RFC 3810 5.1.3)."""
        return (decode(self.code, 12) if self.version == 2 else self.code) / 1000

    def __str__(self) -> str:
        return f"ICMP6, multicast listener query v{self.version} {ip.format_address(self.group)}"


@dataclass(frozen=True, slots=True)
class Report:
    """A version 1 report or, with `leave`, a done message of one group."""

    group: bytes
    leave: bool = False

    def __str__(self) -> str:
        what = "done" if self.leave else "report"
        return f"ICMP6, multicast listener {what} {ip.format_address(self.group)}"


@dataclass(frozen=True, slots=True)
class ReportV2:
    """A version 2 report."""

    records: tuple[Record, ...]

    def __str__(self) -> str:
        return f"ICMP6, multicast listener report v2, {len(self.records)} group record(s)"


Repr = Query | Report | ReportV2


def parse(data: bytes, src: bytes, dst: bytes, hop_limit: int) -> Repr:
    """Read an ICMPv6 message of MLD that came from `src` to `dst`."""
    need("mld", "a message", data, 8)
    if hop_limit != 1 or data[0] not in TYPES:
        raise Malformed("mld", "hop limit 1 and a type of MLD", (hop_limit, data[0]))
    if ip.checksum(data, ip.pseudo_sum(src, dst, ip.ICMPV6, len(data))):
        raise Malformed("mld", "a right checksum", data[2:4].hex())
    local = ip.is_link_local(src)
    if not local and not (src == ip.UNSPECIFIED_V6 and data[0] != QUERY):  # RFC 3810 5.1.14, 5.2.13
        raise Malformed("mld", "a link-local source", ip.format_address(src))
    if data[0] == V2_REPORT:
        return ReportV2(parse_records(data, 16, "mld"))
    need("mld", "a message with a group", data, _HEAD.size)
    _, _, _, code, _, group = _HEAD.unpack_from(data)
    if not ip.is_multicast(group) and not (data[0] == QUERY and group == ip.UNSPECIFIED_V6):
        raise Malformed("mld", "a group address", ip.format_address(group))
    if data[0] != QUERY:
        return Report(group, data[0] == DONE)
    return _parse_query(data, code, group)


def _parse_query(data: bytes, code: int, group: bytes) -> Query:
    if len(data) == _HEAD.size:  # RFC 3810 8.1
        return Query(group, code, 1)
    need("mld", "a query of version 2", data, _HEAD.size + _V2_QUERY.size)
    flags, interval, count = _V2_QUERY.unpack_from(data, _HEAD.size)
    sources = split(data[_HEAD.size + _V2_QUERY.size :], count, 16, "mld")
    return Query(group, code, 2, bool(flags & 8), flags & 7, interval, sources)


def emit(repr: Repr, src: bytes, dst: bytes) -> bytes:
    """Build the ICMPv6 message from `src` to `dst`; `packet` adds the headers it needs."""
    if isinstance(repr, ReportV2):
        data = bytes([V2_REPORT, 0, 0, 0]) + emit_records(repr.records)
    elif isinstance(repr, Report):
        data = _HEAD.pack(DONE if repr.leave else V1_REPORT, 0, 0, 0, 0, repr.group)
    else:
        data = _HEAD.pack(QUERY, 0, 0, repr.code, 0, repr.group)
        if repr.version == 2:
            flags = repr.suppress << 3 | repr.robustness
            data += _V2_QUERY.pack(flags, repr.interval_code, len(repr.sources))
            data += b"".join(repr.sources)
    right = ip.checksum(data, ip.pseudo_sum(src, dst, ip.ICMPV6, len(data)))
    return data[:2] + right.to_bytes(2) + data[4:]


def packet(src: bytes, dst: bytes, repr: Repr) -> bytes:
    """Build the whole IP packet: hop limit 1 and Router Alert (RFC 3810 5)."""
    return ip.emit(ip.Repr(src, dst, ip.HOP_BY_HOP, ttl=1), HOP_BY_HOP + emit(repr, src, dst))

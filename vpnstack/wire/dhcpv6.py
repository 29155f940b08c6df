"""DHCPv6 messages and options (RFC 8415 7.3, 8 and 21; DNS options RFC 3646), clients and servers.

Relay messages are not read.  Options nest: IA_NA and IA_PD hold addresses and prefixes, which may
hold a status; every level is a bounded walk over a slice of its own.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from . import names
from .malformed import Malformed, need

CLIENT_PORT, SERVER_PORT = 546, 547
ALL_SERVERS = bytes.fromhex("ff020000000000000000000000010002")
OPTIONS_MAX = 128  # at one level
DUID_MAX = 130  # RFC 8415 11.1, type included
INFINITE = 0xFFFFFFFF


class Type(enum.IntEnum):
    """Message types, RFC 8415 7.3, without those of relays."""

    SOLICIT = 1
    ADVERTISE = 2
    REQUEST = 3
    CONFIRM = 4
    RENEW = 5
    REBIND = 6
    REPLY = 7
    RELEASE = 8
    DECLINE = 9
    RECONFIGURE = 10
    INFORMATION_REQUEST = 11


class Option(enum.IntEnum):
    """Option codes that we read or send, RFC 8415 21 and RFC 3646."""

    CLIENTID = 1
    SERVERID = 2
    IA_NA = 3
    IAADDR = 5
    ORO = 6
    PREFERENCE = 7
    ELAPSED_TIME = 8
    STATUS_CODE = 13
    RAPID_COMMIT = 14
    DNS_SERVERS = 23
    DOMAIN_LIST = 24
    IA_PD = 25
    IAPREFIX = 26
    INFORMATION_REFRESH_TIME = 32
    SOL_MAX_RT = 82
    INF_MAX_RT = 83


class Status(enum.IntEnum):
    """Status codes, RFC 8415 21.13."""

    SUCCESS = 0
    UNSPEC_FAIL = 1
    NO_ADDRS_AVAIL = 2
    NO_BINDING = 3
    NOT_ON_LINK = 4
    USE_MULTICAST = 5
    NO_PREFIX_AVAIL = 6


@dataclass(frozen=True, slots=True)
class Address:
    """An IA Address option; lifetimes in seconds."""

    addr: bytes
    preferred: int = 0
    valid: int = 0
    status: int = Status.SUCCESS


@dataclass(frozen=True, slots=True)
class Prefix:
    """An IA Prefix option; lifetimes in seconds."""

    prefix: bytes
    length: int
    preferred: int = 0
    valid: int = 0
    status: int = Status.SUCCESS


@dataclass(frozen=True, slots=True)
class IaNa:
    """An identity association for addresses; `t1` and `t2` in seconds, 0: the client chooses."""

    iaid: int
    t1: int = 0
    t2: int = 0
    addresses: tuple[Address, ...] = ()
    status: int = Status.SUCCESS


@dataclass(frozen=True, slots=True)
class IaPd:
    """An identity association for delegated prefixes."""

    iaid: int
    t1: int = 0
    t2: int = 0
    prefixes: tuple[Prefix, ...] = ()
    status: int = Status.SUCCESS


@dataclass(frozen=True, slots=True)
class Repr:
    """A message between client and server; `xid` has 24 bits, `elapsed` hundredths of a second."""

    type: Type
    xid: int
    client_id: bytes | None = None
    server_id: bytes | None = None
    ia_na: tuple[IaNa, ...] = ()
    ia_pd: tuple[IaPd, ...] = ()
    requested: tuple[int, ...] = ()
    preference: int | None = None
    elapsed: int | None = None
    status: int | None = None
    rapid_commit: bool = False
    dns: tuple[bytes, ...] = ()
    search: tuple[str, ...] = ()
    refresh: int | None = None
    sol_max_rt: int | None = None

    def __str__(self) -> str:
        return f"dhcp6 {self.type.name.lower()} xid={self.xid:06x}"


def parse(data: bytes) -> Repr:
    """Read a message, the payload of a datagram."""
    need("dhcpv6", "a message", data, 4)
    if not Type.SOLICIT <= data[0] <= Type.INFORMATION_REQUEST:
        raise Malformed("dhcpv6", "a message type of 1 to 11", data[0])
    options = split(data[4:])
    one = dict(reversed(options))  # the first of each
    requested = one.get(Option.ORO, b"")
    if len(requested) % 2:
        raise Malformed("dhcpv6", "whole option codes", len(requested))
    return Repr(
        Type(data[0]),
        int.from_bytes(data[1:4]),
        _duid(one.get(Option.CLIENTID)),
        _duid(one.get(Option.SERVERID)),
        tuple(_ia_na(value) for code, value in options if code == Option.IA_NA),
        tuple(_ia_pd(value) for code, value in options if code == Option.IA_PD),
        tuple(int.from_bytes(requested[i : i + 2]) for i in range(0, len(requested), 2)),
        _number(one.get(Option.PREFERENCE), 1),
        _number(one.get(Option.ELAPSED_TIME), 2),
        _status(options, None),
        Option.RAPID_COMMIT in one,
        _addresses(one.get(Option.DNS_SERVERS, b"")),
        names.parse(one.get(Option.DOMAIN_LIST, b""), "dhcpv6"),
        _number(one.get(Option.INFORMATION_REFRESH_TIME), 4),
        _number(one.get(Option.SOL_MAX_RT), 4),
    )


def split(data: bytes) -> list[tuple[int, bytes]]:
    """Split options into (code, value); the walk always moves on."""
    found, at = list[tuple[int, bytes]](), 0
    while at < len(data):
        length = int.from_bytes(data[at + 2 : at + 4]) if len(data) - at >= 4 else len(data)
        if length > len(data) - at - 4 or len(found) == OPTIONS_MAX:
            raise Malformed("dhcpv6", "an option within its message", data[at : at + 4].hex())
        found.append((int.from_bytes(data[at : at + 2]), data[at + 4 : at + 4 + length]))
        at += 4 + length
    return found


def _duid(value: bytes | None) -> bytes | None:
    if value is not None and not 3 <= len(value) <= DUID_MAX:
        raise Malformed("dhcpv6", f"a DUID of 3 to {DUID_MAX} octets", len(value))
    return value


def _number(value: bytes | None, size: int) -> int | None:
    if value is not None and len(value) != size:
        raise Malformed("dhcpv6", f"an option of {size} octets", len(value))
    return None if value is None else int.from_bytes(value)


def _addresses(value: bytes) -> tuple[bytes, ...]:
    if len(value) % 16:
        raise Malformed("dhcpv6", "whole addresses", len(value))
    return tuple(value[i : i + 16] for i in range(0, len(value), 16))


def _status(options: list[tuple[int, bytes]], default: int | None) -> int | None:
    value = next((value for code, value in options if code == Option.STATUS_CODE), None)
    if value is None:
        return default
    need("dhcpv6", "a status code", value, 2)
    return int.from_bytes(value[:2])


def _ia_na(value: bytes) -> IaNa:
    need("dhcpv6", "an IA_NA", value, 12)
    iaid, t1, t2 = struct.unpack_from("!III", value)
    options = split(value[12:])
    found = []
    for code, body in options:
        if code == Option.IAADDR:
            need("dhcpv6", "an IA address", body, 24)
            addr, preferred, valid = struct.unpack_from("!16sII", body)
            status = _status(split(body[24:]), Status.SUCCESS)
            found.append(Address(addr, preferred, valid, status or 0))
    return IaNa(iaid, t1, t2, tuple(found), _status(options, Status.SUCCESS) or 0)


def _ia_pd(value: bytes) -> IaPd:
    need("dhcpv6", "an IA_PD", value, 12)
    iaid, t1, t2 = struct.unpack_from("!III", value)
    options = split(value[12:])
    found = []
    for code, body in options:
        if code == Option.IAPREFIX:
            need("dhcpv6", "an IA prefix", body, 25)
            preferred, valid, length, prefix = struct.unpack_from("!IIB16s", body)
            if length > 128:
                raise Malformed("dhcpv6", "a prefix length of at most 128", length)
            status = _status(split(body[25:]), Status.SUCCESS)
            found.append(Prefix(prefix, length, preferred, valid, status or 0))
    return IaPd(iaid, t1, t2, tuple(found), _status(options, Status.SUCCESS) or 0)


def emit(repr: Repr) -> bytes:
    """Build the message."""
    parts = [bytes([repr.type]) + repr.xid.to_bytes(3)]
    if repr.client_id is not None:
        parts.append(option(Option.CLIENTID, repr.client_id))
    if repr.server_id is not None:
        parts.append(option(Option.SERVERID, repr.server_id))
    parts.extend(_emit_ia_na(ia) for ia in repr.ia_na)
    parts.extend(_emit_ia_pd(ia) for ia in repr.ia_pd)
    if repr.requested:
        codes = b"".join(code.to_bytes(2) for code in repr.requested)
        parts.append(option(Option.ORO, codes))
    numbers = (
        (Option.PREFERENCE, repr.preference, 1), (Option.ELAPSED_TIME, repr.elapsed, 2),
        (Option.STATUS_CODE, repr.status, 2), (Option.SOL_MAX_RT, repr.sol_max_rt, 4),
        (Option.INFORMATION_REFRESH_TIME, repr.refresh, 4),
    )  # fmt: skip
    parts.extend(option(code, n.to_bytes(size)) for code, n, size in numbers if n is not None)
    if repr.rapid_commit:
        parts.append(option(Option.RAPID_COMMIT, b""))
    if repr.dns:
        parts.append(option(Option.DNS_SERVERS, b"".join(repr.dns)))
    if repr.search:
        parts.append(option(Option.DOMAIN_LIST, names.emit(repr.search)))
    return b"".join(parts)


def option(code: int, value: bytes) -> bytes:
    """Frame one option."""
    return struct.pack("!HH", code, len(value)) + value


def _emit_status(status: int) -> bytes:
    return option(Option.STATUS_CODE, status.to_bytes(2)) if status else b""


def _emit_ia_na(ia: IaNa) -> bytes:
    body = struct.pack("!III", ia.iaid, ia.t1, ia.t2)
    for a in ia.addresses:
        fixed = struct.pack("!16sII", a.addr, a.preferred, a.valid)
        body += option(Option.IAADDR, fixed + _emit_status(a.status))
    return option(Option.IA_NA, body + _emit_status(ia.status))


def _emit_ia_pd(ia: IaPd) -> bytes:
    body = struct.pack("!III", ia.iaid, ia.t1, ia.t2)
    for p in ia.prefixes:
        fixed = struct.pack("!IIB16s", p.preferred, p.valid, p.length, p.prefix)
        body += option(Option.IAPREFIX, fixed + _emit_status(p.status))
    return option(Option.IA_PD, body + _emit_status(ia.status))


def duid_ll(mac: bytes) -> bytes:
    """Return the DUID-LL of an Ethernet address (RFC 8415 11.4)."""
    return b"\0\x03\0\x01" + mac

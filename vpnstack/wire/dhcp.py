"""DHCPv4 messages (RFC 2131 2) and options (RFC 2132, long ones RFC 3396, overload RFC 2132 9.3).

dpkt reads the fixed part only together with options that it does not check (no overload, no
concatenation, no END), so both are read here.  It is strict: what a real client sends passes.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import dns.exception
import dns.name

from . import ethernet, ip
from .malformed import Malformed, need

SERVER_PORT, CLIENT_PORT = 67, 68
FIXED_LEN = 240  # with the cookie
COOKIE = b"\x63\x82\x53\x63"
LENGTH_MIN = 300  # RFC 951: what old relays and clients expect
OPTIONS_MAX = 256  # pieces in one message

_FIXED = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_BROADCAST = 0x8000
_IN_FILE, _IN_SNAME = 1, 2


class Option(enum.IntEnum):
    """Codes of RFC 2132 and its successors that we read or send."""

    PAD = 0
    SUBNET_MASK = 1
    ROUTER = 3
    DNS_SERVERS = 6
    HOST_NAME = 12
    DOMAIN_NAME = 15
    INTERFACE_MTU = 26
    BROADCAST_ADDRESS = 28
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    OVERLOAD = 52
    MESSAGE_TYPE = 53
    SERVER_ID = 54
    PARAMETER_LIST = 55
    MESSAGE = 56
    MAX_MESSAGE_SIZE = 57
    RENEWAL_TIME = 58
    REBINDING_TIME = 59
    CLIENT_ID = 61
    RAPID_COMMIT = 80  # RFC 4039
    DOMAIN_SEARCH = 119  # RFC 3397
    CLASSLESS_ROUTES = 121  # RFC 3442
    END = 255


class Type(enum.IntEnum):
    """Message types, RFC 2132 9.6."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


@dataclass(frozen=True, slots=True)
class Repr:
    """A message; `options` are (code, value) pairs in order, each code once, without 52 and END.

    `chaddr` has the length that the message gives it; `sname` and `file` are empty where they
    carried options.
    """

    op: int
    xid: int
    chaddr: bytes
    options: tuple[tuple[int, bytes], ...] = ()
    htype: int = 1
    hops: int = 0
    secs: int = 0
    broadcast: bool = False
    ciaddr: bytes = ip.UNSPECIFIED_V4
    yiaddr: bytes = ip.UNSPECIFIED_V4
    siaddr: bytes = ip.UNSPECIFIED_V4
    giaddr: bytes = ip.UNSPECIFIED_V4
    sname: bytes = b""
    file: bytes = b""

    def get(self, code: int) -> bytes | None:
        """Return the value of option `code`, None without it."""
        return next((value for number, value in self.options if number == code), None)

    def address(self, code: int) -> bytes | None:
        """Return option `code` as an address; a value of another length is as good as none."""
        value = self.get(code)
        return value if value is not None and len(value) == 4 else None

    @property
    def type(self) -> Type | None:
        """Return the message type, None in plain BOOTP or for a number out of range."""
        value = self.get(Option.MESSAGE_TYPE)
        if value is None or len(value) != 1 or not 1 <= value[0] <= 8:
            return None
        return Type(value[0])

    def __str__(self) -> str:
        name = self.type.name if self.type else "BOOTP"
        client = ethernet.format_mac(self.chaddr)
        yours = ip.format_address(self.yiaddr)
        return f"DHCP {name} xid 0x{self.xid:08x} client {client} your-ip {yours}"


def parse(data: bytes) -> Repr:
    """Read a message of any size from 240 octets."""
    need("dhcp", "a message", data, FIXED_LEN)
    fields = _FIXED.unpack_from(data)
    op, htype, hlen, hops, xid, secs, flags = fields[:7]
    ciaddr, yiaddr, siaddr, giaddr, chaddr, sname, file, cookie = fields[7:]
    if cookie != COOKIE:
        raise Malformed("dhcp", f"cookie {COOKIE.hex()}", cookie.hex())
    if op not in (1, 2) or hlen > len(chaddr):
        raise Malformed("dhcp", "op 1 or 2 and a hardware address of 0 to 16", (op, hlen))
    pieces = _pieces(data[FIXED_LEN:])
    overload = next((value for code, value in pieces if code == Option.OVERLOAD), None)
    if overload is not None:
        pieces, sname, file = _overloaded(pieces, overload, sname, file)
    return Repr(
        op, xid, chaddr[:hlen], _joined(pieces), htype, hops, secs, bool(flags & _BROADCAST),
        ciaddr, yiaddr, siaddr, giaddr, sname.rstrip(b"\0"), file.rstrip(b"\0"),
    )  # fmt: skip


def _pieces(area: bytes) -> list[tuple[int, bytes]]:
    """Split an option area, which must have an END."""
    found, at = list[tuple[int, bytes]](), 0
    while at < len(area) and area[at] != Option.END:
        if area[at] == Option.PAD:
            at += 1
            continue
        length = area[at + 1] if at + 1 < len(area) else 256
        if length > len(area) - at - 2 or len(found) == OPTIONS_MAX:
            raise Malformed("dhcp", "an option within its area", area[at : at + 2].hex())
        found.append((area[at], area[at + 2 : at + 2 + length]))
        at += 2 + length
    if at >= len(area):
        raise Malformed("dhcp", "an END option", "none")
    return found


def _overloaded(
    pieces: list[tuple[int, bytes]], overload: bytes, sname: bytes, file: bytes
) -> tuple[list[tuple[int, bytes]], bytes, bytes]:
    """Read on in `file`, then `sname` (RFC 3396 5); an overload inside them means nothing."""
    if len(overload) != 1 or not 1 <= overload[0] <= 3:
        raise Malformed("dhcp", "an overload of 1 to 3", overload.hex())
    if overload[0] & _IN_FILE:
        pieces, file = pieces + _pieces(file), b""
    if overload[0] & _IN_SNAME:
        pieces, sname = pieces + _pieces(sname), b""
    return pieces, sname, file


def _joined(pieces: list[tuple[int, bytes]]) -> tuple[tuple[int, bytes], ...]:
    """Concatenate the pieces of each option (RFC 3396 7)."""
    joined: dict[int, list[bytes]] = {}
    for code, value in pieces:
        if code != Option.OVERLOAD:
            joined.setdefault(code, []).append(value)
    return tuple((code, b"".join(values)) for code, values in joined.items())


def emit(repr: Repr) -> bytes:
    """Build the message, padded to 300 octets; values over 255 octets are split (RFC 3396)."""
    fixed = _FIXED.pack(
        repr.op, repr.htype, len(repr.chaddr), repr.hops, repr.xid, repr.secs,
        repr.broadcast * _BROADCAST, repr.ciaddr, repr.yiaddr, repr.siaddr, repr.giaddr,
        repr.chaddr, repr.sname, repr.file, COOKIE,
    )  # fmt: skip
    data = fixed + b"".join(emit_option(*pair) for pair in repr.options) + bytes([Option.END])
    return data.ljust(LENGTH_MIN, b"\0")


def emit_option(code: int, value: bytes) -> bytes:
    """Build one option, in as many pieces as its value needs."""
    starts = range(0, max(len(value), 1), 255)
    parts = [value[i : i + 255] for i in starts]
    return b"".join(bytes([code, len(part)]) + part for part in parts)


def emit_routes(routes: Iterable[tuple[bytes, int, bytes]]) -> bytes:
    """Encode (network, prefix length, router) for option 121 (RFC 3442)."""
    parts = (bytes([n]) + net[: (n + 7) // 8] + router for net, n, router in routes)
    return b"".join(parts)


def parse_routes(value: bytes) -> tuple[tuple[bytes, int, bytes], ...]:
    """Read option 121 (RFC 3442) into (network, prefix length, router)."""
    found, at = list[tuple[bytes, int, bytes]](), 0
    while at < len(value):
        length = value[at]
        size = (length + 7) // 8
        if length > 32 or size + 4 > len(value) - at - 1:
            raise Malformed("dhcp", "whole routes in option 121", value[at : at + 9].hex())
        network = value[at + 1 : at + 1 + size].ljust(4, b"\0")
        found.append((network, length, value[at + 1 + size : at + 5 + size]))
        at += 5 + size
    return tuple(found)


def parse_search(value: bytes) -> tuple[str, ...]:
    """Read option 119 (RFC 3397), whose names may be compressed."""
    found, at = list[str](), 0
    while at < len(value):
        try:
            name, used = dns.name.from_wire(value, at)
        except dns.exception.DNSException:
            raise Malformed("dhcp", "names in option 119", value[at : at + 8].hex()) from None
        at += used
        if len(name.labels) > 1:
            found.append(name.to_text(omit_final_dot=True))
    return tuple(found)


def client_id(duid: bytes, iaid: int = 1) -> bytes:
    """Return the identifier of RFC 4361 6.1: a DHCPv6 client's, so that both families agree."""
    return b"\xff" + iaid.to_bytes(4) + duid

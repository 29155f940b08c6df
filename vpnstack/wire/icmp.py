"""ICMP (RFC 792, RFC 1122 3.2.2, RFC 1812 4.3) and ICMPv6 (RFC 4443): echo and errors.

The family is the length of the addresses that are passed in; ICMPv6 has a pseudo header in its
checksum.  Neighbour discovery has its own file, `ndp`.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from . import ip
from .malformed import Malformed, need

HEADER_LEN = 8
V4_ERROR_MAX = 576  # octets of the whole IP packet, RFC 1812 4.3.2.3
V6_ERROR_MAX = 1280  # RFC 4443 2.4 (c)

_HEADER = struct.Struct("!BBHI")
_ECHO = {4: (8, 0), 6: (128, 129)}  # request, reply
_V4_ERRORS = {3, 4, 5, 11, 12}  # RFC 1122 3.2.2, with redirect and the old source quench
_V6_REDIRECT = 137


class Kind(enum.Enum):
    """The errors that we send, under one name for both families."""

    NET_UNREACHABLE = enum.auto()
    HOST_UNREACHABLE = enum.auto()
    PROTOCOL_UNREACHABLE = enum.auto()
    PORT_UNREACHABLE = enum.auto()
    TOO_BIG = enum.auto()
    PROHIBITED = enum.auto()
    TTL_EXCEEDED = enum.auto()
    REASSEMBLY_EXCEEDED = enum.auto()
    PARAMETER_PROBLEM = enum.auto()


_CODES: dict[int, dict[Kind, tuple[int, int]]] = {
    4: {
        Kind.NET_UNREACHABLE: (3, 0),
        Kind.HOST_UNREACHABLE: (3, 1),
        Kind.PROTOCOL_UNREACHABLE: (3, 2),
        Kind.PORT_UNREACHABLE: (3, 3),
        Kind.TOO_BIG: (3, 4),
        Kind.PROHIBITED: (3, 13),
        Kind.TTL_EXCEEDED: (11, 0),
        Kind.REASSEMBLY_EXCEEDED: (11, 1),
        Kind.PARAMETER_PROBLEM: (12, 0),
    },
    6: {
        Kind.NET_UNREACHABLE: (1, 0),
        Kind.PROHIBITED: (1, 1),
        Kind.HOST_UNREACHABLE: (1, 3),
        Kind.PORT_UNREACHABLE: (1, 4),
        Kind.TOO_BIG: (2, 0),
        Kind.TTL_EXCEEDED: (3, 0),
        Kind.REASSEMBLY_EXCEEDED: (3, 1),
        Kind.PARAMETER_PROBLEM: (4, 0),
        Kind.PROTOCOL_UNREACHABLE: (4, 1),  # unrecognised next header; the pointer says where
    },
}


@dataclass(frozen=True, slots=True)
class Echo:
    """An echo request or reply."""

    reply: bool
    ident: int
    seq: int
    data: bytes = b""

    def __str__(self) -> str:
        name = "reply" if self.reply else "request"
        length = HEADER_LEN + len(self.data)
        return f"ICMP echo {name}, id {self.ident}, seq {self.seq}, length {length}"


@dataclass(frozen=True, slots=True)
class Error:
    """An error: `value` is the second word (MTU or pointer), `quote` the start of the packet."""

    version: int
    type: int
    code: int
    value: int = 0
    quote: bytes = b""

    @property
    def kind(self) -> Kind | None:
        """Return the name of this error, None for one that we do not send."""
        codes = _CODES[self.version].items()
        return next((kind for kind, pair in codes if pair == (self.type, self.code)), None)

    def __str__(self) -> str:
        name = self.kind.name.lower().replace("_", " ") if self.kind else "error"
        return f"ICMP {name}, type {self.type}, code {self.code}, value {self.value}"


Repr = Echo | Error


@dataclass(frozen=True, slots=True)
class Quoted:
    """The flow of the packet that an error quotes, seen from its sender; ports as in the packet.

    Of an echo, `sport` is the identifier and `dport` is 0.
    """

    proto: int
    src: bytes
    dst: bytes
    sport: int
    dport: int


def error(kind: Kind, version: int, quote: bytes, value: int = 0) -> Error:
    """Make the error `kind` for IP `version` about the packet `quote`, cut by `emit`."""
    return Error(version, *_CODES[version][kind], value, quote)


def parse(data: bytes, src: bytes, dst: bytes) -> Repr:
    """Read a message that went from `src` to `dst`; its checksum is verified."""
    version = 4 if len(src) == 4 else 6
    need("icmp", "a message", data, HEADER_LEN)
    if ip.checksum(data, _pseudo(src, dst, len(data))):
        raise Malformed("icmp", "a right checksum", data[2:4].hex())
    kind, code, _, value = _HEADER.unpack_from(data)
    if kind in _ECHO[version] and code == 0:
        return Echo(kind == _ECHO[version][1], value >> 16, value & 0xFFFF, data[HEADER_LEN:])
    if kind in {pair[0] for pair in _CODES[version].values()}:
        return Error(version, kind, code, value, data[HEADER_LEN:])
    raise Malformed("icmp", "echo or an error", f"type {kind}, code {code}")


def emit(repr: Repr, src: bytes, dst: bytes) -> bytes:
    """Build the message from `src` to `dst`; the quote of an error is cut to what is allowed."""
    if isinstance(repr, Echo):
        kind, code = _ECHO[4 if len(src) == 4 else 6][repr.reply], 0
        value, rest = repr.ident << 16 | repr.seq, repr.data
    else:
        kind, code, value = repr.type, repr.code, repr.value
        rest = repr.quote[: quote_max(repr.version)]
    length = HEADER_LEN + len(rest)
    zero = _HEADER.pack(kind, code, 0, value) + rest
    right = ip.checksum(zero, _pseudo(src, dst, length))
    return _HEADER.pack(kind, code, right, value) + rest


def quote_max(version: int) -> int:
    """Return how many octets of the packet an error may quote."""
    if version == 4:
        return V4_ERROR_MAX - ip.V4_HEADER_LEN - HEADER_LEN
    return V6_ERROR_MAX - ip.V6_HEADER_LEN - HEADER_LEN


def is_error(version: int, kind: int) -> bool:
    """Tell whether a message of type `kind` must not be answered with an error."""
    return kind in _V4_ERRORS if version == 4 else kind < 128 or kind == _V6_REDIRECT


def quoted(repr: Error) -> Quoted | None:
    """Find the flow that an error is about; None where the quote does not reach that far."""
    quote = repr.quote
    where = ip.upper(quote)
    if where is None or quote[0] >> 4 != repr.version or not where.first:
        return None
    body = quote[where.offset : where.offset + HEADER_LEN]
    if len(body) < HEADER_LEN:
        return None
    src, dst = (quote[12:16], quote[16:20]) if repr.version == 4 else (quote[8:24], quote[24:40])
    if where.proto in (ip.TCP, ip.UDP):
        sport, dport = int.from_bytes(body[:2]), int.from_bytes(body[2:4])
    elif where.proto in (ip.ICMP, ip.ICMPV6) and body[0] in _ECHO[repr.version]:
        sport, dport = int.from_bytes(body[4:6]), 0
    else:
        return None
    return Quoted(where.proto, src, dst, sport, dport)


def _pseudo(src: bytes, dst: bytes, length: int) -> int:
    return 0 if len(src) == 4 else ip.pseudo_sum(src, dst, ip.ICMPV6, length)

"""Extended ICMP (RFC 4884): objects behind the packet that an error quotes.

Routers say there which labels a packet had (RFC 4950) or where it came in (RFC 5837).  The length
of the quote is in a byte of the second word that was unused: without it there are no extensions,
whatever follows.  An error is valid without them, so broken ones are as good as none.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from . import ip
from .icmp import Error

VERSION = 2
QUOTE_MIN = 128  # octets, RFC 4884 3: what came before this standard may cut there
OBJECTS_MAX = 16
CLASSES = {1: "MPLS labels", 2: "interface", 3: "interface to reply"}  # IANA; RFC 4950, 5837, 8335

_OBJECT = struct.Struct("!HBB")
# By version: the types that may have them, where the length is in the word, its unit in octets.
_PLACES = {4: ((3, 11, 12), 16, 4), 6: ((1, 3), 24, 8)}


@dataclass(frozen=True, slots=True)
class Object:
    """An extension object: class, type within it, content of a multiple of 4 octets."""

    number: int
    type: int
    data: bytes = b""

    def __str__(self) -> str:
        name = CLASSES.get(self.number, f"class {self.number}")
        return f"{name}, type {self.type}, length {len(self.data)}"


def parse(error: Error) -> tuple[bytes, tuple[Object, ...]]:
    """Return the quote, without padding of zeros that extensions ask for, and the objects."""
    types, shift, unit = _PLACES[error.version]
    length = (error.value >> shift & 0xFF) * unit
    if error.type not in types or not length or length > len(error.quote):
        return error.quote, ()
    quote, rest = error.quote[:length], error.quote[length:]
    return _unpadded(quote), _objects(rest) if length >= QUOTE_MIN else ()


def emit(error: Error, objects: Sequence[Object]) -> Error:
    """Return `error` with `objects` behind its quote, which is cut or padded to 128 octets."""
    types, shift, unit = _PLACES[error.version]
    if error.type not in types:
        raise ValueError(f"expected an error of type {types}, found {error.type}")
    body = b"".join(
        _OBJECT.pack(_OBJECT.size + len(one.data), one.number, one.type) + one.data
        for one in objects
    )
    head = bytes([VERSION << 4, 0])
    right = ip.checksum(head + bytes(2) + body)
    quote = error.quote[:QUOTE_MIN].ljust(QUOTE_MIN, b"\0")
    value = error.value & ~(0xFF << shift) | QUOTE_MIN // unit << shift
    return replace(error, value=value, quote=quote + head + right.to_bytes(2) + body)


def _unpadded(quote: bytes) -> bytes:
    """Cut what lies behind the end of the packet that is quoted."""
    if len(quote) >= 4 and quote[0] >> 4 == 4:
        return quote[: max(int.from_bytes(quote[2:4]), ip.V4_HEADER_LEN)]
    if len(quote) >= 6 and quote[0] >> 4 == 6:
        return quote[: ip.V6_HEADER_LEN + int.from_bytes(quote[4:6])]
    return quote


def _objects(data: bytes) -> tuple[Object, ...]:
    """Read the extension structure; a wrong version, checksum or length makes it nothing."""
    if len(data) < 4 or data[0] >> 4 != VERSION:
        return ()
    if data[2:4] != b"\0\0" and ip.checksum(data):  # RFC 4884 7: zero means not computed
        return ()
    found = list[Object]()
    at = 4
    while at < len(data):
        if len(data) - at < _OBJECT.size or len(found) == OBJECTS_MAX:
            return ()
        length, number, kind = _OBJECT.unpack_from(data, at)
        if length < _OBJECT.size or length > len(data) - at:
            return ()
        found.append(Object(number, kind, data[at + _OBJECT.size : at + length]))
        at += length
    return tuple(found)

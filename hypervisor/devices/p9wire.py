"""The little of 9P that a carrier of its messages reads: headers, tags, and errors of its own.

A message is size[4] type[1] tag[2] and a body, little endian (intro(5)); `size` counts itself.
"""

from __future__ import annotations

import enum
import os
import struct
from collections.abc import Callable
from typing import Protocol

from ..errors import PeerError

HEADER = struct.Struct("<IBH")  # size, type, tag
ERROR_ROOM = HEADER.size + 4  # octets of an Rlerror: what any request needs as room
NOTAG = 0xFFFF

Buffer = bytes | bytearray | memoryview


class Kind(enum.IntEnum):
    """The message types that mean something here."""

    RLERROR = 7
    TVERSION = 100
    RVERSION = 101
    RERROR = 107
    TFLUSH = 108
    RFLUSH = 109


def version(message: bytes | bytearray) -> bytes:
    """Return the version that a Tversion or Rversion names: msize[4] version[s]."""
    at = HEADER.size + 4
    (size,) = struct.unpack_from("<H", message.ljust(at + 2, b"\0"), at)
    return bytes(message[at + 2 : at + 2 + size])


def oldtag(message: bytes | bytearray) -> int:
    """Return the tag that a Tflush names."""
    return int.from_bytes(message[HEADER.size : HEADER.size + 2], "little")


def error(tag: int, errno: int, dialect: bytes) -> bytes:
    """Return Rlerror in 9P2000.L, Rerror elsewhere, in .u with the number behind the text."""
    if dialect == b"9P2000.L":
        kind, body = Kind.RLERROR, struct.pack("<I", errno)
    else:
        text = os.strerror(errno).encode()
        kind, body = Kind.RERROR, struct.pack("<H", len(text)) + text
        body += struct.pack("<I", errno) if dialect == b"9P2000.u" else b""
    return HEADER.pack(HEADER.size + len(body), kind, tag) + body


class Room(Protocol):
    """Where answers go: a chain."""

    def write(self, data: memoryview, offset: int) -> int:
        """Copy `data` to `offset`; returns how much found room."""


class Sink:
    """Where the octets of one answer go, piece by piece; what finds no room is dropped."""

    __slots__ = ("_room", "written")

    def __init__(self, room: Room | None) -> None:
        self._room = room
        self.written = 0

    def write(self, data: memoryview) -> None:
        """Write what comes next."""
        if self._room is not None:
            self.written += self._room.write(data, self.written)


Begin = Callable[[int, int, int], Sink]  # (size, type, tag) -> where the whole answer goes
End = Callable[[int, int, int], None]  # the same, once all of it has come


class Answers:
    """Takes R-messages out of a stream of octets and pours each into its sink as it comes."""

    def __init__(self, begin: Begin, end: End) -> None:
        self._begin = begin
        self._end = end
        self._head = b""  # less than a header
        self._message = (0, 0, 0)
        self._sink: Sink | None = None
        self._left = 0

    def feed(self, data: Buffer) -> None:
        """Take octets; raises `PeerError` for a size that no message has."""
        view = memoryview(data).cast("B")
        while view:
            if self._sink is None:
                view = self._start(view)
                continue
            part = view[: self._left]
            self._sink.write(part)
            self._left -= len(part)
            view = view[len(part) :]
            if not self._left:
                self._sink = None
                self._end(*self._message)

    def _start(self, view: memoryview) -> memoryview:
        """Begin a message once its header is there; returns what is to be poured."""
        if self._head or len(view) < HEADER.size:
            need = HEADER.size - len(self._head)
            self._head += bytes(view[:need])
            if len(self._head) < HEADER.size:
                return view[need:]
            view, self._head = memoryview(self._head + bytes(view[need:])), b""
        self._message = HEADER.unpack_from(view)
        self._left = self._message[0]
        if self._left < HEADER.size:
            raise PeerError(f"answer of {self._left} octets, expected at least {HEADER.size}")
        self._sink = self._begin(*self._message)
        return view

"""Cuts a byte stream into 9P messages without copying the large ones.

The owner receives into `get_buffer()`, says how much with `received()`, and takes frames until
there is none.  Small messages share a small buffer: their bodies are valid until the next
`get_buffer()`.  A message that is larger than that gets a buffer of exactly its size, into which
the rest of it is received; such a body stays valid for as long as it is referred to.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from .const import HEADER_SIZE
from .errors import ProtocolError

SMALL = 4096  # bytes of the shared buffer; what an idle connection holds

_HEADER = struct.Struct("<IBH")


class Frame(NamedTuple):
    """One message, not yet parsed; `owned` says that the body outlives the next receive."""

    kind: int
    tag: int
    body: memoryview
    owned: bool


class Framer:
    """Reassembles messages of at most `limit` bytes (msize, once negotiated)."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._view = memoryview(bytearray())  # none before the first receive
        self._start = 0  # of the first message not yet taken
        self._end = 0  # of what was received
        self._lent = False  # a taken body lives in this buffer and may be kept

    def get_buffer(self) -> memoryview:
        """Return where to receive, never empty; frames must all have been taken before."""
        held = self._end - self._start
        need = self._size() if held >= 4 else 0
        if self._lent or not self._view or need > len(self._view):
            self._move(bytearray(max(SMALL, need)))
        elif self._start:
            self._move(self._view.obj)  # type: ignore[arg-type]
        return self._view[self._end :]

    def received(self, n: int) -> None:
        """Say that `n` bytes were put into the buffer."""
        self._end += n

    def next_frame(self) -> Frame | None:
        """Take one message; raises `ProtocolError` for a size that none can have."""
        if self._end - self._start < 4:
            return None
        size = self._size()
        if self._end - self._start < size:
            return None
        start = self._start
        _, kind, tag = _HEADER.unpack_from(self._view, start)
        self._start += size
        owned = size > SMALL
        self._lent = self._lent or owned
        return Frame(kind, tag, self._view[start + HEADER_SIZE : start + size], owned)

    def _size(self) -> int:
        size = int.from_bytes(self._view[self._start : self._start + 4], "little")
        if not HEADER_SIZE <= size <= self.limit:
            raise ProtocolError(f"size: expected {HEADER_SIZE} to {self.limit} bytes, found {size}")
        return size

    def _move(self, into: bytearray) -> None:
        held = self._end - self._start
        view = memoryview(into)
        view[:held] = bytes(self._view[self._start : self._end])
        self._view, self._start, self._end, self._lent = view, 0, held, False


def whole(message: bytes | bytearray, limit: int) -> Frame:
    """Return the frame that is all of `message`; raises `ProtocolError`."""
    size = int.from_bytes(message[:4], "little")
    if not HEADER_SIZE <= size <= limit or size != len(message):
        raise ProtocolError(
            f"size: expected {HEADER_SIZE} to {limit} bytes, all of {len(message)}, found {size}"
        )
    _, kind, tag = _HEADER.unpack_from(message)
    return Frame(kind, tag, memoryview(message)[HEADER_SIZE:], owned=True)

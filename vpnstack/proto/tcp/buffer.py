"""Where the bytes of a connection wait: a ring of what is to be sent, a queue of what arrived.

Both are empty objects until they hold something and give their memory back when they drain, so
that an idle connection costs next to nothing.  The memory of rings goes to a bounded stock from
which the next ring that fills takes it: a busy flow drains and fills thousands of times a second,
and fresh memory would be cleared and faulted in each time.
"""

from __future__ import annotations

from typing import Protocol

from ...core.memory import Memory, give, take
from .segment import Buffer

FIRST_SIZE = 4096
CHUNK = 1 << 16  # what `writable` tries to offer in one piece
SMALL = 2048  # pieces below this are joined: one-byte segments must not cost 50 bytes each

_NOTHING = bytearray()
_NO_PIECES: list[Buffer] = []  # of all queues that are empty: never changed


class SendBuffer(Protocol):
    """Bytes from SND.UNA on: sent and unacknowledged first, then unsent.

    `limit` is how many it may keep.
    """

    limit: int

    def __len__(self) -> int:
        """Return how many bytes are kept."""

    @property
    def space(self) -> int:
        """Return how many bytes `write` would take."""

    def write(self, data: Buffer) -> int:
        """Append what fits and return how much that was."""

    def writable(self) -> memoryview:
        """Return free space to be filled in place, empty when there is none; then `commit`."""

    def commit(self, n: int) -> None:
        """Append the first `n` bytes of the last `writable`."""

    def peek(self, offset: int, n: int) -> Buffer:
        """Return `n` bytes from `offset` in one contiguous piece, valid until the next call."""

    def release(self, n: int) -> None:
        """Drop the first `n` bytes: they are acknowledged."""

    def abandon(self) -> None:
        """Drop everything; what `peek` returned stays valid."""


class RingBuffer:
    """The `SendBuffer` of ordinary connections: a ring that grows by doubling up to `limit`."""

    __slots__ = ("_data", "_head", "_len", "_was", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._data: Memory = _NOTHING
        self._head = 0
        self._len = 0
        self._was = FIRST_SIZE  # how large it was when it drained: it will be so again

    def __len__(self) -> int:
        return self._len

    @property
    def space(self) -> int:
        """Return how many bytes `write` would take."""
        return self.limit - self._len

    @property
    def allocated(self) -> int:
        """Return the bytes of memory held."""
        return len(self._data)

    def _grow(self, need: int) -> None:
        size = max(len(self._data), self._was)
        while size < need:
            size *= 2
        size = min(size, max(self.limit, FIRST_SIZE))
        # A new object, never a resize: segments under way may still look into the old one, which
        # is why it does not go into the stock either.
        data = take(size)
        if self._len:
            data[: self._len] = self.peek(0, self._len)
        self._data, self._head = data, 0

    def write(self, data: Buffer) -> int:
        """Append what fits and return how much that was."""
        n = min(len(data), self.limit - self._len)
        if n <= 0:
            return 0
        if self._len + n > len(self._data):
            self._grow(self._len + n)
        ring = self._data
        size = len(ring)
        tail = (self._head + self._len) % size
        first = min(n, size - tail)
        ring[tail : tail + first] = data[:first]
        if n > first:
            ring[: n - first] = data[first:n]
        self._len += n
        return n

    def writable(self) -> memoryview:
        """Return free space to be filled in place, empty when there is none; then `commit`."""
        want = min(CHUNK, self.limit - self._len)
        if want <= 0:
            return memoryview(b"")
        if self._len + want > len(self._data):
            self._grow(self._len + want)
        size = len(self._data)
        tail = (self._head + self._len) % size
        free = min(size - self._len, size - tail)
        return memoryview(self._data)[tail : tail + free]

    def commit(self, n: int) -> None:
        """Append the first `n` bytes of the last `writable`; none gives its memory back."""
        self._len += n
        if not self._len:
            self._drained()

    def _drained(self) -> None:
        self._was = max(FIRST_SIZE, len(self._data))
        give(self._data)
        self._data = _NOTHING
        self._head = 0

    def peek(self, offset: int, n: int) -> Buffer:
        """Return `n` bytes from `offset`; a copy is made only where they wrap around."""
        ring = self._data
        start = self._head + offset
        if start >= len(ring):
            start -= len(ring)
        end = start + n
        if end <= len(ring):
            return memoryview(ring)[start:end]
        return bytes(ring[start:]) + bytes(ring[: end - len(ring)])

    def release(self, n: int) -> None:
        """Drop the first `n` bytes and, when none is left, the memory."""
        self._len -= n
        if self._len:
            self._head = (self._head + n) % len(self._data)
        else:
            self._drained()

    def abandon(self) -> None:
        """Drop everything, the memory as well: segments under way may still look into it."""
        self._data, self._head, self._len = _NOTHING, 0, 0


class ReceiveQueue:
    """In-order bytes that the user has not consumed; the newest may be borrowed from frames."""

    __slots__ = ("_borrowed", "_pieces", "queued")

    def __init__(self) -> None:
        self._pieces = _NO_PIECES
        self._borrowed = 0  # how many pieces at the end belong to somebody else
        self.queued = 0

    def append(self, piece: Buffer) -> None:
        """Queue `piece` without copying: borrowed until `own`."""
        if self._pieces:
            self._pieces.append(piece)
        else:
            self._pieces = [piece]
        self._borrowed += 1
        self.queued += len(piece)

    def own(self) -> None:
        """Copy what is borrowed; small pieces are joined so that their number stays bounded."""
        borrowed = self._borrowed
        if not borrowed:
            return
        self._borrowed = 0
        pieces = self._pieces
        start = len(pieces) - borrowed
        if start and len(pieces[start - 1]) < SMALL:
            start -= 1
        pieces[start:] = [b"".join(pieces[start:])]

    def views(self) -> list[memoryview]:
        """Return what is queued, in order."""
        return [memoryview(piece) for piece in self._pieces]

    def consume(self, n: int) -> None:
        """Drop the first `n` bytes."""
        self.queued -= n
        if not self.queued:
            self._pieces, self._borrowed = _NO_PIECES, 0
            return
        pieces, done = self._pieces, 0
        while n:
            size = len(pieces[done])
            if n < size:
                pieces[done] = memoryview(pieces[done])[n:]
                break
            n -= size
            done += 1
        if done:
            del pieces[:done]
            self._borrowed = min(self._borrowed, len(pieces))

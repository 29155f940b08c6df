"""The bounded backlog of a link that does not take frames now: copies, oldest first, made by C."""

from __future__ import annotations

from collections import deque
from typing import Any

from ..core._core import ffi, lib
from ..core.burst import Burst

OCTETS_MAX = 8 << 20  # two bursts of 64 super-segments
FRAME_COST = 256  # bytes that a frame takes beside its own, at most
CHUNK = 1 << 16  # bytes of memory that frames are packed into, at least

_allocate = ffi.new_allocator(should_clear_after_alloc=False)


class _Chunk:
    """Memory with records of pack.c at [`at`, `end`)."""

    __slots__ = ("at", "capacity", "count", "end", "memory")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.memory: Any = _allocate("uint8_t[]", capacity)
        self.at: Any = ffi.new("uint64_t *")
        self.end = 0
        self.count = 0


class Backlog:
    """Frames that wait for a link; refuses what would exceed `octets_max`, and what comes after
    it in a burst.

    Each frame counts `FRAME_COST` more than its length: many small ones are bounded as well.
    """

    __slots__ = (
        "_budget",
        "_bytes",
        "_chunks",
        "_count",
        "_done",
        "_spare",
        "octets",
        "octets_max",
    )

    def __init__(self, octets_max: int = OCTETS_MAX) -> None:
        self._chunks: deque[_Chunk] = deque()
        self._spare: _Chunk | None = None  # memory that was touched before costs less
        self._count = 0
        self._budget, self._bytes = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        self._done = ffi.new("uint32_t *")
        self.octets = 0
        self.octets_max = octets_max

    def __len__(self) -> int:
        return self._count

    def push(self, burst: Burst, start: int = 0) -> int:
        """Copy frames `start` and up; return how many did not fit and are dropped."""
        first, asked = burst.array + start, burst.count - start
        room = self._budget[0] = self.octets_max - self.octets
        self._bytes[0] = 0
        n: int = lib.frame_fit(first, asked, FRAME_COST, self._budget, self._bytes)
        if n:
            chunk = self._chunk(self._bytes[0])
            to, free = chunk.memory + chunk.end, chunk.capacity - chunk.end
            chunk.end += lib.frame_pack(first, n, to, free, self._done)
            chunk.count += n
            self._count += n
            self.octets += room - self._budget[0]
        return asked - n

    def _chunk(self, size: int) -> _Chunk:
        """Return memory with room for `size` bytes: the last, the spare or fresh."""
        if self._chunks and self._chunks[-1].capacity - self._chunks[-1].end >= size:
            return self._chunks[-1]
        chunk, self._spare = self._spare, None
        if chunk is None or chunk.capacity < size:
            chunk = _Chunk(max(size, CHUNK))
        chunk.at[0] = chunk.end = 0
        self._chunks.append(chunk)
        return chunk

    def fill(self, burst: Burst) -> None:
        """Put as many of the oldest frames as fit into the empty `burst`, leaving them here."""
        at = ffi.new("uint64_t *")
        for chunk in self._chunks:
            if burst.full:
                return
            at[0] = chunk.at[0]
            self._unpack(burst, chunk, at)

    def take(self, burst: Burst) -> None:
        """Move as many of the oldest frames as fit into `burst`."""
        while self._chunks and not burst.full:
            chunk = self._chunks[0]
            at = ffi.new("uint64_t *", chunk.at[0])
            self._skip(chunk, self._unpack(burst, chunk, at))
            if not chunk.count:
                self._chunks.popleft()  # the burst has its memory until it is cleared

    def drop_first(self, n: int) -> None:
        """Forget the `n` oldest frames: they are sent, and no burst shows them any more."""
        while n:
            chunk = self._chunks[0]
            n -= self._skip(chunk, n)
            if not chunk.count:
                self._spare = self._chunks.popleft()

    def clear(self) -> None:
        """Forget all frames."""
        self._chunks.clear()
        self._count = self.octets = 0

    @staticmethod
    def _unpack(burst: Burst, chunk: _Chunk, at: Any) -> int:
        to, room = burst.array + burst.count, burst.capacity - burst.count
        n = int(lib.frame_unpack(to, room, chunk.memory, chunk.end, at))
        burst.count += n
        burst.keep(chunk.memory)
        return n

    def _skip(self, chunk: _Chunk, n: int) -> int:
        octets = lib.frame_skip(chunk.memory, chunk.end, chunk.at, n, self._done)
        done = int(self._done[0])
        chunk.count -= done
        self._count -= done
        self.octets -= octets + done * FRAME_COST
        return done

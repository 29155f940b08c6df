"""A burst: an array of `struct frame` (frame.h) that C fills and Python reads field by field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ._core import ffi, lib

CAPACITY = 64
RECORD = 24  # what packing adds to a frame, at most

_allocate = ffi.new_allocator(should_clear_after_alloc=False)


class Packed:
    """The frames of a burst in memory of their own; `count` are left."""

    __slots__ = ("at", "capacity", "count", "end", "memory", "octets")

    def __init__(self, octets: int, count: int) -> None:
        self.octets = octets
        self.count = count
        self.capacity = octets + count * RECORD
        self.memory = _allocate("uint8_t[]", self.capacity)
        self.end = 0
        self.at = ffi.new("uint64_t *", 0)


class Burst:
    """Up to `capacity` frames; `count` of them are in use.

    `burst[i]` is a cffi pointer to `struct frame`: its fields read as attributes (`f.seq`,
    `f.sport`, ...).  `address` is what another kit's core takes to fill or drain the array.
    """

    __slots__ = ("_refs", "address", "array", "capacity", "count", "frames")

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.array = ffi.new("struct frame[]", capacity)
        self.address = int(ffi.cast("uintptr_t", self.array))
        self.frames: list[Any] = [self.array + i for i in range(capacity)]
        self.count = 0
        self._refs: list[Any] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Any:
        return self.frames[i]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.frames[: self.count])

    @property
    def full(self) -> bool:
        """True when no further frame fits."""
        return self.count == self.capacity

    def append(self, data: bytes | bytearray | memoryview, vnet: bytes = bytes(12)) -> Any:
        """Add one frame that lies in `data` (Ethernet, no FCS), kept alive until `clear`."""
        f = self.frames[self.count]
        buf = ffi.from_buffer(data)
        self._refs.append(buf)
        ffi.memmove(ffi.addressof(f, "vnet"), vnet, 12)
        f.len = len(buf)
        f.iovcnt = 1
        f.iov[0].iov_base = ffi.cast("void *", buf)
        f.iov[0].iov_len = len(buf)
        self.count += 1
        return f

    def keep(self, *owners: Any) -> None:
        """Keep `owners` alive until `clear`: frames point into their memory."""
        self._refs.extend(owners)

    def clear(self) -> None:
        """Forget all frames and let go of their memory."""
        self.count = 0
        self._refs.clear()

    def octets_len(self) -> int:
        """Return the bytes of all frames together."""
        return int(sum(f.len for f in self.frames[: self.count]))

    def pack(self) -> Packed:
        """Copy all frames into one buffer, from which `unpack` takes them."""
        n = self.count
        out = Packed(self.octets_len(), n)
        packed = ffi.new("uint32_t *")
        out.end = lib.frame_pack(self.array, n, out.memory, out.capacity, packed)
        out.count = packed[0]
        return out

    def unpack(self, packed: Packed) -> int:
        """Add frames from a packed burst, without a copy; return how many."""
        room = self.capacity - self.count
        made: int = lib.frame_unpack(
            self.array + self.count, room, packed.memory, packed.end, packed.at
        )
        self._refs.append(packed.memory)
        self.count += made
        packed.count -= made
        return made

    def octets(self, i: int) -> bytes:
        """Copy frame `i` out as one bytes object, Ethernet header first."""
        f = self.frames[i]
        out = bytearray(f.len)
        got = lib.frame_read(f, 0, ffi.from_buffer(out), f.len)
        return bytes(out[:got])

    def vnet(self, i: int) -> bytes:
        """Return the 12 bytes of frame `i`'s virtio-net header."""
        return bytes(ffi.buffer(ffi.addressof(self.frames[i], "vnet"), 12))

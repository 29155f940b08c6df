"""Guest memory shared by descriptor: mappings, and the region table that the C queues walk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ..errors import PeerError
from ..queue.layout import REGIONS_MAX
from ..queue.state import Region
from ._core import ffi, lib


@dataclass(frozen=True, slots=True)
class _Mapping:
    region: Region
    base: int
    length: int
    host: int


class GuestMemory:
    """A table of mapped regions; `table` is what `vq_attach` takes.

    It must stay open while a queue is attached to it or a frame points into it.
    """

    def __init__(self) -> None:
        self.fd = -1  # of the file that holds all regions, where its owner shares it
        self.table: Any = ffi.new("struct hv_memory *")
        self._mappings: list[_Mapping] = []
        self._faults = lib.hv_faults()

    def __len__(self) -> int:
        return len(self._mappings)

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions, in the order in which they were added."""
        return tuple(m.region for m in self._mappings)

    def add(self, region: Region, fd: int) -> None:
        """Map `region` from `fd`, which stays the caller's; PeerError if that cannot be."""
        if len(self) == REGIONS_MAX:
            raise PeerError(f"memory region {len(self) + 1}, expected at most {REGIONS_MAX}")
        if any(region.overlaps(m.region) for m in self._mappings):
            raise PeerError(f"memory region at {region.gpa:#x} overlaps another")
        out = ffi.new("uint64_t[2]")
        host = lib.hv_map(fd, region.size, region.offset, out, out + 1)
        if host < 0:
            raise PeerError(
                f"memory region of {region.size} bytes at offset {region.offset} of its file: "
                f"{os.strerror(-host)}"
            )
        self._mappings.append(_Mapping(region, out[0], out[1], host))
        self._rebuild()

    def remove(self, region: Region) -> None:
        """Unmap the region with the same addresses and size; PeerError if there is none."""
        for mapping in self._mappings:
            known = mapping.region
            if (known.gpa, known.size, known.uva) == (region.gpa, region.size, region.uva):
                self._mappings.remove(mapping)
                self._rebuild()
                lib.hv_unmap(mapping.base, mapping.length)
                return
        raise PeerError(f"no memory region at {region.gpa:#x} of {region.size} bytes to remove")

    def _rebuild(self) -> None:
        self.table.count = 0
        for m in self._mappings:
            r = m.region
            if lib.hv_memory_add(self.table, r.gpa, r.size, r.uva, m.host) < 0:
                bad = self._mappings.pop()
                lib.hv_unmap(bad.base, bad.length)
                raise PeerError(f"memory region at {r.gpa:#x} of {r.size} bytes wraps around")

    def view(self, region: Region) -> memoryview:
        """Return the bytes of a mapped region; not to be used after `close`."""
        for m in self._mappings:
            if m.region == region:
                return memoryview(ffi.buffer(ffi.cast("uint8_t *", m.host), region.size))
        raise PeerError(f"no memory region at {region.gpa:#x}")

    def discard_pfns(self, pfns: memoryview) -> tuple[int, int]:
        """Give back the 4 KiB pages whose numbers (little-endian, 4 bytes) are in `pfns`.

        Returns the bytes given back and how many pages could not be.
        """
        refused = ffi.new("uint32_t *")
        done = lib.hv_discard_pfns(self.table, ffi.from_buffer(pfns), len(pfns) // 4, refused)
        return int(done), int(refused[0])

    @property
    def faulted(self) -> bool:
        """True when a file behind a mapping was truncated: what was read since is zeros."""
        if lib.hv_faults() == self._faults:
            return False
        return any(lib.hv_faulted(m.base) for m in self._mappings)

    def close(self) -> None:
        """Unmap everything; calling it again does nothing."""
        self.table.count = 0
        while self._mappings:
            m = self._mappings.pop()
            lib.hv_unmap(m.base, m.length)


def discard(piece: memoryview) -> int:
    """Give back the whole pages of `piece`, guest memory; returns the bytes, 0 if it cannot be."""
    address = int(ffi.cast("uintptr_t", ffi.from_buffer(piece)))
    return max(0, int(lib.hv_discard(address, len(piece))))

"""Memory of a machine of our own: one memfd, mapped here and shared by descriptor."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from ..errors import PeerError, UsageError
from ..pc.elf import Bytes
from ..queue.state import Region
from ._core import ffi
from .file import FilePart
from .memory import GuestMemory

PAGE = 4096
HUGE = 2 << 20
_LARGE = 1 << 16


class GuestRam:
    """`ranges` of (guest physical address, size) behind the descriptor `fd`, in that order.

    Populated by touch and left out of core dumps; `huge` takes 2 MiB pages, at once.  `memory` is
    what virtqueues and devices take (front-end addresses are guest physical ones).
    """

    def __init__(self, ranges: Sequence[tuple[int, int]], huge: bool = False) -> None:
        unit = HUGE if huge else PAGE
        if any(number % unit for pair in ranges for number in pair):
            raise UsageError(f"memory ranges {ranges}, expected multiples of {unit}")
        self.size = sum(size for _, size in ranges)
        self.memory = GuestMemory()
        self.fd = self.memory.fd = _memfd(self.size, huge)
        offset = 0
        try:
            for gpa, size in ranges:
                self.memory.add(Region(gpa, size, gpa, offset), self.fd)
                offset += size
        except PeerError as error:
            self.close()
            raise UsageError(str(error)) from error

    @property
    def regions(self) -> tuple[Region, ...]:
        """The ranges with their offsets in the file."""
        return self.memory.regions

    def host(self, gpa: int, size: int = 1) -> int:
        """Return the host address of `size` bytes at `gpa`; UsageError where there are none."""
        table = self.memory.table
        for region in table.region[0 : table.count]:
            if region.gpa <= gpa and size <= region.size - (gpa - region.gpa):
                return int(region.host + gpa - region.gpa)
        raise UsageError(f"{size} bytes at {gpa:#x}, expected inside one range of guest memory")

    def view(self, gpa: int, size: int) -> memoryview:
        """Return `size` bytes at `gpa` in place; not to be used after `close`."""
        return memoryview(ffi.buffer(ffi.cast("uint8_t *", self.host(gpa, size)), size))

    def write(self, gpa: int, data: Bytes) -> None:
        """Copy `data` to `gpa`; UsageError unless it lies inside one range.

        Not to be called by two threads at once.
        """
        if isinstance(data, FilePart) and len(data) >= _LARGE:
            self._send(data, self._offset(gpa, len(data)))
            return
        if not isinstance(data, bytes | bytearray | memoryview):
            data = bytes(data)
        if len(data) < _LARGE:
            self.view(gpa, len(data))[:] = data
            return
        # Into the file: the kernel fills pages at once, without a fault and a cleared page each.
        offset, left = self._offset(gpa, len(data)), memoryview(data)
        while left:
            written = os.pwrite(self.fd, left, offset)
            offset, left = offset + written, left[written:]

    def _send(self, part: FilePart, to: int) -> None:
        """Let the kernel copy from file to file: half of what a copy through a mapping takes."""
        os.lseek(self.fd, to, os.SEEK_SET)
        at, end = part.offset, part.offset + part.size
        while at < end:
            try:
                sent = os.sendfile(self.fd, part.fd, at, end - at)
            except OSError as error:
                if error.errno != errno.EINVAL:  # a file system that cannot
                    raise
                sent = os.write(self.fd, os.pread(part.fd, end - at, at))
            if not sent:
                missing = f"{end - at} bytes at {at}"
                raise UsageError(f"the file ended early: expected {missing}, found its end")
            at += sent

    def _offset(self, gpa: int, size: int) -> int:
        for region in self.regions:
            if region.gpa <= gpa and size <= region.size - (gpa - region.gpa):
                return region.offset + gpa - region.gpa
        raise UsageError(f"{size} bytes at {gpa:#x}, expected inside one range of guest memory")

    def read(self, gpa: int, size: int) -> bytes:
        """Copy `size` bytes from `gpa`; UsageError unless they lie inside one range."""
        return bytes(self.view(gpa, size))

    def close(self) -> None:
        """Unmap and close; after `Vm.close`.  Calling it again does nothing."""
        self.memory.close()
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = self.memory.fd = -1


def _memfd(size: int, huge: bool) -> int:
    """Make the file; huge pages are taken now, for a touch that finds none ends in SIGBUS."""
    flags = os.MFD_CLOEXEC | (os.MFD_HUGETLB | os.MFD_HUGE_2MB if huge else 0)
    fd = -1
    try:
        fd = os.memfd_create("guest", flags)
        os.ftruncate(fd, size)
        if huge:
            os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        kind = "huge pages" if huge else "memory"
        raise UsageError(f"{size} bytes of {kind} for a guest: {error.strerror}") from error
    return fd

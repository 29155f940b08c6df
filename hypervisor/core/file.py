"""Parts of an open file that are read, or copied into a guest's memory, only when that is due.

A file may be cut while it is open: what is missing then reads as the end (`bytes` are fewer), and
is never a fault, as it would be in a mapping.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

_WINDOW = 1 << 16  # bytes read at once around small parts


class _Source:
    """An open file and the last piece of it that was read."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._at = 0
        self._window = b""

    def read(self, offset: int, size: int) -> bytes:
        if size > _WINDOW:
            return _pread(self.fd, size, offset)
        skip = offset - self._at
        if skip < 0 or size > len(self._window) - skip:
            self._at, skip = offset, 0
            self._window = _pread(self.fd, _WINDOW, offset)
        return self._window[skip : skip + size]


class FilePart:
    """`size` bytes at `offset` of an open file, as `pc.elf.Extent` has it; slices share the file.

    `FilePart.open` opens one, `close` is due once for all parts of it.
    """

    __slots__ = ("_source", "offset", "size")

    def __init__(self, source: _Source, offset: int, size: int) -> None:
        self._source = source
        self.offset = offset
        self.size = size

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a whole file; raises OSError."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return cls(_Source(fd), 0, os.fstat(fd).st_size)

    @property
    def fd(self) -> int:
        """The file; -1 once closed."""
        return self._source.fd

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> FilePart:
        start, stop, step = part.indices(self.size)
        if step != 1:
            raise ValueError(f"expected a slice with step 1, found {step}")
        return FilePart(self._source, self.offset + start, max(0, stop - start))

    def __bytes__(self) -> bytes:
        return self._source.read(self.offset, self.size)

    def close(self) -> None:
        """Close the file; may be called again."""
        if self._source.fd >= 0:
            os.close(self._source.fd)
        self._source.fd = -1


def _pread(fd: int, size: int, offset: int) -> bytes:
    """Read up to the file's end."""
    out = os.pread(fd, size, offset)
    while len(out) < size and (more := os.pread(fd, size - len(out), offset + len(out))):
        out += more
    return out

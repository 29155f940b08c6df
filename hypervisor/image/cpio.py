"""Archives in the "newc" cpio format, which the Linux kernel unpacks as its initramfs.

Format: Linux Documentation/driver-api/early-userspace/buffer-format.rst.  A header is the magic
"070701" and thirteen fields of eight hexadecimal digits; the name follows with its NUL, padded
with the header to a multiple of four, then the data, padded too.  What is written here depends on
nothing but its input: entries are sorted, times are 0 and everything belongs to root.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from ..errors import UsageError

MAGIC = b"070701"
TRAILER = "TRAILER!!!"
HEADER_LEN = 110


@dataclass(frozen=True, slots=True)
class Entry:
    """One member: `name` without a leading slash, `mode` as in stat(2), `data` (link: target)."""

    name: str
    mode: int
    data: bytes = b""

    @classmethod
    def file(cls, name: str, data: bytes, mode: int = 0o644) -> Entry:
        """Return a regular file."""
        return cls(normal(name), stat.S_IFREG | stat.S_IMODE(mode), data)

    @classmethod
    def directory(cls, name: str, mode: int = 0o755) -> Entry:
        """Return a directory."""
        return cls(normal(name), stat.S_IFDIR | stat.S_IMODE(mode))

    @classmethod
    def symlink(cls, name: str, target: str) -> Entry:
        """Return a symbolic link to `target`."""
        return cls(normal(name), stat.S_IFLNK | 0o777, target.encode())


def normal(name: str) -> str:
    """Return `name` relative to the root, or raise `UsageError` when it leaves it."""
    path = posixpath.normpath("/" + name.lstrip("/")).lstrip("/")
    if not path or "\0" in path or path == TRAILER:
        raise UsageError(f"{name!r} is no name for a file in an archive")
    return path


def emit(entries: Iterable[Entry]) -> bytes:
    """Return the archive of `entries`; of two with one name the later wins; parents are added."""
    table = {entry.name: entry for entry in entries}
    for name in list(table):
        for parent in _parents(name):
            if not stat.S_ISDIR(table.setdefault(parent, Entry.directory(parent)).mode):
                raise UsageError(f"{name!r} lies below {parent!r}, which is not a directory")
    body = (_member(i, table[name]) for i, name in enumerate(sorted(table), 1))
    return b"".join(chain(body, [_member(0, Entry(TRAILER, 0))]))


def _number(field: bytes) -> int:
    """Read a header field; digits alone, as `int` would take a sign and spaces as well."""
    if field.strip(b"0123456789abcdefABCDEF"):
        raise UsageError(f"{field!r} is no number in the header of an archive's member")
    return int(field, 16)


def parse(archive: bytes) -> Iterator[Entry]:
    """Yield the members of an uncompressed archive; raise `UsageError` on a malformed one."""
    at = 0
    while True:
        header = archive[at : at + HEADER_LEN]
        if len(header) < HEADER_LEN or header[:6] != MAGIC:
            raise UsageError(f"no newc header at byte {at} of the archive")
        mode, size, name_len = (_number(header[o : o + 8]) for o in (14, 54, 94))
        start = _align(at + HEADER_LEN + name_len)
        name = os.fsdecode(archive[at + HEADER_LEN : at + HEADER_LEN + name_len - 1])
        at = _align(start + size)
        if at > _align(len(archive)):
            raise UsageError(f"{name!r} runs past the end of the archive")
        if name == TRAILER:
            return
        yield Entry(name, mode, archive[start : start + size])


def _parents(name: str) -> Iterator[str]:
    while name := posixpath.dirname(name):
        yield name


def _align(n: int) -> int:
    return (n + 3) & ~3


def _member(ino: int, entry: Entry) -> bytes:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (ino, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, 0, 0, len(name), 0)
    head = MAGIC + b"".join(b"%08X" % field for field in fields) + name
    return head.ljust(_align(len(head)), b"\0") + entry.data.ljust(_align(len(entry.data)), b"\0")

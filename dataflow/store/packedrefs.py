"""The file `packed-refs` (gitformat-packed-refs), read once for each version of it."""

from __future__ import annotations

import os
from bisect import bisect_left

from .base import Oid

_ID_LEN = 40


class PackedRefs:
    """What is in the file now; not locked against threads that read it at the same moment."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._read: tuple[tuple[int, int, int], dict[str, Oid], list[str]] = ((0, 0, 0), {}, [])

    def _now(self) -> tuple[tuple[int, int, int], dict[str, Oid], list[str]]:
        try:
            info = os.stat(self._path)
        except FileNotFoundError:
            return (0, 0, 0), {}, []
        version = info.st_mtime_ns, info.st_ino, info.st_size
        if self._read[0] != version:
            with open(self._path, "rb") as f:
                info = os.fstat(f.fileno())
                refs = parse(f.read())
            self._read = (info.st_mtime_ns, info.st_ino, info.st_size), refs, sorted(refs)
        return self._read

    def get(self, name: str) -> Oid | None:
        """Return a reference's value."""
        return self._now()[1].get(name)

    def below(self, prefix: str) -> dict[str, Oid]:
        """Return all references whose names start with `prefix`, sorted."""
        _, refs, names = self._now()
        first, last = bisect_left(names, prefix), bisect_left(names, prefix + "\U0010ffff")
        return {name: refs[name] for name in names[first:last]}

    def any_below(self, prefix: str) -> bool:
        """Say whether some reference's name starts with `prefix`."""
        _, _, names = self._now()
        at = bisect_left(names, prefix)
        return at < len(names) and names[at].startswith(prefix)


def parse(data: bytes) -> dict[str, Oid]:
    """Return the references of the file; what tags are peeled to and comments are left out."""
    return {
        os.fsdecode(line[_ID_LEN + 1 :]): line[:_ID_LEN].decode("ascii", "replace")
        for line in data.split(b"\n")
        if line[_ID_LEN : _ID_LEN + 1] == b" " and line[:1] not in b"#^"
    }

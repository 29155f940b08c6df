"""Packs, written so that they are durable before anything that they replace goes (gitformat-pack).

A pack is written under a temporary name that `git gc` sweeps (`tmp_pack_*`), synced, and named:
first the pack, then its index, as git does, for a pack counts only with its index.  Objects are
deflated, or are deltas of a simple kind: what a tree has between the first and the last octet in
which it differs from another one.  That is enough for trees, of which a commit makes new versions
with one entry changed; blobs are left whole (`git gc` finds better deltas than we would).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import struct
import zlib
from collections.abc import Callable
from typing import BinaryIO

from dulwich.object_format import SHA1
from dulwich.pack import load_pack_index, write_pack_index_v2

from ..errors import ObjectCorruptError
from .base import Kind, Oid
from .syncing import fsync_path

_counter = itertools.count()
_HEADER = struct.Struct(">4sII")
_OFS_DELTA, _REF_DELTA = 6, 7
_SHA_LEN = 20
_PIECE = 1 << 20  # octets read at once
_COPY_MAX = 0xFFFF  # octets one copy instruction is asked for; all gits know that size

Step = Callable[[str], object]


class PackWriter:
    """A pack in the making: `add`, `add_delta` and `copy`, then `finish` or `abort`.

    `step` is called between the steps of `finish` with the name of the one that is done.
    """

    def __init__(self, directory: str, *, step: Step = lambda name: None) -> None:
        self._directory = directory
        self._step = step
        os.makedirs(directory, exist_ok=True)
        unique = f"{os.getpid():x}_{next(_counter):x}"
        self._path = f"{directory}/tmp_pack_{unique}"
        self._index = f"{directory}/tmp_idx_{unique}"
        self._file: BinaryIO = open(self._path, "xb+")  # noqa: SIM115
        self._offsets: dict[bytes, int] = {}
        self._crcs: list[int] = []
        self._at = self._file.write(_HEADER.pack(b"PACK", 2, 0))

    def __contains__(self, oid: bytes) -> bool:
        return oid in self._offsets

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def size(self) -> int:
        """Octets written so far."""
        return self._at

    def offset(self, oid: bytes) -> int:
        """Return where an object is."""
        return self._offsets[oid]

    def add(self, oid: bytes, kind: int, data: bytes, level: int = 1) -> None:
        """Write an object whole."""
        self._write(oid, entry_header(kind, len(data)) + zlib.compress(data, level))

    def add_delta(self, oid: bytes, base: bytes, delta: bytes) -> None:
        """Write an object as a delta of one that is in this pack already."""
        header = entry_header(_OFS_DELTA, len(delta)) + self._back_to(base)
        self._write(oid, header + zlib.compress(delta, 1))

    def _back_to(self, base: bytes) -> bytes:
        """Encode how far back the base of a delta that comes next is."""
        distance = self._at - self._offsets[base]
        out = [distance & 0x7F]
        while distance := distance >> 7:
            distance -= 1
            out.append(0x80 | distance & 0x7F)
        return bytes(out[::-1])

    def _write(self, oid: bytes, octets: bytes) -> None:
        self._offsets[oid] = self._at
        self._crcs.append(zlib.crc32(octets))
        self._at += self._file.write(octets)

    def copy(self, path: str, breathe: Callable[[], object] = lambda: None) -> None:
        """Take the objects of the pack `path` (without suffix) that are not here, as they are.

        Deltas stay deltas; each entry is checked against the index's CRC.
        """
        with (
            contextlib.closing(load_pack_index(path + ".idx", SHA1)) as index,
            open(path + ".pack", "rb") as f,
        ):
            entries = sorted((at, bytes(oid), crc) for oid, at, crc in index.iterentries())
            names = {at: oid for at, oid, _ in entries}
            ends = [at for at, _, _ in entries[1:]] + [os.fstat(f.fileno()).st_size - _SHA_LEN]
            for (at, oid, crc), end in zip(entries, ends, strict=True):
                breathe()
                if oid not in self._offsets:
                    raw = os.pread(f.fileno(), end - at, at)
                    if crc is not None and zlib.crc32(raw) != crc:
                        raise ObjectCorruptError(oid.hex(), f"CRC differs in {path}.pack")
                    self._write(oid, self._moved(raw, at, names))

    def _moved(self, raw: bytes, at: int, names: dict[int, bytes]) -> bytes:
        """Return an entry with its distance to its base put right."""
        end = next(i for i, octet in enumerate(raw) if octet < 0x80) + 1
        if raw[0] >> 4 & 7 != _OFS_DELTA:
            return raw
        distance, start = -1, end
        while True:
            distance = (distance + 1) << 7 | raw[end] & 0x7F
            end += 1
            if raw[end - 1] < 0x80:
                break
        return raw[:start] + self._back_to(names[at - distance]) + raw[end:]

    def finish(self) -> str:
        """Make pack and index durable under their names; return the path without suffix."""
        checksum = self._seal()
        self._step("pack synced")
        base = f"{self._directory}/pack-{checksum.hex()}"
        entries = zip(self._offsets.items(), self._crcs, strict=True)
        with open(self._index, "xb") as f:
            write_pack_index_v2(f, sorted((oid, at, crc) for (oid, at), crc in entries), checksum)
            os.fchmod(f.fileno(), 0o444)
            f.flush()
            os.fsync(f.fileno())
        self._step("index synced")
        os.rename(self._path, base + ".pack")
        self._step("pack named")
        os.rename(self._index, base + ".idx")
        self._step("index named")
        fsync_path(self._directory)
        self._step("durable")
        return base

    def _seal(self) -> bytes:
        """Write the count and the checksum, and sync."""
        f = self._file
        f.seek(0)
        f.write(_HEADER.pack(b"PACK", 2, len(self)))
        f.seek(0)
        digest = hashlib.sha1(usedforsecurity=False)
        while piece := f.read(_PIECE):
            digest.update(piece)
        f.write(digest.digest())
        os.fchmod(f.fileno(), 0o444)
        f.flush()
        os.fsync(f.fileno())
        f.close()
        return digest.digest()

    def abort(self) -> None:
        """Remove what was written under temporary names."""
        with contextlib.suppress(OSError):
            self._file.close()  # may have to write what the disk has no room for
        for path in (self._path, self._index):
            with contextlib.suppress(OSError):
                os.unlink(path)


def tree_delta(base: bytes, data: bytes) -> bytes | None:
    """Return a delta that makes `data` of `base`; None if it saves less than half."""
    limit = min(len(base), len(data))
    head = _common(limit, lambda n: base.startswith(data[:n]))
    tail = _common(limit - head, lambda n: not n or base.endswith(data[-n:]))
    middle = data[head : len(data) - tail]
    if 2 * len(middle) > len(data):
        return None
    return b"".join(
        (
            _size(len(base)),
            _size(len(data)),
            _copy(0, head),
            *(bytes([len(p)]) + p for p in _pieces(middle, 127)),
            _copy(len(base) - tail, tail),
        )
    )


def _common(limit: int, equal: Callable[[int], bool]) -> int:
    """Return the greatest length up to `limit` that is equal, by bisection."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if equal(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def _copy(at: int, size: int) -> bytes:
    """Encode instructions that copy from the base."""
    out = bytearray()
    while size:
        count = min(size, _COPY_MAX)
        fields = at.to_bytes(4, "little") + count.to_bytes(3, "little")
        out.append(0x80 | sum(1 << i for i, octet in enumerate(fields) if octet))
        out += bytes(octet for octet in fields if octet)
        at, size = at + count, size - count
    return bytes(out)


def _size(number: int) -> bytes:
    """Encode a length at the beginning of a delta."""
    out = bytearray()
    while number > 0x7F:
        out.append(0x80 | number & 0x7F)
        number >>= 7
    return bytes(out) + bytes([number])


def entry_header(kind: int, size: int) -> bytes:
    """Encode an entry's type and inflated length."""
    out = bytearray()
    octet, size = kind << 4 | size & 0x0F, size >> 4
    while size:
        out.append(0x80 | octet)
        octet, size = size & 0x7F, size >> 7
    out.append(octet)
    return bytes(out)


class Deltas:
    """Chooses what a tree is written as a delta of: one of the last few that were written."""

    def __init__(self, *, window: int = 12, depth: int = 20, octets: int = 32 << 20) -> None:
        self._window = window
        self._depth = depth
        self._octets = octets
        self._last: list[tuple[bytes, bytes, int]] = []  # id, content, length of its chain

    def add(self, writer: PackWriter, oid: Oid, kind: Kind, data: bytes) -> None:
        """Write an object, as a delta if it is a tree and that is short."""
        raw = bytes.fromhex(oid)
        best: tuple[bytes, bytes, int] | None = None
        if kind is Kind.TREE:
            best = self._best(data)
        if best is None:
            writer.add(raw, kind, data)
        else:
            writer.add_delta(raw, best[0], best[1])
        if kind is Kind.TREE and data:
            self._keep(raw, data, best[2] if best else 0)

    def _best(self, data: bytes) -> tuple[bytes, bytes, int] | None:
        for base, content, depth in self._last:
            if depth < self._depth and 2 * abs(len(content) - len(data)) < len(data):
                delta = tree_delta(content, data)
                if delta is not None:
                    return base, delta, depth + 1
        return None

    def _keep(self, raw: bytes, data: bytes, depth: int) -> None:
        self._last.insert(0, (raw, data, depth))
        while len(self._last) > 1 and (
            len(self._last) > self._window or sum(len(d) for _, d, _ in self._last) > self._octets
        ):
            self._last.pop()

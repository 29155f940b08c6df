"""Loose objects (gitrepository-layout: objects/??), written whole or not at all.

Theory of operation.  An object is written to a temporary name beside its own (`tmp_obj_*`, which
`git gc` sweeps when a crash left it) and renamed.  What makes it durable is the journal's record;
see there.  Objects too large for a record are synced here: each file before it is renamed, then
each directory touched, once.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..errors import ObjectCorruptError
from .base import Kind, Oid
from .syncing import fsync_path

_counter = itertools.count()
_KINDS = {b"commit": Kind.COMMIT, b"tree": Kind.TREE, b"blob": Kind.BLOB, b"tag": Kind.TAG}
_HEADER_MAX = 32
_STORED_FROM = 8 << 10  # octets of a tree that zlib would spend a millisecond on for little


def header(kind: Kind, size: int) -> bytes:
    """Return what Git hashes and stores before the content."""
    return b"%s %d\0" % (kind.name.lower().encode(), size)


def object_id(kind: Kind, data: bytes) -> Oid:
    """Return the SHA-1 of an object."""
    h = hashlib.sha1(header(kind, len(data)), usedforsecurity=False)
    h.update(data)
    return h.hexdigest()


def encode(kind: Kind, data: bytes, level: int = 1) -> bytes:
    """Return the octets of the loose file; large trees, mostly hashes, are only framed."""
    if kind is Kind.TREE and len(data) >= _STORED_FROM:
        level = 0
    return deflate(header(kind, len(data)) + data, level)


def deflate(data: bytes, level: int) -> bytes:
    """Compress, with small tables where they do: clearing large ones costs more than the rest."""
    small = len(data) < 1 << 12
    z = zlib.compressobj(level, zlib.DEFLATED, 12 if small else 15, 4 if small else 8)
    return z.compress(data) + z.flush()


def decode(oid: Oid, raw: bytes) -> tuple[Kind, bytes]:
    """Take the octets of a loose file apart; `ObjectCorruptError` if they do not fit."""
    try:
        whole = zlib.decompress(raw)
    except zlib.error as exc:
        raise ObjectCorruptError(oid, str(exc)) from exc
    end = whole.find(b"\0", 0, _HEADER_MAX)
    word, _, size = whole[: max(end, 0)].partition(b" ")
    if word not in _KINDS or size != b"%d" % (len(whole) - end - 1):
        raise ObjectCorruptError(oid, f"header {whole[:_HEADER_MAX]!r}, {len(whole)} octets")
    return _KINDS[word], whole[end + 1 :]


@dataclass(slots=True)
class Staged:
    """Objects written under temporary names: `publish` names them, `abort` removes them."""

    moves: list[tuple[str, str]] = field(default_factory=list)  # in the order of writing
    octets: list[tuple[Oid, bytes]] = field(default_factory=list)  # also of files that were there
    size: int = 0  # octets of all of these
    paths: list[str] = field(default_factory=list)  # where they all end

    def publish(self) -> None:
        """Give the files their names, what was put first first; readers see each one whole."""
        for source, target in self.moves:
            os.rename(source, target)
        self.moves.clear()

    def publish_durably(self) -> None:
        """Sync each file, name it, and sync the directories."""
        temporary = {target: source for source, target in self.moves}
        for path in self.paths:
            with contextlib.suppress(FileNotFoundError):  # it was there and was packed meanwhile
                fsync_path(temporary.get(path, path))
        self.publish()
        directories = {os.path.dirname(path) for path in self.paths}
        for directory in directories | {os.path.dirname(d) for d in directories}:
            with contextlib.suppress(FileNotFoundError):  # packed already, by another git
                fsync_path(directory)

    def abort(self) -> None:
        """Remove what was not published."""
        for source, _ in self.moves:
            with contextlib.suppress(OSError):
                os.unlink(source)
        self.moves.clear()


class LooseWriter:
    """Writes many objects below one `objects` directory."""

    def __init__(self, root: str) -> None:
        self.root = root

    def path(self, oid: Oid) -> str:
        """Return the file of an object."""
        return f"{self.root}/{oid[:2]}/{oid[2:]}"

    def stage(self, objects: Iterable[tuple[Oid, Kind, bytes]]) -> Staged:
        """Write all objects under temporary names; on `OSError` none of them stays.

        A file that is there is made young again for `git gc`; it is part of `octets` too, since
        nobody knows whether it is durable.
        """
        staged = Staged()
        try:
            for oid, kind, data in objects:
                path = self.path(oid)
                octets = encode(kind, data)
                staged.octets.append((oid, octets))
                staged.size += len(octets)
                staged.paths.append(path)
                if not _refresh(path):
                    staged.moves.append((self._temporary(path, octets), path))
        except BaseException:
            staged.abort()
            raise
        return staged

    def replace(self, oid: Oid, octets: bytes) -> None:
        """Write an object's file whatever is there, without a sync."""
        path = self.path(oid)
        os.rename(self._temporary(path, octets), path)

    def _temporary(self, path: str, octets: bytes) -> str:
        directory = os.path.dirname(path)
        name = f"{directory}/tmp_obj_{os.getpid():x}_{next(_counter):x}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = -1
        while fd < 0:
            try:
                fd = os.open(name, flags, 0o444)
            except FileNotFoundError:  # it is not there, or `git gc` just removed it, being empty
                with contextlib.suppress(FileExistsError):
                    os.mkdir(directory)
        try:
            write_all(fd, octets)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        finally:
            os.close(fd)
        return name


def _refresh(path: str) -> bool:
    """Make a file that is there young again for `git gc`; say whether it is there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except PermissionError:
        pass
    return True


def write_all(fd: int, octets: bytes) -> None:
    """Write all of `octets`, however many calls that takes."""
    view = memoryview(octets)
    while view:
        view = view[os.write(fd, view) :]

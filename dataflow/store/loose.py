"""Loose objects, written so that they survive a power cut (gitrepository-layout: objects/??).

Theory of operation.  An object is written to a temporary name beside its own, made durable with
`fsync`, and renamed; the directory entry is durable only after an `fsync` of the directory.  All
objects of a flush share these: first every file is written and synced, then every file is renamed,
then each directory touched is synced once.  Nothing names the objects before that, so a crash at
any point leaves at most files nobody needs, with the name `git gc` sweeps (`tmp_obj_*`).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import zlib
from collections.abc import Iterable

from ..errors import ObjectCorruptError
from .base import Kind, Oid

_counter = itertools.count()
_KINDS = {b"commit": Kind.COMMIT, b"tree": Kind.TREE, b"blob": Kind.BLOB, b"tag": Kind.TAG}
_HEADER_MAX = 32


def header(kind: Kind, size: int) -> bytes:
    """Return what Git hashes and stores before the content."""
    return b"%s %d\0" % (kind.name.lower().encode(), size)


def object_id(kind: Kind, data: bytes) -> Oid:
    """Return the SHA-1 of an object."""
    h = hashlib.sha1(header(kind, len(data)), usedforsecurity=False)
    h.update(data)
    return h.hexdigest()


def encode(kind: Kind, data: bytes, level: int = 1) -> bytes:
    """Return the octets of the loose file."""
    z = zlib.compressobj(level)
    return z.compress(header(kind, len(data))) + z.compress(data) + z.flush()


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


def fsync_directory(path: str) -> None:
    """Make the entries of a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class LooseWriter:
    """Writes many objects below one `objects` directory with as few syncs as safety allows."""

    def __init__(self, root: str, *, fsync: bool = True) -> None:
        self.root = root
        self.fsync = fsync

    def path(self, oid: Oid) -> str:
        """Return the file of an object."""
        return f"{self.root}/{oid[:2]}/{oid[2:]}"

    def write(self, objects: Iterable[tuple[Oid, Kind, bytes]]) -> None:
        """Write all objects durably; on `OSError` none of the temporary files stays."""
        moves: list[tuple[str, str]] = []
        directories: set[str] = set()
        try:
            for oid, kind, data in objects:
                path = self.path(oid)
                directories.add(os.path.dirname(path))
                if not self._refresh(path):
                    moves.append((self._temporary(path, encode(kind, data)), path))
            for source, target in moves:
                os.rename(source, target)
        except BaseException:
            for source, _ in moves:
                with contextlib.suppress(OSError):
                    os.unlink(source)
            raise
        if self.fsync:
            for directory in directories:
                with contextlib.suppress(FileNotFoundError):  # packed already, by another git
                    fsync_directory(directory)

    def _temporary(self, path: str, octets: bytes) -> str:
        directory = os.path.dirname(path)
        name = f"{directory}/tmp_obj_{os.getpid():x}_{next(_counter):x}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = -1
        while fd < 0:
            try:
                fd = os.open(name, flags, 0o444)
            except FileNotFoundError:  # it is not there, or `git gc` just removed it, being empty
                self._mkdir(directory)
        try:
            _write_all(fd, octets)
            if self.fsync:
                os.fsync(fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        finally:
            os.close(fd)
        return name

    def _mkdir(self, directory: str) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory)
        if self.fsync:
            fsync_directory(self.root)

    def _refresh(self, path: str) -> bool:
        """Take an object that is there: young again for `git gc`, and durable for us."""
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        except PermissionError:
            pass
        if self.fsync:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        return True


def _write_all(fd: int, octets: bytes) -> None:
    view = memoryview(octets)
    while view:
        view = view[os.write(fd, view) :]

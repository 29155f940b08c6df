"""A bare repository on disk that plain git may use at the same time, both ways.

dulwich reads packs and references and takes Git's own lock files; loose objects are written by
`loose`, because dulwich does not sync them and their directories.

Compare-and-set: Git's lock `<ref>.lock` is held while the value is compared and written, by us and
by every git.  dulwich raises at once when the lock is taken; here it is asked for again until
`lock_timeout` seconds passed, and then the error tells the age of the lock.  Locks of several
references are taken in the order of their names, so two writers cannot wait for each other.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from dulwich.errors import NotGitRepository
from dulwich.file import FileLocked, GitFile, _GitFile
from dulwich.objects import ObjectID
from dulwich.refs import Ref
from dulwich.repo import Repo

from ..errors import (
    ExistsError,
    ObjectMissingError,
    PeerError,
    RefChangedError,
    RefLockedError,
)
from .base import HEADS, Kind, Oid, RefUpdate
from .format import check_format, read_shallow
from .loose import LooseWriter, decode, fsync_directory, object_id

T = TypeVar("T")

PENDING_MAX = 16 << 20  # octets kept in memory before they are written out
_RETRY = 0.01


class DiskStore:
    """Objects and references of the Git repository at `path`; made, bare, if there is none."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fsync: bool = True,
        lock_timeout: float = 5.0,
        create: bool = True,
    ) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self.fsync = fsync
        self.lock_timeout = lock_timeout
        self._repo = _open(self.path, create)
        self.shallow = read_shallow(self._repo)
        self.git_dir = self._repo.controldir()
        self._writer = LooseWriter(os.path.join(self._repo.commondir(), "objects"), fsync=fsync)
        self._pending: dict[Oid, tuple[Kind, bytes]] = {}
        self._pending_len = 0
        self._lock = threading.Lock()  # dulwich's pack and packed-refs caches

    def get(self, oid: Oid) -> tuple[Kind, bytes]:
        """Return an object's kind and content, from memory, a loose file or a pack."""
        pending = self._pending.get(oid)
        if pending is not None:
            return pending
        try:
            with open(self._writer.path(oid), "rb") as f:
                return decode(oid, f.read())
        except FileNotFoundError:
            return self._get_packed(oid)

    def _get_packed(self, oid: Oid) -> tuple[Kind, bytes]:
        with self._lock:
            try:
                number, data = self._repo.object_store.get_raw(ObjectID(oid.encode()))
            except (KeyError, ValueError):
                raise ObjectMissingError(oid) from None
        return Kind(number), data

    def has(self, oid: Oid) -> bool:
        """Say whether the object is there."""
        if oid in self._pending or os.path.exists(self._writer.path(oid)):
            return True
        with self._lock:
            return ObjectID(oid.encode()) in self._repo.object_store

    def put(self, kind: Kind, data: bytes) -> Oid:
        """Keep an object and return its id; durable only after `flush`."""
        oid = object_id(kind, data)
        if oid not in self._pending:
            self._pending[oid] = (kind, data)
            self._pending_len += len(data)
            if self._pending_len > PENDING_MAX:
                self.flush()
        return oid

    def flush(self) -> None:
        """Write and sync everything put so far; on an error forget it (the caller puts again)."""
        pending, length = self._pending, self._pending_len
        try:
            self._writer.write((oid, kind, data) for oid, (kind, data) in pending.items())
        finally:
            self._pending, self._pending_len = {}, self._pending_len - length

    def ref(self, name: str) -> Oid | None:
        """Return what the reference points at, as it is on disk now."""
        ref = Ref(name.encode())
        loose = self._repo.refs.read_loose_ref(ref)
        if loose is not None and len(loose) == 40:
            return loose.decode()
        with self._lock:
            try:
                return self._repo.refs[ref].decode()
            except KeyError:
                return None

    def refs(self, prefix: str = HEADS) -> dict[str, Oid]:
        """Return all references below `prefix`, sorted."""
        base = Ref(prefix.encode())
        with self._lock:
            names = sorted(self._repo.refs.subkeys(base))
        found = (
            (prefix + os.fsdecode(name), self.ref(prefix + os.fsdecode(name)))
            for name in names
            if not name.endswith(b".lock")
        )
        return {name: oid for name, oid in found if oid is not None}

    def stat(self, names: Iterable[str]) -> dict[str, Oid | None]:
        """Return the present value of each name: two small reads each, no history."""
        return {name: self.ref(name) for name in names}

    def update(self, updates: Sequence[RefUpdate]) -> None:
        """Move references under their lock files, all of them or none."""
        with contextlib.ExitStack() as locks:
            held = [(u, self._locked(u.name, locks)) for u in sorted(updates, key=lambda u: u.name)]
            for u, _ in held:
                found = self.ref(u.name)
                if found != u.old:
                    raise RefChangedError(u.name, u.old, found)
            for u, f in held:
                if u.new is not None:
                    f.write(u.new.encode() + b"\n")
                    f.close()  # syncs the file (if asked to) and renames it
                else:
                    self._remove(u.name, f)
            if self.fsync:
                for directory in {os.path.dirname(self._ref_path(u.name)) for u in updates}:
                    self._sync_upward(directory)

    def _ref_path(self, name: str) -> str:
        return os.path.join(self._repo.commondir(), name)

    def _locked(self, name: str, locks: contextlib.ExitStack) -> _GitFile:
        path = self._ref_path(name)
        self._check_parents(name)
        f = self._patiently(path, lambda: self._lock_file(path, name))
        locks.callback(f.abort)  # does nothing once closed
        if os.path.isdir(path):
            self._drop_empty(path, name)
        return f

    def _lock_file(self, path: str, name: str) -> _GitFile:
        while True:
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                return GitFile(path, "wb", fsync=self.fsync)
            except FileNotFoundError:
                continue  # somebody removed the empty directory in between
            except (NotADirectoryError, FileExistsError):
                raise ExistsError(f"a branch above {name}") from None

    def _patiently(self, path: str, act: Callable[[], T]) -> T:
        """Do what needs the lock of `path`, again and again while somebody else holds it."""
        started = time.monotonic()
        while True:
            try:
                return act()
            except FileLocked:
                waited = time.monotonic() - started
                if waited >= self.lock_timeout:
                    raise RefLockedError(path + ".lock", _age(path + ".lock"), waited) from None
                time.sleep(_RETRY)

    def _check_parents(self, name: str) -> None:
        """Refuse `a/b` beside `a`, packed or loose (git-check-ref-format: refs are files)."""
        with self._lock:
            packed = self._repo.refs.get_packed_refs()
        parts = name.split("/")
        for i in range(3, len(parts)):
            if Ref("/".join(parts[:i]).encode()) in packed:
                raise ExistsError(f"branch {'/'.join(parts[2:i])}, above {'/'.join(parts[2:])}")
        below = name.encode() + b"/"
        if any(other.startswith(below) for other in packed):
            raise ExistsError(f"branches below {name}")

    def _drop_empty(self, path: str, name: str) -> None:
        for root, _, _ in os.walk(path, topdown=False):
            try:
                os.rmdir(root)
            except OSError:
                raise ExistsError(f"branches below {name}") from None

    def _remove(self, name: str, lock: _GitFile) -> None:
        # From the packed file first: else the old packed value would shine through.
        packed = os.path.join(self._repo.commondir(), "packed-refs")
        self._patiently(packed, lambda: self._unpack(Ref(name.encode())))
        path = self._ref_path(name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        lock.abort()
        heads = os.path.join(self.git_dir, "refs", "heads")
        parent = os.path.dirname(path)
        with contextlib.suppress(OSError):
            while parent.startswith(heads + os.sep):
                os.rmdir(parent)
                parent = os.path.dirname(parent)

    def _unpack(self, ref: Ref) -> None:
        with self._lock:
            if ref in self._repo.refs.get_packed_refs():
                self._repo.refs.add_packed_refs({ref: None})

    def _sync_upward(self, directory: str) -> None:
        stop = os.path.join(self.git_dir, "refs")
        while directory.startswith(stop):
            with contextlib.suppress(FileNotFoundError):
                fsync_directory(directory)
            if directory.endswith(os.path.join("refs", "heads")):
                break
            directory = os.path.dirname(directory)

    def close(self) -> None:
        """Close packs; what was put and not flushed is lost."""
        self._pending.clear()
        self._repo.close()


def _open(path: str, create: bool) -> Repo:
    try:
        return check_format(Repo(path))
    except NotGitRepository:
        if not create or (os.path.isdir(path) and os.listdir(path)):
            raise PeerError(f"{path}: expected a Git repository or an empty directory") from None
    return Repo.init_bare(path, mkdir=not os.path.isdir(path), default_branch=b"main")


def _age(path: str) -> float:
    try:
        return max(0.0, time.time() - os.stat(path).st_mtime)
    except OSError:
        return 0.0

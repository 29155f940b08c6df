"""References of a repository on disk, moved under Git's own locks.

Compare-and-set: Git's lock `<ref>.lock` is held while the value is compared and written, by us and
by every git.  A lock that is taken is asked for again until `lock_timeout` seconds passed, and then
the error tells its age; the same lock is not waited for a second time.  Locks of several references
are taken in the order of their names, so two writers cannot wait for each other.

Our locks say whose they are, see `locks`.  Nothing is synced here; see `journal`.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from dulwich.file import FileLocked
from dulwich.refs import Ref
from dulwich.repo import Repo

from ..errors import ExistsError, RefChangedError, RefLockedError
from .base import HEADS, Oid, RefUpdate
from .locks import Mark, age, identity, lock_owner
from .packedrefs import PackedRefs
from .syncing import replace_file

T = TypeVar("T")

_RETRY = 0.01
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_counter = itertools.count()
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # fcntl.h, linux/fs.h
_libc = ctypes.CDLL(None) if hasattr(ctypes.CDLL(None), "renameat2") else None
_VALUE_LEN = 41  # 40 digits and a line feed
_OID = re.compile(rb"[0-9a-f]{40}\s*")


class RefFiles:
    """The references below one Git directory."""

    def __init__(self, repo: Repo, lock_timeout: float) -> None:
        self.lock_timeout = lock_timeout
        self.on_busy: Callable[[str], object] = lambda path: None
        self._repo = repo
        self._root = repo.commondir()
        self._scratch = os.path.join(self._root, "dataflow")
        self.mark = Mark(self._scratch)
        self._packed = PackedRefs(os.path.join(self._root, "packed-refs"))
        self._lock = threading.Lock()  # what `_packed` and dulwich remember
        self._stuck: dict[str, tuple[int, int]] = {}  # locks waited for in vain: inode, time

    # Reading.

    def path(self, name: str) -> str:
        """Return the file of a reference."""
        return os.path.join(self._root, name)

    def read(self, name: str) -> Oid | None:
        """Return what the reference points at, as it is on disk now."""
        if ".." in name:
            return None
        try:
            fd = os.open(f"{self._root}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                value = os.read(fd, _VALUE_LEN)
            finally:
                os.close(fd)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            value = b""
        if value and not value.startswith(b"ref:"):
            return _valid(value)
        with self._lock:
            if not value:
                return _valid((self._packed.get(name) or "").encode())
            try:
                return _valid(self._repo.refs[Ref(name.encode())])
            except KeyError:
                return None

    def all(self, prefix: str = HEADS) -> dict[str, Oid]:
        """Return all references below `prefix`, sorted."""
        loose = {name: self.read(name) for name in self._loose(prefix)}
        with self._lock:
            found = {**self._packed.below(prefix), **loose}
        return {name: oid for name, oid in sorted(found.items()) if oid is not None}

    def _loose(self, prefix: str) -> Iterator[str]:
        """Yield the names of all references with a file of their own."""
        for directory, _, names in os.walk(self.path(prefix.rpartition("/")[0])):
            above = os.path.relpath(directory, self._root)
            for name in names:
                full = f"{above}/{name}"
                if full.startswith(prefix) and not name.endswith(".lock"):
                    yield full

    def written(self, name: str) -> int:
        """Return when the reference's file was written, in nanoseconds; 0 if there is none."""
        for path in (self.path(name), os.path.join(self._root, "packed-refs")):
            with contextlib.suppress(OSError):
                return os.stat(path).st_mtime_ns
        return 0

    # Moving.

    @contextlib.contextmanager
    def locked(self, updates: Sequence[RefUpdate]) -> Iterator[Callable[[], None]]:
        """Hold the locks of all updates, compared; the function it gives moves all of them."""
        _check_clashes({u.name for u in updates if u.new is not None})
        held: list[tuple[RefUpdate, str]] = []  # with the file that becomes the reference
        try:
            for u in sorted(updates, key=lambda u: u.name):
                self._take(u.name, new=u.old is None)
                held.append((u, ""))
                found = self.read(u.name)
                if found != u.old:
                    raise RefChangedError(u.name, u.old, found)
                held[-1] = (u, self._prepare(u))
            yield lambda: self._publish(held)
        finally:
            for u, temporary in held:
                for path in (self.path(u.name) + ".lock", temporary):
                    with contextlib.suppress(OSError):
                        os.unlink(path)

    def _prepare(self, u: RefUpdate) -> str:
        """Do all that may fail, before the update counts."""
        if u.new is None:
            if u.old is not None:
                self._unpack(u.name, u.old)
            return ""
        temporary = f"{self._scratch}/tmp-ref-{os.getpid()}-{next(_counter)}"
        try:
            fd = os.open(temporary, _NEW, 0o666)
        except FileNotFoundError:
            os.mkdir(self._scratch)
            fd = os.open(temporary, _NEW, 0o666)
        try:
            os.write(fd, u.new.encode() + b"\n")
        except OSError:
            os.unlink(temporary)
            raise
        finally:
            os.close(fd)
        return temporary

    def _publish(self, held: list[tuple[RefUpdate, str]]) -> None:
        for u, temporary in sorted(held, key=lambda h: h[0].new is not None):
            if u.new is None:
                self._remove(u.name)
            else:
                rename_over(temporary, self.path(u.name))
                os.unlink(self.path(u.name) + ".lock")
            held.remove((u, temporary))

    def _take(self, name: str, *, new: bool = True) -> None:
        path = self.path(name)
        if new:
            self._check_parents(name)
        self._patiently(path + ".lock", lambda: self._lock_file(path, name))
        try:
            if os.path.isdir(path):
                self._drop_empty(path, name)
        except BaseException:
            os.unlink(path + ".lock")
            raise

    def _lock_file(self, path: str, name: str) -> None:
        while True:
            try:
                return self.mark.lock(path + ".lock")
            except FileNotFoundError:
                pass  # the directory is missing, or somebody just removed it, being empty
            except FileExistsError:
                raise FileLocked(path, path + ".lock") from None
            except NotADirectoryError:
                raise ExistsError(f"a branch above {name}") from None
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
            except (NotADirectoryError, FileExistsError):
                raise ExistsError(f"a branch above {name}") from None

    def _patiently(self, lock: str, act: Callable[[], T]) -> T:
        """Do what needs `lock`, again and again while somebody else holds it."""
        started = time.monotonic()
        asked = False
        while True:
            try:
                return act()
            except FileLocked:
                waited = time.monotonic() - started
                if waited >= self.lock_timeout or self._was_stuck(lock):
                    self._stuck[lock] = identity(lock)
                    raise RefLockedError(lock, age(lock), waited) from None
                if asked:
                    time.sleep(_RETRY)
                else:
                    self.on_busy(lock)
                asked = True

    def _was_stuck(self, lock: str) -> bool:
        known = self._stuck.get(lock)
        if known is not None and known != identity(lock):
            del self._stuck[lock]
            return False
        return known is not None

    def _check_parents(self, name: str) -> None:
        """Refuse `a/b` beside `a`, packed or loose (git-check-ref-format: refs are files)."""
        with self._lock:
            if self._packed.get(name) is not None:
                return
            parts = name.split("/")
            for i in range(3, len(parts)):
                if self._packed.get("/".join(parts[:i])) is not None:
                    raise ExistsError(f"branch {'/'.join(parts[2:i])}, above {'/'.join(parts[2:])}")
            if self._packed.any_below(name + "/"):
                raise ExistsError(f"branches below {name}")

    def _drop_empty(self, path: str, name: str) -> None:
        for root, _, _ in os.walk(path, topdown=False):
            try:
                os.rmdir(root)
            except OSError:
                raise ExistsError(f"branches below {name}") from None

    def _remove(self, name: str) -> None:
        path = self.path(name)
        for gone in (path, path + ".lock"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(gone)
        heads = self.path("refs/heads")
        parent = os.path.dirname(path)
        with contextlib.suppress(OSError):
            while parent.startswith(heads + os.sep):
                os.rmdir(parent)
                parent = os.path.dirname(parent)

    def _unpack(self, name: str, value: Oid) -> None:
        """Take a reference that is to be removed out of packed-refs: later nothing can fail.

        Its loose file is made first, so that it has its value until the group is durable.
        """
        with self._lock:
            if self._packed.get(name) is None:
                return
        replace_file(self.path(name), value.encode() + b"\n")
        packed = os.path.join(self._root, "packed-refs")
        self._patiently(packed + ".lock", lambda: self._lock_file(packed, name))
        try:
            with open(packed, "rb") as f:
                lines = f.readlines()
            replace_file(packed, b"".join(_without(lines, name.encode())))
        finally:
            os.unlink(packed + ".lock")

    def drop_dead_locks(self, owners: set[str]) -> None:
        """Remove the locks of these journals, whose owners are dead."""
        for directory, _, names in os.walk(self.path("refs")):
            for name in names:
                path = os.path.join(directory, name)
                if name.endswith(".lock") and lock_owner(path) in owners:
                    os.unlink(path)
        packed = os.path.join(self._root, "packed-refs.lock")
        if lock_owner(packed) in owners:
            os.unlink(packed)


def _check_clashes(names: set[str]) -> None:
    """Refuse to make `a` and `a/b` together: references are files."""
    for name in names:
        parts = name.split("/")
        for i in range(3, len(parts)):
            if "/".join(parts[:i]) in names:
                raise ExistsError(f"branch {'/'.join(parts[2:i])}, above {'/'.join(parts[2:])}")


def rename_over(source: str, target: str) -> None:
    """Rename, without the flush that ext4 makes when a file is replaced (ext4(5), auto_da_alloc).

    What it guards against, an empty file after a power cut, the journal repairs.
    """
    exchange = (_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE)
    if _libc and os.path.isfile(target) and _libc.renameat2(*exchange) == 0:
        os.unlink(source)  # what was there before
    else:  # nothing to replace, or a file system that cannot exchange
        os.rename(source, target)


def _without(lines: Sequence[bytes], name: bytes) -> Iterator[bytes]:
    """Yield the lines of packed-refs but those of one reference, with what it is peeled to."""
    dropping = False
    for line in lines:
        if not (dropping and line.startswith(b"^")):
            dropping = line.rstrip(b"\n").partition(b" ")[2] == name
            if not dropping:
                yield line


def _valid(value: bytes) -> Oid | None:
    """Return the id in a reference's file; None if it was cut short by a power cut."""
    return value[:40].decode() if _OID.fullmatch(value) else None

"""Read-only trees: a branch's present state, a snapshot, one side of a merge, an object by id."""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence

from ..errors import InvalidHashError, NotFoundError
from ..p9.errors import P9Error
from ..p9.nodes import BytesHandle
from ..p9.tree import (
    Attr,
    Context,
    Directory,
    Entry,
    File,
    Handle,
    Node,
    Symlink,
    path_id,
    wants_write,
)
from ..store import objects as git
from ..store.base import Oid
from ..tree.paths import ROOT, Path, check_name, text
from ..tree.tree import find
from .base import Hub, answers

Source = Callable[[], tuple[Oid, int]]
"""() -> (id of the root tree, its time in seconds); blocking, run in a reading thread."""

READ_ONLY = 30  # EROFS


class TreeDir(Directory):
    """A directory of a tree; where the source is live, so is the directory."""

    mode = 0o555

    def __init__(self, hub: Hub, key: str, source: Source, path: Path = ROOT) -> None:
        self._hub = hub
        self._key = key
        self._source = source
        self._path = path

    @property
    def qid_path(self) -> int:
        """The same number for the same place."""
        return path_id("ro", self._key, *self._path)

    def _here(self) -> tuple[git.Entries, int]:
        objects = self._hub.repo.engine.objects
        root, when = self._source()
        entry = find(objects, root, self._path)
        if entry is None or not entry.is_dir:
            raise NotFoundError(text(self._path))
        self.version = version_of(entry.oid)
        return objects.tree(entry.oid), when

    @answers
    async def attr(self, ctx: Context) -> Attr:
        """Return the attributes; the time is the commit's."""
        _, when = await self._hub.repo.worker.read(self._here)
        ns = when * 10**9
        return Attr(mode=self.kind | self.mode, nlink=2, mtime_ns=ns, ctime_ns=ns, atime_ns=ns)

    @answers
    async def lookup(self, name: str, ctx: Context) -> Node:
        """Return what the tree has by that name now."""
        octets = check_name(name.encode("utf-8", "surrogateescape"))

        def job() -> Node:
            entries, when = self._here()
            if octets not in entries:
                raise NotFoundError(name)
            return self._node(octets, entries[octets], when)

        return await self._hub.repo.worker.read(job)

    def _node(self, name: bytes, entry: git.Entry, when: int) -> Node:
        if entry.is_dir:
            below = TreeDir(self._hub, self._key, self._source, (*self._path, name))
            below.version = version_of(entry.oid)
            return below
        key: tuple[str | bytes, ...] = (self._key, *self._path, name)
        if entry.mode == git.SUBMODULE:
            return Directory()
        return file_node(self._hub, key, entry, when)

    @answers
    async def entries(self, ctx: Context) -> Sequence[Entry]:
        """Return the names."""

        def job() -> list[Entry]:
            found, when = self._here()
            return [
                Entry(text((name,)), self._node(name, entry, when).qid)
                for name, entry in sorted(found.items())
            ]

        return await self._hub.repo.worker.read(job)


class BlobFile(File):
    """A file of a tree."""

    def __init__(self, hub: Hub, key: tuple[str | bytes, ...], entry: git.Entry, when: int) -> None:
        self._hub = hub
        self._entry = entry
        self._qid_path = path_id("ro", *key)
        self._when = when
        self.version = version_of(entry.oid)
        self.mode = 0o555 if entry.mode == git.EXECUTABLE else 0o444

    @answers
    async def attr(self, ctx: Context) -> Attr:
        """Return size and mode."""
        repo = self._hub.repo
        size = await repo.worker.read(repo.engine.objects.size, self._entry.oid)
        ns = self._when * 10**9
        mode = self.kind | self.mode
        return Attr(mode=mode, size=size, mtime_ns=ns, ctime_ns=ns, atime_ns=ns)

    @answers
    async def open(self, flags: int, ctx: Context) -> Handle:
        """Open for reading what the file held when it was looked up."""
        if wants_write(flags):
            raise P9Error(READ_ONLY, "Read-only file")
        repo = self._hub.repo
        return BytesHandle(await repo.worker.read(repo.engine.objects.blob, self._entry.oid))


class BlobLink(Symlink):
    """A symbolic link of a tree."""

    def __init__(self, key: tuple[str | bytes, ...], entry: git.Entry, target: bytes) -> None:
        super().__init__(target.decode("utf-8", "surrogateescape"))
        self._qid_path = path_id("ro", *key)
        self.version = version_of(entry.oid)


def version_of(oid: Oid) -> int:
    """Return the version that a qid has for content of this id."""
    return int(oid[:8], 16)


def file_node(hub: Hub, key: tuple[str | bytes, ...], entry: git.Entry, when: int) -> Node:
    """Return the node of a file or a link; blocking."""
    if entry.mode == git.SYMLINK:
        return BlobLink(key, entry, hub.repo.engine.objects.blob(entry.oid))
    return BlobFile(hub, key, entry, when)


def head_source(hub: Hub, branch: str) -> Source:
    """Return the source of a branch's present tree."""

    def source() -> tuple[Oid, int]:
        engine = hub.repo.engine
        head = engine.head(branch)
        if head is None:
            return git.EMPTY_TREE, 0
        commit = engine.objects.commit(head)
        return commit.tree, commit.commit_time

    return source


def fixed_source(tree: Oid, when: int = 0) -> Source:
    """Return the source of a tree that does not change."""
    return lambda: (tree, when)


def commit_or_missing(hub: Hub, name: str) -> git.Commit:
    """Return a commit; `NotFoundError` for what is none, as a walk wants it.  Blocking."""
    try:
        return hub.repo.engine.objects.commit(hub.repo.engine.check_commit(name))
    except InvalidHashError as err:
        raise NotFoundError(str(err)) from err


def dir_mode(mode: int) -> int:
    """Return stat(2)'s mode for one of Git's."""
    if mode in {git.DIRECTORY, git.SUBMODULE}:
        return stat.S_IFDIR | 0o755
    if mode == git.SYMLINK:
        return stat.S_IFLNK | 0o777
    return stat.S_IFREG | (0o755 if mode == git.EXECUTABLE else 0o644)

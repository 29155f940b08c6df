"""The writable tree of a transaction."""

from __future__ import annotations

import errno
import stat
import weakref
from collections.abc import Sequence

from ..errors import IsDirectoryError, NotDirectoryError, TransactionClosedError
from ..p9.const import OpenFlag, QidType
from ..p9.errors import P9Error
from ..p9.tree import (
    Attr,
    Buffer,
    Context,
    Directory,
    Entry,
    File,
    Handle,
    Node,
    Qid,
    SetAttr,
    Symlink,
    path_id,
    wants_write,
)
from ..store import objects as git
from ..tree.paths import ROOT, Path, text
from .base import answers
from .lease import Lease, Leases
from .ro import dir_mode

_REGULAR = {git.FILE, git.EXECUTABLE}


class Place:
    """A path in a transaction's tree that follows renames; shared by a node and its handles."""

    __slots__ = ("__weakref__", "path")

    def __init__(self, path: Path) -> None:
        self.path = path


class RwTree:
    """One transaction's tree as nodes; knows the places in use, to move them with a rename."""

    def __init__(self, leases: Leases, lease: Lease) -> None:
        self._leases = leases
        self.lease = lease
        self.transaction = lease.transaction
        self._places: weakref.WeakSet[Place] = weakref.WeakSet()
        self._id = lease.number

    async def save(self) -> None:
        """Make the transaction durable as it is now."""
        await self._leases.save(self.lease)

    def place(self, path: Path) -> Place:
        """Return a place that follows renames."""
        place = Place(path)
        self._places.add(place)
        return place

    def node(self, path: Path) -> Node:
        """Return the node at `path`; `NotFoundError`."""
        mode = self.transaction.mode(b"/".join(path))
        if mode in {git.DIRECTORY, git.SUBMODULE}:
            return RwDir(self, path)
        return RwLink(self, path) if mode == git.SYMLINK else RwFile(self, path)

    def attr(self, place: Place) -> Attr:
        """Return the attributes of what is at a place."""
        found = self.transaction.stat(b"/".join(place.path))
        ns = self.lease.times.get(place.path, self.lease.opened_ns)
        mode = dir_mode(found.mode)
        nlink = 2 if stat.S_ISDIR(mode) else 1
        return Attr(mode, found.size, nlink, mtime_ns=ns, ctime_ns=ns, atime_ns=ns)

    def touch(self, path: Path, ns: int | None = None) -> None:
        """Note that something changed at `path`, now or at a given time."""
        self.lease.used()
        self.lease.times[path] = self.lease.now_ns() if ns is None else ns

    def qid(self, path: Path) -> int:
        """Return the number of a path in this transaction."""
        return path_id("rw", self._id, *path)

    def entry_qid(self, path: Path, mode: int) -> Qid:
        """Return the qid that the node at `path` has."""
        kind = QidType.DIR if stat.S_ISDIR(dir_mode(mode)) else QidType.FILE
        kind = QidType.SYMLINK if mode == git.SYMLINK else kind
        return Qid(kind, self.lease.times.get(path, 0) & 0xFFFFFFFF, self.qid(path))

    def rename(self, old: Path, new: Path) -> None:
        """Move what is at `old`, and every place in it."""
        self.transaction.rename(b"/".join(old), b"/".join(new))
        for place in list(self._places):
            if place.path[: len(old)] == old:
                place.path = new + place.path[len(old) :]
        for path in [p for p in self.lease.times if p[: len(old)] == old]:
            self.lease.times[new + path[len(old) :]] = self.lease.times.pop(path)

    def setattr(self, place: Place, change: SetAttr) -> None:
        """Change size, the executable bit and times; owners are quietly left: Git has none."""
        octets = b"/".join(place.path)
        if change.size is not None:
            self.transaction.truncate(octets, change.size)
            self.touch(place.path)
        if change.mode is not None and self.transaction.mode(octets) in _REGULAR:
            self.transaction.chmod(octets, executable=bool(change.mode & 0o100))
        if change.mtime_ns is not None:
            self.touch(place.path, None if change.mtime_ns < 0 else change.mtime_ns)


class _Versioned(Node):
    """A node whose qid has another version after each change."""

    _tree: RwTree
    _place: Place

    @property
    def qid(self) -> Qid:
        """The node's identity; its number is that of the path it was looked up by."""
        changed = self._tree.lease.times.get(self._place.path, 0)
        return super().qid._replace(version=changed & 0xFFFFFFFF)


class RwFile(_Versioned, File):
    """A file in a transaction."""

    def __init__(self, tree: RwTree, path: Path) -> None:
        self._tree = tree
        self._place = tree.place(path)
        self._qid_path = tree.qid(path)

    @answers
    async def attr(self, ctx: Context) -> Attr:
        """Return size, mode and time."""
        return self._tree.attr(self._place)

    @answers
    async def setattr(self, change: SetAttr, ctx: Context) -> None:
        """Truncate, chmod, set times."""
        self._tree.setattr(self._place, change)

    @answers
    async def open(self, flags: int, ctx: Context) -> Handle:
        """Open in any mode."""
        if flags & OpenFlag.TRUNC:
            self._tree.transaction.truncate(b"/".join(self._place.path), 0)
            self._tree.touch(self._place.path)
        return RwHandle(self._tree, self._place, flags)


class RwHandle(Handle):
    """An open file of a transaction."""

    def __init__(self, tree: RwTree, place: Place, flags: int) -> None:
        self._tree = tree
        self._place = place
        self._flags = flags

    @answers
    async def read(self, offset: int, count: int) -> Buffer:
        """Return octets of the file as it is now."""
        return self._tree.transaction.read(b"/".join(self._place.path), offset, count)

    @answers
    async def write(self, offset: int, data: Buffer) -> int:
        """Write at `offset`, or at the end if opened to append."""
        if not wants_write(self._flags):
            raise P9Error(errno.EBADF, "File is not open for writing")
        octets = b"/".join(self._place.path)
        if self._flags & OpenFlag.APPEND:
            offset = self._tree.transaction.stat(octets).size
        self._tree.transaction.write_at(octets, offset, bytes(data))
        self._tree.touch(self._place.path)
        return len(data)

    @answers
    async def fsync(self, datasync: bool) -> None:
        """Make the transaction durable as it is, so that it survives the server."""
        await self._tree.save()


class RwLink(Symlink):
    """A symbolic link in a transaction."""

    def __init__(self, tree: RwTree, path: Path) -> None:
        super().__init__(tree.transaction.read(b"/".join(path)).decode("utf-8", "surrogateescape"))
        self._tree = tree
        self._place = tree.place(path)
        self._qid_path = tree.qid(path)

    @answers
    async def setattr(self, change: SetAttr, ctx: Context) -> None:
        """Set times."""
        if change.size is None:
            self._tree.setattr(self._place, change)


class RwDir(_Versioned, Directory):
    """A directory in a transaction."""

    def __init__(self, tree: RwTree, path: Path = ROOT) -> None:
        self._tree = tree
        self._place = tree.place(path)
        self._qid_path = tree.qid(path)

    def _below(self, name: str) -> Path:
        return (*self._place.path, name.encode("utf-8", "surrogateescape"))

    @answers
    async def attr(self, ctx: Context) -> Attr:
        """Return mode and time."""
        return self._tree.attr(self._place)

    @answers
    async def setattr(self, change: SetAttr, ctx: Context) -> None:
        """Set times; Git keeps no modes of directories."""
        if change.size is not None:
            raise P9Error(errno.EISDIR, "Can't set length of a directory")
        self._tree.setattr(self._place, change)

    @answers
    async def lookup(self, name: str, ctx: Context) -> Node:
        """Return what is there by that name."""
        return self._tree.node(self._below(name))

    @answers
    async def entries(self, ctx: Context) -> Sequence[Entry]:
        """Return the names."""
        path = self._place.path
        found = self._tree.transaction.entries(b"/".join(path))
        return [
            Entry(text((name,)), self._tree.entry_qid((*path, name), mode))
            for name, mode in found.items()
        ]

    @answers
    async def create(self, name: str, flags: int, mode: int, ctx: Context) -> tuple[Node, Handle]:
        """Make a file and open it."""
        path = self._below(name)
        octets = b"/".join(path)
        transaction = self._tree.transaction
        if flags & OpenFlag.EXCL or not transaction.exists(octets):
            transaction.create(octets, executable=bool(mode & 0o100))
            self._tree.touch(path)
            self._tree.touch(self._place.path)
        node = self._tree.node(path)
        if not isinstance(node, RwFile):
            raise P9Error(errno.EISDIR, "Is a directory")
        return node, await node.open(flags, ctx)

    @answers
    async def mkdir(self, name: str, mode: int, ctx: Context) -> Node:
        """Make a directory."""
        path = self._below(name)
        self._tree.transaction.mkdir(b"/".join(path))
        self._tree.touch(path)
        return self._tree.node(path)

    @answers
    async def symlink(self, name: str, target: str, ctx: Context) -> Node:
        """Make a symbolic link."""
        path = self._below(name)
        self._tree.transaction.symlink(b"/".join(path), target.encode("utf-8", "surrogateescape"))
        self._tree.touch(path)
        return self._tree.node(path)

    @answers
    async def unlink(self, name: str, is_dir: bool, ctx: Context) -> None:
        """Remove a file or an empty directory."""
        path = self._below(name)
        octets = b"/".join(path)
        there = self._tree.transaction.mode(octets) in {git.DIRECTORY, git.SUBMODULE}
        if there != is_dir:
            raise IsDirectoryError(name) if there else NotDirectoryError(name)
        self._tree.transaction.remove(octets)
        self._tree.lease.times.pop(path, None)
        self._tree.touch(self._place.path)

    @answers
    async def rename(self, name: str, to: Directory, new_name: str, ctx: Context) -> None:
        """Move within this transaction."""
        if not isinstance(to, RwDir) or to._tree is not self._tree:
            raise P9Error(errno.EXDEV)
        if self._tree.transaction.closed:
            raise TransactionClosedError("transaction is closed")
        self._tree.rename(self._below(name), to._below(new_name))

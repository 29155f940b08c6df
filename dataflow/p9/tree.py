"""What a program implements to serve a tree over 9P: nodes, files, directories and handles.

A tree is a graph of `Node` objects.  The server asks the root factory for a root when a client
attaches, walks with `Directory.lookup`, and opens files into `Handle` objects, one an open.  Every
method has a default that refuses with the fitting errno, so a node implements what it supports.
Methods raise `P9Error` (or `OSError`) to refuse.  They are coroutines that run concurrently; a
request the client flushes (Tflush) or abandons is cancelled as any asyncio task.  `..` is the
server's work: a node need not know its parent.

Names are `str`, decoded as UTF-8 with surrogateescape: bytes that are no UTF-8 survive.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from .const import NONUNAME, OpenFlag, QidType
from .errors import P9Error

Buffer = bytes | bytearray | memoryview

_ids = itertools.count(1)


class Qid(NamedTuple):
    """A file's identity: `path` is unique and stable, `version` changes with the content."""

    type: int
    version: int
    path: int


def path_id(*key: str | bytes | int) -> int:
    """Derive a stable 63-bit qid path from a key, for nodes that are made anew at each lookup."""
    digest = hashlib.blake2b(digest_size=8)
    for part in key:
        raw = part if isinstance(part, bytes) else str(part).encode(errors="surrogateescape")
        digest.update(len(raw).to_bytes(4, "big") + raw)
    return int.from_bytes(digest.digest(), "big") >> 1


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection, as far as the transport knows."""

    address: str = ""  # "unix:PATH", "tcp:HOST:PORT" or what the embedding program says
    pid: int | None = None  # SO_PEERCRED, unix sockets only
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """One attach: who attached, to what, over which connection.

    `n_uname` is None where the dialect or the client gives no number.  `session` identifies the
    connection: it is the same object for all attaches on one connection.  `gid` is given with
    requests of 9P2000.L that make something: the group that it is to have.
    """

    uname: str = ""
    aname: str = ""
    n_uname: int | None = None
    peer: Peer = field(default_factory=Peer)
    session: SessionScope = field(default_factory=lambda: SessionScope())
    gid: int | None = None

    @property
    def uid(self) -> int:
        """The numeric user to act as: the peer's own where the kernel vouches, else `n_uname`."""
        if self.peer.uid:  # root may act for others, as the kernel's 9P client does
            return self.peer.uid
        return 0 if self.n_uname in {None, NONUNAME} else self.n_uname or 0


class SessionScope:
    """The life of one connection: what must be undone when it ends."""

    def __init__(self) -> None:
        self._callbacks: dict[Callable[[], object], None] = {}

    def on_close(self, callback: Callable[[], object]) -> None:
        """Call `callback` once, synchronously, when the connection has ended."""
        self._callbacks[callback] = None

    def forget(self, callback: Callable[[], object]) -> None:
        """Take a callback back: what it was for has ended before the connection."""
        self._callbacks.pop(callback, None)

    def close(self) -> None:
        """Run and forget the callbacks, last one first; the server calls this."""
        while self._callbacks:
            callback, _ = self._callbacks.popitem()
            callback()


@dataclass(frozen=True, slots=True)
class Attr:
    """Attributes of a node; `mode` has the type bits of stat(2), times are nanoseconds.

    `uid` and `gid` None mean: of whoever asks.
    """

    mode: int
    size: int = 0
    nlink: int = 1
    uid: int | None = None
    gid: int | None = None
    rdev: int = 0
    blksize: int = 4096
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    target: str = ""  # of a symbolic link, for the stat of .u
    blocks: int | None = None  # of 512 bytes that it takes; None: as many as its size needs


@dataclass(frozen=True, slots=True)
class SetAttr:
    """What a client wants changed; None leaves a field alone, NOW sets a time to the present."""

    NOW: ClassVar[int] = -1

    mode: int | None = None  # permission bits
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class StatFs:
    """What statfs(2) tells of a tree; counts are in blocks of `bsize` bytes."""

    type: int = 0x01021997  # V9FS_MAGIC
    bsize: int = 4096
    blocks: int = 0
    bfree: int = 0
    bavail: int = 0
    files: int = 0
    ffree: int = 0
    fsid: int = 0
    namelen: int = 255


class Entry(NamedTuple):
    """One name in a directory, with the qid that `lookup` of it would give."""

    name: str
    qid: Qid


class Direct(NamedTuple):
    """A plain file's descriptor, on which a server may read and write by itself."""

    fd: int
    read: bool
    write: bool


class Handle:
    """An open file; made by `File.open`, used until `close`.

    `live` says that a read may wait for an event for any time: such reads do not count against
    the connection's budget of bytes in flight.
    """

    live: bool = False
    iounit: int = 0  # the most that one read or write should move; 0 leaves it to msize
    direct: Direct | None = None  # where reads and writes need nothing but a descriptor

    def read_nowait(self, offset: int, count: int) -> Buffer | None:
        """Return what `read` would if that needs no waiting, else None (then `read` is called)."""
        return None

    async def read(self, offset: int, count: int) -> Buffer:
        """Return up to `count` bytes from `offset`; empty at the end of the file."""
        raise P9Error(errno.EBADF, "File is not open for reading")

    def write_nowait(self, offset: int, data: Buffer) -> int | None:
        """Do what `write` would if that needs no waiting, else None (then `write` is called)."""
        return None

    async def write(self, offset: int, data: Buffer) -> int:
        """Write `data` at `offset`; return how many bytes were taken.  `data` may be kept."""
        raise P9Error(errno.EBADF, "File is not open for writing")

    async def fsync(self, datasync: bool) -> None:
        """Make what was written durable; nothing to do by default."""

    async def close(self) -> None:
        """Let go of the file; called exactly once, also when the connection breaks."""


class Node:
    """Anything that has a name in the tree.

    Override `qid_path` (see `path_id`) where node objects are made anew at each lookup; by default
    it is a number of the object's own.
    """

    kind: ClassVar[int] = stat.S_IFREG
    mode: int = 0o644
    version: int = 0
    stat_fd: int = -1  # a descriptor whose fstat(2) says all that `attr` does
    _qid_path: int = 0

    @property
    def qid_path(self) -> int:
        """The number that identifies this node in the tree, below 2**64."""
        if not self._qid_path:
            self._qid_path = next(_ids)
        return self._qid_path

    @property
    def qid(self) -> Qid:
        """The node's identity as clients see it."""
        return Qid(_QID_TYPES.get(self.kind, 0), self.version & 0xFFFFFFFF, self.qid_path)

    async def attr(self, ctx: Context) -> Attr:
        """Return the attributes; by default an empty node of this kind and mode."""
        return Attr(mode=self.kind | self.mode)

    def attr_nowait(self, ctx: Context) -> Attr | None:
        """Return what `attr` would if that needs no waiting, else None (then `attr` is called)."""
        return None

    async def setattr(self, change: SetAttr, ctx: Context) -> None:
        """Change attributes; refused by default, but times, which are quietly left alone."""
        if any(v is not None for v in (change.mode, change.uid, change.gid, change.size)):
            raise P9Error(errno.EPERM)

    async def statfs(self, ctx: Context) -> StatFs:
        """Tell about the file system as a whole."""
        return StatFs()

    async def xattrs(self, ctx: Context) -> Sequence[str]:
        """Return the names of the extended attributes."""
        return ()

    async def get_xattr(self, name: str, ctx: Context) -> bytes:
        """Return the value of one extended attribute."""
        raise P9Error(errno.ENODATA)

    async def set_xattr(self, name: str, value: bytes, flags: int, ctx: Context) -> None:
        """Set an extended attribute; an empty value and XATTR_REPLACE remove it (as v9fs asks)."""
        raise P9Error(errno.EOPNOTSUPP)


class File(Node):
    """A node that holds bytes."""

    async def open(self, flags: int, ctx: Context) -> Handle:
        """Open with `flags` (`const.OpenFlag`: access mode, TRUNC, APPEND); one handle an open."""
        raise P9Error(errno.EACCES)


class Symlink(Node):
    """A node that names another place; the client follows it, never the server."""

    kind = stat.S_IFLNK
    mode = 0o777

    def __init__(self, target: str) -> None:
        self.target = target

    async def attr(self, ctx: Context) -> Attr:
        """Return the attributes; the size is that of the target's name in bytes."""
        size = len(self.target.encode(errors="surrogateescape"))
        return Attr(mode=self.kind | self.mode, size=size, target=self.target)

    async def readlink(self, ctx: Context) -> str:
        """Return where the link points."""
        return self.target


class Directory(Node):
    """A node that holds names.  What changes it is refused with EROFS by default."""

    kind = stat.S_IFDIR
    mode = 0o755

    async def lookup(self, name: str, ctx: Context) -> Node:
        """Return the node called `name` (never "", "." or ".."), or raise ENOENT."""
        raise P9Error(errno.ENOENT)

    def lookup_nowait(self, name: str, ctx: Context) -> Node | None:
        """Do what `lookup` would if that needs no waiting, else None (then `lookup` is called)."""
        return None

    async def entries(self, ctx: Context) -> Sequence[Entry]:
        """Return all names without "." and ".."; a client reads from one such list per open."""
        return ()

    async def create(self, name: str, flags: int, mode: int, ctx: Context) -> tuple[Node, Handle]:
        """Make the regular file `name` and open it; `flags` as in `File.open`.

        An existing name is EEXIST under `OpenFlag.EXCL`, else it is opened.
        """
        raise P9Error(errno.EROFS)

    async def mkdir(self, name: str, mode: int, ctx: Context) -> Node:
        """Make the directory `name`."""
        raise P9Error(errno.EROFS)

    async def symlink(self, name: str, target: str, ctx: Context) -> Node:
        """Make the symbolic link `name` that points to `target`."""
        raise P9Error(errno.EROFS)

    async def link(self, name: str, node: Node, ctx: Context) -> None:
        """Make `name` a second name of `node`, which this tree served before."""
        raise P9Error(errno.EOPNOTSUPP)

    async def mknod(self, name: str, mode: int, rdev: int, ctx: Context) -> Node:
        """Make a device, pipe or socket; `rdev` is (major << 8 | minor)."""
        raise P9Error(errno.EPERM)

    async def unlink(self, name: str, is_dir: bool, ctx: Context) -> None:
        """Remove `name`; `is_dir` tells rmdir(2) from unlink(2)."""
        raise P9Error(errno.EROFS)

    async def rename(self, name: str, to: Directory, new_name: str, ctx: Context) -> None:
        """Move `name` to `new_name` in `to`, replacing what is there, as rename(2)."""
        raise P9Error(errno.EROFS)


def wants_write(flags: int) -> bool:
    """Tell whether open flags ask to change the file."""
    return flags & OpenFlag.ACCMODE != OpenFlag.RDONLY or bool(flags & OpenFlag.TRUNC)


_QID_TYPES = {stat.S_IFDIR: int(QidType.DIR), stat.S_IFLNK: int(QidType.SYMLINK)}

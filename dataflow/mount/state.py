"""What the operations of a mount share: the server, the nodes the kernel knows, the open files."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from ..aio.file import RemoteFile
from ..fuse import wire
from ..fuse.const import Fopen
from ..fuse.wire import Request
from ..p9.dirent import Dirent
from ..p9.errors import P9Error
from ..p9.tree import Buffer
from .inodes import Inode, Inodes, Policy
from .remote import Remote

Answer = list[Buffer]
Operation = Callable[["State", Request], Awaitable[Answer]]


@dataclass(slots=True)
class OpenFile:
    """What a file handle of the kernel stands for."""

    file: RemoteFile
    inode: Inode
    direct: bool = False  # each read(2) is a read of the server, and may wait there
    entries: list[Dirent] = field(default_factory=list)  # of a directory
    pids: set[int] = field(default_factory=set)  # processes that locked parts of it


@dataclass(slots=True)
class State:
    """One mount."""

    remote: Remote
    inodes: Inodes
    dataflow: bool
    files: dict[int, OpenFile] = field(default_factory=dict)
    told: dict[int, list[int]] = field(default_factory=dict)  # nodes in answers not yet given
    next_fh: int = 1

    def inode(self, nodeid: int) -> Inode:
        """Return a node that the kernel was told of."""
        found = self.inodes.get(nodeid)
        if found is None:
            raise P9Error(errno.ESTALE)
        return found

    def file(self, fh: int) -> OpenFile:
        """Return an open file."""
        found = self.files.get(fh)
        if found is None:
            raise P9Error(errno.EBADF)
        return found

    async def entry(self, request: Request, parent: Inode, name: str) -> bytes:
        """Look a name up and make the answer that tells the kernel of it."""
        with parent.held.use() as fid:
            new, _ = await self.remote.walk(fid, name)
        try:
            qid, attr = await self.remote.getattr(new)
        except BaseException:
            self.remote.channel.forget(new)
            raise
        inode = self.inodes.put(parent, name, new, qid)
        self.told.setdefault(request.unique, []).append(inode.nodeid)
        return wire.entry_out(wire.Entry(inode.nodeid, qid.path, attr, inode.policy.valid))

    def opened(self, file: RemoteFile, inode: Inode) -> bytes:
        """Give an open file its handle; say what the kernel may keep of it."""
        fh, self.next_fh = self.next_fh, self.next_fh + 1
        flags = _caching(file, inode)
        self.files[fh] = OpenFile(file, inode, direct=bool(flags & Fopen.DIRECT_IO))
        return wire.open_out(fh, flags)


def _caching(file: RemoteFile, inode: Inode) -> int:
    """Say what of a file's pages the kernel may keep.

    A qid with a version names the content: pages of the same version stay good.  One without says
    nothing, as those of streams and control files: every read and write goes to the server.
    """
    if inode.policy is Policy.FOREVER:
        return Fopen.KEEP_CACHE
    if inode.policy is Policy.WORK:
        return 0
    version = file.qid.version
    if not version:
        return Fopen.DIRECT_IO
    kept, inode.kept_version = inode.kept_version, version
    return Fopen.KEEP_CACHE if kept == version else 0

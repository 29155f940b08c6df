"""A tree that lies on another 9P server: serve it, and you have a proxy.

    async with connect("unix:/run/far.sock") as far, Server(remote_root(far)) as server:
        await server.listen_unix("/run/near.sock")

Each node holds a fid of the far server and gives it back when the last one lets go of it.  All act
as the user who attached to the far server.  A request that is flushed here is flushed there.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from ..p9.attrs import to_setattr, to_wstat
from ..p9.const import AT_REMOVEDIR, Dialect, Mode9, Open9, OpenFlag, QidType
from ..p9.errors import P9Error
from ..p9.messages import (
    Rreadlink,
    Rstat,
    Rstatfs,
    Stat,
    Tcreate,
    Tlink,
    Tmkdir,
    Tmknod,
    Treadlink,
    Tremove,
    Trenameat,
    Tstat,
    Tstatfs,
    Tsymlink,
    Tunlinkat,
    Twstat,
)
from ..p9.state import RootFactory
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
    StatFs,
    Symlink,
)
from .client import Client
from .file import RemoteFile


class RemoteNode(Node):
    """A node of the far server: a fid of our own there."""

    def __init__(self, client: Client, fid: int, qid: Qid) -> None:
        self.client = client
        self.fid = fid
        self._qid = qid

    def __del__(self) -> None:
        self.client.drop(self.fid)

    @property
    def linux(self) -> bool:
        """The far server speaks 9P2000.L."""
        return self.client.dialect is Dialect.LINUX

    @property
    def qid_path(self) -> int:
        """The far server's number."""
        return self._qid.path

    @property
    def qid(self) -> Qid:
        """The far server's identity, as of the walk."""
        return self._qid

    async def attr(self, ctx: Context) -> Attr:
        """Ask the far server."""
        return await self.client.stat_fid(self.fid)

    async def setattr(self, change: SetAttr, ctx: Context) -> None:
        """Ask the far server."""
        make = to_setattr if self.linux else to_wstat
        await self.client.rpc(make(self.fid, change))

    async def statfs(self, ctx: Context) -> StatFs:
        """Ask the far server."""
        if not self.linux:
            return StatFs()
        return StatFs(*await self.client.ask(Tstatfs(self.fid), Rstatfs))

    async def xattrs(self, ctx: Context) -> Sequence[str]:
        """Ask the far server."""
        raw = await self.client.xattr_of(self.fid, "")
        return [name.decode(errors="surrogateescape") for name in raw.split(b"\0") if name]

    async def get_xattr(self, name: str, ctx: Context) -> bytes:
        """Ask the far server."""
        return await self.client.xattr_of(self.fid, name)

    async def set_xattr(self, name: str, value: bytes, flags: int, ctx: Context) -> None:
        """Ask the far server."""
        await self.client.set_xattr_of(self.fid, name, value, flags)

    async def clone(self) -> int:
        """Return a second fid for this node."""
        return (await self.client.walk_fid(self.fid, ()))[0]


class RemoteNodeFile(RemoteNode, File):
    """A file of the far server."""

    async def open(self, flags: int, ctx: Context) -> Handle:
        """Open it there."""
        file = await self.client.open_fid(await self.clone(), flags)
        try:
            return RemoteHandle(file, live=not (await self.attr(ctx)).size)
        except BaseException:
            self.client.drop(file.fid)
            raise


class RemoteLink(RemoteNode, Symlink):
    """A symbolic link of the far server."""

    async def readlink(self, ctx: Context) -> str:
        """Ask the far server."""
        if self.linux:
            return (await self.client.ask(Treadlink(self.fid), Rreadlink)).target
        return (await self.client.ask(Tstat(self.fid), Rstat)).stat.extension


class RemoteHandle(Handle):
    """An open file of the far server; one without a size may be a stream that waits."""

    def __init__(self, file: RemoteFile, live: bool) -> None:
        self._file = file
        self.live = live
        self.iounit = file.chunk

    async def read(self, offset: int, count: int) -> Buffer:
        """Read once there."""
        return await self._file.pread(offset, count)

    async def write(self, offset: int, data: Buffer) -> int:
        """Write all there."""
        return await self._file.write(offset, data)

    async def fsync(self, datasync: bool) -> None:
        """Make it durable there."""
        await self._file.fsync(datasync)

    async def close(self) -> None:
        """Clunk it there."""
        await self._file.close()


class RemoteDirectory(RemoteNode, Directory):
    """A directory of the far server."""

    async def lookup(self, name: str, ctx: Context) -> Node:
        """Walk there."""
        fid, qid = await self.client.walk_fid(self.fid, (name,))
        return _node(self.client, fid, qid or self.qid)

    async def entries(self, ctx: Context) -> Sequence[Entry]:
        """List there."""
        async with await self.client.open_fid(await self.clone(), OpenFlag.RDONLY) as file:
            return [e for e in await self.client.entries_of(file) if e.name not in {".", ".."}]

    async def create(self, name: str, flags: int, mode: int, ctx: Context) -> tuple[Node, Handle]:
        """Make or open a file there."""
        file = await self.client.create_fid(await self.clone(), name, flags, mode)
        try:
            return await self.lookup(name, ctx), RemoteHandle(file, live=False)
        except BaseException:
            self.client.drop(file.fid)
            raise

    async def mkdir(self, name: str, mode: int, ctx: Context) -> Node:
        """Make a directory there."""
        if self.linux:
            await self.client.rpc(Tmkdir(self.fid, name, mode, os.getgid()))
        else:
            await self._create9(Tcreate(0, name, Mode9.DIR | mode, Open9.READ))
        return await self.lookup(name, ctx)

    async def symlink(self, name: str, target: str, ctx: Context) -> Node:
        """Make a symbolic link there."""
        if self.linux:
            await self.client.rpc(Tsymlink(self.fid, name, target, os.getgid()))
        else:
            await self._create9(Tcreate(0, name, Mode9.SYMLINK | 0o777, Open9.READ, target))
        return await self.lookup(name, ctx)

    async def mknod(self, name: str, mode: int, rdev: int, ctx: Context) -> Node:
        """Make a special file there, if that server does."""
        self._need_linux()
        major, minor = rdev >> 8, rdev & 0xFF
        await self.client.rpc(Tmknod(self.fid, name, mode, major, minor, os.getgid()))
        return await self.lookup(name, ctx)

    async def link(self, name: str, node: Node, ctx: Context) -> None:
        """Make a hard link there."""
        self._need_linux()
        await self.client.rpc(Tlink(self.fid, self._near(node).fid, name))

    async def unlink(self, name: str, is_dir: bool, ctx: Context) -> None:
        """Remove a name there."""
        if self.linux:
            await self.client.rpc(Tunlinkat(self.fid, name, AT_REMOVEDIR if is_dir else 0))
        else:
            fid, _ = await self.client.walk_fid(self.fid, (name,))
            await self.client.rpc_last(Tremove(fid), fid)

    async def rename(self, name: str, to: Directory, new_name: str, ctx: Context) -> None:
        """Move a name there; 9P2000 and .u can only change it within a directory."""
        target = self._near(to)
        if self.linux:
            await self.client.rpc(Trenameat(self.fid, name, target.fid, new_name))
            return
        if target.qid_path != self.qid_path:
            raise P9Error(errno.EXDEV)
        fid, _ = await self.client.walk_fid(self.fid, (name,))
        try:
            await self.client.rpc(Twstat(fid, Stat(name=new_name)))
        finally:
            self.client.drop(fid)

    async def _create9(self, message: Tcreate) -> None:
        fid = await self.clone()
        try:
            await self.client.rpc(message._replace(fid=fid))
        finally:
            self.client.drop(fid)

    def _near(self, node: Node) -> RemoteNode:
        if not isinstance(node, RemoteNode) or node.client is not self.client:
            raise P9Error(errno.EXDEV)
        return node

    def _need_linux(self) -> None:
        if not self.linux:
            raise P9Error(errno.EOPNOTSUPP)


def _node(client: Client, fid: int, qid: Qid) -> Node:
    if qid.type & QidType.DIR:
        return RemoteDirectory(client, fid, qid)
    return (RemoteLink if qid.type & QidType.SYMLINK else RemoteNodeFile)(client, fid, qid)


def remote_root(client: Client) -> RootFactory:
    """Return what a `Server` serves: the tree that `client` attached to."""

    async def factory(ctx: Context) -> Node:
        fid, _ = await client.walk_fid(client.root, ())
        return RemoteDirectory(client, fid, client.root_qid)

    return factory

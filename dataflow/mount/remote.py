"""The 9P side of a mount: calls by fid on one connection."""

from __future__ import annotations

import asyncio
import errno
import os
import pwd
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..aio import address as addresses
from ..aio.channel import Channel
from ..aio.file import RemoteFile
from ..errors import PeerError
from ..p9 import dirent
from ..p9.client import ClientSession
from ..p9.const import AT_REMOVEDIR, NOFID, Dialect, GetattrMask
from ..p9.errors import NineError, P9Error
from ..p9.messages import (
    Rattach,
    Rgetattr,
    Rlcreate,
    Rlopen,
    Rreaddir,
    Rwalk,
    Tattach,
    Tgetattr,
    Tlcreate,
    Tlopen,
    Treaddir,
    Tremove,
    Trename,
    Trenameat,
    Tunlinkat,
    Twalk,
)
from ..p9.tree import Attr, Qid

MSIZE = (1 << 20) + 4096  # room for a whole FUSE_WRITE of 1 MiB
CALLS_MAX = 480  # with a flush each they fit a server's 1,024 tags
_NS = 1_000_000_000
_MISSING = {errno.EOPNOTSUPP, errno.ENOSYS}


class Remote:
    """One attach to a 9P2000.L server."""

    def __init__(self, channel: Channel, root: int, qid: Qid) -> None:
        self.channel = channel
        self.root = root
        self.root_qid = qid

    async def walk(self, fid: int, *names: str) -> tuple[int, Qid | None]:
        """Walk to a new fid; its qid is None where no name was walked."""
        new = self.channel.take_fid()
        try:
            r = await self.channel.rpc(Twalk(fid, new, names), Rwalk)
        except P9Error:
            self.channel.return_fid(new)
            raise
        if len(r.qids) != len(names):
            self.channel.return_fid(new)
            raise P9Error(errno.ENOENT)
        return new, r.qids[-1] if r.qids else None

    async def getattr(self, fid: int) -> tuple[Qid, Attr]:
        """Return a node's qid and attributes."""
        a = await self.channel.rpc(Tgetattr(fid, int(GetattrMask.BASIC)), Rgetattr)
        times = (
            a.atime_sec * _NS + a.atime_nsec,
            a.mtime_sec * _NS + a.mtime_nsec,
            a.ctime_sec * _NS + a.ctime_nsec,
        )
        return a.qid, Attr(a.mode, a.size, a.nlink, a.uid, a.gid, a.rdev, a.blksize, *times)

    async def open(self, fid: int, flags: int) -> RemoteFile:
        """Open a node on a fid of its own."""
        new, _ = await self.walk(fid)
        try:
            r = await self.channel.rpc(Tlopen(new, flags), Rlopen)
        except BaseException:
            self.channel.forget(new)
            raise
        return RemoteFile(self.channel, new, r.qid, r.iounit)

    async def create(self, fid: int, name: str, flags: int, mode: int, gid: int) -> RemoteFile:
        """Make a file in a directory and open it."""
        new, _ = await self.walk(fid)
        try:
            r = await self.channel.rpc(Tlcreate(new, name, flags, mode, gid), Rlcreate)
        except BaseException:
            self.channel.forget(new)
            raise
        return RemoteFile(self.channel, new, r.qid, r.iounit)

    async def names(self, file: RemoteFile) -> list[dirent.Dirent]:
        """Return what an open directory holds, without "." and ".."."""
        found: list[dirent.Dirent] = []
        cookie = 0
        while True:
            r = await self.channel.rpc(Treaddir(file.fid, cookie, file.chunk), Rreaddir)
            part = dirent.parse(memoryview(r.data))
            if not part:
                return [entry for entry in found if entry.name not in {".", ".."}]
            found += part
            cookie = part[-1].offset

    async def read(self, fid: int, size: int) -> bytes:
        """Read all of what an open fid gives: an extended attribute."""
        return await RemoteFile(self.channel, fid, self.root_qid, 0).read(0, size)

    async def write(self, fid: int, data: bytes) -> None:
        """Write to an open fid."""
        await RemoteFile(self.channel, fid, self.root_qid, 0).write(0, data)

    async def unlink(self, fid: int, name: str, is_dir: bool) -> None:
        """Remove a name; servers without Tunlinkat (diod 1.0) get Tremove."""
        try:
            await self.channel.call(Tunlinkat(fid, name, AT_REMOVEDIR if is_dir else 0))
        except P9Error as err:
            if err.errno not in _MISSING:
                raise
            child, _ = await self.walk(fid, name)
            try:
                await self.channel.call(Tremove(child))
            finally:
                self.channel.return_fid(child)  # remove(5): the fid is clunked in any case

    async def rename(self, fid: int, name: str, to: int, new_name: str) -> None:
        """Move a name; servers without Trenameat get Trename."""
        try:
            await self.channel.call(Trenameat(fid, name, to, new_name))
        except P9Error as err:
            if err.errno not in _MISSING:
                raise
            child, _ = await self.walk(fid, name)
            try:
                await self.channel.call(Trename(child, to, new_name))
            finally:
                self.channel.forget(child)


@asynccontextmanager
async def attach(where: str | socket.socket, aname: str = "") -> AsyncIterator[Remote]:
    """Connect to an address or a connected socket, and attach as whoever we are."""
    session = ClientSession(Dialect.LINUX, MSIZE, CALLS_MAX)
    channel = await _dial(where, session)
    try:
        await channel.ready
        if session.dialect is not Dialect.LINUX:
            raise PeerError(f"expected a server of 9P2000.L, found one of {session.dialect.value}")
        root = channel.take_fid()
        uid = os.getuid()
        r = await channel.rpc(Tattach(root, NOFID, _user(uid), aname, uid), Rattach)
        yield Remote(channel, root, r.qid)
    finally:
        await channel.close()


async def is_dataflow(remote: Remote) -> bool:
    """Tell whether a tree is a repository's, whose parts are known to change or not to."""
    for name in ("branch", "snapshots", "trees"):
        try:
            fid, _ = await remote.walk(remote.root, name)
        except NineError:
            return False
        remote.channel.forget(fid)
    return True


async def _dial(where: str | socket.socket, session: ClientSession) -> Channel:
    loop = asyncio.get_running_loop()
    if isinstance(where, socket.socket):
        where.setblocking(False)
        return (await loop.connect_accepted_socket(lambda: Channel(session), where))[1]
    found = addresses.parse(where)
    if found.path:
        return (await loop.create_unix_connection(lambda: Channel(session), found.path))[1]
    return (await loop.create_connection(lambda: Channel(session), found.host, found.port))[1]


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""

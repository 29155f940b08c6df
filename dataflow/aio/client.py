"""A 9P client on asyncio: `async with connect("unix:/run/data.sock") as c: await c.read("a/b")`.

Paths are relative to the root that was attached, with or without a leading slash.  Everything
raises `P9Error` when the server refuses.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..p9.attrs import to_setattr, to_wstat
from ..p9.client import ClientSession
from ..p9.const import (
    AT_REMOVEDIR,
    MSIZE_DEFAULT,
    NOFID,
    Dialect,
    Mode9,
    Open9,
    OpenFlag,
)
from ..p9.errors import P9Error
from ..p9.messages import (
    Rattach,
    Rreadlink,
    Rstat,
    Rstatfs,
    Stat,
    Tattach,
    Tcreate,
    Tlink,
    Tmkdir,
    Treadlink,
    Tremove,
    Trename,
    Tstat,
    Tstatfs,
    Tsymlink,
    Tunlinkat,
    Twstat,
)
from ..p9.tree import Attr, Buffer, SetAttr
from . import address as addresses
from .channel import Channel
from .fidclient import FidClient
from .file import RemoteFile

_NS = 1_000_000_000


class Client(FidClient):
    """One attach on one connection; made by `connect`."""

    @asynccontextmanager
    async def walk(self, path: str) -> AsyncIterator[int]:
        """Yield a fid at `path`, clunked at the end; for calls of one's own through `rpc`."""
        fid = await self._walk(path)
        try:
            yield fid
        finally:
            await self._channel.clunk(fid)

    async def open(self, path: str, flags: int = OpenFlag.RDONLY, mode: int = 0o644) -> RemoteFile:
        """Open, and with `OpenFlag.CREAT` make, a file; flags as in open(2)."""
        if flags & OpenFlag.CREAT:
            try:
                return await self._create(path, flags, mode)
            except P9Error as err:
                if err.errno != errno.EEXIST and self._linux:
                    raise
                if flags & OpenFlag.EXCL:
                    raise
        return await self.open_fid(await self._walk(path), flags)

    async def read(self, path: str) -> bytes:
        """Return all of a file; of a live one, what it says until its first pause."""
        async with await self.open(path) as file:
            size = (await self.stat_fid(file.fid)).size
            data = await file.read(0, size) if size else b""
            out = bytearray(data)
            while more := await file.pread(len(out), file.chunk):
                out += more
            return bytes(out)

    async def write(self, path: str, data: Buffer, *, mode: int = 0o644) -> int:
        """Make or replace a file's content."""
        flags = OpenFlag.WRONLY | OpenFlag.CREAT | OpenFlag.TRUNC
        async with await self.open(path, flags, mode) as file:
            return await file.write(0, data)

    async def command(self, path: str, text: str) -> bytes:
        """Write a command to a control file and return its result, on one open."""
        async with await self.open(path, OpenFlag.RDWR) as file:
            await file.write(0, text.encode(errors="surrogateescape"))
            out = bytearray()
            while more := await file.pread(len(out), file.chunk):
                out += more
            return bytes(out)

    async def listdir(self, path: str = "") -> list[str]:
        """Return the names in a directory, without "." and ".."."""
        async with await self.open(path) as file:
            return [e.name for e in await self.entries_of(file) if e.name not in {".", ".."}]

    async def stat(self, path: str = "") -> Attr:
        """Return the attributes; `mode` has the type bits of stat(2) in every dialect."""
        async with self.walk(path) as fid:
            return await self.stat_fid(fid)

    async def setattr(self, path: str, change: SetAttr) -> None:
        """Change attributes: truncate, chmod, chown, touch."""
        async with self.walk(path) as fid:
            await self.rpc(to_setattr(fid, change) if self._linux else to_wstat(fid, change))

    async def mkdir(self, path: str, mode: int = 0o755) -> None:
        """Make a directory."""
        parent, name = _split(path)
        async with self.walk(parent) as fid:
            if self._linux:
                await self.rpc(Tmkdir(fid, name, mode, os.getgid()))
            else:
                await self.rpc(Tcreate(fid, name, Mode9.DIR | mode, Open9.READ))

    async def remove(self, path: str) -> None:
        """Remove a file or an empty directory."""
        if self._linux:
            try:
                await self._unlink(path)
                return
            except P9Error as err:
                if err.errno != errno.EOPNOTSUPP:  # diod 1.0 has no Tunlinkat
                    raise
        fid = await self._walk(path)
        await self.rpc_last(Tremove(fid), fid)

    async def _unlink(self, path: str) -> None:
        is_dir = stat.S_ISDIR((await self.stat(path)).mode)
        parent, name = _split(path)
        async with self.walk(parent) as fid:
            await self.rpc(Tunlinkat(fid, name, AT_REMOVEDIR if is_dir else 0))

    async def rename(self, old: str, new: str) -> None:
        """Move a file; 9P2000 and .u can only change the name within a directory."""
        parent, name = _split(new)
        async with self.walk(old) as fid:
            if self._linux:
                async with self.walk(parent) as to:
                    await self.rpc(Trename(fid, to, name))
            elif parent == _split(old)[0]:
                await self.rpc(Twstat(fid, Stat(name=name)))
            else:
                raise P9Error(errno.EXDEV, f"{self.dialect.value} can't move between directories")

    async def symlink(self, path: str, target: str) -> None:
        """Make a symbolic link at `path`; .u and .L."""
        parent, name = _split(path)
        async with self.walk(parent) as fid:
            if self._linux:
                await self.rpc(Tsymlink(fid, name, target, os.getgid()))
            else:
                await self.rpc(Tcreate(fid, name, Mode9.SYMLINK | 0o777, Open9.READ, target))

    async def readlink(self, path: str) -> str:
        """Return where a symbolic link points."""
        async with self.walk(path) as fid:
            if self._linux:
                return (await self._channel.rpc(Treadlink(fid), Rreadlink)).target
            return (await self._channel.rpc(Tstat(fid), Rstat)).stat.extension

    async def statfs(self, path: str = "") -> Rstatfs:
        """Tell about the file system; .L only."""
        async with self.walk(path) as fid:
            return await self._channel.rpc(Tstatfs(fid), Rstatfs)

    async def link(self, path: str, target: str) -> None:
        """Make `path` a second name of `target`; .L only."""
        parent, name = _split(path)
        async with self.walk(parent) as fid, self.walk(target) as node:
            await self.rpc(Tlink(fid, node, name))

    async def xattrs(self, path: str) -> list[str]:
        """Return the names of the extended attributes; .L only."""
        async with self.walk(path) as fid:
            raw = await self.xattr_of(fid, "")
        return [name.decode(errors="surrogateescape") for name in raw.split(b"\0") if name]

    async def get_xattr(self, path: str, name: str) -> bytes:
        """Return the value of an extended attribute; .L only."""
        async with self.walk(path) as fid:
            return await self.xattr_of(fid, name)

    async def set_xattr(self, path: str, name: str, value: bytes, flags: int = 0) -> None:
        """Set an extended attribute; an empty value with XATTR_REPLACE removes it; .L only."""
        async with self.walk(path) as fid:
            await self.set_xattr_of(fid, name, value, flags)

    async def _walk(self, path: str) -> int:
        names = tuple(name for name in path.split("/") if name)
        return (await self.walk_fid(self.root, names))[0]

    async def _create(self, path: str, flags: int, mode: int) -> RemoteFile:
        parent, name = _split(path)
        return await self.create_fid(await self._walk(parent), name, flags | OpenFlag.EXCL, mode)


@asynccontextmanager
async def connect(
    address: str | socket.socket,
    *,
    dialect: Dialect = Dialect.LINUX,
    msize: int = MSIZE_DEFAULT,
    uname: str = "",
    aname: str = "",
    n_uname: int | None = None,
) -> AsyncIterator[Client]:
    """Connect and attach; `address` is "unix:PATH", "tcp:HOST:PORT" or a connected socket."""
    channel = await _dial(address, ClientSession(dialect, msize))
    try:
        await channel.ready
        root = channel.take_fid()
        number = os.getuid() if n_uname is None else n_uname
        qid = (await channel.rpc(Tattach(root, NOFID, uname, aname, number), Rattach)).qid
        yield Client(channel, root, qid)
    finally:
        await channel.close()


async def _dial(address: str | socket.socket, session: ClientSession) -> Channel:
    loop = asyncio.get_running_loop()
    if isinstance(address, socket.socket):
        address.setblocking(False)
        return (await loop.connect_accepted_socket(lambda: Channel(session), address))[1]
    where = addresses.parse(address)
    if where.path:
        return (await loop.create_unix_connection(lambda: Channel(session), where.path))[1]
    return (await loop.create_connection(lambda: Channel(session), where.host, where.port))[1]


def _split(path: str) -> tuple[str, str]:
    parent, _, name = path.strip("/").rpartition("/")
    return parent, name

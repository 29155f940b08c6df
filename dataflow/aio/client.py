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

from ..p9 import dirent
from ..p9.attrs import from_stat, to_open9, to_setattr, to_wstat
from ..p9.client import ClientSession
from ..p9.const import (
    AT_REMOVEDIR,
    MSIZE_DEFAULT,
    NOFID,
    WALK_MAX,
    Dialect,
    GetattrMask,
    Mode9,
    Open9,
    OpenFlag,
)
from ..p9.errors import P9Error
from ..p9.messages import (
    Message,
    Rattach,
    Rcreate,
    Rgetattr,
    Rlcreate,
    Rlopen,
    Ropen,
    Rreaddir,
    Rreadlink,
    Rstat,
    Rstatfs,
    Rwalk,
    Stat,
    Tattach,
    Tcreate,
    Tgetattr,
    Tlcreate,
    Tlopen,
    Tmkdir,
    Topen,
    Treaddir,
    Treadlink,
    Tremove,
    Trename,
    Tstat,
    Tstatfs,
    Tsymlink,
    Tunlinkat,
    Twalk,
    Twstat,
)
from ..p9.tree import Attr, Buffer, Qid, SetAttr
from ..p9.wire import parse_stat
from . import address as addresses
from .channel import Channel
from .file import RemoteFile

_NS = 1_000_000_000


class Client:
    """One attach on one connection; made by `connect`."""

    def __init__(self, channel: Channel, root: int) -> None:
        self._channel = channel
        self._root = root
        self._linux = channel.session.dialect is Dialect.LINUX

    @property
    def dialect(self) -> Dialect:
        """What the server agreed to."""
        return self._channel.session.dialect

    @property
    def msize(self) -> int:
        """The largest message, in bytes."""
        return self._channel.session.msize

    @asynccontextmanager
    async def walk(self, path: str) -> AsyncIterator[int]:
        """Yield a fid at `path`, clunked at the end; for calls of one's own through `rpc`."""
        fid = await self._walk(path)
        try:
            yield fid
        finally:
            await self._channel.clunk(fid)

    async def rpc(self, message: Message) -> Message:
        """Send any message and return its answer."""
        return await self._channel.call(message)

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
        fid = await self._walk(path)
        try:
            qid, iounit = await self._open(fid, flags)
        except BaseException:
            self._channel.forget(fid)
            raise
        return RemoteFile(self._channel, fid, qid, iounit)

    async def read(self, path: str) -> bytes:
        """Return all of a file; of a live one, what it says until its first pause."""
        async with await self.open(path) as file:
            size = (await self._stat(file.fid)).size
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
            read = self._names_linux if self._linux else self._names_base
            return [name for name in await read(file) if name not in {".", ".."}]

    async def stat(self, path: str = "") -> Attr:
        """Return the attributes; `mode` has the type bits of stat(2) in every dialect."""
        async with self.walk(path) as fid:
            return await self._stat(fid)

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
        try:
            await self.rpc(Tremove(fid))
        finally:
            self._channel.return_fid(fid)  # remove(5): the fid is clunked in any case

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

    async def _walk(self, path: str) -> int:
        names = tuple(name for name in path.split("/") if name)
        source = self._root
        while True:
            batch, names = names[:WALK_MAX], names[WALK_MAX:]
            try:
                fid = await self._walk_batch(source, batch)
            finally:
                if source != self._root:
                    self._channel.forget(source)
            if not names:
                return fid
            source = fid

    async def _walk_batch(self, source: int, names: tuple[str, ...]) -> int:
        fid = self._channel.take_fid()
        try:
            r = await self._channel.rpc(Twalk(source, fid, names), Rwalk)
        except P9Error:
            self._channel.return_fid(fid)
            raise
        if len(r.qids) != len(names):
            self._channel.return_fid(fid)
            raise P9Error(errno.ENOENT)
        return fid

    async def _open(self, fid: int, flags: int) -> tuple[Qid, int]:
        if self._linux:
            a = await self._channel.rpc(Tlopen(fid, flags & ~OpenFlag.CREAT), Rlopen)
            return a.qid, a.iounit
        b = await self._channel.rpc(Topen(fid, to_open9(flags)), Ropen)
        return b.qid, b.iounit

    async def _create(self, path: str, flags: int, mode: int) -> RemoteFile:
        parent, name = _split(path)
        fid = await self._walk(parent)
        r: Rlcreate | Rcreate
        try:
            if self._linux:
                t = Tlcreate(fid, name, flags | OpenFlag.EXCL, mode, os.getgid())
                r = await self._channel.rpc(t, Rlcreate)
            else:
                r = await self._channel.rpc(Tcreate(fid, name, mode, to_open9(flags)), Rcreate)
        except BaseException:
            self._channel.forget(fid)
            raise
        return RemoteFile(self._channel, fid, r.qid, r.iounit)

    async def _stat(self, fid: int) -> Attr:
        if not self._linux:
            return from_stat((await self._channel.rpc(Tstat(fid), Rstat)).stat)
        a = await self._channel.rpc(Tgetattr(fid, int(GetattrMask.BASIC)), Rgetattr)
        return Attr(
            mode=a.mode,
            size=a.size,
            nlink=a.nlink,
            uid=a.uid,
            gid=a.gid,
            rdev=a.rdev,
            blksize=a.blksize,
            atime_ns=a.atime_sec * _NS + a.atime_nsec,
            mtime_ns=a.mtime_sec * _NS + a.mtime_nsec,
            ctime_ns=a.ctime_sec * _NS + a.ctime_nsec,
        )

    async def _names_linux(self, file: RemoteFile) -> list[str]:
        names: list[str] = []
        cookie = 0
        while True:
            t = Treaddir(file.fid, cookie, file.chunk)
            found = dirent.parse(memoryview((await self._channel.rpc(t, Rreaddir)).data))
            if not found:
                return names
            names += [entry.name for entry in found]
            cookie = found[-1].offset

    async def _names_base(self, file: RemoteFile) -> list[str]:
        names: list[str] = []
        offset = 0
        while data := await file.pread(offset, file.chunk):
            view, pos = memoryview(data), 0
            while pos < len(view):
                entry, pos = parse_stat(view, pos, self.dialect)
                names.append(entry.name)
            offset += len(data)
        return names


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
        await channel.rpc(Tattach(root, NOFID, uname, aname, number), Rattach)
        yield Client(channel, root)
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

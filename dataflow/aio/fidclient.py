"""A client's operations on fids; `client` has the same by path."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TypeVar

from ..p9 import dirent
from ..p9.attrs import from_stat, to_open9
from ..p9.const import WALK_MAX, Dialect, GetattrMask, OpenFlag
from ..p9.errors import NineError, P9Error
from ..p9.messages import (
    Message,
    Rcreate,
    Rgetattr,
    Rlcreate,
    Rlopen,
    Ropen,
    Rread,
    Rreaddir,
    Rstat,
    Rwalk,
    Rxattrwalk,
    Tcreate,
    Tgetattr,
    Tlcreate,
    Tlopen,
    Topen,
    Tread,
    Treaddir,
    Tstat,
    Twalk,
    Twrite,
    Txattrcreate,
    Txattrwalk,
)
from ..p9.tree import Attr, Entry, Qid
from ..p9.wire import parse_stat
from .channel import Channel
from .file import RemoteFile

_NS = 1_000_000_000
M = TypeVar("M")


class FidClient:
    """One attach on one connection; a fid that a method takes over is clunked if it fails."""

    def __init__(self, channel: Channel, root: int, qid: Qid) -> None:
        self._channel = channel
        self.root = root
        self.root_qid = qid
        self._linux = channel.session.dialect is Dialect.LINUX
        self._loop = asyncio.get_running_loop()

    @property
    def dialect(self) -> Dialect:
        """What the server agreed to."""
        return self._channel.session.dialect

    @property
    def msize(self) -> int:
        """The largest message, in bytes."""
        return self._channel.session.msize

    async def rpc(self, message: Message) -> Message:
        """Send any message and return its answer."""
        return await self._channel.call(message)

    async def ask(self, message: Message, answer: type[M]) -> M:
        """As `rpc`, for an answer of a known type."""
        return await self._channel.rpc(message, answer)

    async def rpc_last(self, message: Message, fid: int) -> None:
        """Send a message that ends a fid, whatever its answer (remove(5))."""
        try:
            await self.rpc(message)
        finally:
            self._channel.return_fid(fid)

    def drop(self, fid: int) -> None:
        """Clunk a fid in the background; may be called from anywhere, also when it is too late."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._channel.forget, fid)

    async def walk_fid(self, source: int, names: tuple[str, ...]) -> tuple[int, Qid | None]:
        """Return a new fid, and its qid if there were names."""
        start, qid = source, None
        while True:
            batch, names = names[:WALK_MAX], names[WALK_MAX:]
            try:
                fid, qids = await self._walk_batch(start, batch)
            finally:
                if start != source:
                    self._channel.forget(start)
            qid = qids[-1] if qids else qid
            if not names:
                return fid, qid
            start = fid

    async def _walk_batch(self, source: int, names: tuple[str, ...]) -> tuple[int, tuple[Qid, ...]]:
        fid = self._channel.take_fid()
        try:
            r = await self._channel.rpc(Twalk(source, fid, names), Rwalk)
        except P9Error:
            self._channel.return_fid(fid)
            raise
        if len(r.qids) != len(names):
            self._channel.return_fid(fid)
            raise P9Error(errno.ENOENT)
        return fid, r.qids

    async def open_fid(self, fid: int, flags: int) -> RemoteFile:
        """Open a fid, which is the file's from now on."""
        r: Rlopen | Ropen
        try:
            if self._linux:
                r = await self._channel.rpc(Tlopen(fid, flags & ~OpenFlag.CREAT), Rlopen)
            else:
                r = await self._channel.rpc(Topen(fid, to_open9(flags)), Ropen)
        except BaseException:
            self._channel.forget(fid)
            raise
        return RemoteFile(self._channel, fid, r.qid, r.iounit)

    async def create_fid(self, fid: int, name: str, flags: int, mode: int) -> RemoteFile:
        """Make a file in the directory `fid`, which is the open file's from now on."""
        r: Rlcreate | Rcreate
        try:
            if self._linux:
                t = Tlcreate(fid, name, flags, mode, os.getgid())
                r = await self._channel.rpc(t, Rlcreate)
            else:
                r = await self._channel.rpc(Tcreate(fid, name, mode, to_open9(flags)), Rcreate)
        except BaseException:
            self._channel.forget(fid)
            raise
        return RemoteFile(self._channel, fid, r.qid, r.iounit)

    async def stat_fid(self, fid: int) -> Attr:
        """Return the attributes; `mode` has the type bits of stat(2) in every dialect."""
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

    async def entries_of(self, file: RemoteFile) -> list[Entry]:
        """Return all entries of an open directory; in .L with "." and ".."."""
        return await (self._entries_linux(file) if self._linux else self._entries_base(file))

    async def _entries_linux(self, file: RemoteFile) -> list[Entry]:
        entries: list[Entry] = []
        cookie = 0
        while True:
            t = Treaddir(file.fid, cookie, file.chunk)
            found = dirent.parse(memoryview((await self._channel.rpc(t, Rreaddir)).data))
            if not found:
                return entries
            entries += [Entry(entry.name, entry.qid) for entry in found]
            cookie = found[-1].offset

    async def _entries_base(self, file: RemoteFile) -> list[Entry]:
        entries: list[Entry] = []
        offset = 0
        while data := await file.pread(offset, file.chunk):
            view, pos = memoryview(data), 0
            while pos < len(view):
                entry, pos = parse_stat(view, pos, self.dialect)
                entries.append(Entry(entry.name, entry.qid))
            offset += len(data)
        return entries

    async def xattr_of(self, source: int, name: str) -> bytes:
        """Return an extended attribute, or for "" all names, each with a NUL; .L only."""
        fid = self._channel.take_fid()
        try:
            size = (await self._channel.rpc(Txattrwalk(source, fid, name), Rxattrwalk)).size
        except P9Error:
            self._channel.return_fid(fid)
            raise
        out = bytearray()
        try:
            while len(out) < size:
                count = min(size - len(out), self._channel.session.io_max)
                r = await self._channel.rpc(Tread(fid, len(out), count), Rread)
                if not r.data:
                    break
                out += r.data
        finally:
            await self._channel.clunk(fid)
        return bytes(out)

    async def set_xattr_of(self, source: int, name: str, value: bytes, flags: int = 0) -> None:
        """Set an extended attribute; an empty one with XATTR_REPLACE removes it; .L only."""
        fid, _ = await self.walk_fid(source, ())
        try:
            await self.rpc(Txattrcreate(fid, name, len(value), flags))
            room = self._channel.session.io_max
            for start in range(0, len(value), room):
                await self.rpc(Twrite(fid, start, value[start : start + room]))
        except NineError:
            self._channel.forget(fid)
            raise
        await self._channel.clunk(fid)  # this sets it, and may be refused

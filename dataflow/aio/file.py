"""An open file on a 9P server, with several requests in flight."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeVar

from ..p9.const import LOCK_BLOCK, Dialect, LockStatus
from ..p9.errors import P9Error
from ..p9.messages import (
    Rlock,
    Rread,
    Rwrite,
    Stat,
    Tfsync,
    Tlock,
    Tread,
    Twrite,
    Twstat,
)
from ..p9.tree import Buffer, Qid
from .channel import Channel

T = TypeVar("T")
_HOST = socket.gethostname()
WINDOW = 8  # reads or writes of one file in flight


class RemoteFile:
    """An open file on the server; `async with` closes it."""

    def __init__(self, channel: Channel, fid: int, qid: Qid, iounit: int) -> None:
        self._channel = channel
        self.fid = fid
        self.qid = qid
        room = channel.session.io_max
        self.chunk = min(iounit, room) if iounit else room
        self._closed = False

    async def __aenter__(self) -> RemoteFile:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def pread(self, offset: int, count: int) -> Buffer:
        """Read once, at most one message's worth; empty at the end, short where the server is."""
        t = Tread(self.fid, offset, min(count, self.chunk))
        r = await self._channel.rpc(t, Rread)
        return r.data

    async def read(self, offset: int, count: int) -> bytes:
        """Read `count` bytes or up to the end, with several requests in flight."""
        spans = list(_spans(offset, count, self.chunk))
        parts = await _windowed(lambda i: self._fill(*spans[i]), len(spans))
        out: list[Buffer] = []
        for part, (_, size) in zip(parts, spans, strict=True):
            out.append(part)
            if len(part) < size:
                break
        return b"".join(out)

    async def write(self, offset: int, data: Buffer) -> int:
        """Write all of `data`, with several requests in flight; returns its length."""
        view = memoryview(data)
        spans = list(_spans(0, len(view), self.chunk))
        await _windowed(lambda i: self._write(offset, view, *spans[i]), len(spans))
        return len(view)

    async def follow(self) -> AsyncIterator[bytes]:
        """Yield the pieces of a live file as they come, until two empty reads say it ended."""
        offset = empty = 0
        while empty < 2:
            data = bytes(await self.pread(offset, self.chunk))
            empty = 0 if data else empty + 1
            offset += len(data)
            if data:
                yield data

    async def fsync(self, datasync: bool = False) -> None:
        """Make what was written durable; in 9P2000 by an empty wstat (stat(5))."""
        if self._channel.session.dialect is Dialect.LINUX:
            await self._channel.call(Tfsync(self.fid, int(datasync)))
        else:
            await self._channel.call(Twstat(self.fid, Stat()))

    async def lock(
        self, kind: int, start: int = 0, length: int = 0, *, wait: bool = False, owner: int = 0
    ) -> LockStatus:
        """Take or give back (`LockType`) a record lock for process `owner`; .L only.

        `length` 0 is to the end.  With `wait` the server may hold the answer back until the lock
        is free, where it can; otherwise BLOCKED comes back and it is the caller's to try again.
        """
        flags = LOCK_BLOCK if wait else 0
        t = Tlock(self.fid, kind, flags, start, length, owner or os.getpid(), _HOST)
        return LockStatus((await self._channel.rpc(t, Rlock)).status)

    async def close(self) -> None:
        """Clunk the fid; again does nothing."""
        if not self._closed:
            self._closed = True
            await self._channel.clunk(self.fid)

    async def _fill(self, offset: int, count: int) -> Buffer:
        data = await self.pread(offset, count)
        if len(data) in {0, count}:
            return data
        out = bytearray(data)
        while len(out) < count:
            more = await self.pread(offset + len(out), count - len(out))
            if not more:
                break
            out += more
        return out

    async def _write(self, base: int, view: memoryview, start: int, size: int) -> None:
        done = 0
        while done < size:
            t = Twrite(self.fid, base + start + done, view[start + done : start + size])
            n = (await self._channel.rpc(t, Rwrite)).count
            if not 0 < n <= size - done:
                raise P9Error(errno.EIO, f"Write: expected 1 to {size - done} bytes, found {n}")
            done += n


def _spans(offset: int, count: int, chunk: int) -> Iterator[tuple[int, int]]:
    for start in range(offset, offset + count, chunk):
        yield start, min(chunk, offset + count - start)


async def _windowed(run: Callable[[int], Awaitable[T]], count: int) -> list[T]:
    """Run calls 0 to count-1, WINDOW at a time, and return their results in order."""
    if count == 1:
        return [await run(0)]
    results: list[T | None] = [None] * count
    todo = iter(range(count))

    async def worker() -> None:
        for i in todo:
            results[i] = await run(i)

    tasks = [asyncio.ensure_future(worker()) for _ in range(min(WINDOW, count))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return results  # type: ignore[return-value]  # every place was filled

"""An open file of the host: reads of what is cached at once, all else in threads."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from ..core.host import in_memory
from ..core.outcome import SLOW, SLOW_TURNS
from ..p9.errors import P9Error
from ..p9.tree import Buffer, Direct, Handle, wants_write
from . import hostattr

MEMORY = 100 << 20  # octets a second that even a slow processor copies
_SYNCED = os.O_DSYNC | os.O_SYNC


class Runner(Protocol):
    """Runs a function that may block; `undo` gets its result if the caller was cancelled."""

    def __call__(
        self, func: Callable[..., Any], *args: Any, undo: Callable[[Any], object] | None = None
    ) -> Awaitable[Any]:
        """Return what `func(*args)` returns."""


class Host:
    """What the nodes of one served directory share."""

    def __init__(self, run: Runner, read_only: bool, keep_setuid: bool) -> None:
        self.run = run
        self.read_only = read_only
        self.keep_setuid = keep_setuid
        self.slow = 0  # writes that are still to go to threads, for one took long

    def must_write(self) -> None:
        """Refuse what changes a tree that is read-only."""
        if self.read_only:
            raise P9Error(errno.EROFS)

    def opened(self, fd: int, flags: int) -> None:
        """Disarm a file that was opened to be written; closes it if that fails."""
        if self.keep_setuid or not wants_write(flags):
            return
        try:
            hostattr.disarm(fd)
        except BaseException:
            os.close(fd)
            raise


class HostHandle(Handle):
    """An open file of the host."""

    def __init__(self, host: Host, fd: int, flags: int) -> None:
        access = flags & os.O_ACCMODE
        writes = access != os.O_RDONLY and not flags & _SYNCED  # a synced write waits for a disk
        self.direct = Direct(fd, access != os.O_WRONLY, writes)
        self._writes = writes
        self._host = host
        self._fd = fd
        self._lock = threading.Lock()
        self._users = 1  # the owner until close(), and each call in a thread
        self._nowait = True
        self._flags = 0 if in_memory(fd) else os.RWF_NOWAIT

    def read_nowait(self, offset: int, count: int) -> Buffer | None:
        """Read what the page cache holds; None unless that is all there is to get."""
        if not self._nowait or offset >= 1 << 63:
            return None
        data = bytearray(count)
        try:
            n = os.preadv(self._fd, [data], offset, self._flags)
            if n < count and offset + n < os.fstat(self._fd).st_size:
                return None
        except BlockingIOError:
            return None
        except OSError:
            self._nowait = False  # not every file system can; the long way tells errors
            return None
        return data if n == count else bytes(memoryview(data)[:n])

    async def read(self, offset: int, count: int) -> Buffer:
        """Read in a thread."""
        data: bytes = await self._use(os.pread, count, offset)
        return data

    def write_nowait(self, offset: int, data: Buffer) -> int | None:
        """Write to the page cache as the pump does: it waits for a disk only when it is full."""
        if not self._writes or offset >= 1 << 63:
            return None
        if self._host.slow:
            self._host.slow -= 1
            return None
        before = time.monotonic()
        try:
            return os.pwrite(self._fd, data, offset)
        except OSError:
            return None  # nothing was written: the long way tells why
        finally:
            if time.monotonic() - before > SLOW + len(data) / MEMORY:
                self._host.slow = SLOW_TURNS

    async def write(self, offset: int, data: Buffer) -> int:
        """Write in a thread; an append handle appends whatever the offset (pwrite(2), BUGS)."""
        n: int = await self._use(os.pwrite, data, offset)
        return n

    async def fsync(self, datasync: bool) -> None:
        """Make it durable."""
        await self._use(os.fdatasync if datasync else os.fsync)

    async def close(self) -> None:
        """Close, once no thread uses the descriptor: a cancelled read's thread may still run."""
        self._release()

    async def _use(self, func: Callable[..., Any], *args: Any) -> Any:
        if args and isinstance(args[-1], int) and args[-1] >= 1 << 63:
            raise P9Error(errno.EINVAL, f"Offset {args[-1]} is beyond any file")
        with self._lock:
            self._users += 1
        return await self._host.run(self._call, func, *args)

    def _call(self, func: Callable[..., Any], *args: Any) -> Any:
        try:
            return func(self._fd, *args)
        finally:
            self._release()

    def _release(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                os.close(self._fd)

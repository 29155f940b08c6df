"""Ready-made nodes: static files and directories, command files, and live streams."""

from __future__ import annotations

import errno
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from .const import OpenFlag
from .errors import P9Error
from .tree import Attr, Buffer, Context, Directory, Entry, File, Handle, Node, SetAttr, wants_write


class BytesHandle(Handle):
    """Reads from bytes that do not change while the file is open."""

    def __init__(self, data: Buffer) -> None:
        self._data = memoryview(data).toreadonly()

    def read_nowait(self, offset: int, count: int) -> Buffer | None:
        """Return a slice, without a copy."""
        return self._data[offset : offset + count]

    async def read(self, offset: int, count: int) -> Buffer:
        """Return a slice, without a copy."""
        return self._data[offset : offset + count]


class StaticFile(File):
    """A read-only file: bytes, or a function (plain or async) that makes them at each open.

    A function may be called often, for `attr` wants the size.  Give `size` to spare that.
    """

    mode = 0o444

    def __init__(
        self,
        content: Buffer | Callable[[], Buffer] | Callable[[], Awaitable[Buffer]],
        *,
        mode: int = 0o444,
        size: int | None = None,
    ) -> None:
        self._content = content
        self._size = size
        self.mode = mode

    async def content(self) -> Buffer:
        """Return the bytes as they are now."""
        if not callable(self._content):
            return self._content
        made = self._content()
        return made if isinstance(made, bytes | bytearray | memoryview) else await made

    async def attr(self, ctx: Context) -> Attr:
        """Return mode and size."""
        size = len(await self.content()) if self._size is None else self._size
        return Attr(mode=self.kind | self.mode, size=size)

    async def open(self, flags: int, ctx: Context) -> Handle:
        """Open for reading; EROFS for anything else."""
        if wants_write(flags):
            raise P9Error(errno.EROFS, "Read-only file")
        return BytesHandle(await self.content())


class StaticDir(Directory):
    """A directory of named nodes, read-only for clients; the program may change `children`."""

    def __init__(self, children: Mapping[str, Node] | None = None, *, mode: int = 0o555) -> None:
        self.children: dict[str, Node] = dict(children or {})
        self.mode = mode

    async def lookup(self, name: str, ctx: Context) -> Node:
        """Return the child called `name`."""
        return self.lookup_nowait(name, ctx)

    def lookup_nowait(self, name: str, ctx: Context) -> Node:
        """Return the child called `name`."""
        try:
            return self.children[name]
        except KeyError:
            raise P9Error(errno.ENOENT) from None

    async def entries(self, ctx: Context) -> Sequence[Entry]:
        """Return the children in the order they were put in."""
        return [Entry(name, node.qid) for name, node in self.children.items()]

    async def attr(self, ctx: Context) -> Attr:
        """Return the attributes; links count the directories below, as on disk."""
        below = sum(node.kind == stat.S_IFDIR for node in self.children.values())
        return Attr(mode=self.kind | self.mode, nlink=2 + below)


class ControlFile(File):
    """A file of commands: each write runs one, the next read from the start gives its result.

    `run(command, ctx)` gets the text without surrounding blanks and returns what a read shows, or
    raises `P9Error`, which fails the write itself.  As in DataKit the result stays on the file, so
    that `echo x > ctl; cat ctl` works; a handle that ran a command reads its own result.
    """

    mode = 0o600

    def __init__(
        self,
        run: Callable[[str, Context], Awaitable[str | bytes | None]],
        *,
        mode: int = 0o600,
        result: bytes = b"",
    ) -> None:
        self.run = run
        self.mode = mode
        self.result = result

    async def attr(self, ctx: Context) -> Attr:
        """Return mode and the size of the last result."""
        return Attr(mode=self.kind | self.mode, size=len(self.result))

    async def setattr(self, change: SetAttr, ctx: Context) -> None:
        """Accept a truncation to nothing, which shells send before they write."""
        if change.size:
            raise P9Error(errno.EPERM, "Can't extend command file")
        if change.mode is not None:
            raise P9Error(errno.EPERM, "Can't chmod special file")

    async def open(self, flags: int, ctx: Context) -> Handle:
        """Open in any mode."""
        return _ControlHandle(self, flags, ctx)


class _ControlHandle(Handle):
    def __init__(self, file: ControlFile, flags: int, ctx: Context) -> None:
        self._file = file
        self._ctx = ctx
        self._result: bytes | None = None
        self._access = flags & OpenFlag.ACCMODE

    async def read(self, offset: int, count: int) -> Buffer:
        if self._access == OpenFlag.WRONLY:
            raise P9Error(errno.EBADF)
        result = self._file.result if self._result is None else self._result
        return result[offset : offset + count]

    async def write(self, offset: int, data: Buffer) -> int:
        if self._access == OpenFlag.RDONLY:
            raise P9Error(errno.EBADF)
        command = bytes(data).decode(errors="surrogateescape").strip()
        result = await self._file.run(command, self._ctx) or b""
        raw = result.encode(errors="surrogateescape") if isinstance(result, str) else result
        self._result = self._file.result = raw
        return len(data)


class StreamFile(File):
    """A file whose reads wait for the next piece: `tail -f` without polling.

    `source(ctx)` is called at each open and returns an async iterator of pieces; when it ends, so
    does the file.  Clunking closes the iterator (its `aclose`, so a generator's `finally` runs).

    A flushed read cancels the iterator's `__anext__`.  A class that waits there loses nothing by
    it; a generator ends, so wrap one in `dataflow.aio.streams.Shielded`.
    """

    mode = 0o444

    def __init__(
        self, source: Callable[[Context], AsyncIterator[Buffer]], *, mode: int = 0o444
    ) -> None:
        self.source = source
        self.mode = mode

    async def open(self, flags: int, ctx: Context) -> Handle:
        """Open for reading; EROFS for anything else."""
        if wants_write(flags):
            raise P9Error(errno.EROFS, "Read-only file")
        return StreamHandle(self.source(ctx))


class StreamHandle(Handle):
    """One reader of a stream; pieces lie at rising offsets, and the last one can be read again.

    Linux's client turns one read(2) into Treads until the buffer is full or a Tread comes back
    empty (p9_client_read).  So a reply shorter than asked for is followed by one empty reply at
    the offset behind it, which ends the read(2); the Tread after that waits.  Two empty replies
    in a row are the end of the stream.
    """

    live = True

    def __init__(self, source: AsyncIterator[Buffer]) -> None:
        self._source = source
        self._piece: Buffer = b""
        self._start = 0  # the offset of _piece
        self._pause_at = -1  # the offset at which one empty reply is due
        self._reading = False
        self._ended = False

    async def read(self, offset: int, count: int) -> Buffer:
        """Return bytes of the current piece, or wait for the next one at its end."""
        end = self._start + len(self._piece)
        if not self._start <= offset <= end:
            raise P9Error(errno.EINVAL, "Attempt to seek in stream")
        if offset == end:
            if self._pause_at == offset or not count:
                self._pause_at = -1
                return b""
            await self._advance()
        data = self._piece[offset - self._start :][:count]
        self._pause_at = offset + len(data) if 0 < len(data) < count else -1
        return data

    async def _advance(self) -> None:
        if self._reading:
            raise P9Error(errno.EBUSY, "Another read waits on this open file")
        self._reading = True
        try:
            piece: Buffer = b""
            while not piece and not self._ended:
                piece = await anext(self._source)
            if not self._ended:
                self._start += len(self._piece)
                self._piece = piece
        except StopAsyncIteration:
            self._ended = True
        finally:
            self._reading = False

    async def close(self) -> None:
        """Close the iterator, if it can be closed."""
        self._ended = True
        aclose = getattr(self._source, "aclose", None)
        if aclose is not None:
            await aclose()

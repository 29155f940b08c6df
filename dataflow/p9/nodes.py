"""Ready-made nodes: static files and directories, command files, and live streams."""

from __future__ import annotations

import errno
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from .const import OpenFlag
from .errors import P9Error
from .tree import Attr, Buffer, Context, Directory, Entry, File, Handle, Node, SetAttr, wants_write

COMMAND_MAX = 1 << 20  # bytes of one command


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
    raises `P9Error`, which fails the write itself.  A command may come in several writes: they are
    joined up to a newline or the close.  As in DataKit the result stays on the file, so that
    `echo x > ctl; cat ctl` works, but every handle that ran a command reads its own result.
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
        self._pending = bytearray()
        self._result: bytes | None = None
        self._readable = flags & OpenFlag.ACCMODE != OpenFlag.WRONLY

    async def read(self, offset: int, count: int) -> Buffer:
        if not self._readable:
            raise P9Error(errno.EBADF)
        result = self._file.result if self._result is None else self._result
        return result[offset : offset + count]

    async def write(self, offset: int, data: Buffer) -> int:
        if len(self._pending) + len(data) > COMMAND_MAX:
            raise P9Error(errno.EFBIG, f"Command longer than {COMMAND_MAX} bytes")
        self._pending += data
        if self._pending.endswith(b"\n"):
            await self._run()
        return len(data)

    async def fsync(self, datasync: bool) -> None:
        await self._run()

    async def close(self) -> None:
        await self._run()

    async def _run(self) -> None:
        command = bytes(self._pending).decode(errors="surrogateescape").strip()
        self._pending.clear()
        if not command:
            return
        result = await self._file.run(command, self._ctx) or b""
        raw = result.encode(errors="surrogateescape") if isinstance(result, str) else result
        self._result = self._file.result = raw


class StreamFile(File):
    """A file whose reads wait for the next piece: `tail -f` without polling.

    `source(ctx)` is called at each open and returns an async iterator of pieces; a read waits for
    one and returns it, whatever the offset, in parts if it is larger than asked for.  When the
    iterator ends, so does the file.  A read that is flushed loses nothing: the piece goes to the
    next read.  Clunking closes the iterator (its `aclose`, so a generator's `finally` runs).
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

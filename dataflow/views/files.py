"""Small files: what is made anew at each open, what can be edited, streams, and command files."""

from __future__ import annotations

import errno
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, Protocol, Self, TypeVar

from ..branch.change import Change, ChangeKind
from ..errors import DataflowError, UsageError
from ..p9.const import OpenFlag
from ..p9.errors import P9Error
from ..p9.nodes import BytesHandle, ControlFile
from ..p9.tree import Attr, Buffer, Context, File, Handle, SetAttr, path_id, wants_write
from ..store import objects as git
from ..store.base import Oid
from ..tree.paths import Path
from ..tree.tree import find
from .base import Hub, answers

S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)
TEXT_MAX = 1 << 20
LETTERS = {git.DIRECTORY: "D", git.FILE: "F", git.EXECUTABLE: "X", git.SYMLINK: "L"}


class TextFile(File):
    """A read-only file whose text is asked for at each open."""

    mode = 0o444

    def __init__(self, key: tuple[str, ...], content: Callable[[], Awaitable[bytes]]) -> None:
        self._qid_path = path_id(*key)
        self._content = content

    @answers
    async def attr(self, ctx: Context) -> Attr:
        """Return mode and the size the text has now."""
        return Attr(mode=self.kind | self.mode, size=len(await self._now()))

    async def _now(self) -> bytes:
        content = await self._content()
        self.version = zlib.crc32(content)
        return content

    @answers
    async def open(self, flags: int, ctx: Context) -> Handle:
        """Open for reading."""
        if wants_write(flags):
            raise P9Error(errno.EROFS, "Read-only file")
        return BytesHandle(await self._now())


class EditFile(File):
    """A small text that can be edited: each write and truncation sets it as a whole."""

    mode = 0o644

    def __init__(
        self, key: tuple[str, ...], get: Callable[[], str], put: Callable[[str], None]
    ) -> None:
        self._qid_path = path_id(*key)
        self._get = get
        self._put = put

    def text(self) -> bytearray:
        """Return the text as it is now."""
        return bytearray(self._get().encode("utf-8", "surrogateescape"))

    def set(self, octets: bytearray) -> None:
        """Replace the text; what the setter raises is the writer's answer."""
        if len(octets) > TEXT_MAX:
            raise UsageError(f"{len(octets)} octets, at most {TEXT_MAX}")
        self._put(octets.decode("utf-8", "surrogateescape"))

    @answers
    async def attr(self, ctx: Context) -> Attr:
        """Return mode and size."""
        return Attr(mode=self.kind | self.mode, size=len(self.text()))

    @answers
    async def setattr(self, change: SetAttr, ctx: Context) -> None:
        """Truncate."""
        if change.size is not None:
            if change.size > TEXT_MAX:
                raise UsageError(f"{change.size} octets, at most {TEXT_MAX}")
            octets = self.text()[: change.size]
            self.set(octets + bytes(change.size - len(octets)))

    @answers
    async def open(self, flags: int, ctx: Context) -> Handle:
        """Open in any mode."""
        if flags & OpenFlag.TRUNC:
            self.set(bytearray())
        return _EditHandle(self, flags)


class _EditHandle(Handle):
    def __init__(self, file: EditFile, flags: int) -> None:
        self._file = file
        self._flags = flags

    @answers
    async def read(self, offset: int, count: int) -> Buffer:
        return bytes(self._file.text()[offset : offset + count])

    @answers
    async def write(self, offset: int, data: Buffer) -> int:
        if not wants_write(self._flags):
            raise P9Error(errno.EBADF, "File is not open for writing")
        octets = self._file.text()
        if self._flags & OpenFlag.APPEND:
            offset = len(octets)
        if offset > len(octets):
            raise UsageError(f"Offset {offset} beyond end-of-file (len = {len(octets)})")
        octets[offset : offset + len(data)] = data
        self._file.set(octets)
        return len(data)


def command_file(
    key: tuple[str, ...], run: Callable[[str], Awaitable[str]], *, mode: int = 0o600
) -> ControlFile:
    """Return a file of commands; an error answers the write, and its text is read back."""

    async def runs(command: str, ctx: Context) -> str:
        try:
            return await run(command)
        except DataflowError as err:
            file.result = f"{err}\n".encode("utf-8", "surrogateescape")
            raise P9Error(err.errno, str(err)) from err
        except OSError as err:
            file.result = f"{err}\n".encode()
            raise P9Error(err.errno or errno.EIO, str(err)) from err

    file = ControlFile(runs, mode=mode)
    file._qid_path = path_id(*key)
    return file


class Events(Protocol[S_co]):
    """A stream that can be closed: `Watch`, `Follower`."""

    async def __anext__(self) -> S_co: ...

    async def aclose(self) -> None:
        """End the stream."""


class Lines(Generic[S]):
    """An async iterator of lines made from a stream of events; None from `line` skips one.

    Cancelling a wait loses nothing, as with the streams below it.
    """

    def __init__(self, source: Events[S], line: Callable[[S], Awaitable[str | None]]) -> None:
        self._source = source
        self._line = line
        self._event: S | None = None
        self._has_event = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while True:
            if not self._has_event:
                self._event = await self._source.__anext__()
                self._has_event = True
            line = await self._line(self._event)  # type: ignore[arg-type]
            self._has_event = False
            if line is not None:
                return line.encode() + b"\n"

    async def aclose(self) -> None:
        """End the stream below."""
        await self._source.aclose()


def head_lines(hub: Hub, branch: str) -> AsyncIterator[Buffer]:
    """Stream the head: the present one, then the newest after each change; blank for none."""

    async def line(head: Oid | None) -> str:
        return head or ""

    return Lines[Oid | None](hub.repo.follow(branch), line)


def reflog_lines(hub: Hub, branch: str) -> AsyncIterator[Buffer]:
    """Stream every commit of the branch's own line from now on; blank when it is deleted."""

    async def line(change: Change) -> str | None:
        if change.kind is ChangeKind.DELETED:
            return ""
        return change.commit or None  # cut, with nothing in common: the new commits follow

    return Lines[Change](hub.repo.branch(branch).watch(first_parent=True), line)


def tree_lines(hub: Hub, branch: str, path: Path) -> AsyncIterator[Buffer]:
    """Stream what stands at `path` (`D-`, `F-`, `X-`, `L-` and the id; blank: nothing)."""
    last: list[str] = []

    def look(head: Oid | None) -> str:
        engine = hub.repo.engine
        entry = find(engine.objects, engine.tree(head).oid, path)
        return f"{LETTERS[entry.mode]}-{entry.oid}" if entry and entry.mode in LETTERS else ""

    async def line(head: Oid | None) -> str | None:
        found = await hub.repo.worker.read(look, head)
        if last == [found]:
            return None
        last[:] = [found]
        return found

    return Lines[Oid | None](hub.repo.follow(branch, b"/".join(path)), line)

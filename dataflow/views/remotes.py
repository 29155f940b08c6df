"""remotes/: other repositories by name; mkdir adds one, mv renames it, rmdir forgets it."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Sequence

from ..errors import NotFoundError
from ..p9.const import OpenFlag
from ..p9.errors import P9Error
from ..p9.nodes import ControlFile, StreamFile
from ..p9.tree import (
    Attr,
    Buffer,
    Context,
    Directory,
    Entry,
    File,
    Handle,
    Node,
    SetAttr,
    path_id,
    wants_write,
)
from ..store.base import Oid
from ..sync.config import URL_MAX
from ..sync.remote import Remote
from .base import DirsOnly, FixedDir, Hub, answers
from .files import Lines, command_file


class RemotesDir(DirsOnly):
    """The remotes of the repository's config.  A name with a slash is no name here: not shown."""

    def __init__(self, hub: Hub) -> None:
        self._remotes = hub.repo.remotes
        self._qid_path = path_id("remotes")
        self._nodes: dict[str, RemoteDir] = {}  # for the results of their command files

    async def _names(self) -> list[str]:
        names = [n for n in await self._remotes.names() if "/" not in n]
        for gone in self._nodes.keys() - names:
            del self._nodes[gone]
        return names

    def _node(self, name: str) -> RemoteDir:
        if name not in self._nodes:
            self._nodes[name] = RemoteDir(self._remotes.remote(name))
        return self._nodes[name]

    @answers
    async def lookup(self, name: str, ctx: Context) -> Node:
        """Return a remote."""
        if name not in await self._names():
            raise NotFoundError(name)
        return self._node(name)

    @answers
    async def entries(self, ctx: Context) -> Sequence[Entry]:
        """Return the remotes."""
        return [Entry(name, self._node(name).qid) for name in await self._names()]

    @answers
    async def mkdir(self, name: str, mode: int, ctx: Context) -> Node:
        """Add a remote without a URL."""
        await self._remotes.add(name)
        return self._node(name)

    @answers
    async def unlink(self, name: str, is_dir: bool, ctx: Context) -> None:
        """Remove a remote and what was fetched from it."""
        await self._remotes.remove(name)
        self._nodes.pop(name, None)

    @answers
    async def rename(self, name: str, to: Directory, new_name: str, ctx: Context) -> None:
        """Rename a remote and what was fetched from it."""
        if to is not self:
            raise P9Error(errno.EXDEV)
        await self._remotes.rename(name, new_name)
        self._nodes.pop(name, None)


class RemoteDir(FixedDir):
    """One remote: its URL, the command that fetches, the stream of what was fetched."""

    mode = 0o755

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        key = ("remotes", remote.name)
        self._qid_path = path_id(*key)
        self._fetch = command_file((*key, "fetch"), self._fetches)
        self._head = StreamFile(self._heads)
        self._head._qid_path = path_id(*key, "head")
        self._nodes: dict[str, Node] = {
            "url": UrlFile(remote),
            "fetch": self._fetch,
            "head": self._head,
        }

    async def _fetches(self, branch: str) -> str:
        """Fetch; whoever reads the file meanwhile sees how far it is."""
        file: ControlFile = self._fetch

        def progress(message: str) -> None:
            if message:
                file.result = message.encode("utf-8", "surrogateescape") + b"\n"

        return await self._remote.fetch(branch, progress=progress) + "\n"

    def _heads(self, ctx: Context) -> AsyncIterator[Buffer]:
        async def line(head: Oid | None) -> str:
            return head or ""

        return Lines[Oid | None](self._remote.heads(), line)

    @answers
    async def lookup(self, name: str, ctx: Context) -> Node:
        """Return one of the fixed names."""
        try:
            return self._nodes[name]
        except KeyError:
            raise NotFoundError(name) from None

    @answers
    async def entries(self, ctx: Context) -> Sequence[Entry]:
        """Return the fixed names."""
        return [Entry(name, node.qid) for name, node in self._nodes.items()]


class UrlFile(File):
    """A remote's URL; each write sets it, and so does cutting it."""

    mode = 0o644

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._qid_path = path_id("remotes", remote.name, "url")

    async def text(self) -> bytes:
        """Return the URL, without a newline; nothing if there is none."""
        return (await self._remote.url()).encode("utf-8", "surrogateescape")

    async def set(self, octets: bytes) -> None:
        """Change the URL."""
        await self._remote.set_url(octets.strip().decode("utf-8", "surrogateescape"))

    @answers
    async def attr(self, ctx: Context) -> Attr:
        """Return mode and size."""
        return Attr(mode=self.kind | self.mode, size=len(await self.text()))

    @answers
    async def setattr(self, change: SetAttr, ctx: Context) -> None:
        """Cut to `size` octets; it cannot grow that way."""
        if change.size is not None:
            text = await self.text()
            if change.size > len(text):
                raise P9Error(errno.EPERM, "Can't extend a URL by its size")
            await self.set(text[: change.size])

    @answers
    async def open(self, flags: int, ctx: Context) -> Handle:
        """Open in any mode; one cut to nothing keeps its URL until the first write or the close."""
        text = await self.text()
        return _UrlHandle(self, flags, b"" if flags & OpenFlag.TRUNC else text)


class _UrlHandle(Handle):
    def __init__(self, file: UrlFile, flags: int, text: bytes) -> None:
        self._file = file
        self._flags = flags
        self._text = bytearray(text)
        self._cut = bool(flags & OpenFlag.TRUNC)

    async def read(self, offset: int, count: int) -> Buffer:
        return bytes(self._text[offset : offset + count])

    @answers
    async def write(self, offset: int, data: Buffer) -> int:
        if not wants_write(self._flags):
            raise P9Error(errno.EBADF, "File is not open for writing")
        self._cut = False  # a write that is refused leaves what was there
        if self._flags & OpenFlag.APPEND:
            offset = len(self._text)
        if offset > len(self._text):
            raise P9Error(
                errno.EINVAL, f"Offset {offset} beyond end-of-file (len = {len(self._text)})"
            )
        if offset + len(data) > URL_MAX:
            raise P9Error(errno.EFBIG, f"{offset + len(data)} octets, at most {URL_MAX}")
        changed = bytearray(self._text)
        changed[offset : offset + len(data)] = data
        await self._file.set(bytes(changed))
        self._text = changed
        return len(data)

    @answers
    async def close(self) -> None:
        if self._cut:
            await self._file.set(b"")

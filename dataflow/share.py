"""What `hypervisor` shares with its guests by name: the entry point of the group
`hypervisor.shares`.

A path is a directory of the host, or a repository if it is a bare one (`HEAD`, `objects`, `refs`).
A prefix says what is meant: "dir:PATH", "ro:PATH" (a directory, read-only), "setuid:PATH" (a
directory in which guests may set set-ID bits and file capabilities, which so lend rights on the
host), "git:PATH" (a repository, made if it is not there).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import AsyncIterator

from .aio.hostdir import host_directory
from .aio.server import Server
from .branch.repository import Repository
from .p9.tree import Node
from .views.root import repository_root

_KINDS = ("dir", "ro", "setuid", "git")
_BARE = ("HEAD", "objects", "refs")


class DirectoryServer(Server):
    """Serves a directory of the host; an engine that can do that by itself may."""

    def __init__(
        self, directory: str, *, read_only: bool = False, keep_setuid: bool = False
    ) -> None:
        self._top = host_directory(directory, read_only=read_only, keep_setuid=keep_setuid)
        super().__init__(self._top)
        self.directory = directory
        self.read_only = read_only
        self.keep_setuid = keep_setuid

    async def close(self) -> None:
        """End all connections and let go of the directory."""
        await super().close()
        self._top.close()


def open_share(what: object) -> contextlib.AbstractAsyncContextManager[Server] | None:
    """Return a server for a path, a `Repository` or a node, to be entered; None for others.

    Raises `OSError` for a path where nothing is.  A repository that is given stays its owner's.
    """
    if isinstance(what, Repository):
        return Server(repository_root(what))
    if isinstance(what, Node):
        return Server(what)
    if isinstance(what, str | os.PathLike):
        return _open_path(os.fspath(what))
    return None


def _open_path(text: str) -> contextlib.AbstractAsyncContextManager[Server]:
    kind, colon, path = text.partition(":")
    if not colon or kind not in _KINDS:
        kind, path = "", text
    if kind == "git":
        return _repository(path)
    if not os.path.isdir(path):
        number = errno.ENOTDIR if os.path.exists(path) else errno.ENOENT
        raise OSError(number, os.strerror(number), path)
    if not kind and all(os.path.exists(os.path.join(path, name)) for name in _BARE):
        return _repository(path)
    top = os.path.abspath(path)
    return DirectoryServer(top, read_only=kind == "ro", keep_setuid=kind == "setuid")


@contextlib.asynccontextmanager
async def _repository(path: str) -> AsyncIterator[Server]:
    async with Repository.open(path) as repo, Server(repository_root(repo)) as server:
        yield server

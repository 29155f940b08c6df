"""Mounts a 9P server by its address, or a repository from within this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator

from ..aio.server import Server
from ..branch.repository import Repository
from ..errors import PeerError
from ..views.root import repository_root
from .mount import Mount
from .remote import MSIZE, Remote, attach


def is_address(what: str) -> bool:
    """Tell the address of a server from the path of a repository."""
    return what.startswith(("unix:", "tcp:"))


@contextlib.asynccontextmanager
async def mounted(
    what: str | Repository,
    directory: str | os.PathLike[str],
    *,
    read_only: bool = False,
    allow_other: bool = False,
) -> AsyncIterator[Mount]:
    """Mount for the block: "unix:PATH" or "tcp:HOST:PORT", or a repository (a path makes one).

    Watch `Mount.ended`: it is set when somebody unmounted the directory or the server is gone.
    """
    source = what if isinstance(what, str) else "dataflow"
    async with _attached(what) as remote:
        mount = await Mount.open(
            remote,
            os.fspath(directory),
            source=source,
            read_only=read_only,
            allow_other=allow_other,
        )
        try:
            yield mount
        finally:
            await mount.close()


@contextlib.asynccontextmanager
async def _attached(what: str | Repository) -> AsyncIterator[Remote]:
    if isinstance(what, str) and is_address(what):
        try:
            async with attach(what) as remote:
                yield remote
        except ConnectionError as err:
            raise PeerError(f"{what}: {err.strerror or err}") from err
        return
    async with contextlib.AsyncExitStack() as stack:
        repo = what
        if isinstance(repo, str):
            repo = await stack.enter_async_context(Repository.open(repo))
        server = await stack.enter_async_context(Server(repository_root(repo), msize=MSIZE))
        ours, theirs = socket.socketpair()
        serving = asyncio.get_running_loop().create_task(server.serve_socket(theirs))
        async with attach(ours) as remote:
            yield remote
        await serving

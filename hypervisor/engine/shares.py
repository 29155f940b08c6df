"""The shares of a machine: from what the user named to 9P servers, and their ends.

What may be shared: a 9P server object (`devices.p9exchange.Server`, or one whose `handle` takes
streams), an address of an outside one ("unix:PATH", "tcp:HOST:PORT"), and whatever an installed
package knows.  Such a package registers a callable in the entry-point group `hypervisor.shares`:
it gets the object, a path mostly, and returns an async context manager around a server, or None.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import cast

from ..aio.p9 import Outside, Streams
from ..devices.p9exchange import Server
from ..errors import HypervisorError, UsageError
from .base import EngineError

GROUP = "hypervisor.shares"
Entered = contextlib.AbstractAsyncContextManager[object]


class Shares:
    """The servers behind `shares`, pairs of a tag and what it stands for; open until `close`."""

    def __init__(self) -> None:
        self._stack = contextlib.AsyncExitStack()
        self.servers: list[tuple[str, Server]] = []

    async def open(self, shares: Sequence[tuple[str, object]]) -> None:
        """Open all of them; raise `EngineError` with the tag of the one that cannot be."""
        for tag, what in shares:
            try:
                self.servers.append((tag, await self._open(what)))
            except HypervisorError as exc:
                raise EngineError(f"share {tag}: {exc}") from None
            except Exception as exc:  # of any kit that registered itself
                raise EngineError(f"share {tag}: {_text(exc)}") from exc

    async def _open(self, what: object) -> Server:
        if isinstance(what, str) and what.startswith(("unix:", "tcp:")):
            return Outside(what)
        if (server := _as_server(what)) is not None:
            return server
        for entry in entry_points(group=GROUP):
            opened: Entered | None = entry.load()(what)
            if opened is not None:
                server = _as_server(await self._stack.enter_async_context(opened))
                if server is not None:
                    return server
        raise EngineError(
            f"{_shown(what)} is neither an address nor a 9P server, and no package of the "
            f"entry-point group {GROUP} knows it"
        )

    async def close(self) -> None:
        """Close what was opened here, the last first; may be called again."""
        self.servers.clear()
        await self._stack.aclose()


def parse(words: Sequence[str]) -> dict[str, object]:
    """Read `TAG=WHAT` words of a command line."""
    shares: dict[str, object] = {}
    for word in words:
        tag, equals, what = word.partition("=")
        if not (tag and equals and what) or tag in shares:
            raise UsageError(f"share {word!r}: expected TAG=DIR|REPOSITORY|ADDRESS, each TAG once")
        shares[tag] = what
    return shares


def directory_of(server: Server) -> tuple[str, bool] | None:
    """Return the host directory that a server shows and whether read-only, if that is all it is."""
    path = getattr(server, "directory", None)
    return (path, bool(getattr(server, "read_only", False))) if isinstance(path, str) else None


def keeps_setuid(server: Server) -> bool:
    """Tell whether guests may make files that lend rights on the host."""
    return bool(getattr(server, "keep_setuid", False))


def _as_server(what: object) -> Server | None:
    if hasattr(what, "converse"):
        return cast(Server, what)
    return Streams(what) if hasattr(what, "handle") else None


def _shown(what: object) -> str:
    return repr(os.fspath(what) if isinstance(what, os.PathLike) else what)


def _text(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return f"{exc.filename}: {exc.strerror}" if exc.filename else exc.strerror
    return str(exc) or repr(exc)

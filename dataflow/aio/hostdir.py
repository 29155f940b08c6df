"""Runs what blocks in threads, and with it serves a directory of the host."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from .hosttree import HostDirectory


class ThreadRunner:
    """Runs functions in the loop's thread pool, or in one that is given."""

    def __init__(self, executor: Executor | None = None) -> None:
        self._executor = executor

    async def __call__(
        self, func: Callable[..., Any], *args: Any, undo: Callable[[Any], object] | None = None
    ) -> Any:
        """Return what `func(*args)` returns; a call under way cannot be stopped, only undone."""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._executor, func, *args)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(lambda done: _undo(done, undo))
            raise
        finally:
            # What it raised refers to this frame: no circle may keep nodes and their descriptors.
            del future


def _undo(done: asyncio.Future[Any], undo: Callable[[Any], object] | None) -> None:
    if not done.cancelled() and done.exception() is None and undo is not None:
        undo(done.result())


def host_directory(
    path: str,
    *,
    read_only: bool = False,
    keep_setuid: bool = False,
    executor: Executor | None = None,
) -> HostDirectory:
    """Return a tree that is the directory `path` of the host, and nothing outside it.

    Clients get no set-ID bits and file capabilities onto the host unless `keep_setuid` says that
    they are trusted with it (see `hostattr`).
    """
    run = ThreadRunner(executor)
    return HostDirectory.root(path, run, read_only=read_only, keep_setuid=keep_setuid)

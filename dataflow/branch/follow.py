"""The stream of a branch's present head: the newest at each look, what lay between is left out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

from ..store.base import Oid
from .engine import Engine
from .worker import Worker

_NEVER = object()


class Follower:
    """An async iterator of heads (None: no commits): the present one first, then each new one seen.

    Made by `Repository.follow`.  Cancelling a wait loses nothing.
    """

    def __init__(
        self,
        engine: Engine,
        worker: Worker,
        branch: str,
        on_close: Callable[[Follower], object] = lambda follower: None,
    ) -> None:
        self.branch = branch
        self.wake = asyncio.Event()
        self._engine = engine
        self._worker = worker
        self._last: object = _NEVER
        self._on_close = on_close
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Oid | None:
        while not self._closed:
            self.wake.clear()
            head = await self._worker.read(self._engine.head, self.branch)
            if head != self._last:
                self._last = head
                return head
            await self.wake.wait()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the stream."""
        self.close()

    def close(self) -> None:
        """End the stream, from the loop's thread."""
        if not self._closed:
            self._closed = True
            self.wake.set()
            self._on_close(self)

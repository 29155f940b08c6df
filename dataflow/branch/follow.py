"""The stream of a branch's present head: the newest at each look, what lay between is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from ..store.base import Oid
from ..tree.paths import ROOT, Path
from .feed import Feed
from .watch import Stream

_NEVER = object()


class Follower(Stream):
    """An async iterator of heads (None: no commits): the present one first, then each new one seen.

    With a path it gives only heads that changed something there.  Made by `Repository.follow`.
    Cancelling a wait loses nothing.
    """

    __slots__ = ("_last",)

    def __init__(
        self,
        feed: Feed,
        path: Path = ROOT,
        on_close: Callable[[Stream], object] = lambda stream: None,
    ) -> None:
        super().__init__(feed, path, on_close)
        self._last: object = _NEVER

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Oid | None:
        while await self._look(first=self._last is _NEVER):
            self.feed.check()
            if self.parked:
                await self.sleep()
                continue
            self._park()
            if self.feed.goal != self._last:
                self._last = self.feed.goal
                return self.feed.goal
        raise StopAsyncIteration

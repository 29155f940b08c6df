"""The stream of a branch's commits: ordered, unique, without gaps, resumable, bounded.

A watch keeps a place in history, not a queue.  While it keeps up, that is a number in the log of
its branch's feed; whoever reads slowly walks the history when it comes back.  Waking up carries no
data, so a wake-up too many or too few loses nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Self

from ..store.base import Oid
from ..tree.history import is_ancestor
from ..tree.paths import Path
from .change import Change, ChangeKind, differences, file_changes
from .engine import Engine
from .feed import Feed, Sleeper
from .steps import Cursor
from .walk import Walk, Walker, deleted
from .worker import Worker


class Stream(Sleeper):
    """What watches of one feed share: a place in its trie, sleeping there, and the end."""

    __slots__ = ("_closed", "_node", "_on_close", "feed")

    def __init__(self, feed: Feed, path: Path, on_close: Callable[[Stream], object]) -> None:
        super().__init__()
        self.feed = feed
        self._node = feed.places.enter(path)
        self._on_close = on_close
        self._closed = False
        feed.users += 1

    @property
    def branch(self) -> str:
        """The branch it is of."""
        return self.feed.branch

    def _park(self) -> None:
        self.parked = True
        self._node.parked.add(self)

    async def _look(self, first: bool) -> bool:
        """Wait for the feed to see each move it knows of, at first each there was; False: ended."""
        if not self._closed:
            await (self.feed.fresh(self) if first else self.feed.current(self))
        return not self._closed

    async def aclose(self) -> None:
        """End the stream: a reader that waits gets the end."""
        self.close()

    def close(self) -> None:
        """End the stream, from the loop's thread."""
        if not self._closed:
            self._closed = True
            self._node.parked.discard(self)
            self._node.leave()
            self.stir()
            self.feed.users -= 1
            self._on_close(self)


class Watch(Stream):
    """An async iterator of `Change`; made by `Branch.watch`, ends with `aclose` or the repository.

    Cancelling a wait loses nothing; the next `anext` goes on.  One task reads at a time.
    """

    __slots__ = ("_gone", "_line_only", "_path", "_ready", "_walk", "_walker", "_worker")

    def __init__(
        self,
        feed: Feed,
        engine: Engine,
        worker: Worker,
        path: Path,
        start: Cursor,
        *,
        first_parent: bool = False,
        on_close: Callable[[Stream], object] = lambda stream: None,
    ) -> None:
        super().__init__(feed, path, on_close)
        self.cursor = start
        self._path = path
        self._line_only = first_parent
        self._worker = worker
        self._walker = Walker(engine.objects, feed.branch, path, first_parent)
        self._walk: Walk | None = Walk.start(start)  # None while it reads the log
        self._ready: deque[Change] = deque()
        self._gone = False
        if start == feed.cursor:
            self._join(feed.end)

    @property
    def place(self) -> str:
        """A cursor behind everything that was told or did not concern this watch: a bookmark."""
        if self._ready or not self.parked:
            return str(self.cursor)
        return str(self.feed.cursor)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while not self._closed:
            if not self.parked:
                change = self.next_nowait()
                if change is not None:
                    return change
            if self._walk is not None:
                await self._step(self._walk)
                continue
            self.feed.check()
            future = self._future = asyncio.get_running_loop().create_future()
            await future  # as `sleep`, which would cost a thousand readers a millisecond
        raise StopAsyncIteration

    def next_nowait(self) -> Change | None:
        """Return the next event if it is ready; None says only that it is not."""
        if self._ready:
            change = self._ready.popleft()
            self.cursor = Cursor.parse(change.cursor)
            return change
        feed = self.feed
        if self._walk is not None or self.parked:
            return None
        while self.seq < feed.end:
            if self.seq < feed.start:
                self._walk = Walk.start(self.cursor)
                return None
            record = feed.record(self.seq)
            self.seq += 1
            self.cursor = record.after
            found = record.below(self._path) if record.on_line or not self._line_only else None
            if found is not None:
                if self.seq == feed.end:
                    self._park()
                return found
        self._park()
        return None

    def _join(self, seq: int) -> None:
        self._walk = None
        self.seq = seq
        if seq == self.feed.end:
            self._park()

    async def _step(self, walk: Walk) -> None:
        """Go on through history, towards the head that the feed has seen, or join its log."""
        seq = self.feed.find(walk.cursor)
        goal = self.feed.goal
        if seq is not None:
            self.cursor = walk.cursor
            self._join(seq)
        elif goal is None:
            if self._gone or walk.cursor.head is None:
                await self.feed.progress(self)
            else:
                self._gone = True
                self._ready.append(deleted(self.branch, walk.cursor).change)
        elif walk.at(goal):
            self._gone = False
            await self.feed.progress(self)
        else:
            self._gone = False
            after, records = await self._worker.read(self._walker.advance, walk, goal)
            self._walk = after
            self._ready.extend(record.change for record in records)
            if not records:
                self.cursor = after.cursor


class NewestWatch(Stream):
    """A watch that leaves out what its reader was too slow for: each event covers base..commit."""

    __slots__ = ("_asked", "_engine", "_gone", "_path", "_told", "_worker")

    def __init__(
        self,
        feed: Feed,
        engine: Engine,
        worker: Worker,
        path: Path,
        start: Cursor,
        *,
        on_close: Callable[[Stream], object] = lambda stream: None,
    ) -> None:
        super().__init__(feed, path, on_close)
        self.cursor = start
        self._path = path
        self._engine = engine
        self._worker = worker
        self._told: Oid | None = start.commit or start.head
        self._gone = self._told is None
        self._asked = False

    @property
    def place(self) -> str:
        """A cursor behind everything that was told: a bookmark."""
        return self._told or ""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while await self._look(first=not self._asked):  # an older head than `start` is no news
            self._asked = True
            self.feed.check()
            goal = self.feed.goal
            if goal is None and not self._gone:
                self._gone = True
                return deleted(self.branch, Cursor(self._told)).change
            if goal is None or goal == self._told:
                self._gone = goal is None
                self._park()
                await self.sleep()
                continue
            change = await self._worker.read(self._change, self._told, goal)
            self._told, self._gone = goal, False
            if change is not None:
                return change
        raise StopAsyncIteration

    def _change(self, old: Oid | None, new: Oid) -> Change | None:
        found = differences(self._engine.objects, old, new, self._path)
        grown = old is None or is_ancestor(self._engine.objects, old, new)
        kind = ChangeKind.COMMIT if grown else ChangeKind.CUT
        if self._path and not found and kind is ChangeKind.COMMIT:
            return None
        commit = self._engine.objects.commit(new)
        return Change(
            kind, self.branch, new, commit.parents, file_changes(found), new,
            commit.author, commit.message, commit.commit_time, old or "",
        )  # fmt: skip


def place_of(engine: Engine, branch: str, since: str | None) -> Cursor:
    """Return where a watch begins: behind the present head, or at a cursor, which is checked."""
    if since is None:
        return Cursor(engine.head(branch))
    cursor = Cursor.parse(since)
    for oid in (cursor.head, cursor.base, cursor.commit):
        if oid is not None:
            engine.check_commit(oid)
    return cursor

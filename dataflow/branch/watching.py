"""All that watches the branches of one repository: a feed each, and an eye on what others do."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..errors import UsageError
from ..store.base import HEADS, Oid
from ..tree.paths import parse
from .engine import Engine
from .feed import Feed
from .follow import Follower
from .outside import SAFETY_INTERVAL, Poller, RefEvents, is_local
from .watch import NewestWatch, Stream, Watch, place_of
from .worker import Worker

SETTLE = 0.005  # seconds from what inotify tells to the look
SETTLE_TRIES = 20  # how often that waits for a write of ours to end


@runtime_checkable
class OnDisk(Protocol):
    """A store whose references are files below `common_dir`, which others may write."""

    common_dir: str


@dataclass(frozen=True, slots=True)
class WatchStatistics:
    """How much is watched, and how others' changes are seen: "inotify", "poll" or ""."""

    watches: int
    branches: int
    events_kept: int
    outside: str


class Watching:
    """Makes watches; `moved` and the outside world wake them."""

    def __init__(self, engine: Engine, worker: Worker, poll_interval: float) -> None:
        self._engine = engine
        self._worker = worker
        self._poll_interval = poll_interval
        self.told: Callable[[str], object] = lambda branch: None  # hears of each move, too
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: deque[str] = deque()  # branches that moved, for the loop
        self._called = False  # it is going to look
        self._feeds: dict[str, Feed] = {}
        self._streams: set[Stream] = set()
        self._events: RefEvents | None = None
        self._poller: Poller | None = None
        self._settling: dict[str | None, asyncio.TimerHandle] = {}

    def start(self) -> None:
        """Begin, in the running loop."""
        self._loop = asyncio.get_running_loop()
        self._called = False

    def watch(
        self, branch: str, path: str | bytes, since: str | None, first_parent: bool, coalesce: bool
    ) -> Watch | NewestWatch:
        """Watch a branch: see `Branch.watch`."""
        if first_parent and coalesce:
            raise UsageError("watch: expected first_parent or coalesce, found both")
        start = place_of(self._engine, branch, since)
        feed, at = self._feed(branch), parse(path)
        args = (feed, self._engine, self._worker, at, start)
        made: Watch | NewestWatch
        if coalesce:
            made = NewestWatch(*args, on_close=self._left)
        else:
            made = Watch(*args, first_parent=first_parent, on_close=self._left)
        self._streams.add(made)
        return made

    def follow(self, branch: str, path: str | bytes = "") -> Follower:
        """Stream a branch's head."""
        made = Follower(self._feed(branch), parse(path), self._left)
        self._streams.add(made)
        return made

    def moved(self, branch: str) -> None:
        """Wake the branch's watches; called in the writing thread."""
        loop = self._loop
        if loop is None:
            return
        self._news.append(branch)
        if not self._called:
            self._called = True
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._called = False  # before the look: what is added later calls again
        while self._news:
            self._kick(self._news.popleft())

    def statistics(self) -> WatchStatistics:
        """Return what is watched now."""
        outside = "inotify" if self._events is not None else "poll" if self._poller else ""
        kept = sum(feed.end - feed.start for feed in self._feeds.values())
        return WatchStatistics(len(self._streams), len(self._feeds), kept, outside)

    async def aclose(self) -> None:
        """End all watches."""
        self._loop = None
        for stream in list(self._streams):
            stream.close()
        await asyncio.sleep(0)  # lets the tasks that were cancelled end

    def _feed(self, branch: str) -> Feed:
        if self._loop is None:
            raise UsageError("watch: the repository is not open in an event loop (async with)")
        feed = self._feeds.get(branch)
        if feed is None:
            self._look_outside(branch)
            feed = Feed(self._engine, self._worker, branch, lambda: len(self._feeds))
            self._feeds[branch] = feed
        return feed

    def _look_outside(self, branch: str) -> None:
        store = self._engine.store
        if not isinstance(store, OnDisk):
            return
        if self._events is None and is_local(store.common_dir):
            with contextlib.suppress(OSError):  # fs.inotify.max_user_instances
                self._events = RefEvents(store.common_dir, self._seen_outside)
        if self._poller is None:
            self._poller = Poller(self._poll_interval, self._heads, self._kick)
        if self._events is not None:
            self._events.watch(branch)
        seen = self._events is not None and self._events.complete
        self._poller.interval = SAFETY_INTERVAL if seen else self._poll_interval

    async def _heads(self) -> Mapping[str, Oid | None]:
        names = [HEADS + branch for branch in self._feeds]
        found = await self._worker.read(self._engine.store.stat, names)
        return {name[len(HEADS) :]: oid for name, oid in found.items()}

    def _seen_outside(self, branch: str | None, tries: int = SETTLE_TRIES) -> None:
        """Look soon.  Our own commits show here before they are durable; then comes `moved`."""
        if self._loop is not None and branch not in self._settling:
            again = self._loop.call_later(SETTLE, self._settled, branch, tries)
            self._settling[branch] = again

    def _settled(self, branch: str | None, tries: int) -> None:
        if self._worker.writing and tries:
            del self._settling[branch]
            self._seen_outside(branch, tries - 1)
        else:
            self._kick(branch)

    def _kick(self, branch: str | None) -> None:
        timer = self._settling.pop(branch, None)
        if timer is not None:
            timer.cancel()
        if branch is not None:
            self.told(branch)
        for name in [branch] if branch is not None else list(self._feeds):
            feed = self._feeds.get(name)
            if feed is not None:
                feed.kick()

    def _left(self, stream: Stream) -> None:
        self._streams.discard(stream)
        feed = stream.feed
        if feed.users:
            return
        feed.close()
        del self._feeds[feed.branch]
        if self._events is not None:
            self._events.unwatch(feed.branch)
        if not self._feeds:
            self._stop_looking()

    def _stop_looking(self) -> None:
        for timer in self._settling.values():
            timer.cancel()
        self._settling.clear()
        if self._events is not None:
            self._events.close()
            self._events = None
        if self._poller is not None:
            self._poller.close()
            self._poller = None

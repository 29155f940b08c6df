"""Auto-push: another repository is kept at what ours has, some seconds behind.

A commit marks its branch; `debounce` seconds after the first mark everything marked goes in one
push.  What fails stays marked and is tried again after 4, 8, 16 ... seconds.  Nothing is written
down: at its start every branch is marked, and a push compares references, so a restart misses
nothing and sends nothing twice.  Branches that were deleted here stay there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import DataflowError, PeerError
from ..store.base import HEADS, Oid
from .remote import TIMEOUT, Remotes
from .transport import shown

DEBOUNCE = 2.0
BACKOFF_MAX = 300.0
SCAN = 10.0  # seconds between looks for what others did to our branches

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AutoPushStatistics:
    """What became of the pushes; `waiting` branches are not yet there."""

    pushes: int  # that reached the other side
    branches: int  # moved there
    failures: int  # pushes that did not reach it
    refused: int  # branches it has other commits on, or did not take
    waiting: int
    last_error: str  # "" after a push in which nothing failed


class AutoPush:
    """Pushes what changes to one URL, or one remote by name.  Made by `Repository.open`."""

    def __init__(
        self,
        remotes: Remotes,
        target: str,
        *,
        force: bool = False,
        debounce: float = DEBOUNCE,
        backoff_max: float = BACKOFF_MAX,
        scan: float = SCAN,
        timeout: float = TIMEOUT,
    ) -> None:
        self.target = target
        self.force = force
        self.debounce = debounce
        self.backoff_max = backoff_max
        self.scan = scan
        self.timeout = timeout
        self.on_result: Callable[[AutoPushStatistics], object] = lambda found: None
        """Called after each push, whatever came of it."""
        self._remotes = remotes
        self._dirty: set[str] = set()
        self._seen: dict[str, Oid] = {}  # heads as of the last look
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._pushes = self._branches = self._failures = self._refused = 0
        self._error = ""

    def start(self) -> None:
        """Begin, in the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="dataflow-push")

    def touch(self, branch: str) -> None:
        """Mark a branch as changed."""
        self._dirty.add(HEADS + branch)
        self._idle.clear()
        self._wake.set()

    def statistics(self) -> AutoPushStatistics:
        """Return counts since the start."""
        waiting = len(self._dirty)
        return AutoPushStatistics(
            self._pushes, self._branches, self._failures, self._refused, waiting, self._error
        )

    async def wait_idle(self) -> None:
        """Wait until a push has left nothing marked."""
        await self._idle.wait()

    async def _run(self) -> None:
        failed = 0
        while True:
            await self._look()
            if not self._dirty:
                self._idle.set()
                self._wake.clear()
                await _within(self._wake, self.scan)
                continue
            await asyncio.sleep(self.debounce if not failed else self._backoff(failed))
            failed = 0 if await self._push() else failed + 1
            self.on_result(self.statistics())

    def _backoff(self, failed: int) -> float:
        return float(min(self.debounce * 2 ** min(failed, 20), self.backoff_max))

    async def _look(self) -> None:
        """Mark what changed since the last look, whoever changed it."""
        try:
            heads = await self._remotes.threads.read(self._remotes.store.refs, HEADS)
        except (DataflowError, OSError) as err:
            self._fail(err)
            return
        self._dirty |= {name for name, oid in heads.items() if self._seen.get(name) != oid}
        self._seen = heads

    async def _push(self) -> bool:
        """Push what is marked; say whether nothing failed."""
        await self._look()
        wanted = {name: self._seen[name] for name in self._dirty if name in self._seen}
        self._dirty.clear()
        try:
            url = await self._url()
            pushed = await self._remotes.push(url, wanted, self.force, None, self.timeout)
        except (DataflowError, OSError) as err:
            self._dirty |= wanted.keys()
            self._failures += 1
            self._fail(err)
            return False
        self._pushes += 1
        self._branches += len(pushed.done)
        self._refused += len(pushed.refused)
        self._dirty |= pushed.refused.keys()
        self._error = ""
        for refusal in pushed.refused.values():
            self._fail(refusal)
        return not pushed.refused

    async def _url(self) -> str:
        if self.target in await self._remotes.names():
            return await self._remotes.known_url(self.target)
        return self.target

    def _fail(self, err: Exception) -> None:
        self._error = str(err)
        _log.warning("auto-push to %s: %s", shown(self.target), err)

    async def aclose(self) -> None:
        """Stop; what is still marked is pushed after the next start."""
        if self._task is not None:
            self._task.cancel()
            (outcome,) = await asyncio.gather(self._task, return_exceptions=True)
            if isinstance(outcome, Exception):
                raise PeerError(f"auto-push ended early: {outcome}") from outcome


async def _within(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, but not longer than `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass

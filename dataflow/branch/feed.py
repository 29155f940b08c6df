"""One look at a branch for all who watch it.

Theory of operation.  A feed walks a branch's history once, behind the head as it moves, and keeps
the last events in a bounded log.  Its watches hold a number, their place in that log, and nothing
else: a thousand watches of a branch cost one diff a commit.  Who waits at the end of the log is
parked in a trie at the path it watches, and only a commit that changes something there wakes it,
with the number of that commit's event; so a watch of a quiet path keeps up with a busy branch
without being run.  Who reads so slowly that the log passes it, or begins at an older place, walks
history by itself until it comes to a place that the log has (`find`).

All but `_job` runs in the loop's thread, and one job at a time runs in a reader's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from ..store.base import Oid
from ..tree.prefixes import Parked, PrefixNode
from .change import ChangeKind
from .engine import Engine
from .steps import Cursor
from .walk import Record, Walk, Walker, deleted
from .worker import Worker

LOG_MAX = 1024  # events
LOG_MIN = 64  # that is left of them where many branches are watched
LOGS_MAX = 1 << 15  # in the logs of all branches
LOG_FILES_MAX = 1 << 16  # changed files of a log; the newest event may have more by itself


class Sleeper(Parked):
    """A watch as its feed sees it: where it stands in the log, and whether its reader waits."""

    __slots__ = ("_future", "cursor", "parked", "seq")

    def __init__(self) -> None:
        self.seq = 0  # the next event to look at, while it is not parked
        self.parked = False
        self.cursor = Cursor()
        self._future: asyncio.Future[None] | None = None

    def wake(self, seq: int, cursor: Cursor) -> None:
        """Go on with event `seq`, which stands behind `cursor`."""
        self.seq, self.cursor = seq, cursor
        self.parked = False
        future, self._future = self._future, None
        if future is not None and not future.done():
            future.set_result(None)

    def stir(self) -> None:
        """Let the reader look again."""
        future, self._future = self._future, None
        if future is not None and not future.done():
            future.set_result(None)

    async def sleep(self) -> None:
        """Wait for `wake` or `stir`; may be cancelled."""
        future = self._future = asyncio.get_running_loop().create_future()
        try:
            await future
        finally:
            self._future = None


class Feed:
    """The events of one branch; made with its first watch, closed with its last."""

    def __init__(
        self, engine: Engine, worker: Worker, branch: str, feeds: Callable[[], int] = lambda: 1
    ) -> None:
        self.branch = branch
        self.error: Exception | None = None  # of the last look: told to all, then tried again
        self.goal = engine.head(branch)  # the head that the log leads to
        self.start = self.end = 0  # numbers of the events in the log
        self.places = PrefixNode()
        self.users = 0
        self._engine = engine
        self._worker = worker
        self._walker = Walker(engine.objects, branch)
        self._walk = Walk.start(Cursor(self.goal))
        self._feeds = feeds  # how many there are
        self._log: dict[int, Record] = {}
        self._files = 0
        self._index: dict[Cursor, int] = {}  # the place before each event in the log
        self._gone = self.goal is None
        self._behind: set[Sleeper] = set()  # not in the log, waiting for it to move
        self._dirty = self._closed = False
        self._task: asyncio.Task[None] | None = None
        self._begun = self._seen = self._failed = 0  # looks

    @property
    def cursor(self) -> Cursor:
        """The place behind the log's last event."""
        return self._walk.cursor

    def record(self, seq: int) -> Record:
        """Return an event of the log, `start` <= `seq` < `end`."""
        return self._log[seq]

    def find(self, cursor: Cursor) -> int | None:
        """Return the number of the event behind a place; None if the log does not have it."""
        seq = self._index.get(cursor)
        if seq is not None:
            return seq
        return self.end if cursor == self.cursor else None

    def kick(self) -> None:
        """Look at the branch, soon; any number of calls before that are one look."""
        self._dirty = True
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def progress(self, sleeper: Sleeper) -> None:
        """Wait until the log or the head has moved."""
        self.check()
        await self._wait(sleeper)

    async def _wait(self, sleeper: Sleeper) -> None:
        self._behind.add(sleeper)
        try:
            await sleeper.sleep()
        finally:
            self._behind.discard(sleeper)

    async def fresh(self, sleeper: Sleeper) -> None:
        """Wait until `goal` is a head that was read after this call."""
        wanted = self._begun + 1
        self.kick()
        await self._looked(wanted, sleeper)

    async def current(self, sleeper: Sleeper) -> None:
        """Wait until `goal` is as new as the last `kick`: no older head than a commit just made."""
        await self._looked(self._begun + self._dirty, sleeper)

    async def _looked(self, wanted: int, sleeper: Sleeper) -> None:
        while not self._closed and max(self._seen, self._failed) < wanted:
            await self._wait(sleeper)

    def check(self) -> None:
        """Raise what the last look met."""
        if self.error is not None:
            raise self.error.with_traceback(None)

    def close(self) -> None:
        """Stop looking."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            while self._dirty:
                self._dirty = False
                await self._look()
            self.error = None
        except Exception as err:
            self.error = err
            self._failed = self._begun
            self._wake(self.places.everything())
        finally:
            self._task = None
            self._stir()

    async def _look(self) -> None:
        self._begun += 1
        head, walk, records = await self._worker.read(self._job, None)
        self._seen = self._begun
        self.goal, self.error = head, None
        if head is None:
            if not self._gone:
                self._gone = True
                self._publish(walk, [deleted(self.branch, self.cursor)])
            self._stir()
            return
        if self._gone:
            self._gone = False
            self._index.pop(self.cursor, None)  # of DELETED: who comes now did not see it
            self._wake(self.places.everything())  # it may be back where it was
        self._publish(walk, records)
        while not self._walk.at(head):
            _, walk, records = await self._worker.read(self._job, head)
            self._publish(walk, records)

    def _job(self, head: Oid | None) -> tuple[Oid | None, Walk, list[Record]]:
        """Read the head, if it is not given, and make the next batch of events."""
        head = self._engine.head(self.branch) if head is None else head
        if head is None:
            return None, self._walk, []
        walk, records = self._walker.advance(self._walk, head)
        while not records and not walk.at(head):
            walk, records = self._walker.advance(walk, head)
        return head, walk, records

    def _publish(self, walk: Walk, records: list[Record]) -> None:
        for record in records:
            seq = self.end
            self._make_room(len(record.paths))
            self._log[seq] = record
            self._index[record.before] = seq
            self._files += len(record.paths)
            self.end += 1
            if record.change.kind is ChangeKind.COMMIT:
                self._wake(self.places.match(record.paths), seq, record.before)
            else:
                self._wake(self.places.everything(), seq, record.before)
        self._walk = walk
        self._stir()

    def _make_room(self, files: int) -> None:
        most = min(LOG_MAX, max(LOG_MIN, LOGS_MAX // self._feeds()))
        while self._log and (len(self._log) >= most or self._files + files > LOG_FILES_MAX):
            old = self._log.pop(self.start)
            self._files -= len(old.paths)
            if self._index.get(old.before) == self.start:
                del self._index[old.before]
            self.start += 1

    def _wake(
        self, nodes: Iterable[PrefixNode], seq: int | None = None, before: Cursor | None = None
    ) -> None:
        for node in nodes:
            if node.parked:
                parked, node.parked = node.parked, set()
                for sleeper in parked:
                    assert isinstance(sleeper, Sleeper)
                    if seq is None or before is None:
                        sleeper.wake(self.end, self.cursor)
                    else:
                        sleeper.wake(seq, before)

    def _stir(self) -> None:
        for sleeper in list(self._behind):
            sleeper.stir()

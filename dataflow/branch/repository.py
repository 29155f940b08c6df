"""The front of the kit: a repository, its branches, and the loop that watches them.

Commits of this process wake their watches at once.  What others do (a plain `git push` into the
directory, a commit of another process) is found by reading the watched branches' reference files
every `poll_interval` seconds, while anything is watched: two small reads a branch, no history.
Polling works on every file system, also where inotify is blind (9P, NFS, overlays).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

from ..errors import UsageError
from ..store.base import HEADS, Oid, Store
from ..store.disk import DiskStore
from ..store.memory import MemoryStore
from ..store.objects import Commit
from ..store.pack import LIMIT
from ..tree.diff import Difference, diff
from ..tree.merge import Driver
from ..tree.paths import parse, text
from .engine import DEFAULT_AUTHOR, Committed, Engine, check_branch
from .follow import Follower
from .together import MultiTransaction
from .transaction import Transaction
from .watch import Watch
from .worker import Worker

W = TypeVar("W", Watch, Follower)


class Branch:
    """One branch of a repository, by name; it need not exist yet."""

    def __init__(self, repo: Repository, name: str) -> None:
        self._repo = repo
        self.name = check_branch(name)

    @property
    def head(self) -> Oid | None:
        """The newest commit, None while there is none."""
        return self._repo.engine.head(self.name)

    def transaction(
        self, message: str = "", author: str | None = None, *, expect: str | None = None
    ) -> Transaction:
        """Open a transaction on the branch's present head; `author` is `Name <mail>`.

        With `expect`, a commit id or "" for no commits, it commits only if that is the head then,
        or raises `RefChangedError`; without, it is merged with what others committed meanwhile.
        """
        return Transaction(
            self._repo.engine,
            self.name,
            message=message,
            author=author,
            expect=expect,
            worker=self._repo.worker,
        )

    def watch(
        self, path: str | bytes = "", *, since: str | None = None, first_parent: bool = False
    ) -> Watch:
        """Stream the commits that change `path`, or something below it.

        It begins behind the present head; `since` is a change's `cursor` (exact), a commit id
        (exact on the branch's own line, else some may come again) or "" (all of history).
        With `first_parent` commits that came in through merges are left out.
        """
        return self._repo.watch(self.name, path, since=since, first_parent=first_parent)

    async def read(self, path: str | bytes) -> bytes:
        """Return a file's octets at the head."""
        engine = self._repo.engine
        return await self._repo.worker.read(lambda: engine.tree(self.head).read(parse(path)))

    async def names(self, path: str | bytes = "") -> list[str]:
        """Return the names in a directory at the head, sorted."""
        engine = self._repo.engine
        entries = await self._repo.worker.read(lambda: engine.tree(self.head).entries(parse(path)))
        return sorted(text((name,)) for name in entries)

    async def log(self, limit: int | None = None, path: str | bytes = "") -> list[Commit]:
        """Return the branch's own line of commits, newest first; only what changed `path`."""
        engine, below = self._repo.engine, parse(path)
        return await self._repo.worker.read(
            lambda: list(engine.log(self.head, limit=limit, path=below))
        )

    async def merge(self, other: str, message: str = "", author: str | None = None) -> Committed:
        """Merge a branch or a commit into this one; `MergeConflictError` leaves it as it was."""
        engine = self._repo.engine
        return await self._repo.worker.write(merge_now, engine, self.name, other, message, author)

    async def fast_forward(self, commit: str) -> None:
        """Move to a commit that contains the head; `NotFastForwardError`."""
        await self._repo.worker.write(self._repo.engine.fast_forward, self.name, commit)

    async def reset(self, commit: str) -> None:
        """Move to any commit; watches are told that history was cut."""
        await self._repo.worker.write(self._repo.engine.reset, self.name, commit)

    async def delete(self) -> None:
        """Remove the branch."""
        await self._repo.worker.write(self._repo.engine.delete, self.name)

    async def rename(self, name: str) -> None:
        """Give the branch another name."""
        await self._repo.worker.write(self._repo.engine.rename, self.name, name)


class Repository:
    """A Git repository as a database of branches.

    `async with Repository.open(path) as repo` for programs with a loop.  `with` gives the same
    object without watches and without `await`: use `repo.engine` and the transactions' methods
    that end in `_now`.
    """

    def __init__(
        self,
        store: Store,
        *,
        author: str = DEFAULT_AUTHOR,
        driver: Driver | None = None,
        poll_interval: float = 0.05,
    ) -> None:
        self.engine = Engine(store, author=author, driver=driver)
        self.worker = Worker(self.engine.groups.carry_out, store.checkpoint)
        self.poll_interval = poll_interval
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watches: dict[str, set[Watch | Follower]] = {}
        self._poller: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        author: str = DEFAULT_AUTHOR,
        fsync: bool = True,
        lock_timeout: float = 5.0,
        create: bool = True,
        driver: Driver | None = None,
        poll_interval: float = 0.05,
        pack_limit: int = LIMIT,
    ) -> Repository:
        """Open the repository at `path`; a bare one is made there if there is none.

        `fsync=False` trades durability for speed.  `lock_timeout` is how many seconds to wait for
        another git's lock on a branch.  More than `pack_limit` loose objects are packed in the
        background (0: never).
        """
        store = DiskStore(
            path, fsync=fsync, lock_timeout=lock_timeout, create=create, pack_limit=pack_limit
        )
        return cls(store, author=author, driver=driver, poll_interval=poll_interval)

    @classmethod
    def memory(cls, *, author: str = DEFAULT_AUTHOR, driver: Driver | None = None) -> Repository:
        """Make a repository that lives in memory."""
        return cls(MemoryStore(), author=author, driver=driver)

    def branch(self, name: str) -> Branch:
        """Return the branch of that name, which need not exist."""
        return Branch(self, name)

    def transaction(
        self,
        *branches: str,
        message: str = "",
        author: str | None = None,
        expect: Mapping[str, str] | None = None,
    ) -> MultiTransaction:
        """Open a transaction on several branches, which move together or not at all.

        `expect` gives for some or all of them the head they must have, see `Branch.transaction`.
        """
        return MultiTransaction(
            self.engine,
            branches,
            message=message,
            author=author,
            expect=expect,
            worker=self.worker,
        )

    async def update(self, moves: Mapping[str, tuple[str | None, str | None]]) -> None:
        """Compare and set branches, `{name: (old head, new head)}`, all of them or none.

        None stands for a branch that is not there, before or after.  `RefChangedError`.
        """
        await self.worker.write(self.engine.move, moves)

    async def branches(self) -> dict[str, Oid]:
        """Return all branches with their heads."""
        return await self.worker.read(self.engine.branches)

    async def diff(self, old: str, new: str, path: str | bytes = "") -> Sequence[Difference]:
        """Return the files that differ between two commits or branches."""
        engine = self.engine

        def job() -> Sequence[Difference]:
            a, b = engine.tree(engine.resolve(old)), engine.tree(engine.resolve(new))
            return tuple(diff(engine.objects, a.oid, b.oid, parse(path)))

        return await self.worker.read(job)

    def watch(
        self,
        branch: str,
        path: str | bytes = "",
        *,
        since: str | None = None,
        first_parent: bool = False,
    ) -> Watch:
        """Watch a branch; see `Branch.watch`."""
        if self._loop is None or self._closed:
            raise UsageError("watch: the repository is not open in an event loop (async with)")
        watch = Watch(
            self.engine,
            self.worker,
            branch,
            path,
            since=since,
            first_parent=first_parent,
            on_close=self._unwatch,
        )
        return self._register(watch)

    def follow(self, branch: str) -> Follower:
        """Stream a branch's head: the present one first, then the newest after each change."""
        if self._loop is None or self._closed:
            raise UsageError("follow: the repository is not open in an event loop (async with)")
        return self._register(Follower(self.engine, self.worker, branch, self._unwatch))

    def _register(self, watch: W) -> W:
        self._watches.setdefault(watch.branch, set()).add(watch)
        if self._poller is None and self._loop is not None:
            self._poller = self._loop.create_task(self._poll(), name="dataflow-poll")
        return watch

    def _unwatch(self, watch: Watch | Follower) -> None:
        watches = self._watches.get(watch.branch, set())
        watches.discard(watch)
        if not watches:
            self._watches.pop(watch.branch, None)

    def _kick(self, branch: str) -> None:
        for watch in self._watches.get(branch, ()):
            watch.wake.set()

    def _moved(self, branch: str) -> None:
        """Wake the branch's watches; called in the writing thread.

        A watch that is made meanwhile reads the head by itself.
        """
        if self._loop is not None and branch in self._watches:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._kick, branch)

    async def _poll(self) -> None:
        """Look for what others did to the watched branches; ends when nothing is watched."""
        seen: dict[str, Oid | None] = {}
        while self._watches:
            names = [HEADS + branch for branch in self._watches]
            found = await self.worker.read(self.engine.store.stat, names)
            for name, oid in found.items():
                if name not in seen or seen[name] != oid:
                    self._kick(name[len(HEADS) :])
            seen = found
            await asyncio.sleep(self.poll_interval)
        self._poller = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self.engine.moved = self._moved
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End all watches, finish the writes that run, and close the store."""
        self._closed = True
        for watch in [w for watches in self._watches.values() for w in watches]:
            watch.close()
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)
        await self.worker.aclose()
        await asyncio.to_thread(self.engine.store.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close a repository that was used without a loop."""
        self._closed = True
        self.worker.close()
        self.engine.store.close()


def merge_now(
    engine: Engine, branch: str, other: str, message: str = "", author: str | None = None
) -> Committed:
    """Merge `other` into `branch`: fast-forward where that is enough; blocking."""
    theirs = engine.resolve(other)
    head = engine.head(branch)
    if head is None or not message:
        return engine.advance(branch, theirs, author)
    t = Transaction(engine, branch, message=message, author=author)
    try:
        t.merge_now(theirs)
        return t.commit_now()
    except BaseException:
        t.close()
        raise

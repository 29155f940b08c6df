"""The front of the kit: a repository, its branches, and the loop that watches them.

Commits of this process wake their watches at once; what others do (a plain `git push` into the
directory, a commit of another process) is seen by `outside`, while anything is watched.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Literal, Self, overload

from ..store.base import Oid, Store
from ..store.disk import DiskStore
from ..store.memory import MemoryStore
from ..store.objects import Commit
from ..store.pack import LIMIT
from ..sync.mirror import AutoPush
from ..sync.remote import Remote, Remotes
from ..tree.diff import Difference, diff
from ..tree.drivers import Driver, Drivers
from ..tree.merge import Options
from ..tree.overlay import Room
from ..tree.paths import parse, text
from .engine import DEFAULT_AUTHOR, Committed, Engine, check_branch
from .follow import Follower
from .together import MultiTransaction
from .transaction import Transaction
from .watch import NewestWatch, Watch
from .watching import Watching, WatchStatistics
from .worker import Worker


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
        self,
        message: str = "",
        author: str | None = None,
        *,
        expect: str | None = None,
        room: Room | None = None,
    ) -> Transaction:
        """Open a transaction on the branch's present head; `author` is `Name <mail>`.

        With `expect`, a commit id or "" for no commits, it commits only if that is the head then,
        or raises `RefChangedError`; without, it is merged with what others committed meanwhile.
        `room` (a `Budget`) bounds the memory that its edits may hold.
        """
        return Transaction(
            self._repo.engine,
            self.name,
            message=message,
            author=author,
            expect=expect,
            worker=self._repo.worker,
            room=room,
        )

    @overload
    def watch(
        self, path: str | bytes = "", *, since: str | None = None, first_parent: bool = False,
        coalesce: Literal[False] = False,
    ) -> Watch: ...  # fmt: skip

    @overload
    def watch(
        self, path: str | bytes = "", *, since: str | None = None, first_parent: bool = False,
        coalesce: bool,
    ) -> Watch | NewestWatch: ...  # fmt: skip

    def watch(
        self,
        path: str | bytes = "",
        *,
        since: str | None = None,
        first_parent: bool = False,
        coalesce: bool = False,
    ) -> Watch | NewestWatch:
        """Stream the commits that change `path`, or something below it.

        It begins behind the present head; `since` is a change's `cursor` (exact), a commit id
        (exact on the branch's own line, else some may come again) or "" (all of history).
        With `first_parent` commits that came in through merges are left out.  A slow reader gets
        every commit all the same, from history; with `coalesce` it gets the newest state, and the
        range of commits that it covers.
        """
        return self._repo.watching.watch(self.name, path, since, first_parent, coalesce)

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
        drivers: Mapping[str, Driver | str] | None = None,
        poll_interval: float = 0.05,
        auto_push: str | None = None,
    ) -> None:
        self.engine = Engine(store, author=author, merging=Options(Drivers(drivers)))
        self.worker = Worker(self.engine.groups.carry_out, store.checkpoint)
        self.watching = Watching(self.engine, self.worker, poll_interval)
        self.remotes = Remotes(store, self.worker, self._pulled)
        self.auto_push = AutoPush(self.remotes, auto_push) if auto_push else None
        self._before_close: list[Callable[[], Awaitable[None]]] = []

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        author: str = DEFAULT_AUTHOR,
        fsync: bool = True,
        lock_timeout: float = 5.0,
        create: bool = True,
        drivers: Mapping[str, Driver | str] | None = None,
        poll_interval: float = 0.05,
        pack_limit: int = LIMIT,
        auto_push: str | None = None,
    ) -> Repository:
        """Open the repository at `path`; a bare one is made there if there is none.

        `fsync=False` trades durability for speed.  `lock_timeout` is how many seconds to wait for
        another git's lock on a branch.  `poll_interval` is how often references are read where
        the file system does not tell of changes.  More than `pack_limit` loose objects are packed
        in the background (0: never).  `drivers` merge files by pattern, `{"*.json": "json"}`: see
        `dataflow.tree.drivers`; they come before the tree's `.gitattributes`.  `auto_push` is a
        URL, or the name of a remote, that is kept at what this repository has (see `sync.mirror`).
        """
        store = DiskStore(
            path, fsync=fsync, lock_timeout=lock_timeout, create=create, pack_limit=pack_limit
        )
        return cls(
            store, author=author, drivers=drivers, poll_interval=poll_interval, auto_push=auto_push
        )

    @classmethod
    def memory(
        cls,
        *,
        author: str = DEFAULT_AUTHOR,
        drivers: Mapping[str, Driver | str] | None = None,
    ) -> Repository:
        """Make a repository that lives in memory."""
        return cls(MemoryStore(), author=author, drivers=drivers)

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

    def remote(self, name: str) -> Remote:
        """Return the remote of that name, which need not be there; `remotes.add` makes one."""
        return self.remotes.remote(name)

    async def _pulled(self, branch: str, commit: Oid) -> Oid:
        return (await self.branch(branch).merge(commit)).head

    async def diff(self, old: str, new: str, path: str | bytes = "") -> Sequence[Difference]:
        """Return the files that differ between two commits or branches."""
        engine = self.engine

        def job() -> Sequence[Difference]:
            a, b = engine.tree(engine.resolve(old)), engine.tree(engine.resolve(new))
            return tuple(diff(engine.objects, a.oid, b.oid, parse(path)))

        return await self.worker.read(job)

    def follow(self, branch: str, path: str | bytes = "") -> Follower:
        """Stream a branch's head: the present one first, then the newest after each change.

        With a path, only after changes at or below it.
        """
        return self.watching.follow(branch, path)

    def before_close(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Have something done before the repository closes, while it can still be written."""
        self._before_close.append(callback)

    def statistics(self) -> WatchStatistics:
        """Return how much is watched now."""
        return self.watching.statistics()

    async def __aenter__(self) -> Self:
        self.watching.start()
        self.engine.moved = self.watching.moved
        if self.auto_push is not None:
            self.watching.told = self.auto_push.touch
            self.auto_push.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End all watches, finish the writes that run, and close the store."""
        while self._before_close:
            await self._before_close.pop()()
        await self.watching.aclose()
        if self.auto_push is not None:
            await self.auto_push.aclose()
        self.remotes.close()
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
        self.remotes.close()
        self.worker.close()
        self.engine.store.close()


def merge_now(
    engine: Engine, branch: str, other: str, message: str = "", author: str | None = None
) -> Committed:
    """Merge `other` into `branch`: fast-forward where that is enough; blocking."""
    return engine.advance(branch, engine.resolve(other), author, message=message)

"""A transaction: a tree to write in, a message, parents, and one commit at the end.

Edits touch memory and the directories on their path; commit and merge run in the writing thread.
While one of these runs, edits are refused.  A commit that fails (a conflict, a full disk) leaves
the transaction open with everything in it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import TypeVar

from ..errors import ConflictsRemainError, TransactionClosedError, UsageError
from ..store.base import Oid
from ..store.objects import EMPTY_TREE, EXECUTABLE, FILE
from ..tree.conflicts import Conflict
from ..tree.diff import Difference, diff
from ..tree.history import is_ancestor
from ..tree.lastwriter import by_time
from ..tree.merge import base_tree, merge_trees, resolve_lines
from ..tree.overlay import Overlay, Room, Stat
from ..tree.paths import Path, parse, text
from .block import CommittingBlock
from .engine import Committed, Engine, check_author, check_branch
from .worker import Worker

PARENTS_MAX = 64
T = TypeVar("T")


class State(enum.Enum):
    """The life of a transaction."""

    OPEN = "open"
    BUSY = "busy"  # commit or merge runs
    CLOSED = "closed"


class Transaction(CommittingBlock):
    """Made by `Branch.transaction`; a context manager, plain or async, that commits at its end.

    Leaving the block by an exception closes without a commit.  `result` tells what a commit came
    to.  `ours`, `theirs` and `base` are ids of trees once `merge` was called.
    """

    def __init__(
        self,
        engine: Engine,
        branch: str,
        *,
        message: str = "",
        author: str | None = None,
        expect: str | None = None,
        worker: Worker | None = None,
        room: Room | None = None,
    ) -> None:
        self.engine = engine
        self.expect = expect  # commit only if this is the head; "": if there is none
        self.committer: str | None = None  # who commits, where that is not the author
        self.branch = check_branch(branch)
        self.message = message
        self.author = check_author(author) if author else None
        self.origin = engine.head(branch)
        self.parents: list[Oid] = [self.origin] if self.origin else []
        self.state = State.OPEN
        self.result: Committed | None = None
        self.ours: Oid | None = None
        self.theirs: Oid | None = None
        self.base: Oid | None = None
        self._conflicts: dict[Path, Conflict] = {}
        self._worker = worker
        self._on_close: list[Callable[[], object]] = []
        self.version = 0  # rises with each edit
        self._tree = Overlay(engine.objects, engine.tree(self.origin).oid, room)

    def on_close(self, callback: Callable[[], object]) -> None:
        """Call `callback` once when the transaction has been committed or closed."""
        self._on_close.append(callback)

    # Reading.

    @property
    def closed(self) -> bool:
        """True once it was committed or closed."""
        return self.state is State.CLOSED

    @property
    def touched(self) -> bool:
        """True once something was edited or merged, or the parents were changed."""
        return self.version > 0 or self.parents != ([self.origin] if self.origin else [])

    @property
    def conflicts(self) -> tuple[str, ...]:
        """The paths that still conflict, sorted; writing or removing one resolves it."""
        return tuple(text(p) for p in sorted(self._conflicts))

    @property
    def held(self) -> int:
        """The octets that edits hold in memory."""
        return self._tree.held

    @property
    def conflict_details(self) -> tuple[Conflict, ...]:
        """What still conflicts, as data, in the same order."""
        return tuple(self._conflicts[p] for p in sorted(self._conflicts))

    def read(self, path: str | bytes, offset: int = 0, count: int | None = None) -> bytes:
        """Return a file's octets (a link's target)."""
        return self._open().read(parse(path), offset, count)

    def list(self, path: str | bytes = "") -> list[str]:
        """Return the names in a directory, sorted."""
        return [text((name,)) for name in self._open().entries(parse(path))]

    def entries(self, path: str | bytes = "") -> dict[bytes, int]:
        """Return the names in a directory with their Git modes."""
        return self._open().entries(parse(path))

    def stat(self, path: str | bytes) -> Stat:
        """Return mode and size of what is at `path`."""
        return self._open().stat(parse(path))

    def mode(self, path: str | bytes) -> int:
        """Return the Git mode of what is at `path`."""
        return self._open().mode(parse(path))

    def exists(self, path: str | bytes) -> bool:
        """Say whether something is at `path`."""
        return self._open().exists(parse(path))

    # Writing.

    def write(self, path: str | bytes, data: bytes, *, executable: bool | None = None) -> None:
        """Make a file hold `data`; directories are made as needed."""
        mode = None if executable is None else EXECUTABLE if executable else FILE
        self._edit(path).write(parse(path), data, mode=mode)

    def write_at(self, path: str | bytes, offset: int, data: bytes) -> None:
        """Overwrite octets of a file that is there."""
        self._edit(path).write_at(parse(path), offset, data)

    def truncate(self, path: str | bytes, size: int) -> None:
        """Cut or extend a file to `size` octets."""
        self._edit(path).truncate(parse(path), size)

    def create(self, path: str | bytes, *, executable: bool = False) -> None:
        """Make an empty file where nothing is."""
        self._edit(path).create(parse(path), mode=EXECUTABLE if executable else FILE)

    def mkdir(self, path: str | bytes, *, parents: bool = False) -> None:
        """Make a directory; Git keeps it only once a file is in it."""
        self._edit(path).mkdir(parse(path), parents=parents)

    def symlink(self, path: str | bytes, target: bytes) -> None:
        """Make a symbolic link."""
        self._edit(path).symlink(parse(path), target)

    def chmod(self, path: str | bytes, *, executable: bool) -> None:
        """Set or clear a file's executable bit."""
        self._edit(path).chmod(parse(path), executable=executable)

    def remove(self, path: str | bytes, *, recursive: bool = False) -> None:
        """Remove a file, or a directory, which must be empty unless `recursive`."""
        self._edit(path).remove(parse(path), recursive=recursive)

    def rename(self, old: str | bytes, new: str | bytes) -> None:
        """Move a file or a directory."""
        self._edit(old)
        self._edit(new).rename(parse(old), parse(new))

    def set_parents(self, parents: Sequence[str]) -> None:
        """Replace the parents the commit will have; each must be a commit."""
        self._open()
        if len(parents) > PARENTS_MAX:
            raise UsageError(f"{len(parents)} parents, at most {PARENTS_MAX}")
        self.parents = [self.engine.check_commit(p) for p in dict.fromkeys(parents)]

    def _open(self) -> Overlay:
        if self.state is State.CLOSED:
            raise TransactionClosedError(f"transaction on {self.branch} is closed")
        if self.state is State.BUSY:
            raise UsageError(f"transaction on {self.branch} is being committed or merged")
        return self._tree

    def _edit(self, path: str | bytes) -> Overlay:
        tree = self._open()
        self.version += 1
        left = resolve_lines(set(self._conflicts), parse(path)) if self._conflicts else ()
        self._conflicts = {p: self._conflicts[p] for p in left}
        return tree

    # Merging and committing; the blocking halves end in `_now`.

    async def commit(self) -> Committed:
        """Commit and close; on an error the transaction stays open."""
        try:
            return await self._run(self.commit_now)
        finally:
            if self.closed:
                self._closed()

    async def merge(self, commit: str) -> tuple[str, ...]:
        """Merge a commit (or branch) into the tree and the parents; return the conflicts."""
        return await self._run(lambda: self.merge_now(commit))

    async def diff(self, commit: str | None = None) -> Sequence[Difference]:
        """Return how the tree differs from a commit, by default the one it started from."""
        return await self._run(lambda: self.diff_now(commit))

    async def _run(self, job: Callable[[], T]) -> T:
        if self._worker is None:
            raise UsageError("transaction without a loop: use the methods that end in _now")
        self._open()
        return await self._worker.write(job)

    def commit_now(self) -> Committed:
        """Commit and close; blocking."""
        return self.engine.groups.write(self.stage)

    def stage(self) -> Committed:
        """Commit as a part of the job that runs; it closes when that is durable."""
        tree = self._open()
        if self._conflicts:
            raise ConflictsRemainError(self.conflicts)
        self.state = State.BUSY
        try:
            by = self.committer or self.author
            commit = self.engine.write_commit(
                tree.store(), self.parents, self.message, self.author, by
            )
            result = self.engine.advance(self.branch, commit, by, self.expect, new=True)
        except BaseException:
            self.state = State.OPEN
            raise
        self.engine.when_settled(lambda: self._settled(result), self._undone)
        return result

    def _settled(self, result: Committed) -> None:
        self.result = result
        self._end()

    def _undone(self) -> None:
        self.state = State.OPEN

    def merge_now(self, commit: str) -> tuple[str, ...]:
        """Merge a commit into the tree; blocking."""
        tree = self._open()
        theirs = self.engine.resolve(commit)
        self.state = State.BUSY
        try:
            self._merge(tree, theirs)
        finally:
            self.state = State.OPEN
        return self.conflicts

    def _merge(self, tree: Overlay, theirs: Oid) -> None:
        objects, engine = self.engine.objects, self.engine
        first = self.parents[0] if self.parents else None
        base = base_tree(objects, first, theirs, engine.merging) if first else EMPTY_TREE
        ours = tree.store()
        newer = by_time(objects, first, ours, theirs) if first else None
        other = objects.commit(theirs).tree
        merged = merge_trees(objects, base, ours, other, engine.merging, newer)
        engine.store.flush()
        self.ours, self.theirs, self.base = ours, other, base
        tree.reset(merged.tree)
        self._conflicts |= {c.path: c for c in merged.conflicts}
        self.version += 1
        if not any(is_ancestor(objects, theirs, p) for p in self.parents):
            self.parents.append(theirs)

    def diff_now(self, commit: str | None = None) -> Sequence[Difference]:
        """Return how the tree differs from a commit; blocking."""
        against = self.engine.resolve(commit) if commit else self.origin
        return tuple(diff(self.engine.objects, self.engine.tree(against).oid, self._open().store()))

    def snapshot(self) -> Overlay:
        """Return a copy of the tree, for another thread."""
        return self._tree.copy()

    def reset(self, tree: Oid, conflicts: Sequence[Path]) -> None:
        """Begin again with a tree, in which `conflicts` are to be resolved."""
        self._open().reset(tree)
        left = "still to be resolved"  # how it came about is not kept
        self._conflicts = {p: Conflict(left, path=p, paths=(p,)) for p in conflicts}
        self.version += 1

    def close(self) -> None:
        """Give up; nothing is committed.  Closing again does nothing."""
        if self.state is State.OPEN:
            self._end()
            self._closed()

    def _end(self) -> None:
        self.state = State.CLOSED
        if self._worker is None:
            self._closed()

    def _closed(self) -> None:
        self._tree.reset(EMPTY_TREE)
        while self._on_close:
            self._on_close.pop()()

    @property
    def over(self) -> bool:
        """True once nothing is left to commit."""
        return self.closed

"""What is done to branches, blocking and without a loop: the part that a worker thread runs.

A commit goes in three steps: objects are put, flushed (durable from here on), and the branch moves
by compare-and-set.  When somebody else moved the branch in between, the new commit is merged with
the head found there, in a commit whose message is `Merge`, and the last step is tried again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dulwich.refs import check_ref_format

from ..errors import (
    ExistsError,
    HistoryTooDeepError,
    InvalidHashError,
    InvalidNameError,
    MergeConflictError,
    NotFastForwardError,
    NotFoundError,
    ObjectMissingError,
    RefChangedError,
    UsageError,
)
from ..store.base import HEADS, Kind, Oid, RefUpdate, Store
from ..store.objects import EMPTY_TREE, Commit, Objects
from ..tree.conflicts import Conflict
from ..tree.history import is_ancestor
from ..tree.merge import DEFAULT, Options, merge_commits
from ..tree.paths import text
from ..tree.tree import Tree

MOVES_MAX = 100  # how often a branch may move under one commit before we give up
_HASH = re.compile(r"[0-9a-f]{40}")
_IDENT = re.compile(r"[^<>\n\0]*[^<>\n\0 ] <[^<>\n\0]*>")

DEFAULT_AUTHOR = "dataflow <dataflow@localhost>"


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit came to: the commit asked for, and the head, which differs after a merge."""

    commit: Oid
    head: Oid

    @property
    def merged(self) -> bool:
        """True when the branch had moved and a merge commit joined both."""
        return self.commit != self.head


class Engine:
    """Branches of one store.  `commit` and everything else that writes: one thread at a time."""

    def __init__(
        self,
        store: Store,
        *,
        author: str = DEFAULT_AUTHOR,
        clock: Callable[[], float] = time.time,
        merging: Options = DEFAULT,
    ) -> None:
        self.store = store
        self.objects = Objects(store)
        self.author = check_author(author)
        self.clock = clock
        self.merging = merging
        self.moved: Callable[[str], object] = lambda branch: None  # called after a branch moved

    def head(self, branch: str) -> Oid | None:
        """Return the branch's newest commit; None while it has none."""
        return self.store.ref(HEADS + branch)

    def branches(self) -> dict[str, Oid]:
        """Return all branches with their heads."""
        return {name[len(HEADS) :]: oid for name, oid in self.store.refs(HEADS).items()}

    def resolve(self, name: str) -> Oid:
        """Return the commit that a branch or a commit id names."""
        if _HASH.fullmatch(name):
            return self.check_commit(name)
        head = self.head(check_branch(name))
        if head is None:
            raise NotFoundError(f"branch {name}")
        return head

    def check_commit(self, oid: str) -> Oid:
        """Return `oid` if it is a commit in the store, else raise `InvalidHashError`."""
        if not _HASH.fullmatch(oid):
            raise InvalidHashError(oid)
        try:
            return self.objects.commit(oid).oid
        except ObjectMissingError:
            raise InvalidHashError(f"{oid} (not in the repository)") from None

    def tree(self, commit: Oid | None) -> Tree:
        """Return a commit's tree, the empty one for None."""
        return Tree(self.objects, self.objects.commit(commit).tree if commit else EMPTY_TREE)

    def log(self, commit: Oid | None, *, limit: int | None = None) -> Iterator[Commit]:
        """Yield the branch's own line of commits, newest first (first parents)."""
        while commit is not None and limit != 0:
            found = self.objects.commit(commit)
            yield found
            commit = found.parents[0] if found.parents else None
            limit = None if limit is None else limit - 1

    def write_commit(
        self, tree: Oid, parents: Sequence[Oid], message: str, author: str | None = None
    ) -> Oid:
        """Put a commit; its time is not before its parents', so that walks stay in order."""
        when = max([int(self.clock()), *(self.objects.commit(p).commit_time for p in parents)])
        ident = check_author(author) if author else self.author
        clean = message.replace("\0", "").strip("\n") or "(no commit message)"
        return self.objects.put_commit(tree, tuple(parents), ident, clean + "\n", when)

    def advance(self, branch: str, commit: Oid, author: str | None = None) -> Committed:
        """Make the branch contain `commit`, merging where it moved on.

        Raises `MergeConflictError`; the branch is then as it was.
        """
        for _ in range(MOVES_MAX):
            head = self.head(branch)
            target = self._join(head, commit, author)
            self.store.flush()
            if target == head:
                return Committed(commit, head)
            try:
                self.store.update([RefUpdate(HEADS + branch, head, target)])
            except RefChangedError:
                continue
            self.moved(branch)
            return Committed(commit, target)
        raise HistoryTooDeepError(f"{branch} moved {MOVES_MAX} times during one commit; try again")

    def _join(self, head: Oid | None, commit: Oid, author: str | None) -> Oid:
        if head is None or is_ancestor(self.objects, head, commit):
            return commit
        if is_ancestor(self.objects, commit, head):
            return head
        merged = merge_commits(self.objects, head, commit, self.merging)
        raise_conflicts(merged.conflicts)
        return self.write_commit(merged.tree, (head, commit), "Merge", author)

    def fast_forward(self, branch: str, commit: Oid) -> None:
        """Move the branch to a commit that contains its head, or raise `NotFastForwardError`."""
        self.check_commit(commit)
        head = self.head(branch)
        if head == commit:
            return
        if head is not None and not is_ancestor(self.objects, head, commit):
            raise NotFastForwardError(branch, head, commit)
        self._set(RefUpdate(HEADS + branch, head, commit))

    def reset(self, branch: str, commit: Oid) -> None:
        """Move the branch anywhere; those who watch are told that history was cut."""
        self._set(RefUpdate(HEADS + branch, self.head(branch), self.check_commit(commit)))

    def delete(self, branch: str) -> None:
        """Remove the branch; its commits stay until git collects them."""
        head = self.head(branch)
        if head is None:
            raise NotFoundError(f"branch {branch}")
        self._set(RefUpdate(HEADS + branch, head, None))

    def rename(self, old: str, new: str) -> None:
        """Rename a branch in one step; `ExistsError` if `new` is there."""
        head = self.head(old)
        if head is None:
            raise NotFoundError(f"branch {old}")
        if self.head(check_branch(new)) is not None:
            raise ExistsError(f"branch {new}")
        self._set(RefUpdate(HEADS + new, None, head), RefUpdate(HEADS + old, head, None))

    def _set(self, *updates: RefUpdate) -> None:
        self.store.update(updates)
        for update in updates:
            self.moved(update.name[len(HEADS) :])

    def kind(self, oid: str) -> Kind:
        """Return what sort of object an id names; `InvalidHashError` for a text that is none."""
        if not _HASH.fullmatch(oid):
            raise InvalidHashError(oid)
        return self.objects.kind(oid)


def check_branch(name: str) -> str:
    """Return `name` if Git allows it for a branch (git-check-ref-format)."""
    octets = name.encode("utf-8", "surrogateescape")
    if not check_ref_format(HEADS.encode() + octets) or name.startswith("-") or name == "HEAD":  # type: ignore[arg-type]
        raise InvalidNameError(f"{name!r} cannot be the name of a branch")
    return name


def check_author(author: str) -> str:
    """Return `author` if it reads `Name <mail>`."""
    if not _IDENT.fullmatch(author):
        raise UsageError(f"author: expected 'Name <mail>', found {author!r}")
    return author


def raise_conflicts(conflicts: Sequence[Conflict]) -> None:
    """Raise `MergeConflictError` if there is any conflict."""
    if conflicts:
        paths = tuple(text(c.path) for c in conflicts)
        raise MergeConflictError(paths, conflicts[0].reason, tuple(conflicts))

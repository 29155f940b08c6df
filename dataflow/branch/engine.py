"""What is done to branches, blocking and without a loop: the part that a worker thread runs.

A commit goes in three steps: objects are put, the branch moves by compare-and-set in the view of
the group that runs (see `group`), and the group makes all of it durable and visible.  When the
branch is not where the commit began, the new commit is merged with the head found there, in a
commit whose message is `Merge`.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dulwich.refs import check_ref_format

from ..errors import (
    ExistsError,
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
from ..tree.history import is_ancestor, passed_from, touching
from ..tree.merge import DEFAULT, Options, merge_commits
from ..tree.paths import ROOT, Path, text
from ..tree.tree import Tree
from .group import Grouped

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
        self.groups = Grouped(store, self._tell, self.objects.forget)

    def _tell(self, updates: Sequence[RefUpdate]) -> None:
        heads = [u.new for u in updates if u.new is not None and u.name.startswith(HEADS)]
        self.objects.follow(*heads)
        for u in updates:
            self.moved(u.name.removeprefix(HEADS))

    def head(self, branch: str) -> Oid | None:
        """Return the branch's newest commit; None while it has none.

        For a job of a group it is what the jobs before left, for all others what is durable.
        """
        group = self.groups.mine
        return self.store.ref(HEADS + branch) if group is None else group.ref(HEADS + branch)

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

    def log(
        self, commit: Oid | None, *, limit: int | None = None, path: Path = ROOT
    ) -> Iterator[Commit]:
        """Yield the branch's own line of commits, newest first (first parents).

        With `path` only those that changed what is there; the first is when it changed last.
        """
        if path:
            yield from itertools.islice(touching(self.objects, commit, path), limit)
            return
        while commit is not None and limit != 0:
            found = self.objects.commit(commit)
            yield found
            commit = found.parents[0] if found.parents else None
            limit = None if limit is None else limit - 1

    def write_commit(
        self,
        tree: Oid,
        parents: Sequence[Oid],
        message: str,
        author: str | None = None,
        committer: str | None = None,
    ) -> Oid:
        """Put a commit; its time is not before its parents', so that walks stay in order."""
        when = max([int(self.clock()), *(self.objects.commit(p).commit_time for p in parents)])
        ident = check_author(author) if author else self.author
        by = check_author(committer) if committer else ident
        return self.objects.put_commit(tree, tuple(parents), ident, self.clean(message), when, by)

    def clean(self, message: str) -> str:
        """Return a message as a commit has it."""
        return (message.replace("\0", "").strip("\n") or "(no commit message)") + "\n"

    def advance(
        self,
        branch: str,
        commit: Oid,
        author: str | None = None,
        expect: str | None = None,
        *,
        new: bool = False,
        message: str = "",
    ) -> Committed:
        """Make the branch contain `commit`, merging (`message`) where it moved on.

        With `expect` it moves only from that head ("": from nothing), or `RefChangedError`.
        `new` says that nobody can have the commit yet.
        Raises `MergeConflictError`; the branch is then as it was.
        """
        return self.groups.write(
            lambda: self._advance(branch, commit, author, expect, new, message or "Merge")
        )

    def _advance(
        self,
        branch: str,
        commit: Oid,
        author: str | None,
        expect: str | None,
        new: bool,
        message: str,
    ) -> Committed:
        head = self.head(branch)
        if expect is not None and (head or "") != expect:
            raise RefChangedError(HEADS + branch, expect or None, head)
        target = self._join(head, commit, author, new, message)
        if target != head:
            self._set(RefUpdate(HEADS + branch, head, target))
        return Committed(commit, target)

    def when_settled(self, settled: Callable[[], object], undone: Callable[[], object]) -> None:
        """Call one of these when the running job is durable, or was taken back."""
        group = self.groups.mine
        assert group is not None, "only in a job"
        group.when_settled(settled, undone)

    def _join(
        self, head: Oid | None, commit: Oid, author: str | None, new: bool, message: str
    ) -> Oid:
        """Return what the branch is to point at so that it contains both."""
        if head is None or head == commit or head in self.objects.commit(commit).parents:
            return commit
        base = passed_from(self.objects, commit, head) if new else None
        if base == commit:
            return head
        if base is None and is_ancestor(self.objects, head, commit):
            return commit
        if base is None and is_ancestor(self.objects, commit, head):
            return head
        merged = merge_commits(self.objects, head, commit, self.merging, base=base)
        raise_conflicts(merged.conflicts)
        return self.write_commit(merged.tree, (head, commit), message, author)

    def fast_forward(self, branch: str, commit: Oid) -> None:
        """Move the branch to a commit that contains its head, or raise `NotFastForwardError`."""
        self.check_commit(commit)
        self.groups.write(lambda: self._fast_forward(branch, commit))

    def _fast_forward(self, branch: str, commit: Oid) -> None:
        head = self.head(branch)
        if head == commit:
            return
        if head is not None and not is_ancestor(self.objects, head, commit):
            raise NotFastForwardError(branch, head, commit)
        self._set(RefUpdate(HEADS + branch, head, commit))

    def reset(self, branch: str, commit: Oid) -> None:
        """Move the branch anywhere; those who watch are told that history was cut."""
        target = self.check_commit(commit)
        self.groups.write(
            lambda: self._set(RefUpdate(HEADS + branch, self.head(branch), target)),
        )

    def delete(self, branch: str) -> None:
        """Remove the branch; its commits stay until git collects them."""
        self.groups.write(lambda: self._set(RefUpdate(HEADS + branch, self._there(branch), None)))

    def rename(self, old: str, new: str) -> None:
        """Rename a branch in one step; `ExistsError` if `new` is there."""
        check_branch(new)
        self.groups.write(lambda: self._rename(old, new))

    def _rename(self, old: str, new: str) -> None:
        head = self._there(old)
        if self.head(new) is not None:
            raise ExistsError(f"branch {new}")
        self._set(RefUpdate(HEADS + new, None, head), RefUpdate(HEADS + old, head, None))

    def move(self, moves: Mapping[str, tuple[str | None, str | None]]) -> None:
        """Move branches from one head to another (None: not there), all of them or none.

        Raises `RefChangedError` for the first that is elsewhere.
        """
        updates = [
            RefUpdate(HEADS + check_branch(name), old, self.check_commit(new) if new else None)
            for name, (old, new) in moves.items()
        ]
        self.groups.write(lambda: self._set(*updates))

    def _there(self, branch: str) -> Oid:
        head = self.head(branch)
        if head is None:
            raise NotFoundError(f"branch {branch}")
        return head

    def _set(self, *updates: RefUpdate) -> None:
        group = self.groups.mine
        assert group is not None, "only in a job"
        group.stage(updates)

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

"""What a watch tells: one event a commit, with what it changed."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from ..store.base import Oid
from ..store.objects import EMPTY_TREE, Objects
from ..tree.diff import Difference, diff
from ..tree.paths import Path, text


class ChangeKind(enum.Enum):
    """Why an event was sent."""

    COMMIT = "commit"  # the branch has a new commit
    CUT = "cut"  # the branch was moved to a commit without the last one: see `Change`
    DELETED = "deleted"  # the branch is gone; if it returns, the watch goes on


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file: its object before and after; None where it was not there."""

    path: str
    before: Oid | None
    after: Oid | None

    @property
    def status(self) -> str:
        """A, M or D."""
        return "A" if self.before is None else "D" if self.after is None else "M"


@dataclass(frozen=True, slots=True)
class Change:
    """One event of `Branch.watch`.

    COMMIT: `changes` are those against the first parent, at or below the watched path.
    CUT: the history the reader had seen is not the branch's any more; `commit` is the common
    ancestor ("" if none) and `changes` lead back to it; new commits follow as events.
    DELETED: `commit` is "".
    `base` is the commit that `changes` are against, "" for nothing.  A watch that coalesces tells
    the newest commit, and `base` is the one it told before: the event covers base..commit; its
    CUT leads straight to the newest.
    `cursor` is the place behind this event: give it as `since` to go on there.
    """

    kind: ChangeKind
    branch: str
    commit: Oid
    parents: tuple[Oid, ...]
    changes: tuple[FileChange, ...]
    cursor: str
    author: str = ""
    message: str = ""
    time: int = 0
    base: Oid = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that changed, sorted."""
        return tuple(c.path for c in self.changes)

    @property
    def path(self) -> str:
        """The first of them; "" if the commit changed no file."""
        return self.changes[0].path if self.changes else ""


def file_changes(differences: Iterable[Difference]) -> tuple[FileChange, ...]:
    """Shorten differences to ids."""
    return tuple(
        FileChange(text(d.path), d.old and d.old.oid, d.new and d.new.oid) for d in differences
    )


def differences(
    objects: Objects, old: Oid | None, new: Oid | None, prefix: Path
) -> tuple[Difference, ...]:
    """Return what differs between two commits' trees at or below `prefix`."""
    a = objects.commit(old).tree if old else EMPTY_TREE
    b = objects.commit(new).tree if new else EMPTY_TREE
    return tuple(diff(objects, a, b, prefix))

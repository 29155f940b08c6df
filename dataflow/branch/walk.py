"""From a place in a branch's history towards a head, in batches: each commit diffed, once.

Blocking and pure: `advance` takes a state and returns the next one with what it found, so a caller
that is cancelled in between repeats the step and loses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..store.base import Oid
from ..store.objects import Objects
from ..tree.diff import Difference
from ..tree.paths import ROOT, Path
from ..tree.prefixes import span
from . import steps
from .change import Change, ChangeKind, differences, file_changes
from .steps import Cursor, Place, Position

BATCH = 64  # events made ready at once; 1, 4 and 16 before, so that the first comes soon
BATCH_FILES = 1 << 14  # changed files of a batch; one commit may have more


@dataclass(frozen=True, slots=True)
class Record:
    """One event, complete at or below the path of its walk, and where it stands."""

    change: Change
    before: Cursor
    after: Cursor
    paths: tuple[Path, ...]  # of `change.changes`, sorted
    on_line: bool = True

    def below(self, prefix: Path) -> Change | None:
        """Return the event as a watch of `prefix` gets it; None if it concerns nothing there."""
        if not prefix:
            return self.change
        first, last = span(self.paths, prefix)
        if first == last and self.change.kind is ChangeKind.COMMIT:
            return None
        return replace(self.change, changes=self.change.changes[first:last])


@dataclass(frozen=True, slots=True)
class Walk:
    """A reader's place, and what was found of the way ahead; `cursor` is behind what was told."""

    position: Position
    cursor: Cursor
    todo: tuple[Place, ...] = ()
    next: int = 0  # of todo
    batch: int = 1  # how many events come next

    @classmethod
    def start(cls, cursor: Cursor) -> Walk:
        """Begin at a place."""
        return cls(Position(cursor), cursor)

    def at(self, head: Oid | None) -> bool:
        """Say whether the walk has reached `head`."""
        return self.next == len(self.todo) and self.position == Position(Cursor(head))


@dataclass(frozen=True, slots=True)
class Walker:
    """What does not change along a walk; `line_only` leaves out what came in with merges."""

    objects: Objects
    branch: str
    prefix: Path = ROOT
    line_only: bool = False

    def advance(self, walk: Walk, head: Oid) -> tuple[Walk, list[Record]]:
        """Return the next events on the way to `head`; none may mean that it is still farther."""
        if walk.next < len(walk.todo):
            return self._events(walk)
        if walk.at(head):
            return walk, []
        piece = steps.advance(self.objects, walk.position, head, line_only=self.line_only)
        last = walk.position.cursor.head
        if piece.cut is not None:
            (base,) = piece.cut
            behind = piece.position.cursor
            found = differences(self.objects, last, base, self.prefix)
            cut = Change(
                ChangeKind.CUT, self.branch, base or "", (), file_changes(found), str(behind),
                base=last or "",
            )  # fmt: skip
            record = Record(cut, walk.cursor, behind, _paths(found))
            return Walk(piece.position, behind, piece.commits), [record]
        cursor = walk.cursor if piece.commits else piece.position.cursor
        return self._events(Walk(piece.position, cursor, piece.commits, batch=walk.batch))

    def _events(self, walk: Walk) -> tuple[Walk, list[Record]]:
        records: list[Record] = []
        cursor, files, n = walk.cursor, 0, walk.next
        while n < len(walk.todo) and n - walk.next < walk.batch and files < BATCH_FILES:
            place = walk.todo[n]
            record = self._event(place, cursor)
            if record is not None:
                records.append(record)
                files += len(record.paths)
            cursor = place.cursor
            n += 1
        return replace(walk, cursor=cursor, next=n, batch=min(4 * walk.batch, BATCH)), records

    def _event(self, place: Place, before: Cursor) -> Record | None:
        commit = self.objects.commit(place.oid)
        first = commit.parents[0] if commit.parents else None
        found = differences(self.objects, first, place.oid, self.prefix)
        if self.prefix and not found:
            return None
        change = Change(
            ChangeKind.COMMIT,
            self.branch,
            place.oid,
            commit.parents,
            file_changes(found),
            str(place.cursor),
            commit.author,
            commit.message,
            commit.commit_time,
            first or "",
        )
        return Record(change, before, place.cursor, _paths(found), place.on_line)


def _paths(found: Sequence[Difference]) -> tuple[Path, ...]:
    return tuple(d.path for d in found)


def deleted(branch: str, cursor: Cursor) -> Record:
    """Return the event of a branch that is gone."""
    change = Change(
        ChangeKind.DELETED, branch, "", (), (), str(cursor), base=cursor.commit or cursor.head or ""
    )
    return Record(change, cursor, cursor, ())

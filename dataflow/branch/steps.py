"""From one head of a branch to the next: every commit between, in order, in bounded pieces.

Theory of operation.  The branch's own line is the chain of first parents.  A step goes from one
commit of that line to the next and carries the commits that came in with it: a single one, or, for
a merge, those reachable from it and not from its first parent, oldest first.  The steps have no
commit in common and miss none.  History is linked backwards, so the line is walked from the head
down to where the reader stands; of a long line only every `PIECE`-th commit is remembered, and the
pieces between are walked again as they are needed.

Where the reader's place is not on the line (somebody pushed a merge whose other parent it is) one
step carries all that is new.  Where the new head does not contain it at all, history was cut: the
reader is told, with the common ancestor it is put back to, and then gets what is new.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import UsageError
from ..store.base import Oid
from ..store.objects import Objects
from ..tree.history import between, is_ancestor, merge_bases

PIECE = 1024

_CURSOR = re.compile(r"([0-9a-f]{40})?\.\.([0-9a-f]{40}):([0-9a-f]{40})?|([0-9a-f]{40})?")


@dataclass(frozen=True, slots=True)
class Cursor:
    """A reader's place: behind `head`; or, inside the step base..head, behind `commit`.

    `base` None is the beginning of history; `inside` with `commit` None is the step's beginning.
    """

    head: Oid | None = None
    base: Oid | None = None
    commit: Oid | None = None
    inside: bool = False

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read `str(cursor)` or a commit id; "" is the beginning of history."""
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise UsageError(f"since: expected a commit id or a change's cursor, found {text!r}")
        base, head, commit, plain = match.groups()
        return cls(plain) if head is None else cls(head, base, commit, True)

    def __str__(self) -> str:
        if self.inside:
            return f"{self.base or ''}..{self.head}:{self.commit or ''}"
        return self.head or ""


@dataclass(frozen=True, slots=True)
class Position:
    """A reader's place and the heads still to be reached, the nearest last."""

    cursor: Cursor
    ahead: tuple[Oid, ...] = ()


class Place(NamedTuple):
    """A commit, the place behind it, and whether it is of the branch's own line."""

    oid: Oid
    cursor: Cursor
    on_line: bool = True


@dataclass(frozen=True, slots=True)
class Piece:
    """What `advance` found: commits, each with the place behind it.

    `cut` is set when history was cut: the commit (None: nothing) the reader is put back to.
    """

    position: Position
    commits: tuple[Place, ...]
    cut: tuple[Oid | None] | None = None


def advance(objects: Objects, position: Position, head: Oid, *, line_only: bool = False) -> Piece:
    """Return the next commits on the way to `head` and the position behind them."""
    cursor = position.cursor
    if cursor.inside:
        return _inside(objects, position, line_only)
    ahead = position.ahead or _anchors(objects, cursor.head, head)
    if ahead is None:
        return _leap(objects, cursor.head, head)
    commits: list[Place] = []
    for oid in _line(objects, cursor.head, ahead[-1]):
        commits += _step(objects, oid, line_only)
    return Piece(Position(Cursor(ahead[-1]), ahead[:-1]), tuple(commits))


def _anchors(objects: Objects, at: Oid | None, head: Oid) -> tuple[Oid, ...] | None:
    """Return every PIECE-th commit from `head` down to `at`; None if `at` is not on the line."""
    known = _known_anchors(objects, at, head)
    if known:
        return known
    floor = objects.link(at).time if at else 0
    found = [head]
    here: Oid | None = head
    distance = 0
    while here != at:
        if here is None:
            return None
        link = objects.link(here)
        if at is not None and link.time < floor:
            return None
        if distance and distance % PIECE == 0:
            found.append(here)
        distance += 1
        here = link.parents[0] if link.parents else None
    if distance > PIECE:
        objects.follow(head)  # so that the next one need not walk
    return tuple(found)


def _known_anchors(objects: Objects, at: Oid | None, head: Oid) -> tuple[Oid, ...]:
    """Return the same by the index of history, without a walk; nothing if it does not know."""
    history = objects.store.history
    if history is None or at is None or at == head:
        return ()
    distance = history.distance(at, head)
    if distance is None:
        return ()
    found = [history.back(head, steps) for steps in range(0, distance, PIECE)]
    return tuple(oid for oid in found if oid is not None) if all(found) else ()


def _line(objects: Objects, at: Oid | None, head: Oid) -> list[Oid]:
    line: list[Oid] = []
    here: Oid | None = head
    while here is not None and here != at:
        line.append(here)
        parents = objects.link(here).parents
        here = parents[0] if parents else None
    return line[::-1]


def _step(objects: Objects, oid: Oid, line_only: bool) -> list[Place]:
    parents = objects.link(oid).parents
    if line_only or len(parents) < 2:
        return [Place(oid, Cursor(oid))]
    return _places(between(objects, parents[0], oid), parents[0], oid, {oid})


def _places(commits: list[Oid], base: Oid | None, head: Oid, line: set[Oid]) -> list[Place]:
    return [
        Place(oid, Cursor(head) if oid == head else Cursor(head, base, oid, True), oid in line)
        for oid in commits
    ]


def _inside(objects: Objects, position: Position, line_only: bool) -> Piece:
    """Go on with a step that was begun: after a cut, or after a restart."""
    cursor = position.cursor
    assert cursor.head is not None
    commits = between(objects, cursor.base, cursor.head)
    if cursor.commit is not None:
        if cursor.commit not in commits:
            raise UsageError(f"since: {cursor.commit} is not in {cursor.base}..{cursor.head}")
        commits = commits[commits.index(cursor.commit) + 1 :]
    line = set(_line_above(objects, set(commits), cursor.head))
    places = _places(commits, cursor.base, cursor.head, line)
    if line_only:
        places = [p for p in places if p.on_line]
    return Piece(Position(Cursor(cursor.head), position.ahead), tuple(places))


def _line_above(objects: Objects, members: set[Oid], head: Oid) -> list[Oid]:
    line = []
    here: Oid | None = head
    while here in members:
        line.append(here)
        parents = objects.link(here).parents
        here = parents[0] if parents else None
    return line


def _leap(objects: Objects, at: Oid | None, head: Oid) -> Piece:
    """Take one step from a place that is not on the line of `head`."""
    position = Position(Cursor(head, at, None, True))
    if at is None or is_ancestor(objects, at, head):
        return Piece(position, ())
    bases = merge_bases(objects, at, head)
    if bases == [head]:  # put back to an older commit: nothing new follows
        return Piece(Position(Cursor(head)), (), (head,))
    return Piece(position, (), (bases[0] if bases else None,))

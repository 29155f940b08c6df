"""What renames mean for a merge: which three files meet under which name.

Theory of operation.  A rename matters only for a file that one side removed and the other changed
or removed as well; a walk over what both sides changed finds those, and only if there are any the
added files of that side are looked at (`renames`).  Each rename then says which entries meet at
its new name, in place of what the trees have there: see `_one_side`, a table of Git's cases.
Everything else merges name by name.  Directories are not renamed as a whole: a file that the
other side adds under a directory's old name stays there (Git's `merge.directoryRenames=false`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..store.base import Oid
from ..store.blocktree import differing
from ..store.objects import Entry, Objects
from .conflicts import Kind
from .diff import diff
from .paths import ROOT, Path
from .renames import find_renames
from .tree import find


@dataclass(frozen=True, slots=True)
class Meeting:
    """The three files that meet at a name, the name of each, and what is wrong already."""

    base: Entry | None = None
    ours: Entry | None = None
    theirs: Entry | None = None
    names: tuple[Path, ...] = ()  # all names involved, the old one first
    ours_name: Path | None = None  # None: the name itself
    theirs_name: Path | None = None
    conflict: Kind | None = None


Content = Callable[[Path, Meeting], tuple[Entry | None, bool]]
"""Merges what meets at a name: the file, and whether it is clean."""


class Moves:
    """All names at which renames decide what meets; `below` says where in the tree they are."""

    def __init__(self) -> None:
        self.at: dict[Path, Meeting] = {}
        self.below: dict[Path, set[bytes]] = {}

    def put(self, path: Path, meeting: Meeting) -> None:
        """Enter what meets at `path`."""
        self.at[path] = meeting
        for depth in range(len(path)):
            self.below.setdefault(path[:depth], set()).add(path[depth])


Trees = tuple[Oid | None, Oid | None, Oid | None]


class Planner:
    """Finds the moves of one merge of trees."""

    def __init__(self, objects: Objects, trees: Trees, content: Content, limit: int) -> None:
        self.objects = objects
        self.trees = trees
        self.content = content
        self.limit = limit
        self.moves = Moves()

    def run(self) -> Moves:
        """Return the moves; most merges have none, and then only what both changed is read."""
        gone = list(_gone(self.objects, ROOT, *self.trees))
        mine = self._renames(1, frozenset(p for p, o, _ in gone if o is None))
        other = self._renames(2, frozenset(p for p, _, t in gone if t is None))
        for old in sorted(mine.keys() | other.keys()):
            if old in mine and old in other:
                self._both_sides(old, mine[old], other[old])
            elif old in mine:
                self._one_side(old, mine[old], flipped=False)
            else:
                self._one_side(old, other[old], flipped=True)
        return self.moves

    def _renames(self, side: int, relevant: frozenset[Path]) -> dict[Path, Path]:
        base, tree = self.trees[0], self.trees[side]
        if not relevant or base is None or tree is None:
            return {}
        removed, added = {}, {}
        for d in diff(self.objects, base, tree):
            if d.old is None and d.new is not None:
                added[d.path] = d.new
            elif d.new is None and d.old is not None:
                removed[d.path] = d.old
        found = find_renames(self.objects, removed, added, relevant=relevant, limit=self.limit)
        return {r.old: r.new for r in found if r.old in relevant}

    def _file(self, side: int, path: Path) -> Entry | None:
        root = self.trees[side]
        entry = find(self.objects, root, path) if root else None
        return None if entry is None or entry.is_dir else entry

    def _present(self, path: Path) -> Meeting:
        """Return what meets at `path` as far as is known."""
        known = self.moves.at.get(path)
        return known or Meeting(self._file(0, path), self._file(1, path), self._file(2, path))

    def _both_sides(self, old: Path, mine: Path, other: Path) -> None:
        met = Meeting(
            self._file(0, old), self._file(1, mine), self._file(2, other),
            tuple(dict.fromkeys((old, mine, other))), mine, other,
        )  # fmt: skip
        self.moves.put(old, Meeting())
        if mine == other:
            self.moves.put(mine, met)
            return
        for new in (mine, other):
            self.moves.put(new, replace(met, conflict=Kind.RENAME_RENAME))

    def _one_side(self, old: Path, new: Path, *, flipped: bool) -> None:
        """Enter a rename of one side; `flipped`: of theirs.

        The other side      new name is free            new name is taken
        ----------------    ------------------------    --------------------------------------
        kept the old one    the three files merge       they merge, the result meets the taker
        removed it          conflict rename/delete      conflict rename/delete
        changed its type    conflict; its file stays    the file there is the other side's
        """
        side = 2 if flipped else 1
        base, moved, kept = self._file(0, old), self._file(side, new), self._file(3 - side, old)
        taken = self._file(3 - side, new)
        retyped = kept is not None and moved is not None and _type(kept) != _type(moved)
        if retyped and taken is not None:
            self.moves.put(new, _sides(flipped, base, moved, taken, (old, new), new))
            self.moves.put(old, _sides(flipped, None, None, kept, (old,), old))
        elif kept is not None and not retyped and taken is not None:
            self._collision(old, new, _sides(flipped, base, moved, kept, (old, new), old), flipped)
        elif kept is None or retyped:
            met = _sides(flipped, None if taken else base, moved, taken, (old, new), new)
            self.moves.put(new, replace(met, conflict=Kind.RENAME_DELETE))
            self.moves.put(old, _sides(flipped, None, None, kept, (old,), old))
        else:
            self.moves.put(new, _sides(flipped, base, moved, kept, (old, new), old))
            self.moves.put(old, Meeting())

    def _collision(self, old: Path, new: Path, met: Meeting, flipped: bool) -> None:
        """Merge the renamed file, and let the result meet what the other side has there."""
        merged, clean = self.content(new, met)
        present = self._present(new)
        names = tuple(dict.fromkeys((*present.names, old, new)))
        mine = present.ours if flipped else merged
        other = merged if flipped else present.theirs
        conflict = None if clean and not present.conflict else Kind.RENAME_ADD
        self.moves.put(new, Meeting(None, mine, other, names, conflict=conflict))
        self.moves.put(old, Meeting())


def _sides(
    flipped: bool, base: Entry | None, moved: Entry | None, other: Entry | None,
    names: tuple[Path, ...], other_name: Path,
) -> Meeting:  # fmt: skip
    """Return a meeting with the side that moved the file in its place."""
    if flipped:
        return Meeting(base, other, moved, names, other_name, names[-1])
    return Meeting(base, moved, other, names, names[-1], other_name)


def _type(entry: Entry) -> int:
    return entry.mode & 0o170000


Gone = tuple[Path, Entry | None, Entry | None]


def _gone(
    objects: Objects, path: Path, b: Oid | None, o: Oid | None, t: Oid | None
) -> Iterator[Gone]:
    """Yield files of the base that one side no longer has and the other no longer has unchanged."""
    if b is None or b in {o, t}:
        return
    base, ours, theirs = (objects.tree(x) if x else {} for x in (b, o, t))
    changed = set(differing(base, ours)).intersection(differing(base, theirs))
    for name in sorted(changed & base.keys()):
        was, mine, other = base[name], ours.get(name), theirs.get(name)
        if not was.is_dir:
            mine, other = _no_dir(mine), _no_dir(other)
            if mine is None or other is None:
                yield (*path, name), mine, other
        else:
            below = (x.oid if x and x.is_dir else None for x in (was, mine, other))
            yield from _gone(objects, (*path, name), *below)


def _no_dir(entry: Entry | None) -> Entry | None:
    return None if entry is None or entry.is_dir else entry

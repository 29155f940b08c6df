"""Three-way merge of trees, with conflicts as data.

Each name has two slots, what is there as a file and what is there as a directory, and each slot
is merged by itself, as Git does: replacing a file by a directory is a removal and an addition.
Mode and content of a file are merged apart.  Where both sides changed a file differently the
`driver` may merge its text; if it does not, the path is a conflict and holds a file that says so.
Several merge bases (criss-cross) are merged with each other first, at most `BASES_MAX` of them;
what conflicts between bases is taken as it was before both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from ..store.base import Oid
from ..store.objects import DIRECTORY, EMPTY_TREE, EXECUTABLE, FILE, Entry, Objects
from .history import merge_bases
from .paths import ROOT, Path, text

BASES_MAX = 8
_DEPTH_MAX = 8

BOTH_CHANGED = "Changed on both branches"
FILE_VS_DIR = "File vs dir"
ADD_DEL = "option: add/del"
ADD_ADD = "default: add/add and no common ancestor"

V = TypeVar("V", int, str)
Driver = Callable[[Path, bytes, bytes, bytes], bytes | None]
"""(path, base, ours, theirs) -> merged octets, or None where they do not merge."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """A path both sides changed, what each side has there, and why it does not merge."""

    path: Path
    base: Entry | None
    ours: Entry | None
    theirs: Entry | None
    reason: str

    def content(self) -> bytes:
        """Return what the conflicting file holds until somebody resolves it."""
        return f"** Conflict **\n{self.reason}\n".encode()

    def __str__(self) -> str:
        return f"{text(self.path)}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Merged:
    """The merged tree; where `conflicts` lists a path, the tree has the file that says so."""

    tree: Oid
    conflicts: tuple[Conflict, ...]


@dataclass(slots=True)
class _Merger:
    objects: Objects
    driver: Driver | None
    virtual: bool  # merging bases: a conflict takes the base's side
    conflicts: list[Conflict] = field(default_factory=list)

    def directory(self, path: Path, b: Oid | None, o: Oid | None, t: Oid | None) -> Oid | None:
        """Merge three trees (None: not there); None if nothing is left."""
        if o == t or b == t:
            return o
        if b == o:
            return t
        base, ours, theirs = (self.objects.tree(x) if x else {} for x in (b, o, t))
        out = {}
        for name in sorted(base.keys() | ours.keys() | theirs.keys()):
            entry = self.entry((*path, name), base.get(name), ours.get(name), theirs.get(name))
            if entry is not None:
                out[name] = entry
        return self.objects.put_tree(out) if out else None

    def entry(self, path: Path, b: Entry | None, o: Entry | None, t: Entry | None) -> Entry | None:
        if o == t or b == t:
            return o
        if b == o:
            return t
        before = len(self.conflicts)
        tree = self.directory(path, _dir(b), _dir(o), _dir(t))
        file = self.file(path, _file(b), _file(o), _file(t))
        if tree is None or file is None:
            return file or (Entry(DIRECTORY, tree) if tree else None)
        del self.conflicts[before:]  # the path itself is the conflict, not what is below
        return self.conflict(Conflict(path, b, o, t, FILE_VS_DIR))

    def file(self, path: Path, b: Entry | None, o: Entry | None, t: Entry | None) -> Entry | None:
        """Merge what the three sides have as a file at `path`."""
        if o == t or b == t:
            return o
        if b == o:
            return t
        if o is None or t is None:
            return self.conflict(Conflict(path, b, o, t, ADD_DEL))
        mode = _three(b and b.mode, o.mode, t.mode)
        oid = _three(b and b.oid, o.oid, t.oid)
        if mode is None or (oid is None and mode not in {FILE, EXECUTABLE}):
            return self.conflict(Conflict(path, b, o, t, BOTH_CHANGED if b else ADD_ADD))
        if oid is None:
            oid = self.text(path, b, o, t)
        if oid is None:
            return self.conflict(Conflict(path, b, o, t, BOTH_CHANGED if b else ADD_ADD))
        return Entry(mode, oid)

    def text(self, path: Path, b: Entry | None, o: Entry, t: Entry) -> Oid | None:
        if self.driver is None:
            return None
        base = self.objects.blob(b.oid) if b else b""
        merged = self.driver(path, base, self.objects.blob(o.oid), self.objects.blob(t.oid))
        return None if merged is None else self.objects.put_blob(merged)

    def conflict(self, conflict: Conflict) -> Entry | None:
        if self.virtual:
            return conflict.base
        self.conflicts.append(conflict)
        return Entry(FILE, self.objects.put_blob(conflict.content()))


def merge_trees(
    objects: Objects, base: Oid, ours: Oid, theirs: Oid, driver: Driver | None = None
) -> Merged:
    """Merge the changes base..theirs into `ours`; all are ids of trees."""
    merger = _Merger(objects, driver, virtual=False)
    tree = merger.directory(ROOT, base, ours, theirs)
    return Merged(tree or objects.put_tree({}), tuple(merger.conflicts))


def base_tree(objects: Objects, ours: Oid, theirs: Oid, driver: Driver | None = None) -> Oid:
    """Return the tree that two commits have in common; the empty one for unrelated histories."""
    return _base_tree(objects, merge_bases(objects, ours, theirs), driver, 0)


def _base_tree(objects: Objects, bases: list[Oid], driver: Driver | None, depth: int) -> Oid:
    if not bases:
        return EMPTY_TREE
    bases = bases[::-1][:BASES_MAX]  # oldest first, as Git folds them
    tree = objects.commit(bases[0]).tree
    if depth == _DEPTH_MAX:
        return tree
    for other in bases[1:]:
        below = _base_tree(objects, merge_bases(objects, bases[0], other), driver, depth + 1)
        merger = _Merger(objects, driver, virtual=True)
        tree = merger.directory(ROOT, below, tree, objects.commit(other).tree) or EMPTY_TREE
    return tree


def merge_commits(
    objects: Objects,
    ours: Oid,
    theirs: Oid,
    driver: Driver | None = None,
    *,
    base: Oid | None = None,
) -> Merged:
    """Merge two commits' trees over their common ancestor, `base` where it is known."""
    tree = objects.commit(base).tree if base else base_tree(objects, ours, theirs, driver)
    return merge_trees(
        objects, tree, objects.commit(ours).tree, objects.commit(theirs).tree, driver
    )


def resolve_lines(listed: set[Path], below: Path) -> set[Path]:
    """Return what stays of conflicting paths when `below`, or something in it, was rewritten."""
    return {p for p in listed if p[: len(below)] != below and below[: len(p)] != p}


def _three(b: V | None, o: V, t: V) -> V | None:
    if o == t or b == t:
        return o
    return t if b == o else None


def _dir(entry: Entry | None) -> Oid | None:
    return entry.oid if entry is not None and entry.is_dir else None


def _file(entry: Entry | None) -> Entry | None:
    return None if entry is None or entry.is_dir else entry

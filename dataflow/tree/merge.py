"""Three-way merge of trees, with renames, drivers by path, and conflicts as data.

Each name has two slots, what is there as a file and what is there as a directory, and each slot
is merged by itself, as Git does: replacing a file by a directory is a removal and an addition.
Mode and content of a file are merged apart.  Where both sides changed a file's content differently
the path's driver merges it (`drivers`); renames decide before which three files meet (`moves`).
Only directories that both sides changed, or that a rename touches, are read.

A path that does not merge is a conflict and holds a file that says so, or, with a `style`, what
Git would leave there.  Several merge bases (criss-cross) are merged with each other first, at
most `BASES_MAX` of them; a text with conflicts there keeps its markers, as in Git, and any other
conflict leaves what was there before both.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..errors import NameTooLongError
from ..store.base import Oid
from ..store.blocktree import differing
from ..store.objects import DIRECTORY, EMPTY_TREE, EXECUTABLE, FILE, SYMLINK, Entry, Objects
from .attributes import Attributes
from .conflicts import Conflict, Kind
from .drivers import Drivers, Request, run
from .history import merge_bases
from .lastwriter import Newer, by_time
from .moves import Meeting, Moves, Planner
from .paths import ROOT, Path, text
from .renames import LIMIT
from .textmerge import MARKER_SIZE, Labels, Style

BASES_MAX = 8
_DEPTH_MAX = 8
_REGULAR = (FILE, EXECUTABLE)
_BASE_LABELS = Labels("", "Temporary merge branch 1", "Temporary merge branch 2")


@dataclass(frozen=True, slots=True)
class Options:
    """How to merge.

    `style` None leaves DataKit's note in a conflicting file, a `Style` text with markers.
    `rename_limit` bounds the search for renames by likeness, as Git's `merge.renameLimit`.
    """

    drivers: Drivers = field(default_factory=Drivers)
    renames: bool = True
    rename_limit: int = LIMIT
    style: Style | None = None
    labels: Labels = field(default_factory=Labels)


DEFAULT = Options()


@dataclass(frozen=True, slots=True)
class Merged:
    """The merged tree; where `conflicts` lists a path, the tree has the file that says so."""

    tree: Oid
    conflicts: tuple[Conflict, ...]


@dataclass(slots=True)
class _Merger:
    objects: Objects
    options: Options
    attributes: Attributes
    newer: Newer | None
    level: int  # 0 for a merge, 1 and more for one of its bases
    conflicts: list[Conflict] = field(default_factory=list)
    moves: Moves = field(default_factory=Moves)
    aside: dict[Path, dict[bytes, Entry]] = field(default_factory=dict)

    def root(self, b: Oid, o: Oid, t: Oid) -> Oid:
        if self.options.renames:
            planner = Planner(self.objects, (b, o, t), self.met, self.options.rename_limit)
            self.moves = planner.run()
        return self.directory(ROOT, b, o, t) or EMPTY_TREE

    def directory(self, path: Path, b: Oid | None, o: Oid | None, t: Oid | None) -> Oid | None:
        """Merge three trees (None: not there); None if nothing is left."""
        names = self.moves.below.get(path, set())
        if not names:
            if o == t or b == t:
                return o
            if b == o:
                return t
        base, ours, theirs = (self.objects.tree(x) if x else {} for x in (b, o, t))
        changes: dict[bytes, Entry | None] = {}
        for name in sorted(names.union(differing(base, theirs))):
            mine = ours.get(name)
            entry = self.entry((*path, name), base.get(name), mine, theirs.get(name))
            if entry != mine:
                changes[name] = entry
        changes.update(self.aside.pop(path, {}))
        if o is None:
            made = {name: entry for name, entry in changes.items() if entry is not None}
            return self.objects.put_tree(made) if made else None
        return self.objects.edit_tree(o, changes) if changes else o

    def entry(self, path: Path, b: Entry | None, o: Entry | None, t: Entry | None) -> Entry | None:
        met = self.moves.at.get(path)
        if met is None and path not in self.moves.below:
            if o == t or b == t:
                return o
            if b == o:
                return t
        before = len(self.conflicts)
        tree = self.directory(path, _dir(b), _dir(o), _dir(t))
        file = self.file(path, met or Meeting(_file(b), _file(o), _file(t)))
        if tree is None or file is None:
            return file or (Entry(DIRECTORY, tree) if tree else None)
        if self.level:  # as Git: the file gets a name that no side has, renames may find it
            label = _BASE_LABELS.ours if _file(o) else _BASE_LABELS.theirs
            self.aside.setdefault(path[:-1], {})[path[-1] + b"~" + label.encode()] = file
            return Entry(DIRECTORY, tree)
        del self.conflicts[before:]  # the path itself is the conflict, not what is below
        message = f"{text(path)} is a file on one side and a directory on the other"
        return self.conflict(Conflict(message, Kind.FILE_DIRECTORY, path, b, o, t), o or t)

    def file(self, path: Path, met: Meeting) -> Entry | None:
        """Merge the three files that meet at `path`."""
        entry, conflict = self.content(path, met)
        return entry if conflict is None else self.conflict(conflict, entry)

    def met(self, path: Path, met: Meeting) -> tuple[Entry | None, bool]:
        """Merge what a rename brings to a name that the other side took, before it meets that."""
        entry, conflict = self.content(path, met)
        if conflict is not None and conflict.marked is not None and entry is not None:
            entry = Entry(entry.mode, self.objects.put_blob(conflict.marked))
        return entry, conflict is None

    def content(self, path: Path, met: Meeting) -> tuple[Entry | None, Conflict | None]:
        """Return the merged file, or the best there is and what is wrong with it."""
        b, o, t = met.base, met.ours, met.theirs
        if met.conflict is not None:
            return self.moved(path, met)
        if o == t or b == t:
            return o, None
        if b == o:
            return t, None
        if o is None or t is None:
            kind = Kind.MODIFY_DELETE
            return o or t, _conflict(kind, path, met, f"{text(path)} {_said(o, t)}")
        if _type(o.mode) != _type(t.mode):
            message = f"{text(path)} had its type changed differently on both sides"
            return o, _conflict(Kind.TYPES, path, met, message)
        return self.same_type(path, met, o, t)

    def moved(self, path: Path, met: Meeting) -> tuple[Entry | None, Conflict]:
        """Return a conflict that a rename made."""
        assert met.conflict is not None
        names = " -> ".join(text(p) for p in met.names)
        if met.conflict is Kind.RENAME_DELETE:
            message = f"{names}: renamed on one side, removed on the other"
            return met.ours or met.theirs, _conflict(met.conflict, path, met, message)
        entry, inner = self.content(path, replace(met, conflict=None))
        if met.conflict is Kind.RENAME_RENAME:
            message = f"{text(met.names[0])} renamed to {' and to '.join(map(text, met.names[1:]))}"
        else:
            message = f"{names}: renamed to a name that the other side took"
        conflict = _conflict(met.conflict, path, met, message)
        return entry, replace(conflict, marked=inner.marked if inner else None)

    def same_type(
        self, path: Path, met: Meeting, o: Entry, t: Entry
    ) -> tuple[Entry | None, Conflict | None]:
        b = met.base if met.base and _type(met.base.mode) == _type(o.mode) else None
        mode = o.mode if b and b.mode == t.mode else t.mode
        if not (o.mode == t.mode or (b and b.mode in {o.mode, t.mode})):
            message = f"{text(path)}: mode {o.mode:06o} and {t.mode:06o}"
            return o, _conflict(Kind.MODE, path, met, message)
        if o.oid == t.oid or (b and b.oid == t.oid):
            return Entry(mode, o.oid), None
        if b and b.oid == o.oid:
            return Entry(mode, t.oid), None
        if o.mode not in _REGULAR:
            kind = Kind.SYMLINK if o.mode == SYMLINK else Kind.SUBMODULE
            message = f"{text(path)}: both sides changed the {kind.value}"
            return o, _conflict(kind, path, met, message)
        got = self.driven(path, met, b, o, t)
        if isinstance(got, bytes):
            return Entry(mode, self.objects.put_blob(got)), None
        kind = Kind.ADD_ADD if met.base is None and got.kind is not Kind.DRIVER else got.kind
        if len(met.names) > 1 and met.base is None:
            kind = Kind.RENAME_ADD
        conflict = _conflict(kind, path, met, got.message or kind.value)
        return Entry(mode, o.oid), replace(conflict, marked=got.marked)

    def driven(
        self, path: Path, met: Meeting, b: Entry | None, o: Entry, t: Entry
    ) -> bytes | Conflict:
        """Let the path's driver merge a regular file."""
        blob = self.objects.blob
        ours_name, theirs_name = met.ours_name or path, met.theirs_name or path
        newer = self.newer
        request = Request(
            blob(b.oid) if b else b"", blob(o.oid), blob(t.oid), text(path),
            style=self.options.style or Style.MERGE,
            labels=_BASE_LABELS if self.level else _labels(self.options.labels, path, met),
            marker_size=MARKER_SIZE + 2 * self.level,
            theirs_newer=lambda: newer(ours_name, theirs_name) if newer else None,
        )  # fmt: skip
        return run(self.options.drivers.select(path, self.attributes), request)

    def conflict(self, conflict: Conflict, best: Entry | None) -> Entry | None:
        """Record a conflict and return what stands at its path until it is resolved."""
        marked = conflict.marked
        if marked is not None and best is not None:
            best = Entry(best.mode, self.objects.put_blob(marked)) if self._marks else best
        if self.level:
            keep = conflict.kind in {Kind.RENAME_RENAME, Kind.RENAME_ADD}
            return best if keep or marked is not None else conflict.base
        self.conflicts.append(conflict)
        if self.options.style is not None:
            return best
        return Entry(FILE, self.objects.put_blob(conflict.content()))

    @property
    def _marks(self) -> bool:
        return bool(self.level) or self.options.style is not None


def merge_trees(
    objects: Objects,
    base: Oid,
    ours: Oid,
    theirs: Oid,
    options: Options = DEFAULT,
    newer: Newer | None = None,
) -> Merged:
    """Merge the changes base..theirs into `ours`; all are ids of trees.

    `newer` tells the driver `last-writer` which side wrote a path later.  NameTooLongError where
    both sides changed what is so far down (a tree of Git's) that the stack does not reach it.
    """
    merger = _Merger(objects, options, Attributes(objects, ours), newer, 0)
    try:
        tree = merger.root(base, ours, theirs)
    except RecursionError:
        raise NameTooLongError("the directories to merge are too deep") from None
    if tree == EMPTY_TREE:
        tree = objects.put_tree({})
    return Merged(tree, tuple(merger.conflicts))


def base_tree(objects: Objects, ours: Oid, theirs: Oid, options: Options = DEFAULT) -> Oid:
    """Return the tree that two commits have in common; the empty one for unrelated histories."""
    return _base_tree(objects, merge_bases(objects, ours, theirs), options, 1)


def _base_tree(objects: Objects, bases: list[Oid], options: Options, level: int) -> Oid:
    if not bases:
        return EMPTY_TREE
    bases = bases[::-1][:BASES_MAX]  # oldest first, as Git folds them
    tree = objects.commit(bases[0]).tree
    if level > _DEPTH_MAX:
        return tree
    for other in bases[1:]:
        common = merge_bases(objects, bases[0], other)
        below = _base_tree(objects, common, options, level + 1)
        newer = by_time(objects, bases[0], tree, other)
        merger = _Merger(objects, options, Attributes(objects, tree), newer, level)
        tree = merger.root(below, tree, objects.commit(other).tree)
    return tree


def merge_commits(
    objects: Objects,
    ours: Oid,
    theirs: Oid,
    options: Options = DEFAULT,
    *,
    base: Oid | None = None,
) -> Merged:
    """Merge two commits' trees over their common ancestor, `base` where it is known."""
    common = objects.commit(base).tree if base else base_tree(objects, ours, theirs, options)
    tree, other = objects.commit(ours).tree, objects.commit(theirs).tree
    newer = by_time(objects, ours, tree, theirs)
    return merge_trees(objects, common, tree, other, options, newer)


def resolve_lines(listed: set[Path], below: Path) -> set[Path]:
    """Return what stays of conflicting paths when `below`, or something in it, was rewritten."""
    return {p for p in listed if p[: len(below)] != below and below[: len(p)] != p}


def _conflict(kind: Kind, path: Path, met: Meeting, message: str) -> Conflict:
    return Conflict(
        message, kind, path, met.base, met.ours, met.theirs, met.names or (path,)
    )  # fmt: skip


def _labels(labels: Labels, path: Path, met: Meeting) -> Labels:
    """Add the names of a file that the sides call differently."""
    if (met.ours_name or path) == (met.theirs_name or path):
        return labels
    return replace(
        labels,
        ours=f"{labels.ours}:{text(met.ours_name or path)}",
        theirs=f"{labels.theirs}:{text(met.theirs_name or path)}",
    )


def _said(ours: Entry | None, theirs: Entry | None) -> str:
    return "removed by ours, changed by theirs" if ours is None else (
        "changed by ours, removed by theirs"
    )  # fmt: skip


def _type(mode: int) -> int:
    return mode & 0o170000


def _dir(entry: Entry | None) -> Oid | None:
    return entry.oid if entry is not None and entry.is_dir else None


def _file(entry: Entry | None) -> Entry | None:
    return None if entry is None or entry.is_dir else entry

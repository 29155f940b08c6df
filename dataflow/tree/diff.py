"""What differs between two trees; equal subtrees are never read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..store.base import Oid
from ..store.objects import DIRECTORY, Entries, Entry, Objects, differing
from .paths import ROOT, Path, text
from .tree import find, walk


@dataclass(frozen=True, slots=True)
class Difference:
    """A file that differs: `old` is None where it was added, `new` where it was removed."""

    path: Path
    old: Entry | None
    new: Entry | None

    @property
    def status(self) -> str:
        """The letter of `git diff --name-status --no-renames`: A, D, M or T."""
        if self.old is None:
            return "A"
        if self.new is None:
            return "D"
        return "M" if self.old.mode & 0o170000 == self.new.mode & 0o170000 else "T"

    def __str__(self) -> str:
        sign = {"A": "+", "D": "-"}.get(self.status, "*")
        return f"{sign} {text(self.path)}"


def diff(objects: Objects, old: Oid, new: Oid, prefix: Path = ROOT) -> Iterator[Difference]:
    """Yield the files at or below `prefix` that differ between the trees, sorted by path."""
    todo = [(prefix, find(objects, old, prefix), find(objects, new, prefix))]
    while todo:  # the last is next: no depth of a tree takes stack
        path, before, after = todo.pop()
        if before == after:
            continue
        old_file = None if before is None or before.is_dir else before
        new_file = None if after is None or after.is_dir else after
        if old_file or new_file:
            yield Difference(path, old_file, new_file)
        ours, theirs = _entries(objects, before), _entries(objects, after)
        names = sorted(differing(ours, theirs), reverse=True)
        todo += [((*path, name), ours.get(name), theirs.get(name)) for name in names]


def _entries(objects: Objects, entry: Entry | None) -> Entries:
    return objects.tree(entry.oid) if entry is not None and entry.is_dir else {}


def all_files(objects: Objects, root: Oid) -> dict[Path, Entry]:
    """Return every file of a tree by path."""
    return dict(walk(objects, objects.tree(root), ROOT))


def is_tree(entry: Entry | None) -> bool:
    """Say whether `entry` is there and a directory."""
    return entry is not None and entry.mode == DIRECTORY

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
    yield from _differ(objects, prefix, find(objects, old, prefix), find(objects, new, prefix))


def _differ(
    objects: Objects, path: Path, old: Entry | None, new: Entry | None
) -> Iterator[Difference]:
    if old == new:
        return
    old_file = None if old is None or old.is_dir else old
    new_file = None if new is None or new.is_dir else new
    if old_file or new_file:
        yield Difference(path, old_file, new_file)
    old_dir = objects.tree(old.oid) if old is not None and old.is_dir else None
    new_dir = objects.tree(new.oid) if new is not None and new.is_dir else None
    if old_dir is None and new_dir is None:
        return
    yield from _differ_dirs(objects, path, old_dir or {}, new_dir or {})


def _differ_dirs(objects: Objects, path: Path, old: Entries, new: Entries) -> Iterator[Difference]:
    for name in sorted(differing(old, new)):
        yield from _differ(objects, (*path, name), old.get(name), new.get(name))


def all_files(objects: Objects, root: Oid) -> dict[Path, Entry]:
    """Return every file of a tree by path."""
    return dict(walk(objects, objects.tree(root), ROOT))


def is_tree(entry: Entry | None) -> bool:
    """Say whether `entry` is there and a directory."""
    return entry is not None and entry.mode == DIRECTORY

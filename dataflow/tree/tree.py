"""Immutable trees: a root's id is the whole state; nothing is read before it is asked for."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import IsDirectoryError, NotDirectoryError, NotFoundError
from ..store.base import Oid
from ..store.objects import DIRECTORY, EMPTY_TREE, Entries, Entry, Objects
from .paths import Path, text


def find(objects: Objects, root: Oid, path: Path) -> Entry | None:
    """Return what stands at `path` below the tree `root`, or None."""
    entry = Entry(DIRECTORY, root)
    for name in path:
        if not entry.is_dir:
            return None
        found = objects.tree(entry.oid).get(name)
        if found is None:
            return None
        entry = found
    return entry


class Tree:
    """A read-only view of one tree object and everything below."""

    __slots__ = ("objects", "oid")

    def __init__(self, objects: Objects, oid: Oid = EMPTY_TREE) -> None:
        self.objects = objects
        self.oid = oid

    def entry(self, path: Path) -> Entry:
        """Return mode and id at `path`; `NotFoundError`."""
        entry = find(self.objects, self.oid, path)
        if entry is None:
            raise NotFoundError(text(path))
        return entry

    def read(self, path: Path) -> bytes:
        """Return a file's octets (a link's target)."""
        entry = self.entry(path)
        if entry.is_dir:
            raise IsDirectoryError(text(path))
        return self.objects.blob(entry.oid)

    def entries(self, path: Path = ()) -> Entries:
        """Return a directory's entries by name."""
        entry = self.entry(path)
        if not entry.is_dir:
            raise NotDirectoryError(text(path))
        return self.objects.tree(entry.oid)

    def walk(self, path: Path = ()) -> Iterator[tuple[Path, Entry]]:
        """Yield every file below `path` with its full path, in Git's order."""
        yield from walk(self.objects, self.entries(path), path)


def walk(objects: Objects, entries: Entries, path: Path) -> Iterator[tuple[Path, Entry]]:
    """Yield every file of `entries`, which stand at `path`, in Git's order."""
    todo = [(path, iter(in_order(entries)))]
    while todo:  # no depth of a tree takes stack
        here, rest = todo[-1]
        for name, entry in rest:
            if entry.is_dir:
                below = in_order(objects.tree(entry.oid))
                todo.append(((*here, name), iter(below)))
                break
            yield (*here, name), entry
        else:
            todo.pop()


def in_order(entries: Entries) -> list[tuple[bytes, Entry]]:
    """Return the entries sorted as Git sorts them: a directory's name ends with a slash."""
    return sorted(entries.items(), key=lambda i: i[0] + b"/" if i[1].is_dir else i[0])

"""A tree that can be written: changed names over an immutable tree, everything else shared.

A directory node holds the id it came from and only the names that were touched; a directory that
was never touched is never read.  `store` writes the changed files and directories and returns the
new root.  Directories without files live here only: Git cannot hold them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from ..errors import (
    ExistsError,
    IsDirectoryError,
    NotDirectoryError,
    NotEmptyError,
    NotFoundError,
    NotPermittedError,
    UsageError,
)
from ..store.base import Oid
from ..store.objects import (
    DIRECTORY,
    EMPTY_TREE,
    EXECUTABLE,
    FILE,
    SUBMODULE,
    SYMLINK,
    Entries,
    Entry,
    Objects,
)
from .paths import Path, check_depth, check_link_name, text

FILE_MAX = 1 << 30  # octets of one file; it is held in memory until the commit
NAME_COST = 512  # octets that a changed file or a new directory costs beside its content


class Room(Protocol):
    """Where the memory for edits comes from."""

    def take(self, octets: int) -> None:
        """Count octets before they are kept, or raise."""

    def give_back(self, octets: int) -> None:
        """Count octets that are kept no more."""


@dataclass(slots=True)
class Leaf:
    """A file, a link or a submodule; `data` is set once it was written or read for writing."""

    mode: int
    oid: Oid | None
    data: bytearray | None = None


@dataclass(slots=True)
class Node:
    """A directory: `base`'s entries, replaced by `names` (None: removed)."""

    base: Oid = EMPTY_TREE
    names: dict[bytes, Node | Leaf | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stat:
    """What is known of a path: Git's mode; for files the size in octets, else 0."""

    mode: int
    size: int


class Overlay:
    """A mutable tree that starts as the tree `root`."""

    def __init__(self, objects: Objects, root: Oid = EMPTY_TREE, room: Room | None = None) -> None:
        self.objects = objects
        self.held = 0  # octets that changes hold in memory, taken from `room`
        self._root = Node(root)
        self._room = room

    def reset(self, root: Oid) -> None:
        """Become the tree `root`; all changes are forgotten."""
        self._root = Node(root)
        self._hold(-self.held)

    def copy(self) -> Overlay:
        """Return a tree of its own with the same changes; its memory is not counted."""
        made = Overlay(self.objects)
        made._root = Node(self._root.base)
        todo = [(self._root, made._root)]
        while todo:
            node, twin = todo.pop()
            for name, child in node.names.items():
                if isinstance(child, Node):
                    twin.names[name] = below = Node(child.base)
                    todo.append((child, below))
                elif child is not None:
                    data = None if child.data is None else bytearray(child.data)
                    twin.names[name] = Leaf(child.mode, child.oid, data)
                else:
                    twin.names[name] = None
        return made

    def _hold(self, octets: int) -> None:
        if self._room is not None:
            if octets > 0:
                self._room.take(octets)
            else:
                self._room.give_back(-octets)
        self.held += octets

    # Reading.

    def stat(self, path: Path) -> Stat:
        """Return mode and size; `NotFoundError`."""
        node = self._get(path)
        if isinstance(node, Node):
            return Stat(DIRECTORY, 0)
        if node.data is not None:
            return Stat(node.mode, len(node.data))
        if node.oid is None or node.mode == SUBMODULE:
            return Stat(node.mode, 0)
        return Stat(node.mode, self.objects.size(node.oid))

    def mode(self, path: Path) -> int:
        """Return the Git mode of what is at `path`; `NotFoundError`."""
        node = self._get(path)
        return DIRECTORY if isinstance(node, Node) else node.mode

    def exists(self, path: Path) -> bool:
        """Say whether something is at `path`."""
        try:
            self._get(path)
        except (NotFoundError, NotDirectoryError):
            return False
        return True

    def read(self, path: Path, offset: int = 0, count: int | None = None) -> bytes:
        """Return octets of a file, or a link's target."""
        data = self._content(self._leaf(path))
        end = len(data) if count is None else offset + count
        return bytes(data[offset:end])

    def entries(self, path: Path = ()) -> dict[bytes, int]:
        """Return a directory's names, sorted, with their modes."""
        node = self._get(path)
        if not isinstance(node, Node):
            raise NotDirectoryError(text(path))
        found = {name: e.mode for name, e in self.objects.tree(node.base).items()}
        for name, child in node.names.items():
            if child is None:
                found.pop(name, None)
            else:
                found[name] = DIRECTORY if isinstance(child, Node) else child.mode
        return dict(sorted(found.items()))

    # Writing.

    def write(self, path: Path, data: bytes, *, mode: int | None = None) -> None:
        """Make a file hold `data`; missing directories are made, mode is kept if None."""
        _check_size(len(data))
        parent, name = self._place(path, make=True)
        old = self._child(parent, name)
        if isinstance(old, Node):
            raise IsDirectoryError(text(path))
        kept = old.mode if old is not None and old.mode in {FILE, EXECUTABLE} else FILE
        self._hold(NAME_COST + len(data) - _held(old))
        parent.names[name] = Leaf(mode or kept, None, bytearray(data))

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        """Overwrite octets of a file from `offset`; a gap is filled with zeros."""
        if offset < 0:
            raise UsageError(f"Negative offset {offset}")
        _check_size(offset + len(data))
        content = self._writable(path)
        self._hold(max(0, offset + len(data) - len(content)))
        if offset > len(content):
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data

    def truncate(self, path: Path, size: int) -> None:
        """Cut or extend a file to `size` octets."""
        _check_size(size)
        content = self._writable(path)
        self._hold(size - len(content))
        if size <= len(content):
            del content[size:]
        else:
            content.extend(bytes(size - len(content)))

    def create(self, path: Path, *, mode: int = FILE) -> None:
        """Make an empty file; its directory must be there and the name free."""
        parent, name = self._place(path)
        self._must_be_free(parent, name, path)
        self._hold(NAME_COST)
        parent.names[name] = Leaf(mode, None, bytearray())

    def symlink(self, path: Path, target: bytes) -> None:
        """Make a symbolic link."""
        if not target or b"\0" in target:
            raise UsageError("Missing target for symlink!")
        if path:
            check_link_name(path[-1])
        parent, name = self._place(path)
        self._must_be_free(parent, name, path)
        self._hold(NAME_COST + len(target))
        parent.names[name] = Leaf(SYMLINK, None, bytearray(target))

    def mkdir(self, path: Path, *, parents: bool = False) -> None:
        """Make a directory, with `parents` also those above it."""
        parent, name = self._place(path, make=parents)
        old = self._child(parent, name)
        if old is not None and not (parents and isinstance(old, Node)):
            raise ExistsError(text(path))
        if old is None:
            self._hold(NAME_COST)
            parent.names[name] = Node()

    def chmod(self, path: Path, *, executable: bool) -> None:
        """Set or clear a file's only permission Git keeps."""
        leaf = self._leaf(path)
        if leaf.mode not in {FILE, EXECUTABLE}:
            raise UsageError("Can't chmod special file")
        leaf.mode = EXECUTABLE if executable else FILE

    def remove(self, path: Path, *, recursive: bool = False) -> None:
        """Remove a file or a directory, which must be empty unless `recursive`."""
        parent, name = self._parent(path)
        if isinstance(self._get(path), Node) and not recursive and self.entries(path):
            raise NotEmptyError(text(path))
        self._drop(parent, name)

    def _drop(self, parent: Node, name: bytes, *, keep: bool = False) -> None:
        """Take a name away; `keep` what stood there, for another place."""
        old = parent.names.pop(name, None)
        self._hold(0 if keep else -_held(old))
        if name in self._base(parent):
            parent.names[name] = None

    def rename(self, old: Path, new: Path) -> None:
        """Move a file or a directory; rename(2)'s rules for what is at `new`."""
        source = self._get(old)
        if isinstance(source, Leaf) and source.mode == SYMLINK:
            check_link_name(new[-1] if new else b"")
        if new[: len(old)] == old:
            if new == old:
                return
            raise UsageError(f"Can't move {text(old)} into itself")
        parent, name = self._place(new)
        target = self._child(parent, name)
        if isinstance(target, Node):
            if not isinstance(source, Node):
                raise IsDirectoryError(text(new))
            if self.entries(new):
                raise NotEmptyError(text(new))
        elif target is not None and isinstance(source, Node):
            raise NotDirectoryError(text(new))
        source_parent, source_name = self._parent(old)
        self._drop(source_parent, source_name, keep=True)
        self._drop(parent, name)
        parent.names[name] = source

    def put(self, path: Path, entry: Entry | None) -> None:
        """Place an object that the store has at `path`, or remove what is there (None)."""
        if entry is None:
            if self.exists(path):
                self.remove(path, recursive=True)
            return
        parent, name = self._parent(path, make=True)
        self._drop(parent, name)
        parent.names[name] = _wrap(entry)

    def store(self) -> Oid:
        """Put all changed files and directories into the store; return the root's id."""
        stored: dict[int, Oid | None] = {}  # by the node's identity; None: nothing is in it
        nodes = [self._root]
        for node in nodes:
            nodes += [child for child in node.names.values() if isinstance(child, Node)]
        for node in reversed(nodes):  # those below first: a depth costs no stack
            if node.names:
                entries = {n: self._store_child(child, stored) for n, child in node.names.items()}
                stored[id(node)] = self.objects.edit_tree(node.base, entries)
            else:
                stored[id(node)] = node.base if node.base != EMPTY_TREE else None
        return stored[id(self._root)] or self.objects.put_tree({})

    def _store_child(
        self, child: Node | Leaf | None, stored: dict[int, Oid | None]
    ) -> Entry | None:
        if child is None:
            return None
        if isinstance(child, Node):
            oid = stored[id(child)]
            return Entry(DIRECTORY, oid) if oid else None
        if child.data is None:
            assert child.oid is not None
            return Entry(child.mode, child.oid)
        return Entry(child.mode, self.objects.put_blob(bytes(child.data)))

    # Finding.

    def _child(self, node: Node, name: bytes) -> Node | Leaf | None:
        if name in node.names:
            return node.names[name]
        entry = self._base(node).get(name)
        if entry is None:
            return None
        child = _wrap(entry)
        node.names[name] = child
        return child

    def _base(self, node: Node) -> Entries:
        return self.objects.tree(node.base)

    def _get(self, path: Path) -> Node | Leaf:
        here: Node | Leaf = self._root
        for name in path:
            if not isinstance(here, Node):
                raise NotDirectoryError(text(path))
            found = self._child(here, name)
            if found is None:
                raise NotFoundError(text(path))
            here = found
        return here

    def _leaf(self, path: Path) -> Leaf:
        leaf = self._get(path)
        if isinstance(leaf, Node):
            raise IsDirectoryError(text(path))
        return leaf

    def _content(self, leaf: Leaf) -> bytes | bytearray:
        if leaf.data is not None:
            return leaf.data
        if leaf.mode == SUBMODULE or leaf.oid is None:
            return b""
        return self.objects.blob(leaf.oid)

    def _writable(self, path: Path) -> bytearray:
        leaf = self._leaf(path)
        if leaf.mode == SUBMODULE:
            raise NotPermittedError(text(path))
        if leaf.data is None:
            content = self._content(leaf)
            self._hold(NAME_COST + len(content))
            leaf.data = bytearray(content)
        return leaf.data

    def _parent(self, path: Path, *, make: bool = False) -> tuple[Node, bytes]:
        if not path:
            raise NotPermittedError("the root of the tree")
        here = self._root
        for i, name in enumerate(path[:-1]):
            child = self._child(here, name)
            if child is None:
                if not make:
                    raise NotFoundError(text(path[: i + 1]))
                self._hold(NAME_COST)
                child = here.names[name] = Node()
            if not isinstance(child, Node):
                raise NotDirectoryError(text(path[: i + 1]))
            here = child
        return here, path[-1]

    def _place(self, path: Path, *, make: bool = False) -> tuple[Node, bytes]:
        """Return where to make something, as `_parent` does; NameTooLongError far down."""
        check_depth(path)
        return self._parent(path, make=make)

    def _must_be_free(self, parent: Node, name: bytes, path: Path) -> None:
        if self._child(parent, name) is not None:
            raise ExistsError(text(path))


def _wrap(entry: Entry) -> Node | Leaf:
    return Node(entry.oid) if entry.is_dir else Leaf(entry.mode, entry.oid)


def _held(child: Node | Leaf | None) -> int:
    """Return what `_hold` was told of a subtree: changed files and new directories."""
    held = 0
    todo = [child]
    while todo:
        each = todo.pop()
        if isinstance(each, Leaf):
            held += 0 if each.data is None else NAME_COST + len(each.data)
        elif each is not None:
            held += NAME_COST if each.base == EMPTY_TREE else 0
            todo += each.names.values()
    return held


def _check_size(size: int) -> None:
    if not 0 <= size <= FILE_MAX:
        raise UsageError(f"file of {size} octets, at most {FILE_MAX}")

"""Typed objects on a store: trees and commits parsed once and kept in caches bounded in octets."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from dulwich.errors import ObjectFormatException
from dulwich.objects import Commit as GitCommit
from dulwich.objects import ObjectID, ShaFile

from ..errors import InvalidHashError, ObjectCorruptError
from .base import Kind, Link, Oid, Store
from .blocktree import (
    DIRECTORY,
    EXECUTABLE,
    FILE,
    BlockTree,
    Entries,
    Entry,
    differing,
    parse,
    serialize,
)

__all__ = [
    "DIRECTORY", "EMPTY_TREE", "EXECUTABLE", "FILE", "SUBMODULE", "SYMLINK",
    "Cache", "Commit", "Entries", "Entry", "Objects", "differing",
]  # fmt: skip

EMPTY_TREE: Oid = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
SYMLINK, SUBMODULE = 0o120000, 0o160000
BLOCKS_FROM = 2 << 10  # octets of a tree from which on it is kept in blocks
LIKE = 8  # trees of the last reads and writes that a new one may share blocks with
_ENTRY_COST, _COMMIT_COST, _ITEM_COST, _BLOCK_COST = 350, 1400, 200, 250  # octets in CPython

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit; `author` and `committer` are `name <mail>`, times in seconds since 1970."""

    oid: Oid
    tree: Oid
    parents: tuple[Oid, ...]
    author: str
    committer: str
    author_time: int
    commit_time: int
    message: str


class Cache(Generic[K, V]):
    """The values used last, as many as weigh `size` together; for several threads."""

    def __init__(self, size: int, weigh: Callable[[V], int] = lambda value: 1) -> None:
        self._size = size
        self._weigh = weigh
        self._items: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()
        self.weight = 0

    def get(self, key: K, make: Callable[[K], V]) -> V:
        """Return the value of `key`, made by `make` if it is not kept."""
        with self._lock:
            found = self._items.get(key)
            if found is not None:
                self._items.move_to_end(key)
                return found[0]
        value = make(key)
        self.put(key, value)
        return value

    def peek(self, key: K) -> V | None:
        """Return the value of `key` if it is kept; that counts for no use."""
        found = self._items.get(key)
        return found[0] if found is not None else None

    def put(self, key: K, value: V) -> None:
        """Keep a value that is known already; one that alone weighs more than all is not kept."""
        weight = self._weigh(value)
        with self._lock:
            old = self._items.pop(key, None)
            self.weight -= old[1] if old else 0
            if weight > self._size:
                return
            self.weight += weight
            self._items[key] = value, weight
            while self.weight > self._size:
                self.weight -= self._items.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._items.clear()
            self.weight = 0

    def __contains__(self, key: K) -> bool:
        return key in self._items

    def __len__(self) -> int:
        return len(self._items)


class Objects:
    """Reads and writes typed objects of a `Store`; `trees`, `commits`, `sizes` bound the caches."""

    def __init__(
        self, store: Store, *, trees: int = 64 << 20, commits: int = 24 << 20, sizes: int = 8 << 20
    ) -> None:
        self.store = store
        # The commits at which a shallow clone was cut: their parents are not there.
        self._shallow: frozenset[Oid] = getattr(store, "shallow", frozenset())
        self._trees: Cache[Oid, Entries] = Cache(trees, _tree_weight)
        self._commits: Cache[Oid, Commit] = Cache(commits, _commit_weight)
        self._sizes: Cache[Oid, int] = Cache(sizes, lambda size: _ITEM_COST)
        self._like: deque[BlockTree] = deque(maxlen=LIKE)

    def forget(self) -> None:
        """Forget what is kept: the store lost what was put (`OSError`), and it is not there."""
        for cache in (self._trees, self._commits, self._sizes):
            cache.clear()
        self._like.clear()

    def tree(self, oid: Oid) -> Entries:
        """Return a tree's entries, in no order to rely on; do not change the mapping."""
        return self._trees.get(oid, self._read_tree)

    def _read_tree(self, oid: Oid) -> Entries:
        if oid == EMPTY_TREE:
            return {}
        data = self._read(oid, Kind.TREE)
        try:
            return parse(data) if len(data) < BLOCKS_FROM else self._blocks(data)
        except (ObjectFormatException, ValueError) as exc:
            raise ObjectCorruptError(oid, str(exc)) from exc

    def _blocks(self, data: bytes) -> BlockTree:
        like = next((t for t in list(self._like) if t.like(data)), None)
        made = BlockTree.load(data, like)
        self._like.appendleft(made)
        return made

    def commit(self, oid: Oid) -> Commit:
        """Return a commit; `ObjectMissingError`, `InvalidHashError` if it is another object."""
        return self._commits.get(oid, self._read_commit)

    def _read_commit(self, oid: Oid) -> Commit:
        data = self._read(oid, Kind.COMMIT)
        try:
            raw = ShaFile.from_raw_string(Kind.COMMIT, data, ObjectID(oid.encode()))
            assert isinstance(raw, GitCommit)
            return Commit(
                oid,
                raw.tree.decode(),
                () if oid in self._shallow else tuple(p.decode() for p in raw.parents),
                _text(raw.author),
                _text(raw.committer),
                raw.author_time,
                raw.commit_time,
                _text(raw.message),
            )
        except (ObjectFormatException, ValueError, AttributeError, TypeError) as exc:
            raise ObjectCorruptError(oid, str(exc)) from exc

    def link(self, oid: Oid) -> Link:
        """Return a commit's parents and time, if possible without reading it.

        For commits that the store has, or that lie behind such ones.
        """
        history = self.store.history
        found = history.get(oid) if history is not None else None
        return found or self._read_link(oid)

    def _read_link(self, oid: Oid) -> Link:
        if oid in self._commits:
            commit = self.commit(oid)
            return Link(commit.parents, commit.commit_time)
        lines = self._read(oid, Kind.COMMIT).partition(b"\n\n")[0].split(b"\n")
        parents = tuple(line[7:].decode() for line in lines if line.startswith(b"parent "))
        times = [line.split()[-2] for line in lines if line.startswith(b"committer ")]
        try:
            return Link(parents, int(times[0]))
        except (IndexError, ValueError):
            raise ObjectCorruptError(oid, "expected a commit with one committer") from None

    def follow(self, *heads: Oid) -> None:
        """Tell the index of history, if there is one, of branches' new heads."""
        if self.store.history is not None:
            self.store.history.follow(heads, self._read_link)

    def blob(self, oid: Oid) -> bytes:
        """Return a file's octets."""
        return self._read(oid, Kind.BLOB)

    def size(self, oid: Oid) -> int:
        """Return a file's size in octets."""
        return self._sizes.get(oid, lambda o: len(self.blob(o)))

    def kind(self, oid: Oid) -> Kind:
        """Return what sort of object this is."""
        return self.store.get(oid)[0]

    def _read(self, oid: Oid, wanted: Kind) -> bytes:
        kind, data = self.store.get(oid)
        if kind is not wanted:
            raise InvalidHashError(f"{oid} (a {kind.name.lower()}, not a {wanted.name.lower()})")
        return data

    def put_blob(self, data: bytes) -> Oid:
        """Keep a file's octets."""
        return self.store.put(Kind.BLOB, bytes(data))

    def put_tree(self, entries: Entries) -> Oid:
        """Keep a tree, sorted the way Git sorts."""
        data = serialize(entries)
        oid = self.store.put(Kind.TREE, data)
        if len(data) < BLOCKS_FROM:
            self._trees.put(oid, entries)
        return oid

    def edit_tree(self, base: Oid, changes: Mapping[bytes, Entry | None]) -> Oid | None:
        """Keep the tree `base` with names replaced, added or (None) removed; None if none is left.

        What this costs in a large tree is its octets' hash, not its entries.
        """
        entries = self.tree(base)
        if not isinstance(entries, BlockTree):
            made = {**entries, **changes}
            left = {name: entry for name, entry in made.items() if entry is not None}
            return self.put_tree(left) if left else None
        edited = entries.edit(changes)
        if not edited:
            return None
        oid = self.store.put(Kind.TREE, edited.raw())
        self._trees.put(oid, edited)
        self._like.appendleft(edited)
        return oid

    def put_commit(
        self,
        tree: Oid,
        parents: tuple[Oid, ...],
        author: str,
        message: str,
        when: int,
        committer: str | None = None,
    ) -> Oid:
        """Keep a commit, its times in UTC; the committer is the author if it is not given."""
        by = committer or author
        lines = [f"tree {tree}", *(f"parent {p}" for p in parents)]
        lines += (f"author {author} {when} +0000", f"committer {by} {when} +0000", "", message)
        oid = self.store.put(Kind.COMMIT, "\n".join(lines).encode("utf-8", "surrogateescape"))
        self._commits.put(oid, Commit(oid, tree, parents, author, by, when, when, message))
        return oid


def _tree_weight(tree: Entries) -> int:
    """Return about what a tree takes in memory; blocks shared with another count for each."""
    if isinstance(tree, BlockTree):
        return tree.size + _BLOCK_COST * len(tree.blocks)
    return _ITEM_COST + _ENTRY_COST * len(tree)


def _commit_weight(commit: Commit) -> int:
    return _COMMIT_COST + len(commit.message)


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")

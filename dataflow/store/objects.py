"""Typed objects on a store: trees and commits parsed once and kept in bounded caches."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from dulwich.errors import ObjectFormatException
from dulwich.objects import Commit as GitCommit
from dulwich.objects import ObjectID, ShaFile, parse_tree, serialize_tree

from ..errors import InvalidHashError, ObjectCorruptError
from .base import Kind, Oid, Store

EMPTY_TREE: Oid = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
FILE, EXECUTABLE, SYMLINK, DIRECTORY, SUBMODULE = 0o100644, 0o100755, 0o120000, 0o040000, 0o160000

K = TypeVar("K")
V = TypeVar("V")


TREE_COST = 16  # what a tree in a cache weighs beside its entries
KEPT_MIN = 8  # values that a cache keeps whatever they weigh


class Entry(NamedTuple):
    """One name's value in a tree: Git's mode and the object's id."""

    mode: int
    oid: Oid

    @property
    def is_dir(self) -> bool:
        """True for a tree (a submodule is no directory here: its content is elsewhere)."""
        return self.mode == DIRECTORY


Entries = Mapping[bytes, Entry]


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
    """The values used last, for several threads: `size` of them, or so many as weigh that."""

    def __init__(self, size: int, weigh: Callable[[V], int] = lambda value: 1) -> None:
        self._size = size
        self._weigh = weigh
        self._weight = 0
        self._items: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K, make: Callable[[K], V]) -> V:
        """Return the value of `key`, made by `make` if it is not kept."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                return self._items[key]
        value = make(key)
        self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        """Keep a value that is known already."""
        with self._lock:
            if key in self._items:
                self._weight -= self._weigh(self._items.pop(key))
            self._items[key] = value
            self._weight += self._weigh(value)
            while self._weight > self._size and len(self._items) > min(KEPT_MIN, self._size):
                _, old = self._items.popitem(last=False)
                self._weight -= self._weigh(old)

    def __contains__(self, key: K) -> bool:
        return key in self._items

    def __len__(self) -> int:
        return len(self._items)


class Objects:
    """Reads and writes typed objects of a `Store`; `trees` counts entries, some 250 octets each."""

    def __init__(
        self, store: Store, *, trees: int = 1 << 18, commits: int = 16384, sizes: int = 65536
    ) -> None:
        self.store = store
        self._trees: Cache[Oid, Entries] = Cache(trees, lambda tree: TREE_COST + len(tree))
        self._commits: Cache[Oid, Commit] = Cache(commits)
        self._sizes: Cache[Oid, int] = Cache(sizes)

    def tree(self, oid: Oid) -> Entries:
        """Return a tree's entries, in no order to rely on; do not change the mapping."""
        return self._trees.get(oid, self._read_tree)

    def _read_tree(self, oid: Oid) -> Entries:
        if oid == EMPTY_TREE:
            return {}
        data = self._read(oid, Kind.TREE)
        try:
            items = parse_tree(data, 20)
            return {name: Entry(_mode(mode), sha.decode()) for name, mode, sha in items}
        except (ObjectFormatException, ValueError) as exc:
            raise ObjectCorruptError(oid, str(exc)) from exc

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
                tuple(p.decode() for p in raw.parents),
                _text(raw.author),
                _text(raw.committer),
                raw.author_time,
                raw.commit_time,
                _text(raw.message),
            )
        except (ObjectFormatException, ValueError, AttributeError, TypeError) as exc:
            raise ObjectCorruptError(oid, str(exc)) from exc

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
        items = [(name, e.mode, ObjectID(e.oid.encode())) for name, e in entries.items()]
        items.sort(key=lambda i: i[0] + b"/" if i[1] == DIRECTORY else i[0])
        return self.store.put(Kind.TREE, b"".join(serialize_tree(items)))

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
        c = GitCommit()
        c.tree = ObjectID(tree.encode())
        c.parents = [ObjectID(p.encode()) for p in parents]
        c.author = author.encode("utf-8", "surrogateescape")
        c.committer = (committer or author).encode("utf-8", "surrogateescape")
        c.author_time = c.commit_time = when
        c.author_timezone = c.commit_timezone = 0
        c.message = message.encode("utf-8", "surrogateescape")
        return self.store.put(Kind.COMMIT, c.as_raw_string())


def _mode(mode: int) -> int:
    """Map modes that old Gits wrote (0100664, 040755) onto the five that count."""
    kind = mode & 0o170000
    if kind == 0o100000:
        return EXECUTABLE if mode & 0o100 else FILE
    return kind


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")

"""Large trees in blocks, so that what one commit costs does not grow with the directory.

Theory of operation.  A tree object is one run of entries in Git's order.  Here it is a list of
blocks of about `BLOCK` entries, each the octets as they stand in the object.  A name is found by
bisection over the blocks' first names; only that block is parsed.  An edit makes new blocks for the
names it touches and shares all others with the tree it came from, so two versions are compared by
identity, block by block, and a hundred versions in a cache hold the common part once.  A tree read
from the store takes its equal blocks from a similar one that is at hand: that is a comparison of
octets, no parsing.

Alignment.  Entries cannot be told apart from the middle of a tree.  Blocks are compared from the
front, where both sides are aligned; blocks of the end are taken only if the entries before them
end exactly where they begin.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from dulwich.objects import parse_tree

from .base import Oid

BLOCK = 64  # entries a block has when it is made; split at twice that
DIRECTORY, FILE, EXECUTABLE = 0o040000, 0o100644, 0o100755
_SHA_LEN = 20


class Entry(NamedTuple):
    """One name's value in a tree: Git's mode and the object's id."""

    mode: int
    oid: Oid

    @property
    def is_dir(self) -> bool:
        """True for a tree (a submodule is no directory here: its content is elsewhere)."""
        return self.mode == DIRECTORY


class Block:
    """A run of entries: its octets, how many, and where the first stands in Git's order."""

    __slots__ = ("count", "first", "raw")

    def __init__(self, raw: bytes, count: int, first: bytes) -> None:
        self.raw = raw
        self.count = count
        self.first = first

    def entries(self) -> dict[bytes, Entry]:
        """Parse the block; `ValueError` if it is damaged."""
        return parse(self.raw)


class BlockTree(Mapping[bytes, Entry]):
    """An immutable tree as a mapping from names; iterates in Git's order."""

    __slots__ = ("_firsts", "_len", "blocks", "size")

    def __init__(self, blocks: list[Block]) -> None:
        self.blocks = blocks
        self.size = sum(len(b.raw) for b in blocks)  # octets of the tree object
        self._firsts = [b.first for b in blocks]
        self._len = sum(b.count for b in blocks)

    @classmethod
    def load(cls, data: bytes, like: BlockTree | None = None) -> BlockTree:
        """Cut a tree's octets into blocks, sharing those that `like` has too.

        `ValueError` if the octets are no tree.
        """
        if like is None:
            return cls(_cut(data, 0, len(data)))
        old = like.blocks
        at = head = 0
        while head < len(old) and data.startswith(old[head].raw, at):
            at += len(old[head].raw)
            head += 1
        end, tail = len(data), len(old)
        while tail > head and end - len(old[tail - 1].raw) >= at:
            raw = old[tail - 1].raw
            if not data.endswith(raw, at, end):
                break
            end -= len(raw)
            tail -= 1
        try:
            middle = _cut(data, at, end)
        except ValueError:  # the end was equal by chance, out of step: see Alignment
            middle, tail = _cut(data, at, len(data)), len(old)
        return cls(old[:head] + middle + old[tail:])

    def raw(self) -> bytes:
        """Return the octets of the tree object."""
        return b"".join([b.raw for b in self.blocks])

    def like(self, data: bytes) -> bool:
        """Say whether `data` begins or ends as this tree does: worth sharing blocks with."""
        blocks = self.blocks
        return data.startswith(blocks[0].raw) or data.endswith(blocks[-1].raw)

    def __len__(self) -> int:
        return self._len

    def __iter__(self) -> Iterator[bytes]:
        for block in self.blocks:
            yield from block.entries()

    def __getitem__(self, name: bytes) -> Entry:
        for index in {self._at(name), self._at(name + b"/")}:
            if index >= 0:
                for found, mode, sha in parse_tree(self.blocks[index].raw, _SHA_LEN):
                    if found == name:
                        return Entry(_mode(mode), sha.decode())
        raise KeyError(name)

    def _at(self, key: bytes) -> int:
        return bisect_right(self._firsts, key) - 1

    def edit(self, changes: Mapping[bytes, Entry | None]) -> BlockTree:
        """Return the tree with names replaced, added or (None) removed."""
        touched: dict[int, dict[bytes, Entry]] = {}

        def at(key: bytes) -> dict[bytes, Entry]:
            index = max(0, self._at(key))
            if index not in touched:
                touched[index] = self.blocks[index].entries()
            return touched[index]

        for name, entry in changes.items():
            at(name).pop(name, None)
            at(name + b"/").pop(name, None)
            if entry is not None:
                at(order(name, entry.mode))[name] = entry
        blocks: list[Block] = []
        done = 0
        for index in sorted(touched):
            blocks += self.blocks[done:index]
            blocks += _blocks(touched[index])
            done = index + 1
        blocks += self.blocks[done:]
        made = BlockTree(blocks)
        if len(blocks) > 8 + 4 * len(made) // BLOCK:  # many small ones after many removals
            return BlockTree.load(made.raw())
        return made

    def differing(self, other: BlockTree) -> Iterator[bytes]:
        """Yield the names whose entries differ, in no order; shared blocks are not looked at."""
        shared = {id(b) for b in self.blocks} & {id(b) for b in other.blocks}
        items = [
            {i for b in t.blocks if id(b) not in shared for i in parse_tree(b.raw, _SHA_LEN)}
            for t in (self, other)
        ]
        yield from {name for name, _, _ in items[0] ^ items[1]}


Entries = Mapping[bytes, Entry]


def differing(old: Entries, new: Entries) -> Iterator[bytes]:
    """Yield the names whose entries differ, in no order."""
    if isinstance(old, BlockTree) and isinstance(new, BlockTree):
        yield from old.differing(new)
        return
    for name, entry in old.items():
        if new.get(name) != entry:
            yield name
    if len(old) < len(new) or any(name not in new for name in old):
        yield from new.keys() - old.keys()


def order(name: bytes, mode: int) -> bytes:
    """Return where a name sorts: a directory as if its name ended with a slash."""
    return name + b"/" if mode == DIRECTORY else name


def parse(data: bytes) -> dict[bytes, Entry]:
    """Parse entries; `ValueError` or dulwich's `ObjectFormatException` if they are damaged."""
    return {
        name: Entry(_mode(mode), sha.decode()) for name, mode, sha in parse_tree(data, _SHA_LEN)
    }


def serialize(entries: Entries) -> bytes:
    """Return the octets of a tree, sorted the way Git sorts."""
    raw = bytes.fromhex
    items = [
        (name + b"/" if mode == DIRECTORY else name, name, mode, oid)
        for name, (mode, oid) in entries.items()
    ]
    items.sort()
    return b"".join([b"%o %b\0%b" % (mode, name, raw(oid)) for _, name, mode, oid in items])


def _cut(data: bytes, at: int, end: int) -> list[Block]:
    """Cut the entries of data[at:end] into blocks; `ValueError` if they do not end at `end`."""
    blocks: list[Block] = []
    while at < end:
        start, count = at, 0
        while at < end and count < BLOCK:
            at = data.index(b"\0", at, end) + 1 + _SHA_LEN
            count += 1
        if at > end:
            raise ValueError("an entry is longer than its tree")
        mode, _, name = data[start : data.index(b"\0", start)].partition(b" ")
        blocks.append(Block(data[start:at], count, order(name, _mode(int(mode, 8)))))
    return blocks


def _blocks(entries: dict[bytes, Entry]) -> list[Block]:
    """Make blocks of some entries: one, or several if there are twice `BLOCK` and more."""
    raw = serialize(entries)
    if len(entries) >= 2 * BLOCK:
        return _cut(raw, 0, len(raw))
    first = min((order(name, e.mode) for name, e in entries.items()), default=b"")
    return [Block(raw, len(entries), first)] if entries else []


def _mode(mode: int) -> int:
    """Map modes that old Gits wrote (0100664, 040755) onto the five that count."""
    kind = mode & 0o170000
    if kind == 0o100000:
        return EXECUTABLE if mode & 0o100 else FILE
    return kind

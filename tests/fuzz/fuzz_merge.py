"""Merges of any three texts, JSON files and trees: no exception, no hang, and the laws hold."""

from __future__ import annotations

import json

from inputs import Stream, main, seeded

from dataflow.store.memory import MemoryStore
from dataflow.store.objects import (
    DIRECTORY,
    EMPTY_TREE,
    EXECUTABLE,
    FILE,
    SUBMODULE,
    SYMLINK,
    Entry,
    Objects,
)
from dataflow.tree.attributes import NAME, Attributes, Glob
from dataflow.tree.diff import all_files, diff
from dataflow.tree.jsonmerge import merge_json
from dataflow.tree.lines import Budget
from dataflow.tree.merge import Options, merge_trees
from dataflow.tree.patch import deltas, stat, unified
from dataflow.tree.textmerge import Favor, Style, merge_text

WORDS = (b"a\n", b"b\n", b"\n", b"}\n", b"a\r\n", b"b", b"long line of text\n", b"\0", b"\xff\n")
NAMES = (b"a", b"b", b"d/a", b"d/b", b"d/e/a", b"a/x", b".gitattributes", b"d/.gitattributes")
RULES = (
    b"* merge=union\n",
    b"a -merge\n",
    b"**/a merge=json\n",
    b"[ merge\n",
    b"*a*b merge=ours\n",
)
JSON = (b"{", b"}", b"[", b"]", b",", b":", b'"a"', b'"b"', b'"id"', b"1", b"null", b" ", b"\n")
MODES = (FILE, FILE, EXECUTABLE, SYMLINK, SUBMODULE)


def some(stream: Stream, words: tuple[bytes, ...], most: int = 24) -> bytes:
    return b"".join(stream.choice(words) for _ in range(stream.number() % most))


def texts(stream: Stream) -> None:
    base, ours, theirs = (some(stream, WORDS) for _ in range(3))
    style, favor = stream.choice(list(Style)), stream.choice(list(Favor))
    merge_text(base, ours, theirs, style=style, favor=favor)
    assert merge_text(ours, ours, theirs).data == theirs
    assert merge_text(base, ours, base).data == ours
    assert merge_text(base, ours, ours).data == ours
    merge_text(base, ours, theirs, budget=Budget(stream.number()))
    one, two = merge_text(base, ours, theirs), merge_text(base, theirs, ours)
    assert one.conflicts == two.conflicts
    assert one.conflicts or one.data == two.data


def values(stream: Stream) -> None:
    sides = [some(stream, JSON) for _ in range(3)]
    try:
        got = merge_json(*sides)
        assert isinstance(merge_json(sides[0], sides[2], sides[1]), bytes) == isinstance(got, bytes)
    except ValueError:
        pass


def some_tree(stream: Stream, objects: Objects) -> str:
    """Store a tree of a few of the names, links and submodules among them."""
    found: dict[bytes, dict[bytes, Entry]] = {}
    for _ in range(stream.number() % 6):
        name = stream.choice(NAMES)
        mode = stream.choice(MODES)
        data = some(stream, RULES if name.endswith(b"s") else WORDS, 12)
        entry = Entry(mode, EMPTY_TREE if mode == SUBMODULE else objects.put_blob(data))
        where, _, last = name.rpartition(b"/")
        found.setdefault(where, {})[last] = entry
    root = found.pop(b"", {})
    for where, entries in found.items():
        tree = objects.put_tree(entries)
        for name in reversed(where.split(b"/")[1:]):
            tree = objects.put_tree({name: Entry(DIRECTORY, tree)})
        root[where.split(b"/")[0]] = Entry(DIRECTORY, tree)
    return objects.put_tree(root)


def trees(stream: Stream) -> None:
    objects = Objects(MemoryStore())
    base, ours, theirs = (some_tree(stream, objects) for _ in range(3))
    rules = any(p[-1] == NAME for t in (ours, theirs) for p in all_files(objects, t))
    for style in (None, Style.MERGE):
        one = merge_trees(objects, base, ours, theirs, Options(style=style))
        two = merge_trees(objects, base, theirs, ours, Options(style=style))
        assert rules or {c.path for c in one.conflicts} == {c.path for c in two.conflicts}
        for conflict in one.conflicts:
            json.dumps(conflict.as_json())
    assert merge_trees(objects, ours, ours, theirs).tree == theirs
    assert merge_trees(objects, base, ours, base).tree == ours
    assert merge_trees(objects, base, ours, ours).tree == ours
    for delta in deltas(objects, tuple(diff(objects, ours, theirs)), renames=True):
        delta.line(stat(objects, delta))
        unified(objects, delta)


def globs(stream: Stream) -> None:
    objects = Objects(MemoryStore())
    assert Attributes(objects, EMPTY_TREE).merge((b"a",)) is None
    pattern = some(stream, (b"*", b"**", b"/", b"a", b"?", b"[a-c]", b"[!", b"]", b"\\"))
    Glob(pattern).match((b"a" * 200, b"b", b"a" * 200))


def TestOneInput(data: bytes) -> None:
    """Play one input: its first octet says what is merged."""
    stream = Stream(data)
    stream.choice((texts, values, trees, globs))(stream)


def fuzz(seed: int, count: int) -> None:
    """Run on seeded inputs."""
    seeded(TestOneInput, seed, count, sizes=(16, 60, 200))


if __name__ == "__main__":
    main(TestOneInput, fuzz)

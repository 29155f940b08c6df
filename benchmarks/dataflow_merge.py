"""Merges next to C git's: edits in a large tree, a renamed file, a text; and what a commit pays.

Everything in turns.  `git merge-tree --write-tree` and `git merge-file` are processes, whose start
(about 2 ms) is part of their figure; pygit2 (if it is installed) merges in process, as we do.  Text
is compared in Python: the goal is four times C's time.  The last cell has no peer but ourselves: a
commit that meets a moved branch writes two commits where a plain one writes one.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.report import Cell
from dataflow.branch.engine import Engine
from dataflow.branch.transaction import Transaction
from dataflow.store.disk import DiskStore
from dataflow.store.memory import MemoryStore
from dataflow.store.objects import DIRECTORY, EXECUTABLE, FILE, Entry, Objects
from dataflow.tree.merge import merge_commits
from dataflow.tree.overlay import Overlay
from dataflow.tree.paths import parse
from dataflow.tree.textmerge import merge_text

try:
    import pygit2
except ImportError:
    pygit2 = None

FILES = 100_000
ENV = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
BODY = b"".join(b"line %d\n" % n for n in range(200))

Edit = Callable[[Overlay], None]
Runs = dict[str, Callable[[], object]]


def cells(where: Path, quick: bool) -> list[Cell]:
    """Measure all cells."""
    rounds = 5 if quick else 25
    objects = Objects(DiskStore(where / "merge.git", fsync=False))
    base = _large(objects)
    edits = {
        "merge 2 edits in 100,000 files": (_write("d1/e1/f1"), _write("d2/e2/f2")),
        "merge an edit and a rename in 100,000 files": (_move, _write("d3/e3/text", BODY + b"x\n")),
    }
    found = []
    for name, (ours, theirs) in edits.items():
        sides = [_commit(objects, base, edit) for edit in (ours, theirs)]
        found.append(_in_turns(name, _tree_merges(objects, where / "merge.git", sides), rounds))
    found.append(_in_turns("merge a text of 5,000 lines", _text_merges(where), rounds, 0.25))
    return [*found, _commits(rounds)]


def _large(objects: Objects) -> str:
    """Put a commit with 100,000 files in 1,000 directories."""
    blob = objects.put_blob(b"x\n")
    leaf = {b"f%d" % n: Entry(FILE, blob) for n in range(100)}
    plain = objects.put_tree(leaf)
    leaf[b"text"] = Entry(EXECUTABLE, objects.put_blob(BODY))
    middle = {b"e%d" % n: Entry(DIRECTORY, plain) for n in range(100)}
    special = {**middle, b"e3": Entry(DIRECTORY, objects.put_tree(leaf))}
    root = {b"d%d" % n: Entry(DIRECTORY, objects.put_tree(middle)) for n in range(10)}
    root[b"d3"] = Entry(DIRECTORY, objects.put_tree(special))
    return objects.put_commit(objects.put_tree(root), (), "b <b@b>", "base\n", 1)


def _commit(objects: Objects, base: str, edit: Edit) -> str:
    overlay = Overlay(objects, objects.commit(base).tree)
    edit(overlay)
    oid = objects.put_commit(overlay.store(), (base,), "b <b@b>", "side\n", 2)
    objects.store.flush()
    return oid


def _write(path: str, data: bytes = b"changed\n") -> Edit:
    return lambda overlay: overlay.write(parse(path), data)


def _move(overlay: Overlay) -> None:
    overlay.write(parse("d3/e3/text"), BODY.replace(b"line 7\n", b"line seven\n"))
    overlay.rename(parse("d3/e3/text"), parse("d7/moved"))


def _tree_merges(objects: Objects, where: Path, sides: list[str]) -> Runs:
    git = ["git", "-C", str(where), "merge-tree", "--write-tree", *sides]

    def ours() -> None:
        fresh = Objects(objects.store)  # nothing parsed yet
        assert not merge_commits(fresh, sides[0], sides[1]).conflicts

    def theirs() -> None:
        subprocess.run(git, env=ENV, stdout=subprocess.DEVNULL, check=True)

    runs: Runs = {"ours": ours, "git merge-tree": theirs}
    if pygit2:
        repo = pygit2.Repository(str(where))
        runs["pygit2"] = lambda: repo.merge_commits(sides[0], sides[1]).write_tree(repo)
    return runs


def _text_merges(where: Path) -> Runs:
    rng = random.Random(1)
    base = [b"%d %s\n" % (n, rng.randbytes(12).hex().encode()) for n in range(5000)]
    texts = []
    for start in (0, 25):
        lines = list(base)
        for at in range(start, 5000, 50):
            lines[at] = b"changed %d\n" % rng.randrange(1 << 30)
        texts.append(b"".join(lines))
    for name, data in zip("bot", (b"".join(base), *texts), strict=True):
        (where / name).write_bytes(data)
    words = ["git", "merge-file", "-p", "o", "b", "t"]
    return {
        "ours": lambda: merge_text(b"".join(base), *texts),
        "git merge-file": lambda: subprocess.run(
            words, cwd=where, env=ENV, stdout=subprocess.DEVNULL, check=True
        ),
    }


def _in_turns(name: str, runs: Runs, rounds: int, goal: float = 1.0) -> Cell:
    took: dict[str, list[float]] = {each: [] for each in runs}
    for _ in range(rounds):
        for each, run in runs.items():
            began = time.perf_counter()
            run()
            took[each].append((time.perf_counter() - began) * 1e3)
    best = [min(turn) for turn in zip(*(took[k] for k in took if k != "ours"), strict=True)]
    pairs = tuple(b / o for b, o in zip(best, took["ours"], strict=True))
    peers = {each: median(times) for each, times in took.items() if each != "ours"}
    return Cell(name, median(took["ours"]), peers, goal, "lower", "ms", pairs)


def _commits(rounds: int) -> Cell:
    """Compare a commit that merges with one that need not, in memory."""
    engine = Engine(MemoryStore())
    engine.fast_forward("main", _large(engine.objects))
    took: dict[str, list[float]] = {"merging": [], "plain": []}
    for turn in range(rounds * 4):
        for kind, times in took.items():
            mine = Transaction(engine, "main", message="mine")
            mine.write("d1/e1/f1", b"%s %d" % (kind.encode(), turn))
            if kind == "merging":
                with Transaction(engine, "main", message="other") as other:
                    other.write("d2/e2/f2", b"%d" % turn)
            began = time.perf_counter()
            mine.commit_now()
            times.append((time.perf_counter() - began) * 1e3)
    pairs = tuple(p / m for p, m in zip(took["plain"], took["merging"], strict=True))
    peers = {"plain commit": median(took["plain"])}
    return Cell("commit that merges", median(took["merging"]), peers, 0.4, "lower", "ms", pairs)

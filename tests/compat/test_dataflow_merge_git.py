"""C git judges our merges: `git merge-file` the texts, `git merge-tree` trees, renames and bases.

Random histories from seeds.  What merges for both must be the same tree; what does not must be the
same paths.  Differences by design (docs/dataflow-merge.md) are taken out in `comparable`.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from dataflow.store.disk import DiskStore
from dataflow.store.objects import EXECUTABLE, FILE, SYMLINK, Objects
from dataflow.tree.conflicts import Conflict, Kind
from dataflow.tree.diff import diff
from dataflow.tree.merge import Options, merge_commits
from dataflow.tree.overlay import Overlay
from dataflow.tree.patch import deltas, unified
from dataflow.tree.paths import parse, text
from dataflow.tree.textmerge import Favor, Labels, Style, merge_text
from dataflow.tree.tree import find

pytestmark = [
    pytest.mark.compat,
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
]

ENV = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
STYLES = {
    "merge": ((), Style.MERGE, Favor.NONE),
    "diff3": (("--diff3",), Style.DIFF3, Favor.NONE),
    "union": (("--union",), Style.MERGE, Favor.UNION),
    "ours": (("--ours",), Style.MERGE, Favor.OURS),
    "theirs": (("--theirs",), Style.MERGE, Favor.THEIRS),
}


def edit_lines(
    rng: random.Random, lines: list[bytes], words: list[bytes], edits: int
) -> list[bytes]:
    lines = list(lines)
    for _ in range(edits):
        at = rng.randint(0, len(lines))
        match rng.randrange(3):
            case 0:
                lines[at:at] = rng.choices(words, k=rng.randint(1, 3))
            case 1:
                del lines[at : at + rng.randint(1, 3)]
            case 2:
                lines[at : at + 1] = [rng.choice(words)]
    return lines


def three_texts(rng: random.Random) -> list[bytes]:
    words = [b"%c" % (97 + i) for i in range(rng.choice([2, 4, 10, 26]))] + [b"", b"}", b"x y"]
    base = rng.choices(words, k=rng.choice([0, 3, 10, 30, 80]))
    end = rng.choice([b"\n", b"\n", b"\r\n"])
    most = rng.randint(1, 6)
    out = []
    for lines in (base, *(edit_lines(rng, base, words, rng.randint(0, most)) for _ in range(2))):
        data = end.join(lines) + (end if lines and rng.random() < 0.8 else b"")
        out.append(data.replace(b"\r\n", b"\n") if rng.random() < 0.05 else data)
    return out


@pytest.mark.parametrize("name", STYLES)
def test_texts_merge_as_merge_file_does(tmp_path: Path, name: str) -> None:
    flags, style, favor = STYLES[name]
    for seed in range(120):
        sides = three_texts(random.Random(seed))
        for side, data in zip(("base", "ours", "theirs"), sides, strict=True):
            (tmp_path / side).write_bytes(data)
        labels = ("-L", "ours", "-L", "base", "-L", "theirs")
        done = subprocess.run(
            ["git", "merge-file", "-p", *labels, *flags, "ours", "base", "theirs"],
            cwd=tmp_path, env=ENV, capture_output=True, check=False,
        )  # fmt: skip
        got = merge_text(*sides, style=style, favor=favor)
        assert (got.data, got.conflicts) == (done.stdout, done.returncode), (seed, sides)


Tree = dict[str, tuple[int, bytes]]
NAMES = ["a", "b.txt", "c", "d/x", "d/y", "d/e/z", "f/x", "g", "h/b.txt", "new1", "d/new2", "n/x"]


def lines_of(rng: random.Random) -> bytes:
    if rng.random() < 0.05:
        return b""
    return b"".join(b"line %d\n" % rng.randrange(10_000) for _ in range(rng.randint(2, 12)))


def change_text(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")[:-1]
    words = [b"line %d" % rng.randrange(10_000) for _ in range(9)]
    lines = edit_lines(rng, lines, words, rng.choice([1, 1, 1, 2, 5]))
    return b"".join(line + b"\n" for line in lines)


def put(tree: Tree, path: str, value: tuple[int, bytes]) -> None:
    """Write a file; what is in its way goes."""
    parts = path.split("/")
    for n in range(1, len(parts)):
        tree.pop("/".join(parts[:n]), None)
    for below in [p for p in tree if p.startswith(path + "/")]:
        del tree[below]
    tree[path] = value


def edited(rng: random.Random, base: Tree, steps: int) -> Tree:
    tree = dict(base)
    for _ in range(steps):
        path = rng.choice(sorted(tree)) if tree else "a"
        mode, data = tree.get(path, (FILE, b"x\n"))
        match rng.choices(range(8), [30, 12, 12, 18, 5, 3, 3, 2])[0]:
            case 0 if mode in (FILE, EXECUTABLE):
                put(tree, path, (mode, change_text(rng, data)))
            case 1:
                tree.pop(path, None)
            case 2:
                put(tree, rng.choice(NAMES), (FILE, lines_of(rng)))
            case 3:
                tree.pop(path, None)
                changed = mode in (FILE, EXECUTABLE) and rng.random() < 0.5
                new = rng.choice(NAMES)
                put(tree, new, (mode, change_text(rng, data) if changed else data))
            case 4 if mode in (FILE, EXECUTABLE):
                put(tree, path, (FILE + EXECUTABLE - mode, data))
            case 5:
                put(tree, path, (SYMLINK, b"to%d" % rng.randrange(3)))
            case 6:
                put(tree, path + "/sub", (FILE, lines_of(rng)))
            case 7 if mode in (FILE, EXECUTABLE):
                put(tree, path, (mode, data + b"\0\n"))
    return tree


class History:
    """A repository on disk for both, and commits in it."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.store = DiskStore(where, fsync=False)
        self.objects = Objects(self.store)
        self.clock = 1_000_000

    def commit(self, files: Tree, *parents: str) -> str:
        overlay = Overlay(self.objects)
        for path, (mode, data) in files.items():
            if mode == SYMLINK:
                if "/" in path:
                    overlay.mkdir(parse(path)[:-1], parents=True)
                overlay.symlink(parse(path), data)
            else:
                overlay.write(parse(path), data, mode=mode)
        self.clock += 1
        return self.objects.put_commit(overlay.store(), parents, "t <t@t>", "m\n", self.clock)

    def git_merge(self, ours: str, theirs: str) -> tuple[str, dict[str, set[int]]]:
        """Return git's tree, and its conflicting paths with their stages."""
        self.store.flush()
        done = subprocess.run(
            ["git", "-c", "merge.directoryRenames=false", "-C", str(self.where), "merge-tree",
             "--write-tree", "-z", "--no-messages", "--allow-unrelated-histories", ours, theirs],
            env=ENV, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        tree, *rest = done.stdout.rstrip("\0").split("\0")
        stages: dict[str, set[int]] = {}
        for item in rest:
            head, _, path = item.partition("\t")
            stages.setdefault(path.partition("~")[0], set()).add(int(head.split()[2]))
        return tree, stages


def comparable(stages: dict[str, set[int]], conflicts: tuple[Conflict, ...]) -> set[str]:
    """Return git's conflicting paths without those that we say otherwise by design.

    A file with two new names is listed under these, not under its old one; below a path that is a
    file on one side and a directory on the other nothing is listed by itself.
    """
    old = {text(c.paths[0]) for c in conflicts if c.kind is Kind.RENAME_RENAME}
    taken = [text(c.path) + "/" for c in conflicts if c.kind is Kind.FILE_DIRECTORY]
    return {
        path
        for path, found in stages.items()
        if not (path in old and found == {1}) and not any(path.startswith(t) for t in taken)
    }


def overlooked(history: History, tree: str, ours: str, theirs: str, conflict: Conflict) -> bool:
    """Say whether git 2.39 takes a renamed file's conflict for clean, in one of two ways.

    Either it left markers in a file (the renamed file conflicts and meets an empty one that the
    other side added), or it dropped one side's change (both sides have the same file at the new
    name, and that side changed it at the old one).
    """
    if conflict.kind is not Kind.RENAME_ADD:
        return False
    commits = (history.objects.commit(c).tree for c in (ours, theirs))
    entry, mine, other = (find(history.objects, t, conflict.path) for t in (tree, *commits))
    if entry is None:
        return False
    return mine == other or b"<<<<<<<< " in history.objects.blob(entry.oid)


def check(history: History, ours: str, theirs: str, note: object) -> bool:
    """Merge with both and compare; say whether it was clean."""
    tree, stages = history.git_merge(ours, theirs)
    options = Options(style=Style.MERGE, labels=Labels(ours=ours, theirs=theirs))
    got = merge_commits(history.objects, ours, theirs, options)
    expected = comparable(stages, got.conflicts)
    expected |= {text(c.path) for c in got.conflicts if overlooked(history, tree, ours, theirs, c)}
    assert {text(c.path) for c in got.conflicts} == expected, (note, stages, got.conflicts)
    if not expected:
        assert got.tree == tree, note
    for conflict in got.conflicts:  # what is left in the file, markers and labels included
        if conflict.marked is not None and conflict.kind is not Kind.RENAME_ADD:
            found = (find(history.objects, t, conflict.path) for t in (tree, got.tree))
            assert len(set(found)) == 1, (note, conflict)
    return not expected


@pytest.mark.parametrize("block", range(4))
def test_trees_merge_as_git_does(tmp_path: Path, block: int) -> None:
    history = History(tmp_path / "r")
    clean = 0
    for seed in range(block * 60, block * 60 + 60):
        rng = random.Random(seed)
        base = edited(rng, {n: (FILE, lines_of(rng)) for n in NAMES[:9]}, 2)
        steps = rng.choice([1, 3, 6])
        o = history.commit(base)
        sides = [history.commit(edited(rng, base, steps), o) for _ in range(2)]
        clean += check(history, sides[0], sides[1], seed)
    assert 10 < clean < 55


def union(first: Tree, second: Tree) -> Tree:
    """Return all files of both, the first's where both have one."""
    tree = dict(second)
    for path, value in first.items():
        put(tree, path, value)
    return tree


@pytest.mark.parametrize("block", range(2))
def test_criss_cross_histories_merge_as_git_does(tmp_path: Path, block: int) -> None:
    history = History(tmp_path / "r")
    clean = 0
    for seed in range(block * 50, block * 50 + 50):
        rng = random.Random(seed)
        base = {n: (FILE, lines_of(rng)) for n in NAMES[:9]}
        first = [edited(rng, base, rng.choice([1, 2])) for _ in range(2)]
        o = history.commit(base)
        a, b = (history.commit(tree, o) for tree in first)
        joined = [union(side, second) for side, second in (first, first[::-1])]
        x = history.commit(edited(rng, joined[0], rng.choice([0, 1, 2])), a, b)
        y = history.commit(edited(rng, joined[1], rng.choice([0, 1, 2])), b, a)
        clean += check(history, x, y, seed)
    assert 5 < clean < 48


def test_git_finds_the_same_renames_and_applies_our_patches(tmp_path: Path) -> None:
    history = History(tmp_path / "r")
    git = ["git", "-C", str(history.where)]
    env = {**ENV, "GIT_INDEX_FILE": str(tmp_path / "index")}
    renamed = 0
    for seed in range(40):
        rng = random.Random(seed)
        base = {n: (FILE, lines_of(rng)) for n in NAMES[:9]}
        trees = []
        for files in (base, edited(rng, base, 12)):
            files = {p: v for p, v in files.items() if b"\0" not in v[1]}
            trees.append(history.objects.commit(history.commit(files)).tree)
        history.store.flush()
        found = tuple(diff(history.objects, *trees))
        ours = deltas(history.objects, found, renames=True)
        words = [*git, "diff-tree", "-r", "-M", "--raw", "--no-rename-empty", *trees]
        lines = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
        theirs = {tuple(line.split(" ")[4].split("\t")) for line in lines.stdout.splitlines()}
        said = {
            (f"R{d.percent:03}", text(d.old_path), text(d.new_path))
            if d.percent is not None
            else (d.status, text(d.new_path))
            for d in ours
        }
        assert said == theirs, seed
        renamed += any(d.percent is not None for d in ours)
        patch = b"".join(unified(history.objects, d) for d in ours)
        subprocess.run([*git, "read-tree", trees[0]], env=env, check=True)
        if patch:
            subprocess.run([*git, "apply", "--cached"], input=patch, env=env, check=True)
        tree = subprocess.run([*git, "write-tree"], env=env, capture_output=True, check=True)
        assert tree.stdout.decode().strip() == trees[1], seed
    assert renamed > 5

"""C git as the peer: it judges our objects, merges and diffs, pushes while we watch, and clones."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from dataflow import ChangeKind, Repository
from dataflow.errors import DataflowError
from dataflow.store.disk import DiskStore
from dataflow.store.objects import EXECUTABLE, FILE, Objects
from dataflow.tree.diff import diff
from dataflow.tree.history import between, merge_bases
from dataflow.tree.merge import merge_commits
from dataflow.tree.overlay import Overlay
from dataflow.tree.paths import parse, text

pytestmark = [
    pytest.mark.compat,
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
]

ENV = {
    **os.environ,
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_AUTHOR_NAME": "t",
    "GIT_AUTHOR_EMAIL": "t@t",
    "GIT_COMMITTER_NAME": "t",
    "GIT_COMMITTER_EMAIL": "t@t",
}


def git(where: Path | str, *args: str, ok: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(
        ["git", "-C", str(where), *args],
        env=ENV,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
    )
    assert done.returncode in ok, (args, done.returncode, done.stdout, done.stderr)
    return done.stdout


def fsck(where: Path | str) -> None:
    found = git(where, "fsck", "--strict", "--no-dangling")
    assert found == ""


NAMES = ["a", "b", "c", "d/a", "d/b", "d/e/f", "g", "g/h", "a/x"]


def random_files(rng: random.Random, base: dict | None = None) -> dict:
    """Change a few files of `base`; no path is a file and a directory, no content has two paths.

    (git 2.39's merge-tree looks for renames whatever its configuration says.)
    """
    files = dict(base or {})
    for _ in range(rng.randint(1, 5)):
        path = rng.choice(NAMES)
        for other in [o for o in files if o.startswith(path + "/") or path.startswith(o + "/")]:
            del files[other]
        if rng.random() < 0.25:
            files.pop(path, None)
        else:
            files[path] = (rng.choice([FILE, FILE, EXECUTABLE]), path + rng.choice("12345"))
    return files


def store_tree(objects: Objects, files: dict) -> str:
    tree = Overlay(objects)
    for path, (mode, content) in files.items():
        tree.write(parse(path), content.encode(), mode=mode)
    return tree.store()


def test_diff_and_merge_equal_gits(tmp_path) -> None:
    rng = random.Random(6)
    store = DiskStore(tmp_path / "r.git", fsync=False)
    objects = Objects(store)
    clean = 0
    for case in range(120):
        base_files = random_files(rng, random_files(rng))
        sides = [random_files(rng, base_files) for _ in range(2)]
        trees = [store_tree(objects, f) for f in (base_files, *sides)]
        base = objects.put_commit(trees[0], (), "t <t@t>", "base\n", 1)
        ours, theirs = (
            objects.put_commit(t, (base,), "t <t@t>", f"{case}\n", 2) for t in trees[1:]
        )
        merged = merge_commits(objects, ours, theirs)
        store.flush()
        mine = {f"{d.status}\t{text(d.path)}" for d in diff(objects, trees[0], trees[1])}
        args = ("diff-tree", "-r", "--no-renames", "--name-status", trees[0], trees[1])
        assert mine == set(git(store.path, *args).splitlines()), case
        args = ("merge-tree", "--write-tree", ours, theirs)
        said = git(store.path, *args, ok=(0, 1)).splitlines()
        conflicted = len(said) > 1
        assert conflicted == bool(merged.conflicts), (case, said, merged.conflicts)
        if not conflicted:
            clean += 1
            assert said[0] == merged.tree, case
    assert 20 < clean < 110
    store.close()


def test_merge_bases_equal_gits(tmp_path) -> None:
    rng = random.Random(7)
    store = DiskStore(tmp_path / "r.git", fsync=False)
    objects = Objects(store)
    root = store_tree(objects, {"f": (FILE, "1")})
    ids: list[str] = []
    for i in range(60):
        parents = tuple(rng.sample(ids[-8:], min(len(ids), rng.choice([1, 1, 2, 2, 3]))))
        ids.append(objects.put_commit(root, parents, "t <t@t>", f"{i}\n", 100 + i // 4))
    store.flush()
    for _ in range(60):
        a, b = rng.sample(ids, 2)
        theirs = git(store.path, "merge-base", "--all", a, b, ok=(0, 1)).split()
        assert sorted(merge_bases(objects, a, b)) == sorted(theirs)
        theirs = git(store.path, "rev-list", f"{a}..{b}").split()
        assert sorted(between(objects, a, b)) == sorted(theirs)
    store.close()


def test_random_operations_are_clean_for_fsck_and_clone(tmp_path) -> None:
    rng = random.Random(8)
    path = tmp_path / "r.git"
    model: dict[str, bytes] = {}
    odd = [b"\xff\xfe", "ünï".encode(), b"n" * 255, b"sp ace", b"-dash", b"tab\t", b"new\nline"]
    with Repository.open(path, fsync=False) as repo:
        main = repo.branch("main")
        for i in range(60):
            with main.transaction(f"op {i}") as t:
                for _ in range(rng.randint(1, 4)):
                    name = b"/".join(
                        rng.choice([*odd, b"d", b"e"]) for _ in range(rng.randint(1, 3))
                    )
                    with contextlib.suppress(DataflowError):
                        match rng.choice(["write", "write", "chmod", "rename", "remove", "link"]):
                            case "write":
                                t.write(name, b"%d" % rng.randint(0, 99))
                            case "chmod":
                                t.chmod(name, executable=rng.random() < 0.5)
                            case "rename":
                                t.rename(name, rng.choice(odd))
                            case "remove":
                                t.remove(name, recursive=True)
                            case "link":
                                t.symlink(name, b"target")
        tree = repo.engine.tree(main.head)
        model = {b"/".join(p): repo.engine.objects.blob(e.oid) for p, e in tree.walk()}
    fsck(path)
    assert git(path, "rev-list", "--count", "main").strip() == "60"
    git(tmp_path, "clone", "-q", str(path), "copy")
    listed = git(tmp_path / "copy", "ls-files", "-z").encode("utf-8", "surrogateescape")
    assert set(listed.split(b"\0")) - {b""} == set(model)
    assert git(tmp_path / "copy", "status", "--porcelain") == ""


async def test_push_into_it_is_watched(tmp_path) -> None:
    path = tmp_path / "r.git"
    async with Repository.open(path) as repo:
        main = repo.branch("main")
        async with main.transaction("ours") as t:
            t.write("f", b"1")
        copy = tmp_path / "copy"
        await asyncio.to_thread(git, tmp_path, "clone", "-q", str(path), str(copy))
        watch = main.watch()

        def push(n: int) -> list[str]:
            for i in range(n):
                (copy / "f").write_text(f"git {i}")
                git(copy, "commit", "-qam", f"git {i}")
            git(copy, "push", "-q", "origin", "HEAD:main")
            return git(copy, "rev-list", "--reverse", f"HEAD~{n}..HEAD").split()

        async with asyncio.timeout(30):
            pushed = await asyncio.to_thread(push, 3)
            assert [(await anext(watch)).commit for _ in range(3)] == pushed
            async with main.transaction("ours again") as t:
                t.write("g", b"2")
            assert (await anext(watch)).commit == t.result.commit
            # packed references and packed objects, by gits that know nothing of us
            await asyncio.to_thread(git, path, "gc", "-q", "--prune=now")
            assert await main.read("f") == b"git 2"
            async with main.transaction("after gc") as t:
                t.write("g", b"3")
            assert (await anext(watch)).commit == t.result.commit
            # a forced push cuts history
            await asyncio.to_thread(git, copy, "push", "-qf", "origin", f"{pushed[0]}:main")
            cut = await anext(watch)
            assert (cut.kind, cut.commit) == (ChangeKind.CUT, pushed[0])
            await asyncio.to_thread(git, path, "update-ref", "-d", "refs/heads/main")
            assert (await anext(watch)).kind is ChangeKind.DELETED
    fsck(path)


async def test_two_processes_write_one_branch(tmp_path) -> None:
    """Our writers against `git push` of another clone, each retrying: nothing is lost."""
    path = tmp_path / "r.git"
    async with Repository.open(path) as repo:
        main = repo.branch("main")
        async with main.transaction("base") as t:
            t.write("base", b"1")
        watch = main.watch()
        copy = tmp_path / "copy"
        await asyncio.to_thread(git, tmp_path, "clone", "-q", str(path), str(copy))

        def pusher() -> None:
            for i in range(4):
                (copy / f"git{i}").write_text("x")
                git(copy, "add", ".")
                git(copy, "commit", "-qm", f"git {i}")
                for _ in range(30):
                    git(copy, "pull", "-q", "--no-rebase", "--no-edit", "origin", "main")
                    done = subprocess.run(
                        ["git", "-C", copy, "push", "-q", "origin", "HEAD:main"],
                        env=ENV, capture_output=True, check=False,
                    )  # fmt: skip
                    if done.returncode == 0:
                        break
                else:
                    pytest.fail("never pushed")

        async def writer(name: str) -> None:
            while not pushing.done():
                async with main.transaction(name) as t:
                    t.write(f"{name}/{counts[name]}", b"x")
                counts[name] += 1
                await asyncio.sleep(0.5)  # git needs a gap to pull and push in

        counts: Counter[str] = Counter()
        pushing = asyncio.ensure_future(asyncio.to_thread(pusher))
        async with asyncio.timeout(100):
            await asyncio.gather(pushing, writer("w1"), writer("w2"))
            everything = git(path, "rev-list", "main").split()
            seen = [await anext(watch) for _ in range(len(everything) - 1)]
        assert all(c.kind is ChangeKind.COMMIT for c in seen)
        assert len({c.commit for c in seen}) == len(seen)
        names = set(git(path, "ls-tree", "-r", "--name-only", "main").split())
        assert {f"git{i}" for i in range(4)} <= names
        assert {f"{w}/{k}" for w, n in counts.items() for k in range(n)} <= names
    fsck(path)


WRITER = """
import sys
from dataflow import Repository
with Repository.open(sys.argv[1]) as repo:
    main = repo.branch("main")
    i = 0
    while True:
        with main.transaction(f"{sys.argv[2]}.{i}") as t:
            for k in range(5):
                t.write(f"{sys.argv[2]}/{k}", b"%d" % i)
        print(t.result.head, flush=True)
        i += 1
"""


def test_killed_writers_leave_a_clean_repository(tmp_path) -> None:
    rng = random.Random(9)
    path = tmp_path / "r.git"
    acknowledged: list[str] = []
    for run in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), f"w{run}"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(rng.randint(1, 12)):
            acknowledged.append(process.stdout.readline().strip())
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=rng.random() * 0.02)  # somewhere inside the next commit
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.read().split()
        process.wait()
        process.stdout.close()
        fsck(path)
        for lock in (path / "refs" / "heads").rglob("*.lock"):
            lock.unlink()  # as the error of a stale lock tells the operator to do
    there = set(git(path, "rev-list", "main").split())
    assert {a for a in acknowledged if len(a) == 40} <= there
    assert len(acknowledged) > 12

"""Packing with C git as the judge and as the neighbour: gc, repack and prune while we write."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dataflow import Repository
from dataflow.store.disk import DiskStore

pytestmark = [
    pytest.mark.compat,
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
]

ENV = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}


def git(where: Path | str, *args: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(where), *args], env=ENV, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (args, done.stdout, done.stderr)
    return done.stdout


def fsck(where: Path | str) -> None:
    assert git(where, "fsck", "--strict", "--no-dangling") == ""


def write(repo: Repository, rng: random.Random, count: int) -> None:
    main = repo.branch("main")
    for _ in range(count):
        with main.transaction("x") as t:
            t.write(f"d{rng.randint(0, 9)}/f{rng.randint(0, 200):03d}", rng.randbytes(30))


def start(path: Path, **options: object) -> Repository:
    return Repository(DiskStore(path, fsync=False, **options))  # type: ignore[arg-type]


def counts(path: Path) -> dict[str, int]:
    lines = git(path, "count-objects", "-v").splitlines()
    return {key: int(value) for key, value in (line.split(": ") for line in lines)}


def test_packs_and_deltas_are_gits(tmp_path) -> None:
    path = tmp_path / "r.git"
    rng = random.Random(1)
    with start(path, pack_limit=0) as repo:
        with repo.branch("main").transaction("many") as t:
            for i in range(400):
                t.write(f"d0/f{i:04d}", b"x")
        for _ in range(4):
            write(repo, rng, 30)
            repo.engine.store.packer.pack(grace=0)  # type: ignore[attr-defined]
    fsck(path)
    found = counts(path)
    assert found["count"] == 0
    assert found["packs"] <= 2
    assert found["garbage"] == 0
    assert "chain length" in git(
        path, "verify-pack", "-v", *map(str, path.glob("objects/pack/*.idx"))
    )
    git(tmp_path, "clone", "-q", "--no-local", str(path), "copy")
    assert len(git(path, "rev-list", "main").split()) == 121


def test_git_packs_are_merged_into_ours(tmp_path) -> None:
    """Packs with real deltas, by offset and by name, go into larger ones as they are."""
    path = tmp_path / "r.git"
    rng = random.Random(2)
    with start(path, pack_limit=0) as repo:
        for _ in range(3):
            write(repo, rng, 40)
            git(path, "-c", "repack.writeBitmaps=false", "repack", "-d", "-q")
        assert counts(path)["packs"] == 3
        repo.engine.store.packer.pack()  # type: ignore[attr-defined]
        assert counts(path)["packs"] == 1
        write(repo, rng, 5)
    fsck(path)


def test_gc_repack_and_prune_while_we_write_and_pack(tmp_path) -> None:
    path = tmp_path / "r.git"
    rng = random.Random(3)
    with start(path, pack_limit=50) as repo:
        write(repo, rng, 20)
        stop = threading.Event()
        failed: list[str] = []

        def neighbour() -> None:
            commands = [
                ("gc", "-q"), ("repack", "-d", "-q"), ("prune", "--expire=1.hour.ago"),
                ("repack", "-A", "-d", "-q"), ("pack-refs", "--all"), ("prune-packed", "-q"),
                ("multi-pack-index", "write"), ("commit-graph", "write", "--reachable"),
            ]  # fmt: skip
            for turn in range(1000):
                if stop.is_set():
                    return
                command = commands[turn % len(commands)]
                done = subprocess.run(
                    ["git", "-C", str(path), *command],
                    env=ENV, capture_output=True, text=True, check=False,
                )  # fmt: skip
                # a pack may go under a git that has just begun: it says so, and nothing is lost
                if done.returncode and "pack" not in done.stderr:
                    failed.append(f"{command}: {done.stderr}")

        thread = threading.Thread(target=neighbour)
        thread.start()
        for _ in range(15):
            write(repo, rng, 40)
            heads = [c.oid for c in repo.engine.log(repo.branch("main").head)]
        stop.set()
        thread.join()
        statistics = repo.engine.store.packer.statistics  # type: ignore[attr-defined]
        assert failed == []
        assert statistics.rounds > 1
        assert len(heads) == 620
    fsck(path)
    assert len(git(path, "rev-list", "main").split()) == 620


WRITER = """
import sys
from dataflow import Repository
from dataflow.store.disk import DiskStore
with Repository(DiskStore(sys.argv[1], pack_limit=40)) as repo:
    main = repo.branch("main")
    for i in range(100000):
        with main.transaction("x") as t:
            t.write(f"{sys.argv[2]}/{i % 50}", b"%d" % i)
        print(t.result.head, flush=True)
"""


def test_killed_while_packing(tmp_path) -> None:
    """SIGKILL at any point of packs and merges: clean, and every acknowledged commit is there."""
    rng = random.Random(4)
    path = tmp_path / "r.git"
    acknowledged: list[str] = []
    for run in range(10):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), f"w{run}"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(rng.randint(10, 60)):
            acknowledged.append(process.stdout.readline().strip())
        process.send_signal(signal.SIGKILL)
        acknowledged += [line for line in process.stdout.read().split("\n") if len(line) == 40]
        process.wait()
        process.stdout.close()
        fsck(path)
    with start(path) as repo:
        repo.engine.store.packer.pack(grace=0)  # type: ignore[attr-defined]
    fsck(path)
    assert set(acknowledged) <= set(git(path, "rev-list", "main").split())
    assert counts(path)["count"] == 0

"""Faults: a writer killed at random points, a full disk, locks of dead gits; C git is the judge."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_dataflow_git import fsck, git

from dataflow import ChangeKind, RefLockedError, Repository
from dataflow.branch.watch import Watch

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

WRITER = Path(__file__).with_name("dataflow_writer.py")


class Killed:
    """Runs writers one after another, kills each, and keeps what they acknowledged."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.seed = path, seed
        self.rng = random.Random(seed)
        self.turn = 0
        self.acknowledged: dict[str, list[str]] = {}
        self.count = 0

    def once(self) -> None:
        """Start a writer, kill it somewhere between two acknowledgements, and read the rest."""
        argv = [sys.executable, str(WRITER), str(self.path), str(self.seed), str(self.turn)]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(self.rng.randint(2, 16))]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=self.rng.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()  # ends when a git that it started has ended, too
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        self.turn += 1
        for line in lines:
            if line.endswith(b"}\n"):
                for branch, oid in json.loads(line).items():
                    self.acknowledged.setdefault(branch.strip(), []).append(oid)
                    self.count += 1

    def check(self) -> None:
        """Compare what is there now with what was acknowledged."""
        for branch, oids in self.acknowledged.items():
            assert set(oids) <= set(git(self.path, "rev-list", branch).split()), branch


async def drain(watch: Watch, head: str) -> Iterator[tuple[str, str]]:
    """Read events until the one that leads to `head`: pairs of commit and cursor."""
    found = []
    while True:
        change = await anext(watch)
        assert change.kind is ChangeKind.COMMIT
        found.append((change.commit, change.cursor))
        if change.commit == head:
            return found


@pytest.mark.parametrize(
    ("seed", "commits"),
    [(1, 100), pytest.param(2, 1000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
)
async def test_killed_at_random_points(tmp_path, seed, commits) -> None:
    """fsck is clean, what was acknowledged is there, and a watch sees each commit once."""
    path = tmp_path / "r.git"
    async with Repository.open(path) as repo, repo.branch("main").transaction("first") as t:
        t.write("first", b"1")
    cursor, seen = t.result.head, [t.result.head]
    killed = Killed(path, seed)
    recovered = 0
    while killed.count < commits:
        killed.once()
        fsck(path)  # also before anything of ours repaired it
        async with asyncio.timeout(60), Repository.open(path) as repo:
            store = repo.engine.store
            recovered += bool(store.recovered.refs or store.recovered.objects)
            assert not list((path / "refs").rglob("*.lock"))
            main = repo.branch("main")
            if main.head != seen[-1]:
                events = await drain(main.watch(since=cursor), main.head)
                seen += [commit for commit, _ in events]
                cursor = events[-1][1]
        killed.check()
        fsck(path)
    everything = git(path, "rev-list", "main").split()
    assert len(seen) == len(set(seen))
    assert set(seen) == set(everything)
    assert killed.turn > 2
    print(f"{killed.turn} killed, {killed.count} heads, {len(seen)} on main, {recovered} repaired")


@pytest.fixture
def small_disk(tmp_path, require) -> Iterator[Path]:
    """A file system of 24 MiB."""
    require("root", "mkfs.ext4")
    image, where = tmp_path / "disk", tmp_path / "mnt"
    where.mkdir()
    with open(image, "wb") as f:
        f.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    done = subprocess.run(["mount", "-o", "loop", image, where], capture_output=True, check=False)
    if done.returncode:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", where], check=True)
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


async def put(repo: Repository, branch: str, path: str, data: bytes) -> str:
    async with repo.branch(branch).transaction(path) as t:
        t.write(path, data)
    assert t.result is not None
    return t.result.head


def fill(path: Path) -> None:
    with open(path, "wb", 0) as f, contextlib.suppress(OSError):
        while True:
            f.write(bytes(4096))


def die_holding_a_lock(path: Path, head: str) -> None:
    """Let a git take the lock of main and kill it."""
    argv = ["git", "-C", str(path), "update-ref", "--stdin"]
    dead = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert dead.stdin is not None
    assert dead.stdout is not None
    dead.stdin.write(f"start\nupdate refs/heads/main {head} {head}\nprepare\n".encode())
    dead.stdin.flush()
    assert dead.stdout.readline() == b"start: ok\n"
    assert dead.stdout.readline() == b"prepare: ok\n"
    dead.kill()
    dead.communicate()


async def test_full_disk(small_disk) -> None:
    """Who does not fit gets ENOSPC, others in the same group do not, and later it works again."""
    path = small_disk / "r.git"
    noise = random.Random(3)
    async with Repository.open(path) as repo:
        heads = {name: await put(repo, name, "f", b"1") for name in ("a", "b", "big")}
        big = repo.branch("big").transaction("too much")
        big.write("f", noise.randbytes(40 << 20))
        results = await asyncio.gather(
            put(repo, "a", "g", b"2"), big.commit(), put(repo, "b", "g", b"2"),
            return_exceptions=True,
        )  # fmt: skip
        assert isinstance(results[1], OSError)
        assert results[1].errno == errno.ENOSPC
        assert (repo.branch("a").head, repo.branch("b").head) == (results[0], results[2])
        assert repo.branch("big").head == heads["big"]
        assert not big.closed
        assert not list(path.rglob("tmp_obj_*"))
        fsck(path)
        ballast = small_disk / "ballast"
        fill(ballast)
        before = await repo.branches()
        with pytest.raises(OSError, match="No space"):
            await put(repo, "a", "h", noise.randbytes(200_000))
        assert await repo.branches() == before
        fsck(path)
        ballast.unlink()
        big.write("f", b"small")
        await big.commit()
        last = await put(repo, "a", "h", b"3")
    fsck(path)
    assert git(path, "rev-parse", "a").strip() == last
    assert git(path, "show", "big:f") == "small"


async def test_lock_left_by_a_dead_git_is_reported_with_its_age(tmp_path) -> None:
    path = tmp_path / "r.git"
    async with Repository.open(path, lock_timeout=0.3) as repo:
        head = await put(repo, "main", "f", b"1")
        die_holding_a_lock(path, head)
        lock = path / "refs/heads/main.lock"
        os.utime(lock, (time.time() - 3600,) * 2)
        with pytest.raises(RefLockedError, match=r"main\.lock exists since 36\d\d\.") as caught:
            await put(repo, "main", "f", b"2")
        assert caught.value.age == pytest.approx(3600, abs=60)
        assert "remove it" in str(caught.value)
        assert await put(repo, "other", "f", b"2")
        lock.unlink()
        await put(repo, "main", "f", b"3")
    fsck(path)


async def test_plain_git_sees_our_locks(tmp_path) -> None:
    """While a group is written, git does not move its branches."""
    path = tmp_path / "r.git"
    async with Repository.open(path) as repo:
        head = await put(repo, "main", "f", b"1")
        store = repo.engine.store
        store._refs._take("refs/heads/main")
        for words in (("-d", "refs/heads/main"), ("refs/heads/main", head, "0" * 40)):
            assert git(path, "update-ref", *words, ok=(1, 128)) == ""
        assert git(path, "for-each-ref", "--format=%(refname)").split() == ["refs/heads/main"]
        os.unlink(path / "refs/heads/main.lock")
        git(path, "update-ref", "-d", "refs/heads/main")

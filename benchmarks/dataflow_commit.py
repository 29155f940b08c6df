"""Durable commits of one file a second: one writer next to peers, and what group commit gains.

Every contestant commits a file of 100 octets to a directory of fifty, over and over, and returns
when the commit is durable; all in turns, a new repository each.  The peers: dulwich's loose objects
with `core.fsyncObjectFiles` (it syncs no directories, so it promises less than we do), C git's
`hash-object`, `mktree`, `commit-tree` and `update-ref` with `core.fsync=all`, libgit2 through
pygit2 (if it is installed: `pip install '.[bench]'`) with `fsync_gitdir`.

Group commit is worth what a flush costs, so the ratio of sixteen writers to one depends on the
disk: the last cell has a flush cost 5 ms more, as on a disk that has no fast cache of its own.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import uvloop
from dulwich.objects import Blob, Commit, Tree
from dulwich.repo import Repo

from benchmarks.report import Cell
from dataflow import Repository

try:
    import pygit2
except ImportError:
    pygit2 = None

WRITERS = 16
FILES = 50
SLOWER = 0.005  # seconds
WHO = b"bench <bench@localhost>"
WHEN = 1_700_000_000
GIT = ("-c", "core.fsync=all", "-c", "core.fsyncMethod=fsync")

Contestant = Callable[[Path, int], float]


def cells(where: Path, quick: bool) -> list[Cell]:
    """Measure all contestants in turns."""
    contestants: dict[str, Contestant] = {
        "ours": lambda path, n: ours(path, n, 1),
        "dulwich": dulwich,
        "git plumbing": plumbing,
        **({"pygit2": libgit2} if pygit2 else {}),
        "own branches": lambda path, n: ours(path, n, WRITERS),
        "one branch": lambda path, n: ours(path, n, WRITERS, same=True),
        "slow": lambda path, n: slower(path, n, 1),
        "slow group": lambda path, n: slower(path, n, WRITERS),
    }
    count, rounds = (160, 2) if quick else (480, 5)
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        for name, run in contestants.items():
            n = count // 8 if name in ("git plumbing", "slow") else count
            rates[name].append(n / run(where / f"{name} {turn}", n))
    peers = [name for name in ("dulwich", "git plumbing", "pygit2") if name in rates]
    group = f"commit {WRITERS} writers"
    return [
        _cell("commit 1 writer", rates, "ours", {name: name for name in peers}, 1.0),
        _cell(group, rates, "own branches", {"1 writer": "ours"}, 5.0),
        _cell(f"{group}, one branch", rates, "one branch", {"1 writer": "ours"}, 1.0),
        _cell(f"{group}, flush + 5 ms", rates, "slow group", {"1 writer": "slow"}, 5.0),
    ]


def _cell(
    name: str, rates: dict[str, list[float]], mine: str, peers: dict[str, str], goal: float
) -> Cell:
    best = [max(each) for each in zip(*(rates[key] for key in peers.values()), strict=True)]
    pairs = tuple(a / b for a, b in zip(rates[mine], best, strict=True))
    shown = {label: median(rates[key]) for label, key in peers.items()}
    return Cell(name, median(rates[mine]), shown, goal, unit="1/s", pairs=pairs)


def ours(path: Path, count: int, writers: int, *, same: bool = False) -> float:
    """Commit through the asynchronous API; return the seconds from the first to the last."""
    return uvloop.run(_ours(path, count, writers, same))


async def _ours(path: Path, count: int, writers: int, same: bool) -> float:
    async with Repository.open(path) as repo:

        async def writer(number: int, commits: range) -> None:
            branch = repo.branch("main" if same else f"w{number}")
            for i in commits:
                async with branch.transaction(f"{i}") as t:
                    t.write(f"{number}/{i % FILES}", _content(i))

        await asyncio.gather(*(writer(k, range(FILES)) for k in range(writers)))
        began = time.perf_counter()
        more = range(FILES, FILES + count // writers)
        await asyncio.gather(*(writer(k, more) for k in range(writers)))
        return time.perf_counter() - began


def slower(path: Path, count: int, writers: int) -> float:
    """Do the same on a disk whose flush takes longer."""
    with _slow_disk():
        return ours(path, count, writers)


@contextmanager
def _slow_disk() -> Iterator[None]:
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        time.sleep(SLOWER)
        real(fd)

    os.fdatasync = fdatasync
    try:
        yield
    finally:
        os.fdatasync = real


def dulwich(path: Path, count: int) -> float:
    """Write loose objects and move the reference by compare-and-set."""
    repo = Repo.init_bare(str(path), mkdir=True)
    repo.object_store.fsync_object_files = True
    entries: dict[bytes, bytes] = {}
    head: bytes | None = None
    began = 0.0
    for i in range(FILES + count):
        if i == FILES:
            began = time.perf_counter()
        blob = Blob.from_string(_content(i))
        entries[b"%d" % (i % FILES)] = blob.id
        inner, root, commit = Tree(), Tree(), Commit()
        for name, oid in entries.items():
            inner.add(name, 0o100644, oid)
        root.add(b"0", 0o040000, inner.id)
        commit.tree, commit.parents = root.id, [head] if head else []
        commit.author = commit.committer = WHO
        commit.author_time = commit.commit_time = WHEN + i
        commit.author_timezone = commit.commit_timezone = 0
        commit.message = b"%d\n" % i
        for each in (blob, inner, root, commit):
            repo.object_store.add_object(each)
        assert repo.refs.set_if_equals(b"refs/heads/main", head, commit.id)
        head = commit.id
    took = time.perf_counter() - began
    repo.close()
    return took


def plumbing(path: Path, count: int) -> float:
    """Run five processes of C git a commit."""
    subprocess.run(["git", "init", "-q", "--bare", str(path)], check=True)
    env = os.environ | {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "bench"), ("EMAIL", "bench@localhost"))
    }

    def git(*words: str, text: bytes = b"") -> str:
        argv = ["git", "-C", str(path), *GIT, *words]
        done = subprocess.run(argv, input=text, env=env, capture_output=True, check=True)
        return done.stdout.decode().strip()

    entries: dict[int, str] = {}
    head = ""
    began = time.perf_counter()
    for i in range(count):
        entries[i % FILES] = git("hash-object", "-w", "--stdin", text=_content(i))
        lines = "".join(f"100644 blob {oid}\t{name}\n" for name, oid in entries.items())
        inner = git("mktree", text=lines.encode())
        root = git("mktree", text=f"040000 tree {inner}\t0\n".encode())
        parent = ["-p", head] if head else []
        new = git("commit-tree", root, *parent, "-m", str(i))
        git("update-ref", "refs/heads/main", new, head or "0" * 40)
        head = new
    return time.perf_counter() - began


def libgit2(path: Path, count: int) -> float:
    """Commit through pygit2."""
    pygit2.settings.enable_fsync_gitdir(True)
    repo = pygit2.init_repository(str(path), bare=True)
    inner = repo.TreeBuilder()
    head: list[object] = []
    began = 0.0
    for i in range(FILES + count):
        if i == FILES:
            began = time.perf_counter()
        who = pygit2.Signature("bench", "bench@localhost", WHEN + i, 0)
        inner.insert(str(i % FILES), repo.create_blob(_content(i)), pygit2.enums.FileMode.BLOB)
        root = repo.TreeBuilder()
        root.insert("0", inner.write(), pygit2.enums.FileMode.TREE)
        commit = repo.create_commit("refs/heads/main", who, who, f"{i}", root.write(), head)
        head = [commit]
    return time.perf_counter() - began


def _content(i: int) -> bytes:
    return b"%099d\n" % i

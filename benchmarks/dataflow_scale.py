"""What grows with history and with the number of files: commits, start-up and walks.

The repositories come from `git fast-import`, with 10,000 packed branches:

- spread: 100,000 files in 1,000 directories, 100,000 commits, the last 2,500 of which change a file
  each (those before change one file of a small tree); the commits that are measured change fifty
  files in fifty of the directories, over and over;
- flat: 100,000 files in one directory: its tree is an object of 3.7 MB, of which every commit
  writes a new one, so hashing and writing that is what a commit costs at least (the cell `limit`
  times just this: SHA-1, a write and an fsync of so many octets).

Commits to the large and to an empty repository take turns, and so do the peers of the other cells:
C git doing the same.  `--quick` has a tenth of everything; the names of the cells say the sizes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import uvloop

from benchmarks.report import Cell
from dataflow import Repository
from dataflow.store.index import History
from dataflow.tree.history import is_ancestor

T = TypeVar("T")
WHEN = 1_600_000_000
DIRECTORIES = 1000
SLOWDOWN = 1.5  # that the issue allows
GIT = ("git", "-c", "core.commitGraph=true")


@dataclass(frozen=True, slots=True)
class Size:
    """How large a repository is; `recent` commits change the many files."""

    files: int
    commits: int
    branches: int
    recent: int
    flat: bool = False

    def name(self, i: int) -> str:
        """Return the path of the i-th file, which commits take in an order that jumps about."""
        i = i * 7919 % self.files
        return f"f{i:06d}" if self.flat else f"d{i % DIRECTORIES:03d}/f{i:06d}"


def cells(where: Path, quick: bool) -> list[Cell]:
    """Build the repositories and measure."""
    part = 10 if quick else 1
    spread = Size(100_000 // part, 100_000 // part, 10_000 // part, 2_500 // part)
    flat = Size(100_000 // part, 100_000 // part, 10_000 // part, 10, flat=True)
    build(where / "spread", spread)
    build(where / "flat", flat)
    rounds = 40 if quick else 150
    out = [start_up(where / "spread", spread, known=False)]
    fill(where / "spread")
    fill(where / "flat")
    out.append(start_up(where / "spread", spread, known=True))
    out += walks(where / "spread", spread)
    out += uvloop.run(commits(where, "spread", spread, rounds))
    out += uvloop.run(commits(where, "flat", flat, rounds))
    out.append(uvloop.run(packing(where / "packing", 300 if quick else 1500)))
    return out


# The repositories.


def build(path: Path, size: Size) -> None:
    """Make a repository with `git fast-import`."""
    git(path.parent, "init", "-q", "--bare", "-b", "main", path.name)
    importing = subprocess.Popen(
        [*GIT, "-C", str(path), "fast-import", "--quiet", "--force"], stdin=subprocess.PIPE
    )
    assert importing.stdin is not None
    with importing.stdin as stream:
        for piece in _import(size):
            stream.write(piece)
    assert importing.wait() == 0
    recent = git(path, "rev-list", f"--max-count={size.branches}", "main").split()
    heads = {f"refs/heads/b{i:05d}": recent[i % len(recent)] for i in range(size.branches)}
    heads["refs/heads/main"] = recent[0]
    lines = "".join(f"{oid} {name}\n" for name, oid in sorted(heads.items()))
    (path / "packed-refs").write_text("# pack-refs with: peeled fully-peeled sorted \n" + lines)
    (path / "refs/heads/main").unlink()


def _import(size: Size) -> Iterator[bytes]:
    yield b"blob\nmark :1\ndata 2\nx\n\n"
    for i in range(size.commits):
        yield b"commit refs/heads/main\ncommitter b <b@b> %d +0000\ndata 7\n%06d\n\n" % (
            WHEN + i,
            i,
        )
        content = b"data 7\n%06d\n\n" % i
        if i < size.commits - size.recent:
            yield b"M 100644 inline start\n" + content
        else:
            yield b"M 100644 inline %s\n" % size.name(i).encode() + content
        if i == size.commits - size.recent - 1:
            for k in range(size.files):
                yield b"M 100644 :1 %s\n" % size.name(k).encode()
            yield b"\n"


def git(path: Path, *words: str) -> str:
    """Run C git."""
    argv = [*GIT, "-C", str(path), *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def timed(act: Callable[[], T]) -> tuple[float, T]:
    """Return the milliseconds something takes, and its result."""
    began = time.perf_counter()
    result = act()
    return (time.perf_counter() - began) * 1e3, result


def best(act: Callable[[], object], turns: int = 5) -> float:
    """Return the least of a few times, in milliseconds: what others do here only adds."""
    return min(timed(act)[0] for _ in range(turns))


def fill(path: Path) -> None:
    """Make the index of history, as a repository in use has it."""
    with Repository.open(path) as repo:
        head = repo.engine.head("main")
        history = repo.engine.store.history
        assert head is not None
        assert isinstance(history, History)
        history.fill(head, repo.engine.objects.link)


# Start-up and walks.


def start_up(path: Path, size: Size, *, known: bool) -> Cell:
    """Open, list the branches, and get the first event of a watch from 10 commits back."""
    since = git(path, "rev-parse", "main~10").strip()

    async def start() -> None:
        async with Repository.open(path) as repo:
            assert len(await repo.branches()) == size.branches + 1
            watch = repo.branch("main").watch(since=since)
            await anext(watch)

    took = best(lambda: uvloop.run(start()))
    label = "" if known else ", no index yet"
    name = f"scale start-up, {size.branches} branches{label}"
    return Cell(name, took, {"allowed": 1000.0}, better="lower", unit="ms")


def walks(path: Path, size: Size) -> list[Cell]:
    """Ask for what is near and for what is far, with C git beside."""
    far = size.commits // 2
    back = size.recent * 9 // 10
    heads = git(path, "rev-list", "main").split()
    with Repository.open(path) as repo:
        engine, objects = repo.engine, repo.engine.objects

        def last_change() -> None:
            objects.forget()
            found = next(iter(engine.log(heads[0], limit=1, path=(b"start",))))
            assert found.oid == heads[size.recent]

        def ancestor() -> None:
            assert is_ancestor(objects, heads[far], heads[0])

        def log() -> None:
            objects.forget()
            assert len(list(engine.log(heads[0], limit=10))) == 10

        asks: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
            "log of 10": (log, ("log", "-10", "main")),
            f"last change of a path, {size.recent} back": (
                last_change, ("log", "-1", "--format=%H", "main", "--", "start"),
            ),
            f"ancestor {far} back": (
                ancestor, ("merge-base", "--is-ancestor", heads[far], heads[0]),
            ),
            "10,000 branches" if size.branches == 10_000 else f"{size.branches} branches": (
                engine.branches, ("for-each-ref", "refs/heads"),
            ),
        }  # fmt: skip
        made = [
            Cell(
                f"scale {name}", best(ours),
                {"git": best(lambda words=words: git(path, *words))}, better="lower", unit="ms",
            )
            for name, (ours, words) in asks.items()
        ]  # fmt: skip
    made += [_resume(path, heads, n) for n in (back, far)]
    return made


def _resume(path: Path, heads: list[str], back: int) -> Cell:
    async def first() -> None:
        async with Repository.open(path) as repo:
            watch = repo.branch("main").watch(since=heads[back])
            assert (await anext(watch)).commit == heads[back - 1]

    ours = best(lambda: uvloop.run(first()))
    theirs = best(lambda: _first_line(path, f"{heads[back]}..main"))
    name = f"scale watch from {back} back, first event"
    return Cell(name, ours, {"git log": theirs}, better="lower", unit="ms")


def _first_line(path: Path, revisions: str) -> None:
    words = [*GIT, "-C", str(path), "log", "--reverse", "--format=%H", "--raw", revisions]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.kill()


# Commits.


async def commits(where: Path, name: str, size: Size, rounds: int) -> list[Cell]:
    """Commit one file of fifty in turns to the large and to an empty repository."""
    large, small, limit = [], [], []
    async with (
        Repository.open(where / name) as ours,
        Repository.open(where / f"{name}-empty") as empty,
    ):
        for i in range(rounds + 50):
            content = b"%d" % i
            large.append(await _took(_commit(ours, size.name(i % 50), content)))
            small.append(await _took(_commit(empty, f"f{i % 50}", content)))
            if size.flat and i % 5 == 0:
                limit.append(await asyncio.to_thread(_write_tree, where / "octets", size))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    pairs = tuple(b / a for a, b in zip(large[50:], small[50:], strict=True))
    directories = 1 if size.flat else DIRECTORIES
    label = (
        f"scale commit, {size.files} files in {directories} director{'y' if size.flat else 'ies'}"
    )
    peers = {"empty": median(small[50:]), **({"octets alone": median(limit)} if limit else {})}
    ours_ms = median(large[50:])
    return [
        Cell(label, ours_ms, peers, 1 / SLOWDOWN, "lower", "ms", pairs),
        Cell(f"scale memory after {name}", memory, {"allowed": 400.0}, better="lower", unit="MiB"),
    ]


async def _took(job: Coroutine[Any, Any, None]) -> float:
    began = time.perf_counter()
    await job
    return (time.perf_counter() - began) * 1e3


async def _commit(repo: Repository, path: str, content: bytes) -> None:
    async with repo.branch("main").transaction("x") as t:
        t.write(path, content)


def _write_tree(path: Path, size: Size) -> float:
    """Hash, write and sync the octets of the flat tree: what any store of loose objects pays."""
    data = os.urandom(size.files * 35)

    def write() -> None:
        hashlib.sha1(data, usedforsecurity=False).digest()
        with open(path, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())

    return timed(write)[0]


async def packing(path: Path, count: int) -> Cell:
    """Commit with packing every 600 objects and without, in turns."""
    packed, loose = [], []
    async with (
        Repository.open(path, pack_limit=600) as ours,
        Repository.open(path.with_name("loose"), pack_limit=0) as other,
    ):
        for i in range(count):
            packed.append(await _took(_commit(ours, f"f{i % 50}", b"%d" % i)))
            loose.append(await _took(_commit(other, f"f{i % 50}", b"%d" % i)))
    took, without = sum(packed) / count, sum(loose) / count
    name = "scale commit while packing, mean"
    return Cell(name, took, {"no packing": without}, 1 / SLOWDOWN, "lower", "ms")

"""Watches: 1,000 watchers of one branch and 10,000 commits, and what others push.

Each measurement is a process of its own, whose watchers check that they get every event that
concerns them, once and in order.  The time counts from the moment the branch has moved (before
anybody is told) to the reader's hands.  The limits are the issue's; "polled" is the same program
where it may not use inotify, at its interval of 50 ms.

    dataflow_watch.py [--quick] [--json FILE] [--cells PATTERN]
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import uvloop

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.harness import output  # noqa: E402
from benchmarks.report import Cell, Report  # noqa: E402
from benchmarks.sheet import finish, options, selected  # noqa: E402
from dataflow import Repository, Watch  # noqa: E402
from dataflow.branch import watching  # noqa: E402

WATCHERS = 1000
COMMITS, QUICK_COMMITS = 10_000, 400
PUSHES, QUICK_PUSHES = 100, 20
LIMIT_MS = 20.0
FLAT = 0.8  # of the memory at half of the commits, what the end may be: 1.25 times
SHM = "/dev/shm" if os.path.isdir("/dev/shm") else None  # the disk is not what is measured
STEP = 1e-4  # seconds, of the histogram
KINDS = {
    "every": f"watch: {WATCHERS} watchers of all",
    "own": f"watch: {WATCHERS} watchers of a path each",
}
OUTSIDE = "watch: from a git update-ref to the event"


class Times:
    """A histogram: ten million samples in a fixed place."""

    def __init__(self) -> None:
        self.counts = array("Q", bytes(8 * 20_000))
        self.total = 0

    def add(self, seconds: float) -> None:
        """Note one."""
        self.counts[min(int(seconds / STEP), len(self.counts) - 1)] += 1
        self.total += 1

    def quantile(self, q: float) -> float:
        """Return milliseconds."""
        left = q * self.total
        for i, count in enumerate(self.counts):
            left -= count
            if left <= 0:
                return (i + 1) * STEP * 1e3
        return 0.0


class Fan:
    """Some watchers and a committer."""

    def __init__(self, repo: Repository, kind: str, commits: int) -> None:
        self.repo = repo
        self.main = repo.branch("main")
        self.own = kind == "own"
        self.commits = commits
        self.times = Times()
        self.moved_at: dict[str, float] = {}
        self.wrong = 0
        self._told = repo.engine.moved
        repo.engine.moved = self._moved

    def _moved(self, branch: str) -> None:
        head = self.repo.engine.head(branch)
        assert head is not None
        self.moved_at[head] = time.perf_counter()
        self._told(branch)

    async def reader(self, number: int, watch: Watch) -> None:
        """Take all that concerns this watcher and check it."""
        step = WATCHERS if self.own else 1
        wanted = number if self.own else 0
        while wanted < self.commits:
            change = await anext(watch)
            now = time.perf_counter()
            self.times.add(now - self.moved_at.get(change.commit, now))  # told before the writer
            self.wrong += int(change.message) != wanted
            wanted += step
        watch.close()

    async def run(self) -> dict[str, float]:
        """Measure."""
        readers = []
        for i in range(WATCHERS):
            watch = self.main.watch(f"d{i}" if self.own else "")
            readers.append(asyncio.create_task(self.reader(i, watch)))
        await asyncio.sleep(0)
        half = 0.0
        begin = time.perf_counter()
        for i in range(self.commits):
            async with self.main.transaction(str(i)) as t:
                t.write(f"d{i % WATCHERS}/f", b"%d" % i)
            if i == self.commits // 2:
                half = resident()
        await asyncio.gather(*readers)
        seconds = time.perf_counter() - begin
        return {
            "events": self.times.total - self.wrong,
            "p50": self.times.quantile(0.5),
            "p99": self.times.quantile(0.99),
            "rate": self.commits / seconds,
            "half": half,
            "end": resident(),
            "left": self.repo.statistics().watches,
        }


def resident() -> float:
    """Return MiB of memory that this process has now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


async def fan(path: str, kind: str, commits: int) -> dict[str, float]:
    """Run the watchers."""
    async with Repository.open(path) as repo:
        return await Fan(repo, kind, commits).run()


async def outside(path: str, kind: str, pushes: int) -> dict[str, float]:
    """Move a branch with git, from outside, and wait for the event."""
    if kind == "polled":
        watching.is_local = lambda path: False  # type: ignore[assignment]
    took = []
    async with Repository.open(path) as repo:
        ids = []
        for i in range(pushes):
            async with repo.branch("other").transaction(str(i)) as t:
                t.write("f", b"%d" % i)
            ids.append(repo.branch("other").head)
        watch = repo.branch("main").watch()
        for oid in ids:
            waiting = asyncio.create_task(anext(watch))
            argv = ["git", "-C", path, "update-ref", "refs/heads/main", str(oid)]
            done = await asyncio.to_thread(subprocess.run, argv, check=True)
            assert done.returncode == 0
            moved = os.stat(f"{path}/refs/heads/main").st_mtime
            assert (await waiting).commit == oid
            took.append(time.time() - moved)
            await asyncio.sleep(0.013)  # not in step with the polls
    took.sort()
    return {"p50": took[len(took) // 2] * 1e3}


def measure(kind: str, count: int, timeout: float) -> dict[str, float]:
    """Run one measurement in a process of its own."""
    argv = [sys.executable, "-m", "benchmarks.dataflow_watch", "--measure", kind, "--count", count]
    found: dict[str, float] = json.loads(output(list(map(str, argv)), timeout))
    return found


def cells(quick: bool, wanted: Sequence[str] = ()) -> Iterator[Cell]:
    """Measure; yields a cell for each figure."""
    commits = QUICK_COMMITS if quick else COMMITS
    for kind, name in KINDS.items():
        if selected(name, wanted):
            yield from _fan_cells(name, kind, commits)
    if selected(OUTSIDE, wanted):
        pushes = QUICK_PUSHES if quick else PUSHES
        ours, polled = (measure(kind, pushes, 60)["p50"] for kind in ("inotify", "polled"))
        yield Cell(OUTSIDE, ours, {"polled": polled}, 1.0, "lower", "ms, median")


def _fan_cells(name: str, kind: str, commits: int) -> Iterator[Cell]:
    found = measure(kind, commits, 900)
    made = commits * (1 if kind == "own" else WATCHERS)
    what = f"{name}, {commits} commits"
    yield Cell(f"{what}: events, once and in order", found["events"], {"made": made})
    yield Cell(f"{what}: p99", found["p99"], {"limit": LIMIT_MS}, 1.0, "lower", "ms")
    yield Cell(f"{what}: p50", found["p50"], {"limit": LIMIT_MS}, 1.0, "lower", "ms")
    half = {"at half": found["half"]}
    yield Cell(f"{what}: memory", found["end"], half, FLAT, "lower", "MiB")
    events = made / commits * found["rate"]
    yield Cell(f"{what}: events a second", events, {"commits": found["rate"]}, 0.0)


@click.command(help=__doc__)
@options
@click.option("--measure", "kind", hidden=True)
@click.option("--count", type=int, hidden=True)
def main(json_path: Path | None, quick: bool, kind: str, count: int, **chosen: Any) -> None:
    """Measure and print."""
    if kind:
        with tempfile.TemporaryDirectory(prefix="bench-watch-", dir=SHM) as directory:
            job = outside if kind in {"inotify", "polled"} else fan
            print(json.dumps(uvloop.run(job(f"{directory}/r.git", kind, count))))
        return
    report = Report("dataflow: watches")
    for cell in cells(quick, chosen["cells"]):
        report.add(cell)
    report.print()
    if json_path is not None:
        report.write(json_path)


if __name__ == "__main__":
    finish(main)

"""A process that commits, merges and packs at random until it is killed; see test_dataflow_faults.

`dataflow_writer.py REPOSITORY SEED ROUND`: after each operation it prints the heads that were
acknowledged, one JSON object a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys

from dataflow import DataflowError, Repository
from dataflow.store import disk

TASKS = 6
BRANCHES = ("main", "side", "topic/a")


def tell(**heads: str) -> None:
    """Print what is acknowledged, in one write."""
    os.write(1, json.dumps(heads).encode() + b"\n")


async def commit(repo: Repository, rng: random.Random, where: str) -> None:
    """Commit a few files to one branch."""
    branch = rng.choice(("main", "main", *BRANCHES))
    async with repo.branch(branch).transaction(where) as t:
        for k in range(rng.randint(1, 3)):
            t.write(f"{where.split('.')[1]}/{k}", rng.randbytes(rng.choice((20, 500, 5000))))
    assert t.result is not None
    tell(**{branch: t.result.head, branch + " ": t.result.commit})


async def together(repo: Repository, rng: random.Random, where: str) -> None:
    """Move two branches at once."""
    names = rng.sample(BRANCHES, 2)
    async with repo.transaction(*names, message=where) as t:
        for name in names:
            t[name].write(f"{where.split('.')[1]}/both", where.encode())
    tell(**{name: result.head for name, result in t.results.items()})


async def merge(repo: Repository, rng: random.Random, where: str) -> None:
    """Merge one branch into another."""
    into, other = rng.sample(BRANCHES, 2)
    if repo.branch(other).head:
        with contextlib.suppress(DataflowError):  # both changed a file: a conflict
            result = await repo.branch(into).merge(other, rng.choice(("", where)))
            tell(**{into: result.head})


async def pack(repo: Repository, rng: random.Random, where: str) -> None:
    """Let plain git pack beside us."""
    words = rng.choice((["repack", "-dq"], ["repack", "-adq"], ["pack-refs", "--all"]))
    argv = ["git", "-C", sys.argv[1], *words]
    await asyncio.to_thread(subprocess.run, argv, stderr=subprocess.DEVNULL, check=False)


async def task(repo: Repository, rng: random.Random, name: str) -> None:
    """Do random operations for ever."""
    for i in range(1 << 30):
        act = rng.choices((commit, together, merge, pack), (20, 3, 2, 0.4))[0]
        await act(repo, rng, f"{name}.{i}")


async def main() -> None:
    """Run several tasks."""
    path, seed, turn = sys.argv[1:]
    async with Repository.open(path) as repo:
        # Small halves, so that the journal turns and is synced in between.
        repo.engine.store._journal._segment = 65536  # type: ignore[attr-defined]
        disk.PACK_FROM = 6 if int(turn) % 2 else 24  # groups become packs, or loose files
        tell()
        rngs = [random.Random(f"{seed} {turn} {i}") for i in range(TASKS)]
        async with asyncio.TaskGroup() as group:
            for i, rng in enumerate(rngs):
                group.create_task(task(repo, rng, f"r{turn}.t{i}"))


asyncio.run(main())

"""What a test leaves in its process: threads, descriptors, mappings of guest memory.

A conftest that imports the two hooks checks every test beneath it, after all its fixtures are
gone; the failure names what was left.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

PATIENCE = 5.0  # seconds: the kernel takes a moment to forget a thread that has been joined
PROC = Path("/proc/self")


@dataclass(frozen=True)
class Held:
    """What a process holds: descriptors and threads by number, mappings by range."""

    descriptors: dict[int, str]
    threads: dict[int, str]
    mappings: dict[str, str]

    @classmethod
    def now(cls) -> Held:
        """Take a look."""
        return cls(_descriptors(), _threads(), _mappings())

    def beyond(self, before: Held) -> list[str]:
        """Name what is held here and was not `before`."""
        return [
            f"{kind} {key} ({value})"
            for kind, now, then in (
                ("descriptor", self.descriptors, before.descriptors),
                ("thread", self.threads, before.threads),
                ("mapping", self.mappings, before.mappings),
            )
            for key, value in now.items()
            if then.get(key) != value
        ]


def _descriptors() -> dict[int, str]:
    found = {}
    for number in os.listdir(PROC / "fd"):
        try:
            found[int(number)] = os.readlink(PROC / "fd" / number)
        except OSError:  # the one that lists the directory
            continue
    return found


def _threads() -> dict[int, str]:
    found = {}
    for task in os.listdir(PROC / "task"):
        try:
            found[int(task)] = (PROC / "task" / task / "comm").read_text().strip()
        except OSError:  # it has just ended
            continue
    return found


def _mappings() -> dict[str, str]:
    lines = (PROC / "maps").read_text().splitlines()
    rows = [line.split(maxsplit=5) for line in lines if "memfd:" in line or "kvm" in line]
    return {row[0]: row[5] for row in rows}


def leaked(before: Held) -> list[str]:
    """Name what the process holds beyond `before`; waits for what is just going."""
    deadline = time.monotonic() + PATIENCE
    while found := Held.now().beyond(before):
        if time.monotonic() > deadline:
            return found
        gc.collect()
        os.sched_yield()
    return []


def settles(count: Callable[[], tuple[int, ...]], before: tuple[int, ...]) -> bool:
    """Say whether no number that `count` returns is, or soon will be, above the one `before`."""
    deadline = time.monotonic() + PATIENCE
    while any(now > then for now, then in zip(count(), before, strict=True)):
        if time.monotonic() > deadline:
            return False
        gc.collect()
        os.sched_yield()
    return True


BEFORE = pytest.StashKey[Held]()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Look before the first fixture."""
    item.stash[BEFORE] = Held.now()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Look after the last fixture, and fail the test with the names of what it left."""
    result = yield
    if found := leaked(item.stash[BEFORE]):
        pytest.fail(f"left behind: {', '.join(found)}", pytrace=False)
    return result

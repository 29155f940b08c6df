"""Auto-push: what changes arrives, failures are told and tried again, a restart misses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager

import pytest

from dataflow import Repository
from dataflow.sync.mirror import AutoPushStatistics

from .conftest import commit


@asynccontextmanager
async def opened(tmp_path, target: str, **options):
    """Open our repository with a push that hurries."""
    repo = Repository.open(tmp_path / "ours.git", fsync=False, auto_push=target)
    assert repo.auto_push is not None
    repo.auto_push.debounce = 0.001
    for name, value in options.items():
        setattr(repo.auto_push, name, value)
    async with repo, asyncio.timeout(20):
        yield repo


async def until(repo: Repository, met: Callable[[AutoPushStatistics], bool]) -> None:
    """Wait for a push after which `met` holds."""
    event = asyncio.Event()
    repo.auto_push.on_result = lambda found: event.set()
    while not met(repo.auto_push.statistics()):
        event.clear()
        await event.wait()


async def put(repo: Repository, branch: str, data: bytes) -> str:
    async with repo.branch(branch).transaction("put") as t:
        t.write("f", data)
    return t.result.head


def heads(path: str) -> dict[str, str]:
    with Repository.open(path) as repo:
        return repo.engine.branches()


@pytest.fixture
def empty(tmp_path) -> str:
    path = tmp_path / "mirror.git"
    Repository.open(path, fsync=False).close()
    return str(path)


async def test_commits_of_all_branches_arrive(tmp_path, empty) -> None:
    async with opened(tmp_path, empty) as repo:
        made = {b: await put(repo, b, b"1") for b in ("main", "a/b")}
        await repo.auto_push.wait_idle()
        assert heads(empty) == made
        made["main"] = await put(repo, "main", b"2")
        await repo.auto_push.wait_idle()
        assert heads(empty) == made
        found = repo.auto_push.statistics()
    assert (found.failures, found.refused, found.waiting, found.last_error) == (0, 0, 0, "")
    assert found.branches >= 3


async def test_a_burst_is_few_pushes(tmp_path, empty) -> None:
    async with opened(tmp_path, empty, debounce=0.2) as repo:
        for i in range(20):
            last = await put(repo, "main", b"%d" % i)
        await repo.auto_push.wait_idle()
        assert heads(empty) == {"main": last}
        assert repo.auto_push.statistics().pushes < 10


async def test_a_restart_pushes_what_was_missed(tmp_path, empty) -> None:
    with Repository.open(tmp_path / "ours.git") as repo:
        missed = commit(repo, "f", b"1")
    async with opened(tmp_path, empty) as repo:
        await repo.auto_push.wait_idle()
    assert heads(empty) == {"main": missed}


async def test_failures_are_counted_told_and_tried_again(tmp_path, caplog) -> None:
    path = tmp_path / "later.git"
    async with opened(tmp_path, str(path)) as repo:
        made = await put(repo, "main", b"1")
        await until(repo, lambda found: found.failures >= 3)
        found = repo.auto_push.statistics()
        assert found.waiting == 1
        assert found.last_error.startswith(f"error: cannot push to {path}: ")
        await asyncio.to_thread(lambda: Repository.open(path).close())
        await repo.auto_push.wait_idle()
        assert heads(str(path)) == {"main": made}
        assert repo.auto_push.statistics().last_error == ""
    assert "auto-push to" in caplog.text


@pytest.mark.parametrize("force", [False, True])
async def test_foreign_commits_are_overwritten_only_by_force(tmp_path, empty, force) -> None:
    with Repository.open(empty) as theirs:
        foreign = commit(theirs, "theirs", b"1")
    async with opened(tmp_path, empty, force=force) as repo:
        ours = await put(repo, "main", b"1")
        side = await put(repo, "side", b"1")
        if force:
            await repo.auto_push.wait_idle()
            assert heads(empty) == {"main": ours, "side": side}
            return
        await until(repo, lambda found: found.refused >= 2)
        assert heads(empty) == {"main": foreign, "side": side}
        assert repo.auto_push.statistics().last_error.startswith("not-fast-forward")
        up = await repo.remotes.add("up", empty)
        await up.pull("main")  # the way out
        await repo.auto_push.wait_idle()
        assert heads(empty)["main"] == repo.branch("main").head


async def test_a_remote_by_name(tmp_path, empty) -> None:
    with Repository.open(tmp_path / "ours.git") as repo:
        commit(repo, "f", b"1")
        repo.remotes._config.add("backup", empty)
    async with opened(tmp_path, "backup") as repo:
        await repo.auto_push.wait_idle()
        assert heads(empty) == await repo.branches()


async def test_outside_commits_are_found_by_looking(tmp_path, empty) -> None:
    async with opened(tmp_path, empty, scan=0.001) as repo:
        await repo.auto_push.wait_idle()

        def outside() -> str:
            with Repository.open(tmp_path / "ours.git") as other:
                return commit(other, "f", b"1")

        made = await asyncio.to_thread(outside)
        await until(repo, lambda found: heads(empty) == {"main": made})

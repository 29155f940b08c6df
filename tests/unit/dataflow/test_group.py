"""Groups of commits: one update for all, each job fails alone, several branches move together."""

import asyncio
import errno
import threading

import pytest

from dataflow import Repository
from dataflow.branch.worker import Job
from dataflow.errors import (
    ExistsError,
    MergeConflictError,
    RefChangedError,
    RefLockedError,
    UsageError,
)
from dataflow.store.base import HEADS, Kind, RefUpdate
from dataflow.store.disk import DiskStore
from dataflow.store.memory import MemoryStore


class Recorder(MemoryStore):
    """A store that counts updates and fails those that `refuse` says."""

    def __init__(self) -> None:
        super().__init__()
        self.updates: list[int] = []
        self.refuse = lambda updates, objects: None
        self.fresh: list[bytes] = []

    def put(self, kind, data):
        self.fresh.append(bytes(data))
        return super().put(kind, data)

    def update(self, updates) -> None:
        fresh, self.fresh = self.fresh, []
        self.refuse(updates, fresh)
        super().update(updates)
        self.updates.append(len(updates))


@pytest.fixture
def repo():
    with Repository(Recorder()) as made:
        yield made


def job(repo, branch: str, path: str = "f", data: bytes = b"x", **options) -> Job:
    t = repo.branch(branch).transaction(f"{branch} {path}", **options)
    t.write(path, data)
    made = Job(t.stage)
    made.t = t
    return made


class Job(Job):  # with room for the transaction
    __slots__ = ("t",)


def carry_out(repo, *jobs: Job) -> list[BaseException | None]:
    repo.engine.groups.carry_out(jobs)
    return [j.error for j in jobs]


def messages(repo, branch: str) -> list[str]:
    engine = repo.engine
    return [c.message.strip() for c in engine.log(engine.head(branch))]


def test_one_update_for_many_commits(repo) -> None:
    jobs = [job(repo, f"b{i}") for i in range(5)]
    assert carry_out(repo, *jobs) == [None] * 5
    assert repo.engine.store.updates == [5]
    assert all(j.t.closed and j.t.result == j.result for j in jobs)


def test_second_commit_of_a_branch_sees_the_first(repo) -> None:
    jobs = [job(repo, "main", name) for name in "abc"]
    assert carry_out(repo, *jobs) == [None] * 3
    assert repo.engine.store.updates == [1]
    assert messages(repo, "main") == ["Merge", "Merge", "main a"]
    assert repo.engine.objects.commit(jobs[2].result.head).parents == (
        jobs[1].result.head,
        jobs[2].result.commit,
    )


def test_nobody_else_sees_a_head_before_it_is_durable(repo) -> None:
    store, seen = repo.engine.store, []

    def look(updates, objects) -> None:
        thread = threading.Thread(target=lambda: seen.append(repo.engine.head("main")))
        thread.start()
        thread.join()
        seen.append(repo.engine.head("main"))

    store.refuse = look
    first = job(repo, "main")
    carry_out(repo, first)
    assert seen == [None, first.result.head]


def test_conflict_fails_alone(repo) -> None:
    carry_out(repo, job(repo, "main", "f", b"0"))
    jobs = [job(repo, "main", "f", b"%d" % i) for i in (1, 2)] + [job(repo, "main", "g")]
    first, second, third = carry_out(repo, *jobs)
    assert (first, third) == (None, None)
    assert isinstance(second, MergeConflictError)
    assert not jobs[1].t.closed
    assert jobs[1].t.read("f") == b"2"
    assert repo.engine.tree(repo.engine.head("main")).read((b"f",)) == b"1"


def test_full_disk_fails_alone(repo) -> None:
    def full(updates, objects) -> None:
        if any(len(data) > 1000 for data in objects):
            raise OSError(errno.ENOSPC, "No space left on device")

    repo.engine.store.refuse = full
    jobs = [job(repo, "a"), job(repo, "big", "f", bytes(2000)), job(repo, "b")]
    first, big, last = carry_out(repo, *jobs)
    assert (first, last) == (None, None)
    assert big.errno == errno.ENOSPC
    assert repo.engine.branches().keys() == {"a", "b"}
    assert not jobs[1].t.closed
    jobs[1].t.write("f", b"small")
    jobs[1].t.commit_now()
    assert repo.engine.head("big") == jobs[1].t.result.head


def test_another_git_moves_a_branch_under_the_group(repo) -> None:
    store = repo.engine.store
    theirs = job(repo, "elsewhere", "theirs")
    carry_out(repo, theirs)
    store.refuse = lambda updates, objects: (
        store._refs.setdefault(HEADS + "main", theirs.result.head) and None
    )
    jobs = [job(repo, "main", "ours"), job(repo, "other")]
    assert carry_out(repo, *jobs) == [None, None]
    assert sorted(n.decode() for n in repo.engine.tree(repo.engine.head("main")).entries()) == [
        "ours",
        "theirs",
    ]
    assert jobs[0].result.merged


def test_branch_that_moves_for_ever_ends_with_an_error(repo) -> None:
    store = repo.engine.store
    ids = [store.put(Kind.BLOB, b"%d" % i) for i in range(2)]
    calls = []

    def spin(updates, objects) -> None:
        calls.append(1)
        if updates[0].name.endswith("main"):
            raise RefChangedError(updates[0].name, ids[0], ids[1])

    store.refuse = spin
    main, other = carry_out(repo, job(repo, "main"), job(repo, "other"))
    assert isinstance(main, RefChangedError)
    assert other is None
    assert len(calls) == 102


def test_expected_head(repo) -> None:
    first = job(repo, "main", expect="")
    late = job(repo, "main", "g", expect="")
    none, error = carry_out(repo, first, late)
    assert none is None
    assert isinstance(error, RefChangedError)
    assert (error.expected, error.found) == (None, first.result.head)
    assert carry_out(repo, job(repo, "main", "h", expect=first.result.head)) == [None]
    assert messages(repo, "main") == ["main h", "main f"]


def test_several_branches_move_together(repo) -> None:
    with repo.transaction("a", "b", "c", message="all") as t:
        t["a"].write("f", b"1")
        t["b"].write("f", b"2")
    assert t.results.keys() == {"a", "b"}
    assert repo.engine.branches() == {name: r.head for name, r in t.results.items()}
    assert repo.engine.store.updates == [2]
    assert all(part.closed for part in t.values())


def test_several_branches_move_together_or_not_at_all(repo) -> None:
    carry_out(repo, job(repo, "b", "f", b"0"))
    t = repo.transaction("a", "b", "c")
    for name in t:
        t[name].write("f", name.encode())
    before = carry_out(repo, job(repo, "b", "f", b"1")) and repo.engine.branches()
    with pytest.raises(MergeConflictError):
        t.commit_now()
    assert repo.engine.branches() == before
    assert [part.closed for part in t.values()] == [False] * 3
    t["b"].write("f", b"1")
    t.commit_now()
    assert repo.engine.branches().keys() == {"a", "b", "c"}


def test_transaction_on_no_branch(repo) -> None:
    with pytest.raises(UsageError, match="expected 1"):
        repo.transaction()


async def test_update_moves_branches_by_compare_and_set() -> None:
    async with Repository.memory() as repo:
        async with repo.transaction("a", "b", message="x") as t:
            t["a"].write("f", b"1")
            t["b"].write("g", b"1")
        a, b = t.results["a"].head, t.results["b"].head
        with pytest.raises(RefChangedError):
            await repo.update({"a": (a, b), "b": (a, None)})
        assert await repo.branches() == {"a": a, "b": b}
        await repo.update({"a": (a, b), "b": (b, None), "c": (None, a)})
        assert await repo.branches() == {"a": b, "c": a}


async def test_async_transaction_on_branches_expects_heads() -> None:
    async with Repository.memory() as repo:
        t = repo.transaction("a", "b", expect={"a": "", "b": "0" * 40})
        for part in t.values():
            part.write("f", b"1")
        with pytest.raises(RefChangedError):
            await t.commit()
        assert await repo.branches() == {}


async def test_writers_share_syncs(tmp_path) -> None:
    """While a sync runs, all who come wait for the next one: 40 commits take few."""
    async with Repository.open(tmp_path / "r.git") as repo:
        store, real = repo.engine.store, repo.engine.store.update
        updates, go, entered = [], threading.Event(), threading.Event()

        def update(moves) -> None:
            entered.set()
            go.wait(10)
            updates.append(len(moves))
            real(moves)

        store.update = update

        async def writer(i: int) -> None:
            async with repo.branch(f"b{i}").transaction("x") as t:
                t.write("f", b"1")

        first = asyncio.ensure_future(writer(0))
        await asyncio.to_thread(entered.wait)
        others = [asyncio.ensure_future(writer(i)) for i in range(1, 41)]
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(first, *others)
        assert len(await repo.branches()) == 41
        assert updates == [1, 40]


def test_names_that_clash_on_disk_fail_alone(tmp_path) -> None:
    with Repository.open(tmp_path / "r.git", fsync=False) as repo:
        jobs = [job(repo, "a"), job(repo, "a/b"), job(repo, "c")]
        first, second, third = carry_out(repo, *jobs)
        assert (first, third) == (None, None)
        assert isinstance(second, ExistsError)


def test_dead_lock_is_waited_for_once(tmp_path, monkeypatch) -> None:
    with Repository.open(tmp_path / "r.git", lock_timeout=0.2) as repo:
        lock = tmp_path / "r.git/refs/heads/main.lock"
        lock.touch()
        waits = []
        monkeypatch.setattr("dataflow.store.refs.time.sleep", lambda s: waits.append(s))
        jobs = [job(repo, "main", "f"), job(repo, "other"), job(repo, "main", "g")]
        first, second, third = carry_out(repo, *jobs)
        assert second is None
        assert isinstance(first, RefLockedError)
        assert isinstance(third, RefLockedError)
        assert first.waited + third.waited < 0.01  # known from the group's own attempt
        lock.unlink()
        assert carry_out(repo, job(repo, "main", "h")) == [None]


def test_update_without_a_change_of_value(tmp_path) -> None:
    store = DiskStore(tmp_path / "r.git")
    oid = store.put(Kind.BLOB, b"x")
    store.update([RefUpdate("refs/tags/x", None, oid)])
    store.update([RefUpdate("refs/tags/x", oid, oid)])
    assert store.ref("refs/tags/x") == oid
    store.close()

"""Transactions: compare-and-set, merge at commit, merge mode, and what they refuse."""

import asyncio

import pytest

from dataflow import Repository
from dataflow.errors import (
    ConflictsRemainError,
    ExistsError,
    InvalidHashError,
    InvalidNameError,
    MergeConflictError,
    NotFastForwardError,
    NotFoundError,
    TransactionClosedError,
    UsageError,
)


@pytest.fixture(params=["memory", "disk"])
async def repo(request, tmp_path):
    made = (
        Repository.memory()
        if request.param == "memory"
        else Repository.open(tmp_path / "r.git", fsync=False)
    )
    async with made as open_repo:
        yield open_repo


async def put(branch, message="m", **files: str) -> str:
    async with branch.transaction(message) as t:
        for path, data in files.items():
            t.write(path, data.encode())
    return t.result.head


async def test_first_commit(repo) -> None:
    main = repo.branch("main")
    assert main.head is None
    async with main.transaction(message="hello", author="Ann <a@b>") as t:
        t.write("a/b", b"1")
        assert t.list() == ["a"]
    assert main.head == t.result.commit
    (commit,) = await main.log()
    assert (commit.author, commit.message, commit.parents) == ("Ann <a@b>", "hello\n", ())
    assert await main.read("a/b") == b"1"
    assert await main.names("a") == ["b"]


async def fail_inside(transaction) -> None:
    async with transaction:
        raise ZeroDivisionError


async def test_empty_message_is_datakits(repo) -> None:
    await put(repo.branch("main"), "", f="1")
    assert (await repo.branch("main").log())[0].message == "(no commit message)\n"


async def test_exception_commits_nothing(repo) -> None:
    main = repo.branch("main")
    t = main.transaction()
    t.write("f", b"1")
    with pytest.raises(ZeroDivisionError):
        await fail_inside(t)
    assert t.closed
    assert main.head is None


async def test_moved_branch_is_merged(repo) -> None:
    main = repo.branch("main")
    await put(main, f="0")
    a, b = main.transaction("a"), main.transaction("b")
    a.write("a", b"a")
    b.write("b", b"b")
    first = await a.commit()
    second = await b.commit()
    assert not first.merged
    assert second.merged
    head = (await main.log(1))[0]
    assert head.message == "Merge\n"
    assert head.parents == (first.commit, second.commit)
    assert await main.names() == ["a", "b", "f"]


async def test_merge_with_a_message(repo) -> None:
    main, topic = repo.branch("main"), repo.branch("topic")
    await put(main, f="0")
    await topic.fast_forward(main.head)
    await put(topic, g="1")
    await put(main, h="2")
    merged = await main.merge("topic", "why")
    assert (await main.log(1))[0].message == "why\n"
    assert (await main.merge("topic", "again")).head == merged.head == main.head
    await put(topic, f="3")
    await put(main, f="4")
    head = main.head
    with pytest.raises(MergeConflictError) as caught:
        await main.merge("topic", "no")
    assert [c.path for c in caught.value.conflicts] == [(b"f",)]
    assert main.head == head


async def test_conflict_leaves_transaction_open_and_branch_alone(repo) -> None:
    main = repo.branch("main")
    await put(main, f="0")
    t = main.transaction("mine")
    t.write("f", b"mine")
    theirs = await put(main, f="theirs")
    with pytest.raises(MergeConflictError, match="Merge conflict: Changed on both") as caught:
        await t.commit()
    assert caught.value.paths == ("f",)
    assert main.head == theirs
    assert await t.merge("main") == ("f",)
    assert t.read("f") == b"** Conflict **\nChanged on both branches\n"
    with pytest.raises(ConflictsRemainError, match="conflicts file is not empty"):
        await t.commit()
    t.write("f", b"both")
    assert t.conflicts == ()
    result = await t.commit()
    assert not result.merged
    assert (await main.log(1))[0].parents[1] == theirs


async def test_merge_into_empty_branch_records_the_parent(repo) -> None:
    source = await put(repo.branch("main"), f="1")
    async with repo.branch("result").transaction("ci") as t:
        assert await t.merge(source) == ()
        t.write("log", b"ok")
    (commit, _) = await repo.branch("result").log()
    assert commit.parents == (source,)
    assert await repo.branch("result").names() == ["f", "log"]


async def test_parents_can_be_set_and_are_checked(repo) -> None:
    main = repo.branch("main")
    one = await put(main, f="1")
    other = await put(repo.branch("other"), g="1")
    async with main.transaction() as t:
        with pytest.raises(InvalidHashError):
            t.set_parents(["0" * 40])
        with pytest.raises(InvalidHashError):
            t.set_parents(["nonsense"])
        t.set_parents([one, other])
    assert (await main.log(1))[0].parents == (one, other)
    assert await main.names() == ["f"]  # as git merge -s ours


async def test_closed_and_busy_are_refused(repo) -> None:
    t = repo.branch("main").transaction()
    t.write("f", b"1")
    committing = asyncio.ensure_future(t.commit())
    await committing
    for act in (lambda: t.write("f", b"2"), lambda: t.read("f"), lambda: t.set_parents([])):
        with pytest.raises(TransactionClosedError):
            act()
    with pytest.raises(TransactionClosedError):
        await t.commit()


async def test_concurrent_writers_lose_nothing(repo) -> None:
    main = repo.branch("main")
    asked: set[str] = set()

    async def writer(i: int) -> None:
        for k in range(5):
            async with main.transaction(f"{i}.{k}") as t:
                t.write(f"d{i}/{k}", b"x")
            asked.add(t.result.commit)

    await asyncio.gather(*(writer(i) for i in range(8)))
    messages = {repo.engine.objects.commit(oid).message.strip() for oid in asked}
    assert messages == {f"{i}.{k}" for i in range(8) for k in range(5)}
    for i in range(8):
        assert await main.names(f"d{i}") == [str(k) for k in range(5)]


async def test_cancelled_commit_is_done_or_not(repo) -> None:
    main = repo.branch("main")
    t = main.transaction("cancelled")
    t.write("f", b"1")
    task = asyncio.ensure_future(t.commit())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    head = await put(main, g="2")  # runs behind it in the one writing thread
    names = await main.names()
    assert head == main.head
    assert ("f" in names) == (t.result is not None)


async def test_fast_forward_reset_rename_delete(repo) -> None:
    main, other = repo.branch("main"), repo.branch("x/other")
    one = await put(main, f="1")
    two = await put(main, f="2")
    await other.fast_forward(one)
    await other.fast_forward(two)
    with pytest.raises(NotFastForwardError, match="not-fast-forward"):
        await other.fast_forward(one)
    with pytest.raises(ExistsError):
        await other.rename("main")
    await other.reset(one)
    await other.rename("y")
    assert await repo.branches() == {"main": two, "y": one}
    await repo.branch("y").delete()
    with pytest.raises(NotFoundError):
        await repo.branch("y").delete()


async def test_merge_branches(repo) -> None:
    main, topic = repo.branch("main"), repo.branch("topic")
    base = await put(main, f="1")
    await topic.fast_forward(base)
    theirs = await put(topic, g="1")
    assert (await main.merge("topic")).head == theirs  # fast-forward
    mine = await put(main, h="1")
    await put(topic, i="1")
    result = await main.merge("topic", "join")
    head = (await main.log(1))[0]
    assert (head.oid, head.message, head.parents[0]) == (result.head, "join\n", mine)
    found = await repo.diff(base, "main")
    assert [str(d) for d in found] == ["+ g", "+ h", "+ i"]


@pytest.mark.parametrize("name", ["", "a..b", "a b", "-x", "x.lock", "a/", ".a", "HEAD", "a\n"])
def test_bad_branch_names(name) -> None:
    with Repository.memory() as repo, pytest.raises(InvalidNameError):
        repo.branch(name)


@pytest.mark.parametrize("author", ["x", "a <b", "a <b>\nc", "<b>"])
def test_bad_authors(author) -> None:
    with Repository.memory() as repo, pytest.raises(UsageError):
        repo.branch("main").transaction(author=author)


def test_without_a_loop() -> None:
    with Repository.memory() as repo:
        with repo.branch("main").transaction("m") as t:
            t.write("f", b"1")
        assert repo.branch("main").head == t.result.head
        with pytest.raises(UsageError, match="async with"):
            repo.branch("main").watch()

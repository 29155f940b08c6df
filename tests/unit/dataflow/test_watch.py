"""Watches: every commit once and in order, whatever the reader does and wherever it resumes."""

import asyncio

import pytest
from commit_graph import Graph
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow import ChangeKind, Repository
from dataflow.branch import feed, steps
from dataflow.branch.steps import Cursor, Position, advance
from dataflow.errors import InvalidHashError, UsageError


@pytest.fixture
async def repo():
    async with Repository.memory() as made:
        yield made


async def put(branch, message="m", **files: str) -> str:
    async with branch.transaction(message) as t:
        for path, data in files.items():
            t.write(path.replace("_", "/"), data.encode())
    return t.result.head


async def take(watch, n: int):
    async with asyncio.timeout(10):
        return [await anext(watch) for _ in range(n)]


async def test_change_tells_paths_and_ids(repo) -> None:
    main = repo.branch("main")
    watch = main.watch()
    await put(main, a="1", d_x="2")
    await put(main, a="3")
    one, two = await take(watch, 2)
    assert one.paths == ("a", "d/x")
    assert [c.status for c in one.changes] == ["A", "A"]
    assert (two.path, two.changes[0].before, two.parents) == (
        "a",
        one.changes[0].after,
        (one.commit,),
    )
    assert (two.kind, two.message) == (ChangeKind.COMMIT, "m\n")


async def test_filter_by_path(repo) -> None:
    main = repo.branch("main")
    watch = main.watch("results/")
    await put(main, other="1")
    wanted = await put(main, results_a="1", other="2")
    (change,) = await take(watch, 1)
    assert (change.commit, change.paths) == (wanted, ("results/a",))


async def test_begins_behind_the_present_head(repo) -> None:
    main = repo.branch("main")
    await put(main, a="1")
    watch = main.watch()
    new = await put(main, a="2")
    assert [c.commit for c in await take(watch, 1)] == [new]


async def test_slow_reader_keeps_only_its_place(repo, monkeypatch) -> None:
    """One so slow that the log passed it walks history, and returns to the log."""
    monkeypatch.setattr(steps, "PIECE", 8)
    monkeypatch.setattr(feed, "LOG_MAX", 16)
    main = repo.branch("main")
    watch, eager = main.watch(), main.watch()
    made = []
    for i in range(100):
        made.append(await put(main, a=str(i)))
        await take(eager, 1)
    assert len(watch._ready) == 0
    assert repo.statistics().events_kept == 16
    got = []
    walked = 0
    for _ in range(100):
        got += await take(watch, 1)
        walked += watch._walk is not None
        assert len(watch._ready) <= 64
    assert [c.commit for c in got] == made
    assert walked > 50
    assert watch._walk is None or watch.feed.find(watch._walk.cursor) is not None


async def test_cancelled_waits_lose_nothing(repo) -> None:
    main = repo.branch("main")
    watch = main.watch()
    made, got = [], []
    for i in range(30):
        made.append(await put(main, a=str(i)))
        task = asyncio.ensure_future(anext(watch))
        for _ in range(i % 5):
            await asyncio.sleep(0)
        if not task.done():
            task.cancel()
        (found,) = await asyncio.gather(task, return_exceptions=True)
        if not isinstance(found, BaseException):
            got.append(found)
    got += await take(watch, 30 - len(got))
    assert [c.commit for c in got] == made


async def test_writers_and_watchers_at_once(repo) -> None:
    main = repo.branch("main")
    watches = [main.watch() for _ in range(5)]

    async def writer(i: int) -> None:
        for k in range(10):
            await put(main, f"{i}.{k}", **{f"w{i}": str(k)})

    await asyncio.gather(*(writer(i) for i in range(4)))
    total = len(steps.between(repo.engine.objects, None, main.head))
    streams = [[c.commit for c in await take(w, total)] for w in watches]
    assert all(s == streams[0] for s in streams)
    assert len(set(streams[0])) == total
    for i, oid in enumerate(streams[0]):
        assert set(repo.engine.objects.commit(oid).parents) <= set(streams[0][:i])
    messages = [repo.engine.objects.commit(o).message.strip() for o in streams[0]]
    for i in range(4):
        assert [m for m in messages if m.startswith(f"{i}.")] == [f"{i}.{k}" for k in range(10)]


async def test_first_parent_leaves_merged_commits_out(repo) -> None:
    main = repo.branch("main")
    await put(main, a="0")
    watch = main.watch(first_parent=True)
    t = main.transaction("side")
    t.write("b", b"1")
    mine = await put(main, a="1")
    merge = (await t.commit()).head
    assert [c.commit for c in await take(watch, 2)] == [mine, merge]


async def test_cut_is_told_then_new_commits_come(repo) -> None:
    main, side = repo.branch("main"), repo.branch("side")
    base = await put(main, a="1")
    await side.fast_forward(base)
    await put(main, a="2", b="1")
    new = await put(side, c="1")
    watch = main.watch()
    await main.reset(new)
    cut, change = await take(watch, 2)
    assert (cut.kind, cut.commit, cut.paths) == (ChangeKind.CUT, base, ("a", "b"))
    assert (change.kind, change.commit, change.paths) == (ChangeKind.COMMIT, new, ("c",))


async def test_put_back_to_an_older_commit(repo) -> None:
    main = repo.branch("main")
    base = await put(main, a="1")
    await put(main, a="2")
    watch = main.watch()
    await main.reset(base)
    (cut,) = await take(watch, 1)
    assert (cut.kind, cut.commit, cut.changes[0].status) == (ChangeKind.CUT, base, "M")
    new = await put(main, a="3")
    assert [c.commit for c in await take(watch, 1)] == [new]


async def test_deleted_is_told_once_and_the_watch_goes_on(repo) -> None:
    main = repo.branch("main")
    one = await put(main, a="1")
    watch = main.watch()
    await main.delete()
    (gone,) = await take(watch, 1)
    assert (gone.kind, gone.commit) == (ChangeKind.DELETED, "")
    waiting = asyncio.ensure_future(anext(watch))
    await main.fast_forward(one)
    new = await put(main, a="2")
    assert (await waiting).commit == new


async def test_closing_ends_the_wait(repo) -> None:
    watch = repo.branch("main").watch()
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    await watch.aclose()
    with pytest.raises(StopAsyncIteration):
        await waiting
    assert repo.statistics().watches == 0


@pytest.mark.parametrize("since", ["x", "0" * 39, "..:", "0" * 40 + "..x:"])
async def test_bad_since(repo, since) -> None:
    with pytest.raises(UsageError):
        repo.branch("main").watch(since=since)


async def test_unknown_since(repo) -> None:
    with pytest.raises(InvalidHashError):
        repo.branch("main").watch(since="1" * 40)


@st.composite
def pushes(draw):
    """A random history and the heads a branch had, each containing the one before."""
    g = Graph()
    heads: list[str] = []
    for i in range(draw(st.integers(1, 14))):
        parents = draw(st.lists(st.integers(0, i - 1), max_size=2, unique=True)) if i else []
        extra = [int(heads[-1])] if heads and draw(st.booleans()) else []
        names = list(dict.fromkeys([*parents, *extra]))
        g.add(str(i), *map(str, names), when=i // 3)
        if extra or not heads:
            heads.append(str(i))
    return g, [g.ids[h] for h in heads]


def run(objects, cursor: Cursor, heads, line_only=False):
    position = Position(cursor)
    out = []
    for head in heads:
        while position != Position(Cursor(head)):
            piece = advance(objects, position, head, line_only=line_only)
            assert piece.cut is None
            out += piece.commits
            position = piece.position
    return out


@settings(max_examples=100, deadline=None)
@given(pushes())
def test_every_commit_once_parents_first_and_resumable_anywhere(case) -> None:
    g, heads = case
    events = run(g.objects, Cursor(), heads)
    order = [oid for oid, *_ in events]
    assert len(order) == len(set(order))
    assert set(order) == set(steps.between(g.objects, None, heads[-1]))
    for i, oid in enumerate(order):
        assert set(g.objects.commit(oid).parents) <= set(order[:i])
    for i, (_, cursor, _) in enumerate(events):
        again = Cursor.parse(str(cursor))
        assert again == cursor
        rest = [oid for oid, *_ in run(g.objects, again, [heads[-1]])]
        assert set(rest) == set(order[i + 1 :])
        assert len(rest) == len(set(rest))

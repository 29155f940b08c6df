"""Feeds: one diff a commit for all watches, paths matched by a trie, nothing left behind."""

import asyncio
import os
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow import ChangeKind, Repository
from dataflow.branch import feed as feeds
from dataflow.branch import outside, watching
from dataflow.branch.outside import is_local
from dataflow.errors import ObjectMissingError, UsageError
from dataflow.store.disk import DiskStore
from dataflow.tree.prefixes import PrefixNode, span

NAMES = st.sampled_from([b"a", b"b", b"aa", b"c"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(tuple)


@pytest.fixture
async def repo():
    async with Repository.memory() as made:
        yield made


async def put(branch, **files: str) -> str:
    async with branch.transaction("m") as t:
        for path, data in files.items():
            t.write(path.replace("_", "/"), data.encode())
    return t.result.head


async def take(watch, n: int):
    async with asyncio.timeout(10):
        return [await anext(watch) for _ in range(n)]


async def settle(repo, branch="main") -> None:
    """Wait until the branch's feed has seen its head."""
    probe = repo.follow(branch)
    async with asyncio.timeout(10):
        await anext(probe)
    probe.close()


@given(st.lists(PATHS, unique=True, max_size=30), st.lists(PATHS, max_size=20))
def test_match_is_what_lies_at_or_above(changed, asked) -> None:
    changed = sorted(changed)
    top = PrefixNode()
    nodes = {path: top.enter(path) for path in asked}
    found = {id(node) for node in top.match(changed)}
    assert id(top) in found
    for path, node in nodes.items():
        wanted = [p for p in changed if p[: len(path)] == path]
        assert (id(node) in found) == bool(wanted)
        first, last = span(changed, path)
        assert changed[first:last] == wanted
    for path in asked:
        nodes[path].leave()
    assert len(top) == 1


async def test_each_commit_is_diffed_once_for_all(repo, monkeypatch) -> None:
    made = []
    event = feeds.Walker._event
    monkeypatch.setattr(feeds.Walker, "_event", lambda *a: made.append(a[1]) or event(*a))
    main = repo.branch("main")
    watches = [main.watch(f"d{i % 3}") if i % 2 else main.watch() for i in range(50)]
    commits = [await put(main, **{f"d{i % 3}_f": str(i)}) for i in range(6)]
    for i, watch in enumerate(watches):
        wanted = [c for k, c in enumerate(commits) if not i % 2 or k % 3 == i % 3]
        assert [c.commit for c in await take(watch, len(wanted))] == wanted
    assert len(made) == 6


async def test_only_commits_that_concern_it_run_a_watch(repo) -> None:
    main = repo.branch("main")
    await put(main, busy="0")
    watch = main.watch("quiet")
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    future = watch._future
    for i in range(20):
        await put(main, busy=str(i))
    await settle(repo)
    assert watch._future is future
    assert not future.done()
    assert watch.place == main.head  # a bookmark: all of that did not concern it
    wanted = await put(main, quiet_x="1")
    assert (await waiting).commit == wanted


async def test_quiet_watch_is_not_left_behind_by_a_busy_branch(repo, monkeypatch) -> None:
    monkeypatch.setattr(feeds, "LOG_MAX", 8)
    main = repo.branch("main")
    await put(main, busy="0")
    watch = main.watch("quiet")
    for i in range(30):
        await put(main, busy=str(i))
    wanted = await put(main, quiet="1")
    for i in range(5):
        await put(main, busy=str(i))
    await settle(repo)
    assert [c.commit for c in await take(watch, 1)] == [wanted]
    assert watch._walk is None  # straight from the log


async def test_log_is_bounded_by_files_too(repo, monkeypatch) -> None:
    monkeypatch.setattr(feeds, "LOG_FILES_MAX", 100)
    main = repo.branch("main")
    watch = main.watch()
    made = [
        await put(main, **{f"{i}_{k}": "x" for k in range(n)}) for i, n in enumerate([150, 60, 60])
    ]
    await settle(repo)
    assert repo.statistics().events_kept == 1
    assert [c.commit for c in await take(watch, 3)] == made


async def test_many_branches_share_the_room(repo, monkeypatch) -> None:
    monkeypatch.setattr(feeds, "LOGS_MAX", 40)
    monkeypatch.setattr(feeds, "LOG_MIN", 5)
    main = repo.branch("main")
    watch = main.watch()
    for i in range(20):
        await put(main, a=str(i))
    await settle(repo)
    assert repo.statistics().events_kept == 20
    others = [repo.branch(f"b{i}").watch() for i in range(9)]
    made = await put(main, a="x")
    await settle(repo)
    assert repo.statistics().events_kept == 5
    for other in others:
        other.close()
    assert (await take(watch, 21))[-1].commit == made


async def test_resuming_meets_the_log(repo) -> None:
    main = repo.branch("main")
    made = [await put(main, a=str(i)) for i in range(10)]
    live = main.watch()
    again = main.watch(since=made[4])
    made.append(await put(main, a="x"))
    assert [c.commit for c in await take(again, 6)] == made[5:]
    assert [c.commit for c in await take(live, 1)] == made[10:]
    made.append(await put(main, a="y"))
    assert [(await take(w, 1))[0].commit for w in (again, live)] == made[11:] * 2
    assert again._walk is None


async def test_deleted_and_back_where_it_was(repo) -> None:
    main = repo.branch("main")
    one = await put(main, a="1")
    heads, watch = repo.follow("main"), main.watch()
    assert await take(heads, 1) == [one]
    await main.delete()
    assert await take(heads, 1) == [None]
    (gone,) = await take(watch, 1)
    assert (gone.kind, gone.base) == (ChangeKind.DELETED, one)
    await main.fast_forward(one)
    assert await take(heads, 1) == [one]
    fresh = main.watch()
    two = await put(main, a="2")
    assert [(await take(w, 1))[0].commit for w in (watch, fresh)] == [two, two]


async def test_resumed_watch_of_a_missing_branch(repo) -> None:
    main = repo.branch("main")
    one = await put(main, a="1")
    await main.delete()
    watch = main.watch(since=one)
    assert (await take(watch, 1))[0].kind is ChangeKind.DELETED
    waiting = asyncio.ensure_future(anext(watch))
    await main.fast_forward(one)
    two = await put(main, a="2")
    assert (await waiting).commit == two


async def test_coalesced_events_cover_the_range(repo) -> None:
    main = repo.branch("main")
    one = await put(main, a="1")
    watch = main.watch(coalesce=True)
    for i in range(5):
        await put(main, a=str(i), b=str(i))
    (change,) = await take(watch, 1)
    assert (change.base, change.commit, change.paths) == (one, main.head, ("a", "b"))
    assert change.changes[1].before is None
    waiting = asyncio.ensure_future(anext(watch))
    two = main.head
    three = await put(main, a="x")
    change = await waiting
    assert (change.base, change.commit, change.paths) == (two, three, ("a",))
    await main.reset(one)
    change = await anext(watch)
    assert (change.kind, change.base, change.commit) == (ChangeKind.CUT, three, one)
    resumed = main.watch(since=two, coalesce=True)
    assert (await anext(resumed)).kind is ChangeKind.CUT
    await main.delete()
    assert (await anext(watch)).kind is ChangeKind.DELETED


async def test_coalesced_by_path(repo) -> None:
    main = repo.branch("main")
    watch = main.watch("d", coalesce=True)
    waiting = asyncio.ensure_future(anext(watch))
    await put(main, a="1")
    await settle(repo)
    assert not waiting.done()
    two = await put(main, d_x="1")
    change = await waiting
    assert (change.commit, change.paths) == (two, ("d/x",))
    assert watch.place == two
    with pytest.raises(UsageError):
        main.watch(coalesce=True, first_parent=True)


async def test_nothing_is_left_of_closed_watches(repo) -> None:
    main = repo.branch("main")
    for _ in range(3):
        streams = [
            main.watch("a/b"), main.watch(), main.watch(coalesce=True), repo.follow("main", "x/y"),
            repo.branch("other").watch(first_parent=True),
        ]  # fmt: skip
        assert (repo.statistics().watches, repo.statistics().branches) == (5, 2)
        waits = [asyncio.ensure_future(anext(s)) for s in streams]
        await put(main, a_b="1")
        await asyncio.sleep(0)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        places = streams[0].feed.places
        for stream in streams:
            await stream.aclose()
            await stream.aclose()
        assert repo.statistics() == watching.WatchStatistics(0, 0, 0, "")
        assert len(places) == 1
        assert not places.parked


async def test_a_broken_repository_is_told_and_tried_again(repo, monkeypatch) -> None:
    main = repo.branch("main")
    await put(main, a="0")
    watch, heads = main.watch(), repo.follow("main")
    await take(heads, 1)
    head = repo.engine.head

    def broken(branch):
        raise ObjectMissingError("1" * 40)

    waits = [asyncio.ensure_future(anext(s)) for s in (watch, heads)]
    await asyncio.sleep(0)
    monkeypatch.setattr(repo.engine, "head", broken)
    watch.feed.kick()
    async with asyncio.timeout(10):
        found = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(f) for f in found] == [ObjectMissingError] * 2
    monkeypatch.setattr(repo.engine, "head", head)
    one = await put(main, a="1")
    await settle(repo)
    assert (await take(watch, 1))[0].commit == one


@pytest.mark.parametrize("coalesce", [False, True])
async def test_who_saw_a_commit_made_is_told_no_older_head(repo, monkeypatch, coalesce) -> None:
    """A look that began before the commit is not what the newest head is taken from."""
    main = repo.branch("main")
    await put(main, a="0")
    heads = main.watch(coalesce=True) if coalesce else repo.follow("main")
    first = None if coalesce else await anext(heads)
    looks, held, loop = asyncio.Queue(), threading.Event(), asyncio.get_running_loop()
    job = feeds.Feed._job

    def slow(self, head):
        found = job(self, head)
        loop.call_soon_threadsafe(looks.put_nowait, found[0])
        held.wait(10)
        return found

    if coalesce:
        waits = asyncio.ensure_future(anext(heads))
        await settle(repo)
        waits.cancel()
    monkeypatch.setattr(feeds.Feed, "_job", slow)
    async with asyncio.timeout(10):
        one = await put(main, a="1")
        assert await looks.get() == one
        two = await put(main, a="2")
        held.set()
        told = await anext(heads)
    assert (told.commit if coalesce else told) == two != first


@pytest.mark.parametrize("ended", ["stream", "repository"])
async def test_the_end_reaches_who_waits_for_the_first_look(monkeypatch, ended) -> None:
    held = threading.Event()
    monkeypatch.setattr(feeds.Feed, "_job", lambda self, head: held.wait(10))
    async with Repository.memory() as repo:
        streams = [repo.follow("main"), repo.branch("main").watch(coalesce=True)]
        waits = [asyncio.ensure_future(anext(s)) for s in streams]
        await asyncio.sleep(0)
        if ended == "stream":
            for stream in streams:
                await stream.aclose()
        else:
            held.set()
            await repo.aclose()
        async with asyncio.timeout(10):
            found = await asyncio.gather(*waits, return_exceptions=True)
        held.set()
    assert [type(f) for f in found] == [StopAsyncIteration] * 2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_any_order_of_calls_loses_nothing(seed) -> None:
    asyncio.run(any_order(random.Random(seed)))


async def any_order(rng: random.Random) -> None:
    """Commits, merges, slow and fast readers, restarts: every stream is the branch's history."""
    async with Repository.memory() as repo:
        main = repo.branch("main")
        start = await put(main, a_0="0")
        readers = [[main.watch(p), p, []] for p in ("", "", "a", "b/1")]
        open_ones = []
        for step in range(40):
            match rng.randrange(6):
                case 0 | 1:
                    await put(main, **{f"{rng.choice('ab')}_{rng.randrange(3)}": str(step)})
                case 2:
                    t = main.transaction("side")
                    t.write(f"{rng.choice('ab')}/{100 + step}", b"x")
                    open_ones.append(t)
                case 3 if open_ones:
                    await open_ones.pop().commit()
                case 4:
                    reader = rng.choice(readers)
                    while (change := reader[0].next_nowait()) is not None:
                        reader[2].append(change)
                case _:
                    reader = rng.choice(readers)
                    reader[0].close()
                    since = reader[2][-1].cursor if reader[2] else start
                    reader[0] = main.watch(reader[1], since=since)
        last = await put(main, a_0="end", b_1="end")
        streams = []
        for watch, path, got in readers:
            async with asyncio.timeout(10):
                while not got or got[-1].commit != last:
                    got.append(await anext(watch))
            streams.append([c.commit for c in got])
            assert all(
                p == path or p.startswith(path + "/") or not path for c in got for p in c.paths
            )
        assert streams[0] == streams[1]
        walk = main.watch(since=start)
        every = await take(walk, len(streams[0]))
        assert [c.commit for c in every] == streams[0]
        for (_, path, _), stream in zip(readers[2:], streams[2:], strict=True):
            wanted = [
                c.commit for c in every if any((p + "/").startswith(path + "/") for p in c.paths)
            ]
            assert stream == wanted


# What others do.


def other_commit(path: str, branch: str, text: str) -> str:
    """Commit as another process would, through the files alone."""
    with Repository.open(path) as repo:
        with repo.branch(branch).transaction(text) as t:
            t.write("f", text.encode())
        return t.result.head


async def test_another_process_is_seen_without_polling(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(watching, "SAFETY_INTERVAL", 1e6)
    path = str(tmp_path / "r.git")
    async with Repository.open(path, fsync=False) as repo:
        deep = repo.branch("a/b/c")
        watch = deep.watch()
        if not is_local(path):
            pytest.skip("inotify is blind here")
        assert repo.statistics().outside == "inotify"
        for i in range(3):
            made = await asyncio.to_thread(other_commit, path, "a/b/c", str(i))
            assert [c.commit for c in await take(watch, 1)] == [made]
        await asyncio.to_thread(DiskStore(path)._repo.refs.pack_refs, True)
        assert deep.head == made
        with Repository.open(path) as other:  # removes the file and its directories
            other.engine.delete("a/b/c")
        assert (await take(watch, 1))[0].kind is ChangeKind.DELETED
        made = await asyncio.to_thread(other_commit, path, "a/b/c", "back")
        watch.close()
        assert repo.statistics().outside == ""


async def test_polling_where_inotify_is_blind(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(watching, "is_local", lambda path: False)
    path = str(tmp_path / "r.git")
    async with Repository.open(path, fsync=False, poll_interval=0) as repo:
        watch = repo.branch("main").watch()
        assert repo.statistics().outside == "poll"
        made = await asyncio.to_thread(other_commit, path, "main", "1")
        assert [c.commit for c in await take(watch, 1)] == [made]


async def test_polling_where_the_kernel_has_no_watch_left(tmp_path, monkeypatch) -> None:
    def refuse(self, path, mask):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(watching, "is_local", lambda path: True)
    monkeypatch.setattr(outside.INotify, "add_watch", refuse)
    path = str(tmp_path / "r.git")
    async with Repository.open(path, fsync=False, poll_interval=0) as repo:
        watch = repo.branch("main").watch()
        made = await asyncio.to_thread(other_commit, path, "main", "1")
        assert [c.commit for c in await take(watch, 1)] == [made]


def test_is_local_reads_mountinfo(tmp_path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "1 0 8:1 / / rw shared:1 - ext4 /dev/sda rw\n"
        "2 1 0:40 / /home/nfs rw - nfs4 server:/ rw\n"
        "3 1 0:41 / /home/nfs/fast\\040disk rw - tmpfs none rw\n"
    )
    assert is_local("/var/r.git", str(mounts))
    assert is_local("/home/nfsx", str(mounts))
    assert not is_local("/home/nfs/r.git", str(mounts))
    assert is_local("/home/nfs/fast disk/r.git", str(mounts))
    assert not is_local("/var", str(tmp_path / "none"))


async def test_events_nobody_asked_for_are_ignored(tmp_path) -> None:
    path = str(tmp_path / "r.git")
    DiskStore(path).close()
    seen: list[str | None] = []
    events = outside.RefEvents(path, seen.append)
    events.watch("x/y")
    os.makedirs(f"{path}/refs/heads/x")
    os.makedirs(f"{path}/refs/heads/z")
    for name in ("refs/heads/main", "refs/heads/x/y.lock", "HEAD", "config"):
        os.close(os.open(f"{path}/{name}", os.O_CREAT | os.O_WRONLY))
    events._ready()
    assert seen == ["x/y"]  # its directory came: look
    os.rename(f"{path}/refs/heads/x/y.lock", f"{path}/refs/heads/x/y")
    os.rename(f"{path}/config", f"{path}/packed-refs")
    events._ready()
    assert seen == ["x/y", None]
    events.unwatch("x/y")
    assert set(events._paths.values()) == {""}
    events.close()

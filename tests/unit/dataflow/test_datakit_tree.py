"""DataKit's tree, row by row (docs/datakit.md), through 9P: what its own tests ask, and its errors.

Texts travel in 9P2000.u only, so refusals are checked there by text and by number elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random

import pytest

from dataflow import Repository
from dataflow.p9.const import Dialect, OpenFlag
from dataflow.p9.errors import P9Error
from dataflow.p9.tree import SetAttr
from dataflow.store.objects import EMPTY_TREE

from .test_views import T, serve

MAIN = "branch/main"
ZERO = "0" * 40


@pytest.fixture
async def tree(tmp_path):
    async with serve(tmp_path) as served:
        yield served


@pytest.fixture
async def c(tree):
    async with tree.connect(dialect=Dialect.UNIX) as client:
        await client.mkdir(MAIN)
        yield client


async def said(awaitable) -> str:
    """Return the text of a refusal."""
    try:
        await awaitable
    except P9Error as err:
        return err.text
    except ExceptionGroup as group:
        return group.exceptions[0].text
    pytest.fail("expected an error, found none")


async def commit(c, files: dict[str, bytes], *, branch: str = "main", name: str = "t") -> str:
    """Commit files, made or replaced, through a transaction of the tree."""
    t = f"branch/{branch}/transactions/{name}"
    await c.mkdir(t)
    await put(c, f"{t}/rw", files)
    return (await c.command(f"{t}/ctl", "commit")).decode().strip()


async def put(c, rw: str, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        above = path.rpartition("/")[0]
        if above and above not in await c.listdir(rw):
            await c.mkdir(f"{rw}/{above}")
        await c.write(f"{rw}/{path}", data)


async def file_qid(c, path: str):
    async with await c.open(path) as f:
        return f.qid


# /branch.


async def test_branch_holds_directories_only(c) -> None:
    new = OpenFlag.CREAT | OpenFlag.EXCL | OpenFlag.WRONLY
    for path in ("branch/f", f"{MAIN}/transactions/f", "remotes/f"):
        assert await said(c.open(path, new)) == "Can only contain directories"
    assert await said(c.open(f"{MAIN}/f", new)) == "Directory is read-only"


async def test_head_is_a_blank_line_until_there_is_a_commit(c) -> None:
    assert await c.read(f"{MAIN}/head") == b"\n"
    assert await said(c.write(f"{MAIN}/head", b"x")) == "Read-only file"
    head = await commit(c, {"f": b"1"})
    assert await c.read(f"{MAIN}/head") == f"{head}\n".encode()


async def test_removing_a_branch_removes_its_reference(tree, c) -> None:
    await commit(c, {"f": b"1"})
    await c.remove(MAIN)
    assert await tree.repo.branches() == {}
    assert await said(c.remove(MAIN)) == "No such file or directory"


async def test_rename_branch(tree, c) -> None:
    head = await commit(c, {"f": b"1"})
    await c.mkdir("branch/taken")
    assert await said(c.rename(MAIN, "branch/taken")) == "Already exists: taken"
    await c.rename(MAIN, "branch/new")
    assert await tree.repo.branches() == {"new": head}
    assert await c.read("branch/new/ro/f") == b"1"
    assert await c.listdir("branch") == ["new", "taken"]


async def test_nested_branch_names(tree, c) -> None:
    await c.mkdir("branch/a.b-c_1")
    await c.mkdir("branch/a.b-c_1/d")
    head = await commit(c, {"f": b"1"}, branch="a.b-c_1/d")
    assert await tree.repo.branches() == {"a.b-c_1/d": head}
    assert await c.read("branch/a.b-c_1/d/head") == f"{head}\n".encode()
    for bad in ("a..b", "x.lock", "a b", "~"):
        assert "cannot be the name of a branch" in await said(c.mkdir(f"branch/{bad}"))


async def test_fast_forward(tree, c) -> None:
    one = await commit(c, {"f": b"1"})
    two = await commit(c, {"f": b"2"})
    await c.mkdir("branch/b")
    command = "branch/b/fast-forward"

    async def write(text: str) -> None:
        async with await c.open(command, OpenFlag.WRONLY) as f:
            await f.write(0, text.encode())

    assert (await said(write(ZERO))).startswith("No such file or directory")
    assert await said(write("x")) == 'invalid-hash "x"'
    await write(f"  {two}\n")
    assert tree.repo.branch("b").head == two
    assert (await said(write(one))).startswith("not-fast-forward")
    assert tree.repo.branch("b").head == two


async def test_branch_diff_exists(c) -> None:
    one = await commit(c, {"f": b"1", "g": b"1"})
    await c.mkdir(T)
    await c.remove(f"{T}/rw/g")
    await put(c, f"{T}/rw", {"f": b"2", "h": b"1"})
    assert await c.read(f"{T}/diff/{one}") == b"* f\n- g\n+ h\n"
    two = (await c.command(f"{T}/ctl", "commit")).decode().strip()
    assert await c.read(f"{MAIN}/diff/{one}") == b"* f\n- g\n+ h\n"
    assert await c.read(f"snapshots/{two}/diff/{one}") == b"* f\n- g\n+ h\n"
    assert await c.listdir(f"{MAIN}/diff") == []


# Transactions.


async def test_transaction(c) -> None:
    """DataKit's first test, nearly word for word."""
    await c.mkdir(T)
    await c.write(f"{T}/msg", b"My commit")
    await put(c, f"{T}/rw", {"my-file": b"Hello"})
    head = (await c.command(f"{T}/ctl", "commit")).decode().strip()
    assert await c.read(f"{MAIN}/head") == f"{head}\n".encode()
    assert await c.read(f"{MAIN}/ro/my-file") == b"Hello"
    assert await c.read(f"snapshots/{head}/msg") == b"My commit\n"
    assert await c.read(f"snapshots/{head}/hash") == f"{head}\n".encode()
    assert await c.listdir(f"{MAIN}/transactions") == []
    assert await c.listdir("snapshots") == await c.listdir("trees") == await c.listdir("commits")
    assert json.loads(await c.read(f"commits/{head}"))["message"] == "My commit\n"


async def test_no_message(c) -> None:
    head = await commit(c, {"f": b"1"})
    assert await c.read(f"snapshots/{head}/msg") == b"(no commit message)\n"


async def test_control_words(c) -> None:
    await c.mkdir(T)
    assert await said(c.command(f"{T}/ctl", "frob")) == 'Unknown command "frob"'
    assert await c.read(f"{T}/ctl") == b'Unknown command "frob"\n'
    await c.setattr(f"{T}/ctl", SetAttr(size=0))
    assert await said(c.setattr(f"{T}/ctl", SetAttr(size=1))) == "Can't extend command file"
    assert await said(c.setattr(f"{T}/ctl", SetAttr(mode=0o777))) == "Can't chmod special file"
    assert await said(c.rename(T, f"{MAIN}/transactions/u")) == "Directory is read-only"
    assert await c.read(f"{T}/origin") == b""
    await c.command(f"{T}/ctl", " close\n")
    assert await said(c.read(f"{T}/msg")) == "No such file or directory"


async def test_a_failed_commit_leaves_the_transaction(tree, c) -> None:
    await commit(c, {"f": b"0"})
    await c.mkdir(T)
    await put(c, f"{T}/rw", {"f": b"mine"})
    theirs = await commit(c, {"f": b"theirs"}, name="u")
    assert (await said(c.command(f"{T}/ctl", "commit"))).startswith("Merge conflict: ")
    assert await c.read(f"{T}/rw/f") == b"mine"
    assert tree.main.head == theirs


async def test_a_commit_beside_another_is_merged(tree, c) -> None:
    await commit(c, {"f": b"0"})
    await c.mkdir(T)
    await put(c, f"{T}/rw", {"mine": b"1"})
    await commit(c, {"theirs": b"1"}, name="u")
    head = (await c.command(f"{T}/ctl", "commit")).decode().strip()
    assert await c.read(f"snapshots/{head}/msg") == b"Merge\n"
    assert sorted(await c.listdir(f"{MAIN}/ro")) == ["f", "mine", "theirs"]


async def test_parents(tree, c) -> None:
    """Nested transactions, and a history that is exactly what `parents` said."""
    root = await commit(c, {"f": b"0"})
    for name in ("outer", "inner"):
        await c.mkdir(f"{MAIN}/transactions/{name}")
        assert await c.read(f"{MAIN}/transactions/{name}/parents") == f"{root}\n".encode()
        await put(c, f"{MAIN}/transactions/{name}/rw", {name: b"1"})
    inner = (await c.command(f"{MAIN}/transactions/inner/ctl", "commit")).decode().strip()
    outer = (await c.command(f"{MAIN}/transactions/outer/ctl", "commit")).decode().strip()
    merge = tree.repo.engine.objects.commit(outer)
    assert merge.parents[0] == inner
    assert tree.repo.engine.objects.commit(merge.parents[1]).parents == (root,)
    await c.mkdir("branch/b")
    side = await commit(c, {"side": b"1"}, branch="b")
    await c.mkdir(T)
    assert (await said(c.write(f"{T}/parents", ZERO.encode()))).startswith("invalid-hash")
    await c.write(f"{T}/parents", f"{outer}\n{side}\n".encode())  # merge -s ours
    head = (await c.command(f"{T}/ctl", "commit")).decode().strip()
    assert tree.repo.engine.objects.commit(head).parents == (outer, side)
    assert await c.read(f"snapshots/{head}/parents") == f"{outer}\n{side}\n".encode()
    assert sorted(await c.listdir(f"{MAIN}/ro")) == ["f", "inner", "outer"]
    assert await c.read(f"{MAIN}/head") == f"{head}\n".encode()


# Files of a transaction.


async def test_range(c) -> None:
    await commit(c, {"f": b"0123456789"})
    for path in (f"{MAIN}/ro/f", f"{T}/rw/f"):
        if path.startswith(T):
            await c.mkdir(T)
        async with await c.open(path) as f:
            assert bytes(await f.pread(3, 4)) == b"3456"
            assert bytes(await f.pread(8, 10)) == b"89"
            assert bytes(await f.pread(10, 10)) == bytes(await f.pread(99, 1)) == b""


async def test_writes(c) -> None:
    await c.mkdir(T)
    await c.write(f"{T}/rw/f", b"hello")
    async with await c.open(f"{T}/rw/f", OpenFlag.RDWR) as f:
        await f.write(1, b"EL")
        assert await f.read(0, 99) == b"hELlo"
        await f.write(7, b"!")
        assert await f.read(0, 99) == b"hELlo\0\0!"
    async with await c.open(f"{T}/msg", OpenFlag.RDWR) as f:
        assert await said(f.write(5, b"x")) == "Offset 5 beyond end-of-file (len = 0)"


async def test_truncate(c) -> None:
    await commit(c, {"f": b"hello"})
    await c.mkdir(T)
    f = f"{T}/rw/f"
    for size, expected in ((3, b"hel"), (0, b""), (4, b"\0" * 4)):
        await c.setattr(f, SetAttr(size=size))
        assert await c.read(f) == expected
        assert (await c.stat(f)).size == size
    refusal = await said(c.setattr(f"{T}/rw", SetAttr(size=0)))
    assert refusal == "Can't set length of a directory"


async def test_blobs_random(c) -> None:
    """Any order of writes and cuts gives what a bytearray gives."""
    rng = random.Random(3)
    model = bytearray()
    await c.mkdir(T)
    await c.write(f"{T}/rw/f", b"")
    async with await c.open(f"{T}/rw/f", OpenFlag.RDWR) as f:
        for i in range(200):
            if rng.random() < 0.2:
                size = rng.randrange(300)
                await c.setattr(f"{T}/rw/f", SetAttr(size=size))
                model = model[:size] + bytes(max(0, size - len(model)))
            else:
                at, data = rng.randrange(300), bytes([i]) * rng.randrange(1, 50)
                await f.write(at, data)
                model += bytes(max(0, at - len(model)))
                model[at : at + len(data)] = data
            assert await f.read(0, 1000) == model


async def test_rename_file(c) -> None:
    await commit(c, {"a": b"1", "d/b": b"2"})
    await c.mkdir(T)
    await c.rename(f"{T}/rw/a", f"{T}/rw/c")
    await c.rename(f"{T}/rw/d", f"{T}/rw/e")
    head = (await c.command(f"{T}/ctl", "commit")).decode().strip()
    ro = f"snapshots/{head}/ro"
    assert sorted(await c.listdir(ro)) == ["c", "e"]
    assert await c.read(f"{ro}/e/b") == b"2"


async def test_wrong_kinds(c) -> None:
    await commit(c, {"f": b"1", "d/g": b"1"})
    await c.mkdir(T)
    assert (await said(c.write(f"{T}/rw/d", b"x"))).startswith("Is a directory")
    assert (await said(c.mkdir(f"{T}/rw/f"))).startswith("Already exists")
    assert (await said(c.read(f"{T}/rw/none"))).startswith("No such file or directory")
    assert await said(c.remove(f"{T}/rw/d")) == "Directory is not empty: d"
    assert await said(c.write(f"{MAIN}/ro/f", b"x")) == "Read-only file"


# Qids.


async def test_qid_versions_follow_the_content(c) -> None:
    async def version(path: str) -> int:
        return (await file_qid(c, path)).version

    await commit(c, {"f": b"1", "same": b"s", "d/g": b"1"})
    before = {p: await version(f"{MAIN}/ro/{p}") for p in ("f", "same", "d", "d/g", "")}
    head = await version(f"{MAIN}/head")
    await commit(c, {"f": b"2"})
    after = {p: await version(f"{MAIN}/ro/{p}") for p in before}
    changed = {p for p in before if before[p] != after[p]}
    assert changed == {"f", ""}
    assert await version(f"{MAIN}/head") != head
    await commit(c, {"f": b"1"})
    assert await version(f"{MAIN}/ro/f") == before["f"]
    await c.mkdir(T)
    rw = f"{T}/rw/f"
    first = await version(rw)
    await c.write(rw, b"3")
    second = await version(rw)
    assert second not in {first, 0}


async def test_stable_inodes(c) -> None:
    """The same place has the same number, whoever looks and whenever; others have others."""
    await commit(c, {"f": b"1", "d/g": b"1"})
    await c.mkdir(T)
    places = ["", "branch", MAIN, f"{MAIN}/head", f"{MAIN}/ro", f"{MAIN}/ro/f", f"{MAIN}/ro/d/g"]
    places += [T, f"{T}/rw", f"{T}/rw/f", f"{T}/ctl", f"{T}/msg", "trees", "remotes", "debug/src"]
    first = [(await file_qid(c, p)).path for p in places]
    assert [(await file_qid(c, p)).path for p in places] == first
    assert len(set(first)) == len(first)
    await c.write(f"{T}/rw/f", b"2")
    assert [(await file_qid(c, p)).path for p in places] == first


# Merges.


async def test_merge(tree, c) -> None:
    base = await commit(c, {"f": b"0", "g": b"0"})
    await c.mkdir("branch/b")
    async with await c.open("branch/b/fast-forward", OpenFlag.WRONLY) as f:
        await f.write(0, base.encode())
    theirs = await commit(c, {"g": b"theirs"}, branch="b")
    ours = await commit(c, {"f": b"ours"})
    await c.mkdir(T)
    for name in ("ours", "theirs", "base", "conflicts"):
        assert await said(c.read(f"{T}/{name}")) == "No such file or directory"
    await c.command(f"{T}/merge", theirs)
    assert await c.read(f"{T}/conflicts") == b""
    assert await c.read(f"{T}/parents") == f"{ours}\n{theirs}\n".encode()
    found = {s: await c.read(f"{T}/{s}/g") for s in ("ours", "theirs", "base", "rw")}
    assert found == {"ours": b"0", "theirs": b"theirs", "base": b"0", "rw": b"theirs"}
    assert await said(c.write(f"{T}/theirs/g", b"x")) == "Read-only file"
    assert (await said(c.command(f"{T}/merge", ZERO))).startswith("invalid-hash")
    head = (await c.command(f"{T}/ctl", "commit")).decode().strip()
    assert tree.repo.engine.objects.commit(head).parents == (ours, theirs)


async def test_merge_metadata(c) -> None:
    """The executable bit and links merge as content does."""
    await c.mkdir(T)
    await put(c, f"{T}/rw", {"mode": b"1", "both": b"1"})
    await c.symlink(f"{T}/rw/link", "old")
    base = (await c.command(f"{T}/ctl", "commit")).decode().strip()
    await c.mkdir("branch/b")
    async with await c.open("branch/b/fast-forward", OpenFlag.WRONLY) as f:
        await f.write(0, base.encode())
    other = "branch/b/transactions/t"
    await c.mkdir(other)
    await c.setattr(f"{other}/rw/mode", SetAttr(mode=0o755))
    await c.setattr(f"{other}/rw/both", SetAttr(mode=0o755))
    await c.remove(f"{other}/rw/link")
    await c.symlink(f"{other}/rw/link", "new")
    theirs = (await c.command(f"{other}/ctl", "commit")).decode().strip()
    await commit(c, {"both": b"2"})
    await c.mkdir(T)
    await c.command(f"{T}/merge", theirs)
    assert await c.read(f"{T}/conflicts") == b""
    assert (await c.stat(f"{T}/rw/mode")).mode & 0o111
    assert (await c.stat(f"{T}/rw/both")).mode & 0o111
    assert await c.read(f"{T}/rw/both") == b"2"
    assert await c.readlink(f"{T}/rw/link") == "new"


async def test_merge_empty(tree, c) -> None:
    """A branch without commits merged with one: everything arrives, the parent is recorded."""
    source = await commit(c, {"d/f": b"1"})
    await c.mkdir("branch/result")
    await c.mkdir("branch/result/transactions/map")
    await c.command("branch/result/transactions/map/merge", source)
    assert await c.read("branch/result/transactions/map/rw/d/f") == b"1"
    assert await c.read("branch/result/transactions/map/conflicts") == b""
    assert await c.listdir("branch/result/transactions/map/base") == []
    head = (await c.command("branch/result/transactions/map/ctl", "commit")).decode().strip()
    assert tree.repo.engine.objects.commit(head).parents == (source,)


BASE = {"a": b"base", "b": b"base", "c": b"base", "d": b"base", "e": b"base", "f": b"base"}
OURS = {"a": b"ours", "c": b"ours", "e": b"same", "f": b"ours", "g": b"g"}
OURS |= {"dir": b"a file", "dir2/x": b"below", "h": b"ours"}
THEIRS = {"a": b"theirs", "b": b"theirs", "e": b"same", "dir/y": b"below", "dir2": b"a file"}
THEIRS |= {"h": b"theirs"}
REASONS = {
    "a": "Changed on both branches",
    "dir": "File vs dir",
    "dir2": "File vs dir",
    "f": "option: add/del",
    "h": "default: add/add and no common ancestor",
}


async def test_conflicts(tree, c) -> None:
    base = await commit(c, BASE)
    await c.mkdir("branch/b")
    async with await c.open("branch/b/fast-forward", OpenFlag.WRONLY) as f:
        await f.write(0, base.encode())
    other = "branch/b/transactions/t"
    await c.mkdir(other)
    await put(c, f"{other}/rw", THEIRS)
    for gone in ("d", "f"):
        await c.remove(f"{other}/rw/{gone}")
    theirs = (await c.command(f"{other}/ctl", "commit")).decode().strip()
    await commit(c, OURS)
    await c.mkdir(T)
    await c.command(f"{T}/merge", theirs)
    assert await c.read(f"{T}/conflicts") == b"a\ndir\ndir2\nf\nh\n"
    for path, reason in REASONS.items():
        assert await c.read(f"{T}/rw/{path}") == f"** Conflict **\n{reason}\n".encode()
    kept = {p: await c.read(f"{T}/rw/{p}") for p in ("b", "c", "e", "g")}
    assert kept == {"b": b"theirs", "c": b"ours", "e": b"same", "g": b"g"}
    assert sorted(await c.listdir(f"{T}/rw")) == sorted({*REASONS, *kept})
    refusal = await said(c.command(f"{T}/ctl", "commit"))
    assert refusal.startswith("conflicts file is not empty")
    # write, rm, rm and mkdir, create, rename over: each resolves its path
    await c.write(f"{T}/rw/a", b"resolved")
    await c.remove(f"{T}/rw/f")
    await c.remove(f"{T}/rw/dir")
    await c.mkdir(f"{T}/rw/dir")
    assert await c.read(f"{T}/conflicts") == b"dir2\nh\n"
    await c.remove(f"{T}/rw/dir2")
    await c.write(f"{T}/rw/h", b"")
    assert await c.read(f"{T}/conflicts") == b""
    await c.command(f"{T}/ctl", "commit")
    assert await tree.main.names() == ["a", "b", "c", "e", "g", "h"]


# Watches and streams.


async def test_watch(tree, c) -> None:
    live = f"{MAIN}/watch/tree.live"
    assert await c.listdir(f"{MAIN}/watch") == ["tree.live"]
    async with (
        await c.open(live) as root,
        await c.open(f"{MAIN}/watch/doc.node/tree.live") as doc,
        await c.open(f"{MAIN}/watch/Makefile.node/tree.live") as makefile,
        asyncio.timeout(20),
    ):
        assert bytes(await root.pread(0, 99)) == f"D-{EMPTY_TREE}\n".encode()
        assert bytes(await doc.pread(0, 99)) == bytes(await makefile.pread(0, 99)) == b"\n"
        for stream in (doc, makefile):
            assert bytes(await stream.pread(1, 99)) == b""  # ends a read(2) of Linux's client
        asleep = asyncio.ensure_future(doc.pread(1, 99))
        await commit(c, {"Makefile": b"all:\n"})
        line = bytes(await makefile.pread(1, 99)).decode()
        assert line.startswith("F-")
        assert await c.read(f"trees/{line.strip()}") == b"all:\n"
        assert not asleep.done()
        await commit(c, {"doc/a": b"1"})
        line = bytes(await asleep).decode().strip()
        assert line.startswith("D-")
        assert await c.listdir(f"trees/{line}") == ["a"]
        assert await c.read(f"trees/{line}/a") == b"1"
        assert await said(makefile.pread(999, 9)) == "Attempt to seek in stream"
    assert sorted(await c.listdir(f"{MAIN}/watch")) == ["Makefile.node", "doc.node", "tree.live"]
    assert not tree.repo._watches  # a clunk ends the watch


async def test_trees_by_letter(c) -> None:
    await c.mkdir(T)
    await c.write(f"{T}/rw/x", b"run", mode=0o755)
    await c.symlink(f"{T}/rw/l", "x")
    await c.command(f"{T}/ctl", "commit")
    lines = {}
    for name in ("x", "l"):
        async with await c.open(f"{MAIN}/watch/{name}.node/tree.live") as f:
            lines[name] = bytes(await f.pread(0, 99)).decode().strip()
    assert lines["x"].startswith("X-")
    assert lines["l"].startswith("L-")
    assert (await c.stat(f"trees/{lines['x']}")).mode & 0o111
    assert await c.readlink(f"trees/{lines['l']}") == "x"
    assert (await said(c.read(f"trees/F-{ZERO}"))).startswith("No such file or directory")


async def test_streams(c) -> None:
    """0, 1, then 2 and 3 while nobody reads come as 3 alone; reflog has them all."""
    path = f"{MAIN}/head.live"
    async with (
        await c.open(path) as live,
        await c.open(f"{MAIN}/reflog") as log,
        asyncio.timeout(20),
    ):
        at = 0

        async def line() -> str:
            nonlocal at
            piece = b""
            while not piece:
                piece = bytes(await live.pread(at, 99))
            at += len(piece)
            return piece.decode().strip()

        assert await line() == ""
        made = [await commit(c, {"f": b"1"})]
        assert await line() == made[0]
        made += [await commit(c, {"f": b"%d" % i}) for i in (2, 3)]
        assert await line() == made[2]
        made.append(await commit(c, {"f": b"4"}))
        assert await line() == made[3]
        got = b""
        while got.count(b"\n") < 4:
            got += bytes(await log.pread(len(got), 999))
        assert got.decode().split() == made


# Remotes and debug.


async def test_remotes(tree, c, tmp_path) -> None:
    other = tmp_path / "other.git"
    with Repository.open(other) as theirs, theirs.branch("main").transaction("x") as t:
        t.write("f", b"1")
    await c.mkdir("remotes/up")
    assert await c.listdir("remotes") == ["up"]
    assert await c.listdir("remotes/up") == ["url", "fetch", "head"]
    assert await c.read("remotes/up/url") == b""
    fetch = "remotes/up/fetch"
    assert (await said(c.command(fetch, "main"))).startswith("error: remote url is not defined")
    await c.write("remotes/up/url", f"{tmp_path}/nowhere\n".encode())
    assert (await said(c.command(fetch, "main"))).startswith("error: cannot fetch ")
    assert (await c.read(fetch)).startswith(b"error: cannot fetch ")
    await c.write("remotes/up/url", str(other).encode())
    assert (await said(c.command(fetch, "none"))).startswith("error: no head to fetch")
    assert "one line" in await said(c.write("remotes/up/url", b"a\nb"))
    assert await c.read("remotes/up/url") == str(other).encode()
    async with await c.open("remotes/up/head") as head, asyncio.timeout(20):
        assert bytes(await head.pread(0, 99)) == b"\n"
        assert bytes(await head.pread(1, 99)) == b""
        waiting = asyncio.ensure_future(head.pread(1, 99))
        got = await c.command(fetch, "main\n")
        assert bytes(await waiting) == got == f"{t.result.head}\n".encode()
    commit_id = got.decode().strip()
    assert await c.read(f"snapshots/{commit_id}/ro/f") == b"1"
    async with await c.open(f"{MAIN}/fast-forward", OpenFlag.WRONLY) as f:
        await f.write(0, got)
    assert await c.read(f"{MAIN}/ro/f") == b"1"
    await c.rename("remotes/up", "remotes/down")
    assert await c.listdir("remotes") == ["down"]
    assert await c.read("remotes/down/url") == str(other).encode()
    async with await c.open("remotes/down/head") as head:
        assert bytes(await head.pread(0, 99)) == got
    await c.remove("remotes/down")
    assert await c.listdir("remotes") == []
    assert await said(c.read("remotes/down/url")) == "No such file or directory"


async def test_a_url_is_cut_and_edited_like_a_file(c) -> None:
    await c.mkdir("remotes/up")
    await c.write("remotes/up/url", b"git://host/a")
    async with await c.open("remotes/up/url", OpenFlag.RDWR) as f:
        await f.write(11, b"bc")
    assert await c.read("remotes/up/url") == b"git://host/bc"
    await c.setattr("remotes/up/url", SetAttr(size=10))
    assert await c.read("remotes/up/url") == b"git://host"
    assert (await c.stat("remotes/up/url")).size == 10
    await c.write("remotes/up/url", b"")
    assert await c.read("remotes/up/url") == b""


async def test_debug_levels(c) -> None:
    names = await c.listdir("debug/src")
    assert {"dataflow", "dataflow.sync.mirror"} <= set(names)
    base = "debug/src/dataflow.sync.mirror"
    logger = logging.getLogger("dataflow.sync.mirror")
    try:
        assert b"dataflow.sync.mirror" in await c.read(f"{base}/doc")
        for word, level in (("debug", 10), ("info", 20), ("warning", 30), ("error", 40)):
            await c.write(f"{base}/level", f"{word}\n".encode())
            assert await c.read(f"{base}/level") == f"{word}\n".encode()
            assert logger.level == level
        await c.write(f"{base}/level", b"quiet\n")
        assert not logger.isEnabledFor(logging.CRITICAL)
        assert "expected one of" in await said(c.write(f"{base}/level", b"loud\n"))
        assert await said(c.read("debug/src/other/level")) == "No such file or directory"
    finally:
        logger.setLevel(logging.NOTSET)


async def test_a_flushed_fetch_is_cancelled(tree, c) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        ended.set()
        writer.close()

    connected, ended = asyncio.Event(), asyncio.Event()
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, asyncio.timeout(20):
        await c.mkdir("remotes/up")
        await c.write("remotes/up/url", f"git://127.0.0.1:{port}/x".encode())
        waiting = asyncio.ensure_future(c.command("remotes/up/fetch", "main"))
        await connected.wait()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        while not ended.is_set():  # git's first packet, then the end
            await ended.wait()

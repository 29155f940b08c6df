"""DataKit's tree, row by row (docs/datakit.md), through 9P: branches, transactions, files."""

from __future__ import annotations

import json
import random

from datakit import MAIN, ZERO, commit, file_qid, put, said

from dataflow.p9.const import OpenFlag
from dataflow.p9.tree import SetAttr

from .test_views import T

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

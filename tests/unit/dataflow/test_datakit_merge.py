"""DataKit's tree, row by row (docs/datakit.md), through 9P: merges and their conflicts."""

from __future__ import annotations

from datakit import ZERO, commit, put, said

from dataflow.p9.const import OpenFlag
from dataflow.p9.tree import SetAttr

from .test_views import T


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

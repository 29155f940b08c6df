"""DataKit's tree, row by row (docs/datakit.md), through 9P: streams, remotes, debug."""

from __future__ import annotations

import asyncio
import logging

from datakit import MAIN, ZERO, commit, said

from dataflow import Repository
from dataflow.p9.const import OpenFlag
from dataflow.p9.tree import SetAttr
from dataflow.store.objects import EMPTY_TREE

from .test_views import T

# Watches and streams.


async def test_watch(tree, c) -> None:
    live = f"{MAIN}/watch/tree.live"
    assert await c.listdir(f"{MAIN}/watch") == ["tree.live", "log.live", "log"]
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
        found = sorted(await c.listdir(f"{MAIN}/watch"))
        assert found == ["Makefile.node", "doc.node", "log", "log.live", "tree.live"]
    assert tree.repo.statistics().watches == 0  # a clunk ends the watch


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

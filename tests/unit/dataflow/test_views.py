"""The served tree through a real 9P server and client on a unix socket."""

import asyncio
import errno
import json
import stat
from contextlib import asynccontextmanager

import pytest

from dataflow import Repository
from dataflow.aio.client import connect
from dataflow.aio.server import Server
from dataflow.p9.const import Dialect, OpenFlag
from dataflow.p9.errors import P9Error
from dataflow.p9.tree import SetAttr
from dataflow.store.objects import EMPTY_TREE
from dataflow.views.lease import Limits
from dataflow.views.root import repository_root

T = "branch/main/transactions/t"


class Tree:
    """A repository in memory, served on a socket."""

    def __init__(self, repo: Repository, address: str) -> None:
        self.repo = repo
        self.address = address
        self.main = repo.branch("main")

    def connect(self, **options):
        return connect(self.address, **options)

    async def settle(self) -> None:
        """Wait until the watches of main have been told of its head."""
        probe = self.repo.follow("main")
        await anext(probe)
        probe.close()

    async def put(self, **files: str) -> str:
        async with self.main.transaction("put") as t:
            for path, data in files.items():
                t.write(path.replace("_", "/"), data.encode())
        return t.result.head


@asynccontextmanager
async def serve(tmp_path, **options):
    async with (
        Repository.memory() as repo,
        Server(repository_root(repo, **options)) as server,
    ):
        yield Tree(repo, await server.listen_unix(str(tmp_path / "s")))


@pytest.fixture
async def c(tree):
    async with tree.connect() as client:
        yield client


async def refused(awaitable) -> int:
    try:
        await awaitable
    except P9Error as err:
        return err.errno
    except ExceptionGroup as group:  # several writes in flight
        return group.exceptions[0].errno
    pytest.fail("expected an error, found none")


async def test_root(c) -> None:
    assert sorted(await c.listdir()) == [
        "branch",
        "commits",
        "debug",
        "remotes",
        "snapshots",
        "trees",
    ]


async def test_directories_below_each_other_up_to_a_bound(tree, c) -> None:
    async with tree.main.transaction("deep") as t:
        t.write("d/" * 254 + "f", b"x")
    await c.mkdir(T)
    path = f"{T}/rw/" + "d/" * 255
    await c.mkdir(path)
    await c.write(f"{path}g", b"y")
    await c.mkdir(f"{path}d")
    with pytest.raises(P9Error, match="File name too long") as caught:
        await c.mkdir(f"{path}d/d")
    assert caught.value.errno == errno.ENAMETOOLONG
    await c.command(f"{T}/ctl", "commit")
    assert await c.read("branch/main/ro/" + "d/" * 255 + "g") == b"y"


async def test_transaction_from_mkdir_to_commit(tree, c) -> None:
    await c.mkdir("branch/main")
    assert await c.listdir("branch") == ["main"]
    assert await c.read("branch/main/head") == b"\n"
    await c.mkdir(T)
    assert await c.listdir("branch/main/transactions") == ["t"]
    await c.mkdir(f"{T}/rw/dir")
    await c.write(f"{T}/rw/dir/file", b"hello", mode=0o755)
    await c.symlink(f"{T}/rw/link", "dir/file")
    await c.write(f"{T}/msg", b"first\n")
    head = (await c.command(f"{T}/ctl", "commit\n")).decode().strip()
    assert tree.main.head == head
    assert await c.read("branch/main/head") == head.encode() + b"\n"
    assert await c.listdir("branch/main/transactions") == []
    assert await c.read("branch/main/ro/dir/file") == b"hello"
    assert stat.S_IMODE((await c.stat("branch/main/ro/dir/file")).mode) == 0o555
    assert await c.readlink("branch/main/ro/link") == "dir/file"
    (commit,) = await tree.main.log()
    assert commit.message == "first\n"
    assert json.loads(await c.read(f"commits/{head}"))["tree"] == commit.tree


@pytest.mark.parametrize("dialect", list(Dialect))
async def test_every_dialect_commits(tree, dialect) -> None:
    async with tree.connect(dialect=dialect) as c:
        await c.mkdir("branch/main")
        await c.mkdir(T)
        await c.write(f"{T}/rw/f", b"x")
        await c.command(f"{T}/ctl", "commit")
        assert await c.read("branch/main/ro/f") == b"x"


async def test_rw_edits(tree, c) -> None:
    await tree.put(a="one", d_b="two", d_c="three")
    await c.mkdir(T)
    rw = f"{T}/rw"
    assert sorted(await c.listdir(rw)) == ["a", "d"]
    async with await c.open(f"{rw}/a", OpenFlag.RDWR) as f:
        await c.rename(f"{rw}/a", f"{rw}/moved")
        await f.write(3, b"!")
    assert await c.read(f"{rw}/moved") == b"one!"
    await c.rename(f"{rw}/d", f"{rw}/e")
    assert sorted(await c.listdir(f"{rw}/e")) == ["b", "c"]
    await c.setattr(f"{rw}/e/b", SetAttr(size=1, mtime_ns=5 * 10**9))
    found = await c.stat(f"{rw}/e/b")
    assert (found.size, found.mtime_ns) == (1, 5 * 10**9)
    await c.setattr(f"{rw}/e/b", SetAttr(mode=0o755))
    assert (await c.stat(f"{rw}/e/b")).mode & 0o777 == 0o755
    assert await refused(c.remove(f"{rw}/e")) == errno.ENOTEMPTY
    await c.remove(f"{rw}/e/c")
    head = tree.main.head
    assert await c.read(f"{T}/diff/{head}") == b"- a\n- d/b\n- d/c\n+ e/b\n+ moved\n"
    assert await c.read(f"{T}/parents") == head.encode() + b"\n"
    assert await c.read(f"{T}/origin") == b""
    assert await refused(c.write(f"{rw}/.GIT", b"")) == errno.EINVAL
    await c.command(f"{T}/ctl", "close")
    assert await c.listdir("branch/main/transactions") == []
    assert tree.main.head == head


async def test_control_errors_answer_the_write_and_can_be_read(tree, c) -> None:
    await tree.put(f="0")
    await c.mkdir(T)
    assert await refused(c.command(f"{T}/ctl", "frobnicate")) == errno.EINVAL
    assert await c.read(f"{T}/ctl") == b'Unknown command "frobnicate"\n'
    await c.write(f"{T}/rw/f", b"mine")
    await tree.put(f="theirs")
    assert await refused(c.command(f"{T}/ctl", "commit")) == errno.EBUSY
    assert (await c.read(f"{T}/ctl")).startswith(b"Merge conflict: Changed on both branches (f)")
    assert await c.command(f"{T}/merge", tree.main.head) == b"f\n"
    assert await c.read(f"{T}/conflicts") == b"f\n"
    assert await c.read(f"{T}/ours/f") == b"mine"
    assert await c.read(f"{T}/theirs/f") == b"theirs"
    assert await c.read(f"{T}/base/f") == b"0"
    assert await refused(c.command(f"{T}/ctl", "commit")) == errno.EBUSY
    assert (await c.read(f"{T}/ctl")).startswith(b"conflicts file is not empty")
    await c.write(f"{T}/rw/f", b"both")
    await c.command(f"{T}/ctl", "commit")
    assert await tree.main.read("f") == b"both"


async def test_bad_parents_are_refused_at_the_write(tree, c) -> None:
    await tree.put(f="0")
    await c.mkdir(T)
    async with await c.open(f"{T}/parents", OpenFlag.RDWR) as f:
        assert await refused(f.write(0, b"nonsense\n")) == errno.EINVAL
    await c.write(f"{T}/parents", tree.main.head.encode() + b"\n")


async def test_head_live_waits_and_ends_each_read(tree, c) -> None:
    one = await tree.put(f="1")
    async with await c.open("branch/main/head.live") as f:
        assert bytes(await f.pread(0, 4096)) == one.encode() + b"\n"
        assert bytes(await f.pread(41, 4096)) == b""  # ends one read(2) of the kernel's client
        waiting = asyncio.ensure_future(f.pread(41, 4096))
        two = await tree.put(f="2")
        async with asyncio.timeout(5):
            assert bytes(await waiting) == two.encode() + b"\n"
    assert tree.repo.statistics().watches == 0


async def test_flushed_read_of_a_stream_loses_nothing(tree, c) -> None:
    await tree.put(f="1")
    async with await c.open("branch/main/reflog") as f:
        waiting = asyncio.ensure_future(f.pread(0, 4096))
        await c.stat("branch/main/head")  # the read has reached the server
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        made = [await tree.put(f=str(i)) for i in range(5)]
        got = b""
        async with asyncio.timeout(5):
            while got.count(b"\n") < 5:
                got += bytes(await f.pread(len(got), 4096))
    assert got.decode().split() == made


async def test_reflog_tells_deletion_by_a_blank_line(tree, c) -> None:
    await tree.put(f="1")
    async with await c.open("branch/main/reflog") as f:
        waiting = asyncio.ensure_future(f.pread(0, 4096))
        await c.remove("branch/main")
        async with asyncio.timeout(5):
            assert bytes(await waiting) == b"\n"
    assert await c.listdir("branch") == []


async def test_tree_live(tree, c) -> None:
    await c.mkdir("branch/main")
    watch = "branch/main/watch"
    async with (
        await c.open(f"{watch}/tree.live") as root,
        await c.open(f"{watch}/doc.node/a.node/tree.live") as leaf,
    ):
        assert bytes(await root.pread(0, 99)) == b"D-" + EMPTY_TREE.encode() + b"\n"
        assert bytes(await leaf.pread(0, 99)) == b"\n"
        assert bytes(await leaf.pread(1, 99)) == b""
        waiting = asyncio.ensure_future(leaf.pread(1, 99))
        await tree.put(other="x")
        await c.stat("branch/main/head")
        assert not waiting.done()
        await tree.put(doc_a="x")
        async with asyncio.timeout(5):
            line = bytes(await waiting).decode().strip()
    assert line.startswith("F-")
    assert await c.read(f"trees/{line}") == b"x"
    assert await c.listdir(watch) == ["tree.live", "log.live", "log", "doc.node", "other.node"]
    assert await refused(c.read("trees/F-" + EMPTY_TREE)) == errno.ENOENT
    assert await refused(c.read("trees/Z-x")) == errno.ENOENT  # a partial walk


async def test_nested_branches_are_walkable(tree, c) -> None:
    for path in ("branch/a", "branch/a/b", "branch/a/b/transactions/t"):  # mkdir -p
        await c.mkdir(path)
    await c.write("branch/a/b/transactions/t/rw/f", b"1")
    await c.command("branch/a/b/transactions/t/ctl", "commit")
    assert list(await tree.repo.branches()) == ["a/b"]
    assert await c.listdir("branch") == ["a"]
    assert await c.listdir("branch/a") == ["b"]
    assert await c.read("branch/a/b/ro/f") == b"1"
    await c.rename("branch/a/b", "branch/c")
    assert await c.listdir("branch") == ["c"]
    assert await refused(c.mkdir("branch/c")) == errno.EEXIST
    assert await refused(c.mkdir("branch/c/d")) == errno.EPERM


async def test_fast_forward(tree, c) -> None:
    one = await tree.put(f="1")
    two = await tree.put(f="2")
    await c.mkdir("branch/other")
    for commit in (one, two):
        async with await c.open("branch/other/fast-forward", OpenFlag.WRONLY) as f:
            await f.write(0, commit.encode() + b"\n")
        assert tree.repo.branch("other").head == commit
    async with await c.open("branch/other/fast-forward", OpenFlag.WRONLY) as f:
        assert await refused(f.write(0, one.encode())) == errno.EBUSY


async def test_snapshots_remotes_debug(tree, c) -> None:
    one = await tree.put(f="1")
    two = await tree.put(f="2")
    base = f"snapshots/{two}"
    assert sorted(await c.listdir(base)) == ["diff", "hash", "msg", "parents", "ro"]
    assert await c.read(f"{base}/parents") == one.encode() + b"\n"
    assert await c.read(f"{base}/diff/{one}") == b"* f\n"
    assert await c.read(f"snapshots/{one}/ro/f") == b"1"
    assert await c.read(f"branch/main/diff/{one}") == b"* f\n"
    assert await refused(c.listdir("snapshots/" + "1" * 40)) == errno.ENOENT
    await c.mkdir("remotes/up")
    await c.write("remotes/up/url", b"git://x")
    assert await c.read("remotes/up/url") == b"git://x"
    await c.write("debug/src/dataflow/level", b"info\n")
    assert await c.read("debug/src/dataflow/level") == b"info\n"


async def test_transaction_survives_its_connection(tree) -> None:
    async with tree.connect() as c:
        await c.mkdir("branch/main")
        await c.mkdir(T)
        await c.write(f"{T}/rw/f", b"kept")
    async with tree.connect() as c:
        assert await c.read(f"{T}/rw/f") == b"kept"
        await c.command(f"{T}/ctl", "commit")
    assert await tree.main.read("f") == b"kept"


async def test_lease_ends_an_abandoned_transaction(tmp_path) -> None:
    async with serve(tmp_path, lease=0.0) as tree:
        async with tree.connect() as c:
            await c.mkdir("branch/main")
            await c.mkdir(T)
        async with tree.connect() as c, asyncio.timeout(5):
            while await c.listdir("branch/main/transactions"):
                pass


async def test_ro_is_read_only(tree, c) -> None:
    await tree.put(f="1")
    ro = "branch/main/ro"
    assert await refused(c.open(f"{ro}/f", OpenFlag.WRONLY)) == errno.EROFS
    assert await refused(c.write(f"{ro}/new", b"")) == errno.EROFS
    assert await refused(c.mkdir(f"{ro}/d")) == errno.EROFS
    assert await refused(c.remove(f"{ro}/f")) == errno.EROFS
    assert (await c.stat(f"{ro}/f")).size == 1


async def lines(f, n: int, offset: int = 0) -> list[str]:
    """Read `n` lines of a stream, as the kernel's client does: an empty reply ends a read(2)."""
    got = b""
    async with asyncio.timeout(5):
        while got.count(b"\n") < n:
            got += bytes(await f.pread(offset + len(got), 4096))
    return got.decode().splitlines()


async def test_log_is_resumed_from_any_line(tree, c) -> None:
    made = [await tree.put(f="0"), await tree.put(d_a="1")]
    t = tree.main.transaction("side")
    t.write("side", b"x")
    made.append(await tree.put(d_a="2"))
    merged = await t.commit()
    made += [merged.commit, merged.head]
    assert await c.listdir("branch/main/log") == ["live", "all"]
    async with await c.open("branch/main/log/all") as f:
        found = await lines(f, 5)
    assert [line.split()[0] for line in found] == ["commit"] * 5
    assert [line.split()[2] for line in found] == made
    for i, line in enumerate(found):
        async with (
            await c.open(f"branch/main/log/{line.split()[1]}") as f,
            await c.open("branch/main/log.live") as live,
        ):
            new = await tree.put(f=str(i))
            rest = await lines(f, 5 - i)
            assert rest == [*found[i + 1 :], f"commit {new} {new}"]
            assert await lines(live, 1) == [rest[-1]]
        await tree.main.reset(made[-1])
    assert tree.repo.statistics().watches == 0


async def test_log_below_a_path(tree, c) -> None:
    await tree.put(f="0")
    two = await tree.put(d_a="1")
    async with (
        await c.open("branch/main/watch/d.node/a.node/log/all") as f,
        await c.open("branch/main/watch/d.node/log.live") as live,
    ):
        await tree.put(f="1")
        three = await tree.put(d_a="2")
        assert await lines(f, 2) == [f"commit {x} {x}" for x in (two, three)]
        assert await lines(live, 1) == [f"commit {three} {three}"]


async def test_log_tells_cuts_and_deletion(tree, c) -> None:
    one = await tree.put(f="0")
    await tree.put(f="1")
    async with await c.open("branch/main/log.live") as f:
        await tree.main.reset(one)
        assert await lines(f, 1) == [f"cut {one} {one}"]
        await tree.main.delete()
        assert (await lines(f, 1, 86))[0] == f"deleted {one}"


@pytest.mark.parametrize("place", ["x", "1" * 40, "..:", "0" * 40 + ".."])
async def test_log_of_no_place(tree, c, place) -> None:
    await tree.put(f="0")
    assert await refused(c.open(f"branch/main/log/{place}")) == errno.ENOENT


async def test_a_connection_that_ends_leaves_no_watch(tree) -> None:
    names = (
        "head.live",
        "reflog",
        "log.live",
        "log/all",
        "watch/tree.live",
        "watch/x.node/log/all",
    )
    async with tree.connect() as c:
        await tree.put(f="0")
        for name in names:
            f = await c.open(f"branch/main/{name}")
            await c.open(f"branch/main/{name}")
            reading = asyncio.ensure_future(f.pread(0, 100))
            await c.stat("branch/main/head")
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        assert tree.repo.statistics().watches == 2 * len(names)
    async with tree.connect() as c, asyncio.timeout(5):
        while tree.repo.statistics().watches:
            await c.stat("branch")


async def test_head_live_from_nothing_coalesces_and_keeps_offsets(tree, c) -> None:
    await c.mkdir("branch/main")
    async with await c.open("branch/main/head.live") as f:
        assert bytes(await f.pread(0, 99)) == b"\n"  # no commits
        assert bytes(await f.pread(1, 99)) == b""
        one = await tree.put(f="1")
        assert bytes(await f.pread(1, 99)).decode() == one + "\n"
        assert bytes(await f.pread(1, 8)).decode() == one[:8]  # the last piece can be read again
        for wrong in (0, 43, 1000):
            assert await refused(f.pread(wrong, 99)) == errno.EINVAL
        made = [await tree.put(f=str(i)) for i in range(2, 5)]
        await tree.settle()
        async with asyncio.timeout(5):
            line = b""
            while not line:
                line = bytes(await f.pread(42, 99))
        assert line.decode() == made[-1] + "\n"  # what lay between is left out


@pytest.mark.parametrize("name", ["head.live", "log.live", "watch/f.node/tree.live"])
async def test_flushed_reads_of_all_streams_lose_nothing(tree, c, name) -> None:
    await tree.put(f="1")
    async with await c.open(f"branch/main/{name}") as f:
        size = 0
        if name != "log.live":
            size = len(bytes(await f.pread(0, 99)))
            assert bytes(await f.pread(size, 99)) == b""
        for i in range(3):
            waiting = asyncio.ensure_future(f.pread(size, 99))
            await c.stat("branch/main/head")  # the read has reached the server
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await tree.put(other=str(i))
        two = await tree.put(f="2")
        await tree.settle()
        blob = (await tree.repo.worker.read(tree.repo.engine.tree(two).entry, (b"f",))).oid
        last = {"head.live": two, "log.live": f"commit {two} {two}"}.get(name, f"F-{blob}")
        found: list[str] = []
        while last not in found:  # a flushed read may have been answered: that piece comes again
            found += await lines(f, 1, size + sum(len(line) + 1 for line in found))
        assert len(found) == len(set(found))
        assert name != "log.live" or len(found) == 4


async def test_tree_live_is_silent_while_the_line_is_the_same(tree, c) -> None:
    await tree.put(f="1")
    async with await c.open("branch/main/watch/f.node/tree.live") as f:
        first = bytes(await f.pread(0, 99))
        assert bytes(await f.pread(len(first), 99)) == b""
        await tree.put(f="2")
        await tree.put(f="1")  # back, before the reader looked
        await tree.settle()
        waiting = asyncio.ensure_future(f.pread(len(first), 99))
        await c.stat("branch/main/head")
        async with tree.main.transaction("x") as t:
            t.chmod("f", executable=True)
        async with asyncio.timeout(5):
            assert bytes(await waiting) == first.replace(b"F-", b"X-")


async def test_too_much_is_refused_to_that_client_only(tmp_path) -> None:
    limits = Limits(octets_per_owner=10_000, transactions_per_owner=2)
    async with serve(tmp_path, limits=limits) as tree, tree.connect() as c:
        await c.mkdir("branch/main")
        await c.mkdir(T)
        assert await refused(c.write(f"{T}/rw/big", bytes(20_000))) == errno.EDQUOT
        await c.mkdir(f"{T}2")
        assert await refused(c.mkdir(f"{T}3")) == errno.EDQUOT
        await c.write(f"{T}2/rw/small", b"1")
        await c.command(f"{T}2/ctl", "commit")
        await c.mkdir(f"{T}3")

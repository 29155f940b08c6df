"""Ready-made nodes through a server and a client, in every dialect where it applies."""

import asyncio
import errno
import stat

import pytest

from dataflow.aio.streams import Shielded
from dataflow.p9.const import NOFID, Dialect, OpenFlag
from dataflow.p9.errors import P9Error, UsageError
from dataflow.p9.messages import Tattach, Tclunk, Tgetattr, Tlopen, Tread, Treaddir, Twalk
from dataflow.p9.nodes import ControlFile, StaticDir, StaticFile, StreamFile
from dataflow.p9.tree import Attr, Directory, File, Handle, SetAttr, Symlink, path_id


class Feed:
    """A source whose pieces the test hands out."""

    def __init__(self):
        self.queue = asyncio.Queue()
        self.waiting = asyncio.Event()
        self.closed = False

    def __aiter__(self):
        return self

    async def __anext__(self):
        self.waiting.set()
        item = await self.queue.get()
        if item is None:
            raise StopAsyncIteration
        return item

    async def aclose(self):
        self.closed = True


async def echo(command, ctx):
    if command == "fail":
        raise P9Error(errno.EINVAL, "Unknown command")
    return command[::-1]


def tree():
    names = {f"f{i:03}": StaticFile(b"%d" % i) for i in range(300)}
    deep = StaticDir({"end": StaticFile(b"deep")})
    for _ in range(40):
        deep = StaticDir({"d": deep})
    return StaticDir(
        {
            "hello": StaticFile(b"hello, world\n"),
            "made": StaticFile(lambda: b"fresh"),
            "ctl": ControlFile(echo),
            "many": StaticDir(names),
            "deep": deep,
            "link": Symlink("hello"),
            "größe\udcff": StaticFile(b"odd"),
            "big": StaticFile(bytes(range(256)) * 16384),
        }
    )


async def test_read_and_stat(pair, dialect):
    c = await pair.client(await pair.server(tree()), dialect, msize=8192)
    assert c.dialect is dialect
    assert await c.read("hello") == b"hello, world\n"
    assert await c.read("/made") == b"fresh"
    a = await c.stat("hello")
    assert (a.size, a.mode) == (13, stat.S_IFREG | 0o444)
    assert stat.S_ISDIR((await c.stat("")).mode)


async def test_large_read_is_split_and_in_order(pair, dialect):
    c = await pair.client(await pair.server(tree()), dialect, msize=65536)
    assert await c.read("big") == bytes(range(256)) * 16384


async def test_listing_over_many_messages(pair, dialect):
    c = await pair.client(await pair.server(tree()), dialect, msize=4096)
    assert await c.listdir("many") == [f"f{i:03}" for i in range(300)]
    assert "größe\udcff" in await c.listdir()
    assert await c.read("größe\udcff") == b"odd"


async def test_walk_of_more_than_16_names(pair, dialect):
    c = await pair.client(await pair.server(tree()), dialect)
    assert await c.read("deep/" + "d/" * 40 + "end") == b"deep"


async def test_errors(pair, dialect):
    c = await pair.client(await pair.server(tree()), dialect)
    for path in ("nope", "many/nope", "hello/below"):
        with pytest.raises(P9Error):
            await c.read(path)
    with pytest.raises(P9Error):
        await c.write("hello", b"x")
    with pytest.raises(P9Error):
        await c.mkdir("x")
    with pytest.raises(P9Error):
        await c.remove("hello")


async def test_command_file(pair, dialect):
    c = await pair.client(await pair.server(tree()), dialect)
    assert await c.command("ctl", "abc\n") == b"cba"
    assert await c.read("ctl") == b"cba"
    with pytest.raises(P9Error):
        await c.command("ctl", "fail")


async def test_links_are_shown_not_followed(pair):
    c = await pair.client(await pair.server(tree()))
    assert await c.readlink("link") == "hello"
    with pytest.raises(P9Error) as info:
        await c.read("link")
    assert info.value.errno == errno.ELOOP


async def test_rpc_walk_rules(pair):
    c = await pair.client(await pair.server(tree()))
    root = c.root
    assert len((await c.rpc(Twalk(root, 100, ()))).qids) == 0
    assert len((await c.rpc(Twalk(root, 101, ("many", "nope", "x")))).qids) == 1  # partial
    with pytest.raises(P9Error):  # the fid was not made
        await c.rpc(Tclunk(101))
    with pytest.raises(P9Error):  # fid reuse
        await c.rpc(Twalk(root, 100, ()))
    up = await c.rpc(Twalk(root, 102, ("..", "many", "..", "hello")))
    assert len(up.qids) == 4
    with pytest.raises(P9Error):
        await c.rpc(Twalk(100, 103, ("a",) * 17))
    for bad in ("", "a/b", "x" * 256):
        with pytest.raises(P9Error):
            await c.rpc(Twalk(root, 104, (bad,)))
    with pytest.raises(P9Error):
        await c.rpc(Twalk(9999, 104, ()))
    with pytest.raises(P9Error):
        await c.rpc(Tattach(105, 3, "", "", 0))
    with pytest.raises(P9Error):
        await c.rpc(Tattach(100, NOFID, "", "", 0))


async def test_walk_in_place(pair):
    c = await pair.client(await pair.server(tree()))
    await c.rpc(Twalk(c.root, 100, ()))
    await c.rpc(Twalk(100, 100, ("many", "f001")))
    await c.rpc(Tlopen(100, 0))
    assert bytes((await c.rpc(Tread(100, 0, 10))).data) == b"1"
    with pytest.raises(P9Error):
        await c.rpc(Tlopen(100, 0))


async def test_read_count_is_clamped(pair):
    c = await pair.client(await pair.server(tree()), msize=4096)
    async with await c.open("big") as f:
        assert len((await c.rpc(Tread(f.fid, 0, 0xFFFFFFFF))).data) == 4096 - 24
        assert bytes((await c.rpc(Tread(f.fid, (1 << 64) - 1, 10))).data) == b""


async def test_readdir_cookies_stay_valid_while_names_go(pair):
    d = StaticDir({n: StaticFile(b"") for n in "abcdef"})
    c = await pair.client(await pair.server(d))
    async with await c.open("") as f:
        first = bytes((await c.rpc(Treaddir(f.fid, 0, 1000))).data)
        d.children.clear()
        again = bytes((await c.rpc(Treaddir(f.fid, 2, 1000))).data)
        assert first.endswith(again)
        assert again
        assert bytes((await c.rpc(Treaddir(f.fid, 1 << 40, 1000))).data) == b""


async def test_stream_pieces_and_pause(pair, dialect):
    feed = Feed()
    c = await pair.client(
        await pair.server(StaticDir({"live": StreamFile(lambda ctx: feed)})), dialect
    )
    async with await c.open("live") as f:
        feed.queue.put_nowait(b"one\n")
        assert bytes(await f.pread(0, 100)) == b"one\n"
        assert bytes(await f.pread(4, 96)) == b""  # ends read(2) in Linux's client
        feed.queue.put_nowait(b"two\n")
        assert bytes(await f.pread(4, 2)) == b"tw"
        assert bytes(await f.pread(6, 2)) == b"o\n"
        feed.queue.put_nowait(b"three\n")
        assert bytes(await f.pread(8, 2)) == b"th"  # full replies need no pause
        with pytest.raises(P9Error):
            await f.pread(100, 1)
    assert feed.closed


async def test_follow_until_the_end(pair):
    feed = Feed()
    for piece in (b"a", b"b", None):
        feed.queue.put_nowait(piece)
    c = await pair.client(await pair.server(StaticDir({"live": StreamFile(lambda ctx: feed)})))
    async with await c.open("live") as f:
        assert [p async for p in f.follow()] == [b"a", b"b"]


async def test_waiting_read_blocks_no_other_and_flush_loses_nothing(pair, dialect):
    feed = Feed()
    root = StaticDir({"live": StreamFile(lambda ctx: feed), "x": StaticFile(b"x")})
    c = await pair.client(await pair.server(root), dialect)
    async with await c.open("live") as f:
        read = asyncio.ensure_future(f.pread(0, 100))
        await feed.waiting.wait()
        assert await c.read("x") == b"x"
        read.cancel()
        with pytest.raises(asyncio.CancelledError):
            await read
        feed.queue.put_nowait(b"kept")
        assert bytes(await f.pread(0, 100)) == b"kept"
    assert c._channel.session.room == 256


async def test_generator_survives_a_flush_when_shielded(pair):
    go, started = asyncio.Event(), asyncio.Event()

    async def source(ctx):
        started.set()
        await go.wait()
        yield b"kept"

    c = await pair.client(
        await pair.server(StaticDir({"live": StreamFile(lambda ctx: Shielded(source(ctx)))}))
    )
    async with await c.open("live") as f:
        read = asyncio.ensure_future(f.pread(0, 100))
        await started.wait()
        read.cancel()
        with pytest.raises(asyncio.CancelledError):
            await read
        go.set()
        assert bytes(await f.pread(0, 100)) == b"kept"


async def test_clunk_interrupts_a_waiting_read(pair):
    feed = Feed()
    c = await pair.client(await pair.server(StaticDir({"live": StreamFile(lambda ctx: feed)})))
    f = await c.open("live")
    read = asyncio.ensure_future(f.pread(0, 100))
    await feed.waiting.wait()
    await f.close()
    with pytest.raises(P9Error) as info:
        await read
    assert info.value.errno == errno.EINTR
    assert feed.closed


async def test_broken_connection_closes_handles(pair):
    feed = Feed()
    server = await pair.server(StaticDir({"live": StreamFile(lambda ctx: feed)}))
    c = await pair.client(server)
    f = await c.open("live")
    read = asyncio.ensure_future(f.pread(0, 100))
    await feed.waiting.wait()
    await c._channel.close()
    with pytest.raises(UsageError):
        await read
    await server.close()
    assert feed.closed
    assert server.statistics().connections == 0


async def test_tags_and_fids_are_reused(pair):
    c = await pair.client(await pair.server(tree()))
    for _ in range(600):
        await c.stat("hello")
    assert c._channel._next_fid <= 3


async def test_thousand_calls_at_once(pair):
    c = await pair.client(await pair.server(tree()))
    found = await asyncio.gather(*(c.read(f"many/f{i % 300:03}") for i in range(1000)))
    assert found == [b"%d" % (i % 300) for i in range(1000)]


async def test_unexpected_failure_is_eio_and_logged(pair, caplog):
    class Bad(File):
        async def attr(self, ctx):
            raise ZeroDivisionError("oops")

    c = await pair.client(await pair.server(StaticDir({"bad": Bad()})))
    with pytest.raises(P9Error) as info:
        await c.stat("bad")
    assert info.value.errno == errno.EIO
    assert "oops" in caplog.text


class Memory(File):
    """A writable file, and what is asked of it."""

    def __init__(self):
        self.data = bytearray()

    async def attr(self, ctx):
        return Attr(mode=self.kind | self.mode, size=len(self.data))

    async def setattr(self, change, ctx):
        if change.size is not None:
            self.data[change.size :] = bytes(max(0, change.size - len(self.data)))

    async def open(self, flags, ctx):
        if flags & OpenFlag.TRUNC:
            self.data.clear()
        return MemoryHandle(self)


class MemoryHandle(Handle):
    def __init__(self, file):
        self.file = file

    async def read(self, offset, count):
        return bytes(self.file.data[offset : offset + count])

    async def write(self, offset, data):
        self.file.data[offset : offset + len(data)] = data
        return len(data)


class MemoryDir(Directory):
    def __init__(self):
        self.nodes = {}

    async def lookup(self, name, ctx):
        if name not in self.nodes:
            raise P9Error(errno.ENOENT)
        return self.nodes[name]

    async def create(self, name, flags, mode, ctx):
        if name in self.nodes:
            raise P9Error(errno.EEXIST)
        self.nodes[name] = Memory()
        return self.nodes[name], await self.nodes[name].open(flags, ctx)

    async def mkdir(self, name, mode, ctx):
        self.nodes[name] = MemoryDir()
        return self.nodes[name]

    async def unlink(self, name, is_dir, ctx):
        del self.nodes[name]

    async def rename(self, name, to, new_name, ctx):
        to.nodes[new_name] = self.nodes.pop(name)


async def test_write_create_rename_remove(pair, dialect):
    root = MemoryDir()
    c = await pair.client(await pair.server(root), dialect, msize=4096)
    data = bytes(range(256)) * 300
    await c.mkdir("d")
    assert await c.write("d/f", data) == len(data)
    assert await c.read("d/f") == data
    await c.write("d/f", b"short")
    assert await c.read("d/f") == b"short"
    await c.setattr("d/f", SetAttr(size=2))
    assert await c.read("d/f") == b"sh"
    await c.rename("d/f", "d/g")
    assert list(root.nodes["d"].nodes) == ["g"]
    if dialect is Dialect.LINUX:
        await c.rename("d/g", "h")
    await c.remove("h" if dialect is Dialect.LINUX else "d/g")
    await c.remove("d")
    assert root.nodes == {}


async def test_open_fids_follow_a_rename(pair):
    root = MemoryDir()
    c = await pair.client(await pair.server(root))
    await c.mkdir("a")
    await c.write("a/f", b"1")
    async with c.walk("a/f") as fid:
        await c.rename("a", "b")
        await c.rename("b/f", "g")
        assert (await c.rpc(Tgetattr(fid, 0))).size == 1
        await c.write("f", b"other")
        from dataflow.p9.messages import Trename

        await c.rpc(Trename(fid, c.root, "z"))
    assert sorted(root.nodes) == ["b", "f", "z"]


def test_path_ids_are_stable_and_distinct():
    assert path_id("a", "bc") == path_id("a", "bc") != path_id("ab", "c")

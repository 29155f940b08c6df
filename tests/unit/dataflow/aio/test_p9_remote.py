"""A proxy made of a client's tree and a server, and one behind another."""

import asyncio
import errno
import os

import pytest

from dataflow.aio.hostdir import host_directory
from dataflow.aio.remote import remote_root
from dataflow.p9.const import Dialect, LockStatus, LockType, OpenFlag
from dataflow.p9.errors import P9Error
from dataflow.p9.nodes import ControlFile, StaticDir, StaticFile, StreamFile
from dataflow.p9.tree import SetAttr


@pytest.fixture
async def near(pair, tmp_path, dialect):
    """A client of a proxy of a proxy of a directory."""
    far = await pair.client(await pair.server(host_directory(str(tmp_path))), dialect)
    middle = await pair.client(await pair.server(remote_root(far)))
    return await pair.client(await pair.server(remote_root(middle)))


async def test_files(near, tmp_path):
    data = os.urandom(3_000_000)
    await near.write("f", data)
    assert (tmp_path / "f").read_bytes() == data
    assert await near.read("f") == data
    assert (await near.stat("f")).size == len(data)
    await near.setattr("f", SetAttr(size=10))
    assert (tmp_path / "f").read_bytes() == data[:10]


async def test_directories(near, tmp_path):
    await near.mkdir("d")
    for i in range(200):
        (tmp_path / "d" / f"{i:03}").touch()
    assert sorted(await near.listdir("d")) == [f"{i:03}" for i in range(200)]
    await near.rename("d/000", "d/new")
    await near.remove("d/001")
    names = {p.name for p in (tmp_path / "d").iterdir()}
    assert "new" in names
    assert not names & {"000", "001"}
    with pytest.raises(P9Error) as caught:
        await near.remove("d")
    assert caught.value.errno in {errno.ENOTEMPTY, errno.EIO}


async def test_links(pair, tmp_path):
    far = await pair.client(await pair.server(host_directory(str(tmp_path))))
    near = await pair.client(await pair.server(remote_root(far)))
    await near.symlink("s", "a/b")
    assert os.readlink(tmp_path / "s") == "a/b" == await near.readlink("s")
    await near.write("f", b"x")
    await near.link("g", "f")
    assert os.stat(tmp_path / "g").st_nlink == 2
    await near.set_xattr("f", "user.a", b"value")
    assert await near.get_xattr("f", "user.a") == b"value"
    assert "user.a" in await near.xattrs("f")
    await near.set_xattr("f", "user.a", b"", os.XATTR_REPLACE)
    assert "user.a" not in await near.xattrs("f")
    assert (await near.statfs()).blocks == (await far.statfs()).blocks


async def test_errors_pass(near):
    for path in ("nope", "nope/deeper"):
        with pytest.raises(P9Error) as caught:
            await near.read(path)
        assert caught.value.errno == errno.ENOENT


async def test_a_flush_goes_all_the_way(pair, dialect):
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait(ctx):
        begun.set()
        try:
            await asyncio.Event().wait()
            yield b""
        finally:
            ended.set()

    far = await pair.client(await pair.server(StaticDir({"s": StreamFile(wait)})), dialect)
    near = await pair.client(await pair.server(remote_root(far)))
    async with await near.open("s") as file:
        task = asyncio.ensure_future(file.pread(0, 100))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await ended.wait()


async def test_commands_pass(pair, dialect):
    async def shout(command, ctx):
        return command.upper()

    tree = StaticDir({"ctl": ControlFile(shout), "x": StaticFile(b"x")})
    far = await pair.client(await pair.server(tree), dialect)
    near = await pair.client(await pair.server(remote_root(far)))
    assert await near.command("ctl", "hey") == b"HEY"
    assert await near.listdir() == ["ctl", "x"]


async def test_fids_are_given_back(pair, tmp_path):
    server = await pair.server(host_directory(str(tmp_path)))
    far = await pair.client(server)
    near = await pair.client(await pair.server(remote_root(far)))
    (link,) = server._live
    for i in range(50):
        await near.write(f"f{i}", b"x")
        await near.read(f"f{i}")
    assert (await near.stat()).size
    while len(link.connection._state.fids) > 3:  # drops are on their way
        await far.stat()


async def test_a_lock_that_waits_is_granted_or_flushed(pair, tmp_path):
    server = await pair.server(host_directory(str(tmp_path)))
    a, b = await pair.client(server), await pair.client(server)
    await a.write("f", b"x")
    async with await a.open("f", OpenFlag.RDWR) as mine, await b.open("f", OpenFlag.RDWR) as other:
        assert await mine.lock(LockType.WRLCK) is LockStatus.SUCCESS
        assert await other.lock(LockType.WRLCK) is LockStatus.BLOCKED
        flushed = asyncio.ensure_future(other.lock(LockType.WRLCK, wait=True))
        granted = asyncio.ensure_future(other.lock(LockType.RDLCK, 5, 1, wait=True))
        assert await b.read("f") == b"x", "others go on"
        flushed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flushed
        assert not granted.done()
        assert await mine.lock(LockType.UNLCK) is LockStatus.SUCCESS
        assert await granted is LockStatus.SUCCESS
        assert await mine.lock(LockType.WRLCK, 0, 5) is LockStatus.SUCCESS, (
            "the flushed one left none"
        )


async def test_the_end_of_a_client_grants_its_locks(pair, tmp_path):
    server = await pair.server(host_directory(str(tmp_path)))
    a, b = await pair.client(server), await pair.client(server)
    await a.write("f", b"x")
    mine = await a.open("f", OpenFlag.RDWR)
    assert await mine.lock(LockType.WRLCK) is LockStatus.SUCCESS
    async with await b.open("f", OpenFlag.RDWR) as other:
        task = asyncio.ensure_future(other.lock(LockType.WRLCK, wait=True))
        await b.stat()
        await a._channel.close()
        assert await task is LockStatus.SUCCESS


def test_dialects_are_three():
    assert len(Dialect) == 3

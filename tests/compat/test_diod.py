"""diod's tools against our server, and our client against diod."""

import asyncio
import os
import pty
import shutil
import socket
from contextlib import asynccontextmanager

import pytest

from dataflow.aio.client import connect
from dataflow.aio.hostdir import host_directory
from dataflow.aio.remote import remote_root
from dataflow.aio.server import Server
from dataflow.p9.const import LockStatus, LockType, OpenFlag
from dataflow.p9.errors import P9Error, UsageError
from dataflow.p9.nodes import StaticDir
from dataflow.p9.tree import Attr, File, Handle, SetAttr

pytestmark = [
    pytest.mark.compat,
    pytest.mark.skipif(shutil.which("diodcat") is None, reason="needs the package diod"),
]


async def output(*argv):
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out, err


@pytest.fixture
def data(tmp_path):
    (tmp_path / "big").write_bytes(os.urandom(5_000_000))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/f").write_bytes(b"below")
    (tmp_path / "out").symlink_to("/etc/passwd")
    return tmp_path


@pytest.fixture
async def port(data):
    async with Server(host_directory(str(data))) as server:
        yield (await server.listen_tcp("127.0.0.1", 0)).rpartition(":")[2]


@pytest.mark.parametrize("msize", ["4096", "65536", "1048576"])
async def test_diodcat_reads(port, data, msize):
    code, out, err = await output(
        "diodcat", "-s", f"127.0.0.1:{port}", "-m", msize, "-a", "/", "big", "sub/f"
    )
    assert (code, err) == (0, b"")
    assert out == (data / "big").read_bytes() + b"below"


async def test_diodls_lists(port):
    code, out, err = await output("diodls", "-s", f"127.0.0.1:{port}", "-l", "-a", "/")
    assert (code, err) == (0, b"")
    names = {line.split()[-1] for line in out.decode().splitlines()}
    assert names == {".", "..", "big", "out", "sub"}


async def test_diodcat_is_told_what_is_missing(port):
    code, _, err = await output("diodcat", "-s", f"127.0.0.1:{port}", "-a", "/", "nope")
    assert code != 0
    assert b"No such file" in err


class Zero(File):
    """Reads as zeros without end and swallows what is written: diod's `zero` and `null`."""

    mode = 0o666

    async def attr(self, ctx):
        return Attr(mode=self.kind | self.mode)

    async def open(self, flags, ctx):
        return ZeroHandle()


class ZeroHandle(Handle):
    async def read(self, offset, count):
        return bytes(count)

    async def write(self, offset, data):
        return len(data)


async def test_diodload_runs():
    async with Server(StaticDir({"zero": Zero(), "null": Zero()})) as server:
        port = (await server.listen_tcp("127.0.0.1", 0)).rpartition(":")[2]
        code, out, err = await output("diodload", "-s", f"127.0.0.1:{port}", "-n", "4", "-r", "2")
        assert code == 0, err
        assert b"ops/s" in out + err
        assert server.statistics().traffic.errors == 4  # one Tauth a connection, refused
        assert server.statistics().traffic.requests > 1000


@asynccontextmanager
async def run_diod(export):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        "diod", "-f", "-n", "-c", "/dev/null", "-e", export, "-l", f"127.0.0.1:{port}",
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while True:
            try:
                async with connect(f"tcp:127.0.0.1:{port}", aname=export):
                    break
            except (OSError, UsageError):
                assert process.returncode is None
                await asyncio.sleep(0.02)
        yield f"tcp:127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


@pytest.fixture
async def diod(data):
    async with run_diod(str(data)) as address:
        yield address


@pytest.mark.parametrize("msize", [4096, 65536, 1 << 20])
async def test_our_client_against_diod(diod, data, msize):
    big = (data / "big").read_bytes()
    async with connect(diod, aname=str(data), msize=msize) as c:
        assert await c.read("big") == big
        assert sorted(await c.listdir()) == ["big", "out", "sub"]
        assert await c.readlink("out") == "/etc/passwd"
        await c.write("copy", big)
        assert (data / "copy").read_bytes() == big
        await c.mkdir("m")
        await c.rename("copy", "m/moved")
        await c.setattr("m/moved", SetAttr(size=3))
        assert (await c.stat("m/moved")).size == 3
        await c.remove("m/moved")
        await c.remove("m")
        assert not (data / "m").exists()
        assert (await c.statfs()).blocks > 0
        with pytest.raises(P9Error):
            await c.read("nope")


async def test_xattrs_at_diod(diod, data):
    async with connect(diod, aname=str(data)) as c:
        value = os.urandom(3000)
        await c.set_xattr("big", "user.a", value)
        assert os.getxattr(data / "big", "user.a") == value == await c.get_xattr("big", "user.a")
        assert "user.a" in await c.xattrs("big")
        with pytest.raises(P9Error) as caught:
            await c.get_xattr("big", "user.none")
        assert caught.value.errno == 61  # ENODATA


async def test_locks_at_diod(diod, data):
    async with (
        connect(diod, aname=str(data)) as a,
        connect(diod, aname=str(data)) as b,
        await a.open("big", OpenFlag.RDWR) as mine,
        await b.open("big", OpenFlag.RDWR) as other,
    ):
        assert await mine.lock(LockType.WRLCK, owner=1) is LockStatus.SUCCESS
        assert await other.lock(LockType.WRLCK, owner=2) is LockStatus.BLOCKED
        assert await mine.lock(LockType.UNLCK, owner=1) is LockStatus.SUCCESS
        assert await other.lock(LockType.WRLCK, owner=2) is LockStatus.SUCCESS


@pytest.mark.parametrize("msize", [4096, 65536])
async def test_a_directory_of_5000_names_at_diod(diod, data, msize):
    names = {f"name {i} {'x' * (i % 100)}" for i in range(5000)}
    (data / "many").mkdir()
    for name in names:
        (data / "many" / name).touch()
    async with connect(diod, aname=str(data), msize=msize) as c:
        found = await c.listdir("many")
    assert len(found) == 5000
    assert set(found) == names


async def test_renames_over_and_links_at_diod(diod, data):
    async with connect(diod, aname=str(data)) as c:
        await c.write("a", b"a")
        await c.write("sub/b", b"b")
        await c.rename("a", "sub/b")
        assert await c.read("sub/b") == b"a"
        await c.link("again", "sub/b")
        assert (await c.stat("again")).nlink == 2
        with pytest.raises(P9Error) as caught:
            await c.rename("nope", "x")
        assert caught.value.errno == 2
        s = os.statvfs(data)
        assert (await c.statfs()).blocks == s.f_blocks * s.f_frsize // s.f_bsize


async def test_concurrent_clients_at_diod(diod, data):
    async def one(i):
        async with connect(diod, aname=str(data), msize=(4096, 65536, 1 << 20)[i % 3]) as c:
            content = os.urandom(100_000 + i)
            await c.write(f"f{i}", content)
            assert await c.read(f"f{i}") == content

    await asyncio.gather(*(one(i) for i in range(24)))


async def test_diod_tools_together(port, data):
    async def one(i):
        size = ("4096", "65536", "1048576")[i % 3]
        return await output("diodcat", "-s", f"127.0.0.1:{port}", "-m", size, "-a", "/", "big")

    big = (data / "big").read_bytes()
    for code, out, _ in await asyncio.gather(*(one(i) for i in range(9))):
        assert (code, out == big) == (0, True)


async def test_diodls_lists_5000_names(port, data):
    for i in range(5000):
        (data / "sub" / f"n{i}").touch()
    code, out, err = await output("diodls", "-s", f"127.0.0.1:{port}", "-a", "/", "sub")
    assert (code, err) == (0, b"")
    assert len(out.split()) == 5001


async def test_diod_behind_our_proxy():
    """diod's own files of statistics, served by us: what diodshowmount and dtop read."""
    async with (
        run_diod("ctl") as address,
        connect(address, aname="ctl") as far,
        Server(remote_root(far)) as server,
    ):
        port = (await server.listen_tcp("127.0.0.1", 0)).rpartition(":")[2]
        code, out, err = await output("diodshowmount", "-s", f"127.0.0.1:{port}", "-l")
        assert (code, err) == (0, b"")
        assert b"localhost" in out
        assert "1/1" in await asyncio.wait_for(live_servers(port), 30)


async def live_servers(port):
    """Run dtop in a terminal until it says that the server lives; return what it said of it."""
    terminal, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        "dtop", "-h", "127.0.0.1", "-p", port, "-P", "0.2", stdin=theirs, stdout=theirs,
        stderr=theirs, env=os.environ | {"TERM": "vt100", "LINES": "24", "COLUMNS": "80"},
    )  # fmt: skip
    os.close(theirs)
    seen = ""
    try:
        while "Live servers: 1/1" not in seen:
            seen += (await asyncio.to_thread(os.read, terminal, 4096)).decode(errors="replace")
    finally:
        process.kill()
        await process.wait()
        os.close(terminal)
    return seen[seen.index("Live servers: 1/1") :]


async def test_our_client_through_our_proxy_to_diod(diod, data):
    async with connect(diod, aname=str(data)) as far, Server(remote_root(far)) as server:
        where = await server.listen_tcp("127.0.0.1", 0)
        async with connect(where) as c:
            assert await c.read("big") == (data / "big").read_bytes()
            await c.write("sub/new", b"x" * 2_000_000)
            assert (data / "sub/new").stat().st_size == 2_000_000
            await c.set_xattr("sub/new", "user.b", b"v")
            assert os.getxattr(data / "sub/new", "user.b") == b"v"

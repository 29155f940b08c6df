"""diod's tools against our server, and our client against diod."""

import asyncio
import os
import shutil
import socket

import pytest

from dataflow.aio.client import connect
from dataflow.aio.hostdir import host_directory
from dataflow.aio.server import Server
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


@pytest.fixture
async def diod(data):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        "diod", "-f", "-n", "-c", "/dev/null", "-e", str(data), "-l", f"127.0.0.1:{port}",
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    while True:
        try:
            async with connect(f"tcp:127.0.0.1:{port}", aname=str(data)):
                break
        except (OSError, UsageError):
            assert process.returncode is None
            await asyncio.sleep(0.02)
    yield f"tcp:127.0.0.1:{port}"
    process.kill()
    await process.wait()


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

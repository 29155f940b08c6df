"""Listeners, streams, limits, and what one bad client does to others."""

import asyncio
import os
import socket
import stat

import pytest

from dataflow.aio.client import connect
from dataflow.aio.hostdir import host_directory
from dataflow.aio.server import Server
from dataflow.p9.errors import P9Error, UsageError
from dataflow.p9.nodes import StaticDir, StaticFile
from dataflow.p9.tree import Peer

ROOT = StaticDir({"x": StaticFile(b"x" * 100000)})


async def test_unix_socket_is_private_and_removed(tmp_path):
    path = str(tmp_path / "s")
    async with Server(ROOT) as server:
        assert await server.listen_unix(path) == f"unix:{path}"
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        async with connect(f"unix:{path}") as c:
            assert len(await c.read("x")) == 100000
        with pytest.raises(UsageError):
            await Server(ROOT).listen_unix(path)
    assert os.listdir(tmp_path) == []


async def test_dead_socket_is_replaced_but_no_file(tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with Server(ROOT) as server:
        await server.listen_unix(str(path))
    path.write_text("precious")
    with pytest.raises(UsageError):
        await Server(ROOT).listen_unix(str(path))
    assert path.read_text() == "precious"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "", "example.org"])
async def test_tcp_beyond_loopback_needs_insecure(host):
    with pytest.raises(UsageError):
        await Server(ROOT).listen_tcp(host, 0)


async def test_root_factory_sees_who_attaches(tmp_path):
    seen = []

    async def root(ctx):
        seen.append(ctx)
        if ctx.aname == "no":
            raise P9Error(13)
        return ROOT

    path = str(tmp_path / "s")
    async with Server(root) as server:
        await server.listen_unix(path)
        async with connect(f"unix:{path}", uname="u", aname="a", n_uname=7):
            pass
        with pytest.raises(P9Error):
            async with connect(f"unix:{path}", aname="no"):
                pass
    assert (seen[0].uname, seen[0].aname, seen[0].n_uname) == ("u", "a", 7)
    assert seen[0].peer.pid == os.getpid()
    assert seen[0].peer.uid == os.getuid()


async def test_scope_ends_with_the_connection(tmp_path):
    ended = []

    async def root(ctx):
        ctx.session.on_close(lambda: ended.append(ctx.aname))
        return ROOT

    path = str(tmp_path / "s")
    async with Server(root) as server:
        await server.listen_unix(path)
        async with connect(f"unix:{path}", aname="a"):
            assert ended == []
    assert ended == ["a"]


async def test_handle_over_streams(tmp_path):
    server = Server(ROOT)
    peers = []

    async def serve(reader, writer):
        await server.handle(reader, writer, Peer("somewhere"))
        peers.append(server.statistics().connections)

    listener = await asyncio.start_unix_server(serve, str(tmp_path / "s"))
    async with connect(f"unix:{tmp_path}/s", msize=65536) as c:
        parts = await asyncio.gather(*(c.read("x") for _ in range(50)))
        assert {len(p) for p in parts} == {100000}
    listener.close()
    await server.close()


async def test_garbage_ends_only_its_own_connection(tmp_path):
    path = str(tmp_path / "s")
    async with Server(ROOT) as server:
        await server.listen_unix(path)
        async with connect(f"unix:{path}") as good:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert await reader.read() == b""
            writer.close()
            assert len(await good.read("x")) == 100000
        assert server.statistics().broken == 1


async def test_connections_are_limited(tmp_path):
    path = str(tmp_path / "s")
    async with Server(ROOT, connections_max=1) as server:
        await server.listen_unix(path)
        async with connect(f"unix:{path}") as c:
            reader, writer = await asyncio.open_unix_connection(path)
            assert await reader.read() == b""
            writer.close()
            assert len(await c.read("x")) == 100000
        assert server.statistics().rejected == 1


async def test_client_that_never_reads_is_bounded(tmp_path):
    from dataflow.p9 import wire
    from dataflow.p9.const import NOFID, Dialect
    from dataflow.p9.messages import Tattach, Tlopen, Tread, Tversion, Twalk

    path = str(tmp_path / "s")
    big = StaticDir({"x": StaticFile(bytes(1 << 20))})
    async with Server(big) as server:
        await server.listen_unix(path)
        reader, writer = await asyncio.open_unix_connection(path, limit=1)
        first = [
            (0xFFFF, Tversion(1 << 20, "9P2000.L")),
            (1, Tattach(0, NOFID, "", "", 0)),
        ]
        later = [(t, Tread(1, 0, 1 << 20)) for t in range(10, 900)]
        for tag, message in first:
            writer.write(b"".join(wire.emit(tag, message, Dialect.LINUX)))
        await _until(lambda: server.statistics().traffic.requests == 2)
        await _until(lambda: server.statistics().traffic.octets_out > 30)
        writer.write(b"".join(wire.emit(2, Twalk(0, 1, ("x",)), Dialect.LINUX)))
        await _until(lambda: server.statistics().traffic.octets_out > 50)
        writer.write(b"".join(wire.emit(3, Tlopen(1, 0), Dialect.LINUX)))
        await _until(lambda: server.statistics().traffic.octets_out > 70)
        for tag, message in later:
            writer.write(b"".join(wire.emit(tag, message, Dialect.LINUX)))
        await _until(lambda: server.statistics().traffic.requests == 4 + len(later))
        for _ in range(100):
            await asyncio.sleep(0)
        held = server.statistics().traffic.octets_out
        writer.transport.abort()
        await asyncio.wait([asyncio.ensure_future(reader.read())])
        assert held < 20 << 20


async def _until(condition):
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


async def test_proxy_by_composition(pair, tmp_path):
    """A server whose tree is a client of another server."""
    from dataflow.p9.tree import Directory, File, Handle

    class Far(File):
        def __init__(self, client, path):
            self.client, self.path = client, path

        async def attr(self, ctx):
            return await self.client.stat(self.path)

        async def open(self, flags, ctx):
            return FarHandle(await self.client.open(self.path, flags))

    class FarHandle(Handle):
        def __init__(self, file):
            self.file = file

        async def read(self, offset, count):
            return await self.file.pread(offset, count)

        async def write(self, offset, data):
            return await self.file.write(offset, data)

        async def close(self):
            await self.file.close()

    class FarDir(Directory):
        def __init__(self, client, path):
            self.client, self.path = client, path

        async def lookup(self, name, ctx):
            path = f"{self.path}/{name}"
            kind = (await self.client.stat(path)).mode
            return (FarDir if stat.S_ISDIR(kind) else Far)(self.client, path)

    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_bytes(b"far away")
    far = await pair.client(await pair.server(host_directory(str(tmp_path))))
    near = await pair.client(await pair.server(FarDir(far, "")))
    assert await near.read("d/f") == b"far away"
    async with await near.open("d/f", 1) as f:
        await f.write(4, b"here")
    assert (tmp_path / "d/f").read_bytes() == b"far here"
    with pytest.raises(P9Error):
        await near.read("d/nope")

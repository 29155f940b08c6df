"""Servers on sockets: descriptors, clients that stall or lie, and what a connection holds."""

import asyncio
import os
import socket
import struct

import pytest

from dataflow.aio import accept, socklink
from dataflow.aio.client import connect
from dataflow.aio.hostdir import host_directory
from dataflow.aio.server import Server
from dataflow.core.pure import PurePump
from dataflow.p9 import wire
from dataflow.p9.const import NOFID, NOTAG, Dialect, OpenFlag
from dataflow.p9.errors import P9Error, UsageError
from dataflow.p9.messages import (
    Rclunk,
    Rflush,
    Rlerror,
    Rread,
    Rwalk,
    Tattach,
    Tclunk,
    Tflush,
    Tlcreate,
    Tlopen,
    Tmkdir,
    Tread,
    Tversion,
    Twalk,
    Twrite,
)
from dataflow.p9.nodes import StaticDir, StaticFile

L = Dialect.LINUX
ROOT = StaticDir({"x": StaticFile(b"x" * 100000)})


class Raw:
    """A client that sends what it likes."""

    def __init__(self, path):
        self.path = path

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_unix_connection(self.path)
        return self

    async def __aexit__(self, *exc):
        self.writer.close()

    def send(self, tag, message):
        self.writer.write(b"".join(wire.emit(tag, message, L)))

    async def answer(self):
        size, kind, tag = struct.unpack("<IBH", await self.reader.readexactly(7))
        body = await self.reader.readexactly(size - 7)
        return tag, wire.parse(kind, memoryview(body), L)

    async def ask(self, message, tag=1):
        self.send(tag, message)
        found, answer = await self.answer()
        assert found == tag
        return answer

    async def attach(self, msize=1 << 16):
        await self.ask(Tversion(msize, L.value), NOTAG)
        await self.ask(Tattach(0, NOFID, "", "", 0))


@pytest.fixture(params=["c", "pure"])
async def served(request, tmp_path, monkeypatch):
    """A server of a directory with the pump in C or in Python; gives its socket's path."""
    if request.param == "pure":
        monkeypatch.setattr(socklink, "Pump", PurePump)
    top = tmp_path / "top"
    top.mkdir()
    (top / "f").write_bytes(os.urandom(200000))
    async with Server(host_directory(str(top))) as server:
        await server.listen_unix(str(tmp_path / "s"))
        server.path, server.top = str(tmp_path / "s"), top
        yield server


async def test_reads_and_writes_with_the_pump(served):
    async with connect(f"unix:{served.path}", msize=8192) as c:
        data = os.urandom(300_000)
        await c.write("g", data)
        assert await c.read("g") == data == (served.top / "g").read_bytes()
        assert (await c.stat("g")).size == len(data)
        async with await c.open("g", OpenFlag.RDONLY) as file:
            with pytest.raises(P9Error):
                await file.write(0, b"no")
            assert bytes(await file.pread(0, 10)) == data[:10]
    counts = served.statistics()
    assert counts.traffic.octets_in > len(data)
    assert counts.traffic.octets_out > len(data)


async def test_many_requests_in_flight(served):
    data = (served.top / "f").read_bytes()
    async with connect(f"unix:{served.path}", msize=4096) as c:
        found = await asyncio.gather(*(c.read("f") for _ in range(20)))
        assert all(each == data for each in found)


async def test_an_open_file_that_grows_and_shrinks_is_seen(served):
    async with connect(f"unix:{served.path}") as c, await c.open("f") as file:
        (served.top / "f").write_bytes(b"short")
        assert bytes(await file.pread(0, 100)) == b"short"
        assert (await c.stat("f")).size == 5
        (served.top / "f").write_bytes(b"longer than before")
        assert bytes(await file.pread(6, 100)) == b" than before"


async def test_a_fid_that_became_another_file_reads_that_one(served):
    (served.top / "g").write_bytes(b"other")
    async with Raw(served.path) as raw:
        await raw.attach()
        for name, start in (("f", (served.top / "f").read_bytes()[:5]), ("g", b"other")):
            assert isinstance(await raw.ask(Twalk(0, 1, (name,))), Rwalk)
            await raw.ask(Tlopen(1, 0))
            for _ in range(2):
                assert bytes((await raw.ask(Tread(1, 0, 5))).data) == start
            assert isinstance(await raw.ask(Tclunk(1)), Rclunk)
        assert isinstance(await raw.ask(Tread(1, 0, 5)), Rlerror)


async def test_a_new_version_forgets_all_fids(served):
    async with Raw(served.path) as raw:
        await raw.attach()
        await raw.ask(Twalk(0, 1, ("f",)))
        await raw.ask(Tlopen(1, 0))
        assert isinstance(await raw.ask(Tread(1, 0, 5)), Rread)
        await raw.ask(Tversion(8192, L.value), NOTAG)
        assert isinstance(await raw.ask(Tread(1, 0, 5)), Rlerror)


async def test_clunked_fids_are_free_again_at_once(served):
    async with Raw(served.path) as raw:
        await raw.attach()
        for _ in range(200):  # in one burst: walks and clunks of the same number
            raw.send(1, Twalk(0, 1, ("f",)))
            raw.send(2, Tclunk(1))
        for _ in range(200):
            assert isinstance((await raw.answer())[1], Rwalk)
            assert isinstance((await raw.answer())[1], Rclunk)
        (link,) = served._live
        assert len(link.connection._state.fids) == 1


@pytest.mark.parametrize("size", [0, 6, (1 << 32) - 1])
async def test_a_size_that_lies_ends_that_client_only(served, size):
    async with connect(f"unix:{served.path}") as good, Raw(served.path) as raw:
        await raw.attach()
        raw.writer.write(struct.pack("<IBH", size, 116, 1))
        assert await raw.reader.read() == b""
        assert await good.read("f") == (served.top / "f").read_bytes()
    assert served.statistics().broken == 1


@pytest.mark.parametrize("kind", [*range(1, 256, 2), 0, 2, 98, 254])
async def test_answers_and_unknown_types_are_errors(served, kind):
    async with Raw(served.path) as raw:
        await raw.attach()
        raw.writer.write(struct.pack("<IBHI", 11, kind, 5, 0))
        tag, answer = await raw.answer()
        assert (tag, type(answer)) == (5, Rlerror)
        assert isinstance(await raw.ask(Twalk(0, 1, ("f",))), Rwalk), "and it goes on"


@pytest.mark.parametrize("msize", [0, 1, 4095])
async def test_a_tiny_msize_is_refused(served, msize):
    async with Raw(served.path) as raw:
        assert isinstance(await raw.ask(Tversion(msize, L.value), NOTAG), Rlerror)
        await raw.attach()


async def test_the_largest_msize_is_clamped(served):
    async with Raw(served.path) as raw:
        assert (await raw.ask(Tversion((1 << 32) - 1, L.value), NOTAG)).msize == 1 << 20


async def test_a_walk_of_10000_names(served):
    async with Raw(served.path) as raw:
        await raw.attach()
        raw.send(1, Twalk(0, 1, ("a",) * 10000))
        assert (await raw.answer())[1] == Rlerror(22)
        assert isinstance(await raw.ask(Twalk(0, 1, ("f",))), Rwalk)


NAMES = {
    "": 2, "a/b": 22, "/etc": 22, "../f": 22, "..": None, "n" * 256: 36, "é" * 128: 36,
    "n" * 255: 2, "b\udcffd": 2, ".git": 2, "~": 2, "\n": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
async def test_odd_names(served, name):
    number = NAMES[name]
    async with Raw(served.path) as raw:
        await raw.attach()
        walked = await raw.ask(Twalk(0, 1, (name,)))
        assert isinstance(walked, Rwalk) if number is None else walked == Rlerror(number)
        made = await raw.ask(Tmkdir(0, name, 0o755, 0))
        if number == 2 and name:
            assert not isinstance(made, Rlerror)
            assert (served.top / name).is_dir()
            await raw.ask(Twalk(0, 2, ()))
            opened = await raw.ask(Tlcreate(2, name, os.O_RDWR | os.O_CREAT, 0o644, 0))
            assert isinstance(opened, Rlerror), "it is a directory"
        else:
            assert isinstance(made, Rlerror)
    assert set(os.listdir(os.path.dirname(served.top))) == {"top", "s"}


async def test_a_name_with_a_nul_is_an_error(served):
    async with Raw(served.path) as raw:
        await raw.attach()
        body = struct.pack("<IIHH", 0, 1, 1, 3) + b"a\0b"
        raw.writer.write(struct.pack("<IBH", 7 + len(body), 110, 9) + body)
        assert await raw.answer() == (9, Rlerror(74))


async def test_a_fid_in_use_is_an_error(served):
    async with Raw(served.path) as raw:
        await raw.attach()
        assert isinstance(await raw.ask(Twalk(0, 1, ("f",))), Rwalk)
        assert await raw.ask(Twalk(0, 1, ("f",))) == Rlerror(9)
        assert await raw.ask(Tattach(1, NOFID, "", "", 0)) == Rlerror(9)


async def test_a_client_that_does_not_read_holds_up_no_other_and_is_bounded(served):
    async with Raw(served.path) as raw, connect(f"unix:{served.path}") as good:
        await raw.attach(1 << 20)
        await raw.ask(Twalk(0, 1, ("f",)))
        await raw.ask(Tlopen(1, 0))
        sent = 0
        for tag in range(500):
            raw.send(tag, Tread(1, 0, 200000))
            raw.send(1000 + tag, Twalk(0, 10 + tag, ("f",)))
            sent += 2
        assert await good.read("f") == (served.top / "f").read_bytes()
        (link,) = (each for each in served._live if each.connection.session.msize == 1 << 20
                   and len(each.connection._state.fids) > 1)  # fmt: skip
        assert link._queued <= socklink.QUEUE_MAX + (1 << 20)
        assert link.connection.session.requests_len <= 1024
        for _ in range(sent):  # and nothing was lost
            await raw.answer()


async def test_a_message_that_never_ends_holds_up_no_other(served):
    async with Raw(served.path) as raw, connect(f"unix:{served.path}") as good:
        await raw.attach()
        raw.writer.write(b"".join(wire.emit(1, Twrite(1, 0, bytes(50000)), L))[:30000])
        assert await good.read("f") == (served.top / "f").read_bytes()


async def test_flush_of_what_was_answered(served):
    async with Raw(served.path) as raw:
        await raw.attach()
        await raw.ask(Twalk(0, 1, ("f",)))
        await raw.ask(Tlopen(1, 0))
        for _ in range(3):
            raw.send(5, Tread(1, 0, 10))
            raw.send(6, Tflush(5))
            assert isinstance((await raw.answer())[1], Rread)
            assert await raw.answer() == (6, Rflush())


@pytest.mark.parametrize("listening", [True, False])
async def test_an_inherited_descriptor(tmp_path, listening):
    if listening:
        sock = accept.bind_unix(str(tmp_path / "s"), 0o600)
        sock.listen()
        where = f"unix:{tmp_path}/s"
    else:
        sock, where = socket.socketpair()
    async with Server(ROOT) as server:
        fd = sock.detach()
        assert await server.listen_fd(fd) == f"fd:{fd}"
        async with connect(where) as c:
            assert len(await c.read("x")) == 100000


async def test_what_is_no_stream_socket_is_refused(tmp_path):
    read, write = os.pipe()
    dgram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    for fd in (read, dgram.fileno(), 9999):
        with pytest.raises(UsageError, match=f"fd {fd}: expected"):
            await Server(ROOT).listen_fd(fd)
    os.close(read)
    os.close(write)
    dgram.close()


async def test_an_inherited_socket_beyond_loopback_needs_insecure():
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 0))
        sock.listen()
        with pytest.raises(UsageError, match="insecure"):
            await Server(ROOT).listen_fd(sock.fileno())
        async with Server(ROOT) as server:
            await server.listen_fd(os.dup(sock.fileno()), insecure=True)


def test_listen_fds_are_for_this_process_only():
    me = str(os.getpid())
    assert accept.inherited(me, "2") == [3, 4]
    for pid, count in (("1", "2"), ("", ""), (me, "x"), (me, "0")):
        assert accept.inherited(pid, count) == []


async def test_nothing_inherited(monkeypatch):
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    assert await Server(ROOT).listen_inherited() == []


async def test_connections_cost_little(served):
    socks = []
    for _ in range(300):
        ours, theirs = socket.socketpair()
        served._adopt(theirs)
        socks.append(ours)
    assert served.statistics().connections == 300
    for link in served._live:
        assert len(link.connection.session._framer._view) == 0, "no buffer before the first byte"
    for sock in socks:
        sock.close()

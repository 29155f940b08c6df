"""Clients in the same process, and what `open_share` makes servers of."""

import asyncio

import pytest

from dataflow import Repository
from dataflow.aio import connection, hosthandle
from dataflow.aio.server import Server
from dataflow.p9 import wire
from dataflow.p9.const import NOFID, NONUNAME, NOTAG, Dialect
from dataflow.p9.messages import Rwrite, Tattach, Tlopen, Tread, Tversion, Twalk, Twrite
from dataflow.p9.nodes import ControlFile, StaticDir, StaticFile
from dataflow.share import DirectoryServer, open_share

L = Dialect.LINUX


class Client:
    def __init__(self):
        self.octets = b""
        self.stops = []
        self.why = ""
        self.news = asyncio.Event()

    def answered(self, pieces):
        self.octets += b"".join(pieces)
        self.news.set()

    def throttle(self, stop):
        self.stops.append(stop)
        self.news.set()

    def lost(self, why):
        self.why = why

    async def wait(self, what):
        async with asyncio.timeout(20):
            while not what():
                self.news.clear()
                await self.news.wait()


def send(talk, tag, message):
    talk.request(bytearray(b"".join(wire.emit(tag, message, L))))


async def opened(server, client, *names):
    """Return a conversation in which fid 1 is the open file `names`."""
    talk = server.converse(client)
    send(talk, NOTAG, Tversion(1 << 20, L.value))
    messages = Tattach(0, NOFID, "me", "", NONUNAME), Twalk(0, 1, names), Tlopen(1, 2)
    for tag, message in enumerate(messages, 1):
        send(talk, tag, message)
        await client.wait(lambda end=bytes([tag, 0]): end in client.octets)
        client.octets = b""
    return talk


async def test_a_read_is_answered_at_once():
    client = Client()
    async with Server(StaticDir({"f": StaticFile(b"content")})) as server:
        talk = server.converse(client)
        send(talk, NOTAG, Tversion(1 << 20, L.value))
        assert L.value.encode() in client.octets, "before `request` returned"
        assert server.statistics().connections == 1
        await talk.close()
        assert server.statistics().connections == 0
        assert client.why == ""


async def test_a_write_to_a_file_of_the_host_is_done_at_once_unless_one_was_slow(
    tmp_path, monkeypatch
):
    (tmp_path / "f").touch()
    monkeypatch.setattr(hosthandle, "SLOW_TURNS", 1)
    client = Client()
    async with DirectoryServer(str(tmp_path)) as server:
        talk = await opened(server, client, "f")
        send(talk, 4, Twrite(1, 0, b"one"))
        assert client.octets == wire_write(4, 3), "before `request` returned"
        monkeypatch.setattr(hosthandle, "SLOW", -1)
        send(talk, 5, Twrite(1, 3, b"two"))
        monkeypatch.undo()
        client.octets = b""
        send(talk, 6, Twrite(1, 6, b"three"))
        assert client.octets == b"", "a thread's"
        await client.wait(lambda: client.octets == wire_write(6, 5))
        client.octets = b""
        send(talk, 7, Twrite(1, 11, b"four"))
        assert client.octets == wire_write(7, 4)
        send(talk, 8, Twrite(1, 1 << 63, b"far"))
        await client.wait(lambda: client.octets.endswith(bytes([7, 8, 0, 22, 0, 0, 0])))
        assert (tmp_path / "f").read_bytes() == b"onetwothreefour"
        await talk.close()


def wire_write(tag, count):
    return b"".join(wire.emit(tag, Rwrite(count), L))


async def test_writes_under_way_throttle(monkeypatch):
    monkeypatch.setattr(connection, "HELD_MAX", 100)
    go = asyncio.Event()

    async def wait(command, ctx):
        await go.wait()

    client = Client()
    async with Server(StaticDir({"ctl": ControlFile(wait)})) as server:
        talk = await opened(server, client, "ctl")
        send(talk, 4, Twrite(1, 0, bytes(101)))
        assert client.stops == [True]
        go.set()
        await client.wait(lambda: client.stops == [True, False])
        await talk.close()


async def test_a_message_that_lies_ends_the_conversation():
    client = Client()
    async with Server(StaticDir({})) as server:
        talk = server.converse(client)
        talk.request(bytearray(b"\x08\0\0\0\x64\xff\xff"))
        assert client.why == "size: expected 7 to 8192 bytes, all of 7, found 8"
        assert server.statistics().broken == 1
        send(talk, NOTAG, Tversion(1 << 20, L.value))
        assert client.octets == b""
        await talk.close()


async def test_close_ends_a_request_that_waits():
    ended = asyncio.Event()

    async def wait(command, ctx):
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    client = Client()
    async with Server(StaticDir({"ctl": ControlFile(wait)})) as server:
        talk = await opened(server, client, "ctl")
        send(talk, 4, Twrite(1, 0, b"x"))
        send(talk, 5, Tread(1, 0, 10))
        await talk.close()
        assert ended.is_set()
        assert client.why == ""


async def test_the_server_ends_the_conversation():
    client = Client()
    server = Server(StaticDir({}), connections_max=1)
    server.converse(client)
    too_many = Client()
    server.converse(too_many)
    assert too_many.why == "more than 1 connections"
    await server.close()
    assert client.why == "the server was closed"


@pytest.mark.parametrize("what", [None, 7, b"path", object()])
def test_what_is_not_known(what):
    assert open_share(what) is None


async def test_a_path_is_a_directory_or_a_repository(tmp_path):
    with Repository.open(tmp_path / "bare.git"):
        pass
    async with open_share(tmp_path) as server:
        assert isinstance(server, DirectoryServer)
    async with open_share(tmp_path / "bare.git") as server:
        assert not isinstance(server, DirectoryServer)
    async with open_share(f"dir:{tmp_path}/bare.git") as server:
        assert isinstance(server, DirectoryServer)
        assert not server.keep_setuid
    async with open_share(f"setuid:{tmp_path}") as server:
        assert server.keep_setuid
        assert server._top.host.keep_setuid
    with pytest.raises(FileNotFoundError, match="No such file"):
        open_share(f"{tmp_path}/none")

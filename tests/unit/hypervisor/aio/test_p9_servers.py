"""Servers behind sockets and stream handlers, as virtio-9p sees them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hypervisor.aio.p9 import Outside, Streams
from hypervisor.devices.p9exchange import Conversation
from hypervisor.devices.p9wire import Buffer
from hypervisor.errors import UsageError


class Seen:
    """A client that keeps what it is told; `wait` until something is true of it."""

    def __init__(self) -> None:
        self.octets = b""
        self.stopped = False
        self.why = ""
        self._news = asyncio.Event()

    def answered(self, pieces: Sequence[Buffer]) -> None:
        self.octets += b"".join(pieces)
        self._news.set()

    def throttle(self, stop: bool) -> None:
        self.stopped = stop
        self._news.set()

    def lost(self, why: str) -> None:
        self.why = why
        self._news.set()

    async def wait(self, what: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not what():
                self._news.clear()
                await self._news.wait()


class Echo:
    """A stream server that sends back what comes and remembers how it went."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
            self.ended.set()


async def talk(conversation: Conversation, seen: Seen) -> None:
    assert seen.stopped, "nothing is to be sent before there is a connection"
    conversation.request(b"early ")
    await seen.wait(lambda: not seen.stopped)
    conversation.request(b"late")
    await seen.wait(lambda: seen.octets == b"early late")


async def test_an_object_that_takes_streams() -> None:
    echo, seen = Echo(), Seen()
    conversation = Streams(echo).converse(seen)
    await talk(conversation, seen)
    await conversation.close()
    assert echo.ended.is_set()
    assert seen.why == ""


async def test_a_stream_handler_that_never_began() -> None:
    conversation = Streams(Echo()).converse(Seen())
    await conversation.close()


async def test_a_stream_handler_that_ends() -> None:
    class Short:
        async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)

    seen = Seen()
    conversation = Streams(Short()).converse(seen)
    conversation.request(b"x")
    await seen.wait(lambda: seen.why)
    assert seen.why.startswith("Short closed the connection")
    await conversation.close()


async def test_a_stream_handler_that_hangs_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypervisor.aio.p9._GRACE", 0)
    started, cancelled = asyncio.Event(), asyncio.Event()

    class Stuck:
        async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

    seen = Seen()
    conversation = Streams(Stuck()).converse(seen)
    await started.wait()
    await conversation.close()
    assert cancelled.is_set()


async def test_an_outside_server_at_a_path(tmp_path: Path) -> None:
    path, seen = str(tmp_path / "sock"), Seen()
    conversation = Outside(f"unix:{path}", interval=0).converse(seen)  # before it is there
    await asyncio.sleep(0)
    async with await asyncio.start_unix_server(Echo().handle, path):
        await talk(conversation, seen)
        await conversation.close()


async def test_an_outside_server_on_tcp_that_goes_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, seen = listener.getsockname()[1], Seen()
        conversation = Outside(f"tcp:127.0.0.1:{port}").converse(seen)
        await seen.wait(lambda: not seen.stopped)
        there, _ = listener.accept()
        there.close()
        await seen.wait(lambda: seen.why)
        assert f"tcp:127.0.0.1:{port} closed the connection" in seen.why
        await conversation.close()


async def test_an_outside_server_that_never_comes(tmp_path: Path) -> None:
    seen = Seen()
    conversation = Outside(f"unix:{tmp_path}/no", interval=0, patience=0).converse(seen)
    await seen.wait(lambda: seen.why)
    assert seen.why.startswith(f"cannot connect to unix:{tmp_path}/no: ")
    await conversation.close()


async def test_closed_while_it_dials(tmp_path: Path) -> None:
    seen = Seen()
    conversation = Outside(f"unix:{tmp_path}/no").converse(seen)
    conversation.request(b"never sent")
    await conversation.close()
    assert seen.why == ""


async def test_a_full_socket_throttles(tmp_path: Path) -> None:
    path, seen = str(tmp_path / "sock"), Seen()
    go = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        while await reader.read(1 << 20):
            pass
        writer.close()

    async with await asyncio.start_unix_server(slow, path):
        conversation = Outside(f"unix:{path}").converse(seen)
        await seen.wait(lambda: not seen.stopped)
        for _ in range(8):
            conversation.request(bytes(1 << 20))
        assert seen.stopped
        go.set()
        await seen.wait(lambda: not seen.stopped)
        await conversation.close()


@pytest.mark.parametrize(
    "address", ["unix:", "tcp:", "tcp:host", "tcp:host:x", "tcp::564", "http:x"]
)
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(UsageError, match="expected unix:PATH or tcp:HOST:PORT"):
        Outside(address)

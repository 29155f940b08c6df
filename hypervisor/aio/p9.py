"""9P servers behind a socket, as virtio-9p wants them: outside ones, and those that take streams.

An outside server is dialled when the guest mounts, again and again for a while, as HyperKit does:
it may come up after the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol, cast

from ..devices.p9exchange import Client, Conversation
from ..errors import UsageError

INTERVAL = 0.05  # seconds between two attempts
PATIENCE = 10.0  # seconds until the guest is told
_GRACE = 2.0  # seconds that a stream's handler has to see the end of it
_BUFFER = 1 << 20  # octets of requests and of answers

Dial = Callable[[asyncio.Protocol], Awaitable[None]]


class StreamServer(Protocol):
    """A server as `asyncio.start_server` takes its callback; `dataflow.Server` is one, too."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client to its end."""


class Outside:
    """The 9P server at `unix:PATH` or `tcp:HOST:PORT`."""

    def __init__(
        self, address: str, *, interval: float = INTERVAL, patience: float = PATIENCE
    ) -> None:
        kind, _, rest = address.partition(":")
        host, _, port = rest.rpartition(":")
        good = bool(rest) if kind == "unix" else bool(host) and port.isdecimal()
        if kind not in ("unix", "tcp") or not good:
            raise UsageError(f"share {address!r}: expected unix:PATH or tcp:HOST:PORT")
        self.address = address
        self._interval = interval
        self._patience = patience

    def converse(self, client: Client) -> Conversation:
        """Begin to dial."""
        return SocketConversation(client, self._dial, self.address)

    async def _dial(self, protocol: asyncio.Protocol) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        while True:
            try:
                await self._connect(loop, protocol)
                return
            except OSError:
                if loop.time() >= deadline:
                    raise
            await asyncio.sleep(self._interval)

    async def _connect(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        kind, _, rest = self.address.partition(":")
        if kind == "unix":
            await loop.create_unix_connection(lambda: protocol, rest)
        else:
            host, _, port = rest.rpartition(":")
            await loop.create_connection(lambda: protocol, host.strip("[]"), int(port))


class Streams:
    """A server that takes pairs of streams: each conversation is a socket pair."""

    def __init__(self, server: StreamServer) -> None:
        self._server = server

    def converse(self, client: Client) -> Conversation:
        """Begin with the server's handler in a task of its own."""
        return _HandlerConversation(client, self._server)


class SocketConversation(asyncio.Protocol):
    """One client of a server behind a stream socket, which `dial` connects."""

    def __init__(self, client: Client, dial: Dial, name: str) -> None:
        self._client = client
        self._name = name
        self._transport: asyncio.Transport | None = None
        self._early: list[bytearray] = []  # requests from before the connection
        self._closed = False
        self._gone = asyncio.Event()
        client.throttle(True)
        self._dialling = asyncio.get_running_loop().create_task(self._run(dial))

    async def _run(self, dial: Dial) -> None:
        try:
            await dial(self)
        except OSError as exc:
            self._lost(f"cannot connect to {self._name}: {exc}")

    def request(self, message: bytearray) -> None:
        """Write the request, or keep it until there is a connection."""
        if self._transport is None:
            self._early.append(message)
        else:
            self._transport.write(message)

    async def close(self) -> None:
        """Close the socket, whatever is under way."""
        self._closed = True
        self._dialling.cancel()
        await asyncio.wait([self._dialling])
        if self._transport is not None:
            self._transport.abort()
            await self._gone.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Write what waits and take more."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_BUFFER)
        early, self._early = self._early, []
        for message in early:
            self._transport.write(message)
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Hand on answers."""
        if not self._closed:
            self._client.answered((data,))

    def pause_writing(self) -> None:
        """Leave requests with the driver."""
        if not self._closed:
            self._client.throttle(True)

    def resume_writing(self) -> None:
        """Go on."""
        if not self._closed:
            self._client.throttle(False)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the client."""
        self._gone.set()
        self._lost(f"{self._name} closed the connection" + (f": {exc}" if exc else ""))

    def _lost(self, why: str) -> None:
        if not self._closed:
            self._client.lost(why)


class _HandlerConversation(SocketConversation):
    """A client of a stream server in this process, which ends with the conversation."""

    def __init__(self, client: Client, server: StreamServer) -> None:
        self._server = server
        self._handler: asyncio.Task[None] | None = None
        super().__init__(client, self._serve, type(server).__name__)

    async def _serve(self, protocol: asyncio.Protocol) -> None:
        ours, theirs = socket.socketpair()
        try:
            await asyncio.get_running_loop().create_connection(lambda: protocol, sock=ours)
            reader, writer = await asyncio.open_connection(sock=theirs, limit=_BUFFER)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        self._handler = asyncio.create_task(self._handle(reader, writer))

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._server.handle(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def close(self) -> None:
        """Close the socket and wait for the handler, but not for ever."""
        await super().close()
        if self._handler is not None:
            await asyncio.wait([self._handler], timeout=_GRACE)
            self._handler.cancel()
            (result,) = await asyncio.gather(self._handler, return_exceptions=True)
            if isinstance(result, Exception):
                raise result

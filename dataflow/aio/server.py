"""Serves a tree over 9P on unix sockets, TCP, inherited sockets, or any pair of asyncio streams."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import socket
import stat
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import cast

from ..p9.const import MSIZE_DEFAULT
from ..p9.errors import ProtocolError, UsageError
from ..p9.server import Session, SessionStatistics
from ..p9.state import RootFactory
from ..p9.tree import Buffer, Context, Node, Peer
from .connection import Connection
from .direct import Client, Conversation
from .waitlocks import WaitingLocks

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 4096
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """Counters since the server was made; `traffic` sums all connections, ended ones too."""

    connections: int
    accepted: int
    rejected: int  # beyond the limit of connections
    broken: int  # ended by us because the peer broke the protocol
    traffic: SessionStatistics


class Server:
    """A 9P server for one tree: a root node, or a function that returns the root for an attach."""

    def __init__(
        self,
        root: RootFactory | Node,
        *,
        msize: int = MSIZE_DEFAULT,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        self._root = _same(root) if isinstance(root, Node) else root
        self._msize = msize
        self._connections_max = connections_max
        self._locks = WaitingLocks()
        self._servers: list[asyncio.Server] = []
        self._paths: list[tuple[str, tuple[int, int]]] = []
        self._live: set[_Link] = set()
        self._endings: set[asyncio.Task[None]] = set()
        self._accepted = self._rejected = self._broken = 0
        self._past = [0] * len(SessionStatistics.__slots__)

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def listen_unix(self, path: str, mode: int = 0o600) -> str:
        """Listen on a unix socket that only its owner may use; a dead socket is replaced."""
        _remove_dead(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        old = os.umask(0o777 & ~mode)
        try:
            sock.bind(path)
        except BaseException:
            sock.close()
            raise
        finally:
            os.umask(old)
        st = os.lstat(path)
        self._paths.append((path, (st.st_dev, st.st_ino)))
        await self.listen_socket(sock)
        return f"unix:{path}"

    async def listen_tcp(self, host: str, port: int, *, insecure: bool = False) -> str:
        """Listen on TCP; 9P has no authentication, so beyond loopback needs `insecure`.

        Port 0 takes a free one; returns the address as "tcp:HOST:PORT".
        """
        if not insecure and not _is_loopback(host):
            raise UsageError(f"{host} is not a loopback address: expected insecure=True")
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Protocol(self), host, port)
        self._servers.append(server)
        name = server.sockets[0].getsockname()
        shown = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"tcp:{shown}:{name[1]}"

    async def listen_socket(self, sock: socket.socket) -> None:
        """Accept on a bound stream socket, which then belongs to the server."""
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        if sock.family == socket.AF_UNIX:
            made = await loop.create_unix_server(lambda: _Protocol(self), sock=sock)
        else:
            made = await loop.create_server(lambda: _Protocol(self), sock=sock)
        self._servers.append(made)

    async def serve_socket(self, sock: socket.socket) -> None:
        """Serve one connected stream socket, such as an inherited descriptor, until it ends."""
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        _, protocol = await loop.connect_accepted_socket(lambda: _Protocol(self), sock)
        await protocol.done.wait()

    async def handle(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        peer: Peer | None = None,
    ) -> None:
        """Serve one client over any pair of streams until it ends; closes the writer."""
        link = _StreamLink(self, writer, peer or _peer(writer.transport))
        if not self._admit(link):
            writer.close()
            return
        try:
            while data := await reader.read(_CHUNK):
                link.connection.receive(data)
                await link.readable.wait()
                await link.drain()
        except (ProtocolError, OSError) as err:
            self._note(err)
        finally:
            self._live.discard(link)
            self._retire(link)
            await link.connection.close()
            writer.close()

    def converse(self, client: Client, peer: Peer | None = None) -> Conversation:
        """Serve a client in this process, message by message, until `close` of what is returned."""
        link = _Direct(self, client, peer or Peer("direct"))
        if not self._admit(link):
            client.lost(f"more than {self._connections_max} connections")
        return link

    async def close(self) -> None:
        """Stop listening, end all connections, cancel their requests."""
        for server in self._servers:
            server.close()
        for path, ident in self._paths:
            _remove_own(path, ident)
        for link in list(self._live):
            link.abort()
        while self._endings:
            await asyncio.wait(self._endings)
        self._servers.clear()
        self._paths.clear()

    def statistics(self) -> ServerStatistics:
        """Return counters since the server was made."""
        sums = list(self._past)
        for link in self._live:
            _add(sums, link.connection.statistics())
        return ServerStatistics(
            len(self._live), self._accepted, self._rejected, self._broken, SessionStatistics(*sums)
        )

    def _admit(self, link: _Link) -> bool:
        if len(self._live) >= self._connections_max:
            self._rejected += 1
            return False
        self._accepted += 1
        self._live.add(link)
        return True

    def _retire(self, link: _Link) -> None:
        _add(self._past, link.connection.statistics())

    def _lost(self, link: _Link) -> None:
        """A protocol's transport is gone: release what the connection held, in the background."""
        if link not in self._live:
            return
        self._live.discard(link)
        self._retire(link)
        task = asyncio.get_running_loop().create_task(link.connection.close())
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    def _note(self, err: Exception) -> None:
        if isinstance(err, ProtocolError):
            self._broken += 1
            log.warning("9P connection ended: %s", err)


class _Link:
    """A connection and the transport under it."""

    connection: Connection

    def _connect(self, server: Server, peer: Peer) -> None:
        self.connection = Connection(
            Session(server._msize), server._root, peer, server._locks, self.send, self.throttle
        )

    def send(self, pieces: list[Buffer]) -> None:
        raise NotImplementedError

    def throttle(self, stop: bool) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        raise NotImplementedError


class _Protocol(_Link, asyncio.BufferedProtocol):
    """A listener's connection: receives straight into the session's buffer."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.done = asyncio.Event()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has another base class
        self._transport.set_write_buffer_limits(high=1 << 20)
        self._connect(self._server, _peer(transport))
        if not self._server._admit(self):
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.connection.session.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            self.connection.received(nbytes)
        except ProtocolError as err:
            self._server._note(err)
            self._transport.abort()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.connection.set_writable(False)

    def resume_writing(self) -> None:
        self.connection.set_writable(True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server._lost(self)
        self.done.set()

    def send(self, pieces: list[Buffer]) -> None:
        self._transport.writelines(pieces)

    def throttle(self, stop: bool) -> None:
        if stop:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def abort(self) -> None:
        self._transport.abort()
        self._server._lost(self)


class _StreamLink(_Link):
    """A connection over a StreamReader and a StreamWriter."""

    def __init__(self, server: Server, writer: asyncio.StreamWriter, peer: Peer) -> None:
        self._writer = writer
        self.readable = asyncio.Event()
        self.readable.set()
        self._draining: asyncio.Task[None] | None = None
        self._connect(server, peer)

    def send(self, pieces: list[Buffer]) -> None:
        self._writer.writelines(pieces)
        if self._draining is None and self._writer.transport.get_write_buffer_size() > _CHUNK:
            self.connection.set_writable(False)
            self._draining = asyncio.get_running_loop().create_task(self.drain())
            self._draining.add_done_callback(self._drained)

    def _drained(self, task: asyncio.Task[None]) -> None:
        self._draining = None
        if not task.cancelled() and task.exception() is None:
            self.connection.set_writable(True)

    async def drain(self) -> None:
        await self._writer.drain()

    def throttle(self, stop: bool) -> None:
        if stop:
            self.readable.clear()
        else:
            self.readable.set()

    def abort(self) -> None:
        self._writer.transport.abort()


class _Direct(_Link):
    """A conversation within the process."""

    def __init__(self, server: Server, client: Client, peer: Peer) -> None:
        self._server = server
        self._client = client
        self._connect(server, peer)

    def request(self, message: bytes | bytearray) -> None:
        if self not in self._server._live:
            return
        try:
            self.connection.receive_message(message)
        except ProtocolError as err:
            self._server._note(err)
            self._end(str(err))

    async def close(self) -> None:
        self._server._lost(self)
        await self.connection.close()

    def send(self, pieces: list[Buffer]) -> None:
        self._client.answered(pieces)

    def throttle(self, stop: bool) -> None:
        self._client.throttle(stop)

    def abort(self) -> None:
        self._end("the server was closed")

    def _end(self, why: str) -> None:
        self._server._lost(self)
        self._client.lost(why)


def _same(root: Node) -> RootFactory:
    async def factory(ctx: Context) -> Node:
        return root

    return factory


def _add(sums: list[int], counts: SessionStatistics) -> None:
    for i, name in enumerate(SessionStatistics.__slots__):
        sums[i] += getattr(counts, name)


def _peer(transport: asyncio.BaseTransport) -> Peer:
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family == socket.AF_UNIX:
        pid, uid, gid = struct.unpack(
            "3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        )
        return Peer("unix:", pid, uid, gid)
    name = transport.get_extra_info("peername")
    return Peer(f"tcp:{name[0]}:{name[1]}" if isinstance(name, tuple) else "")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _remove_dead(path: str) -> None:
    """Remove a socket that nobody listens on; one in use is EADDRINUSE, a file is left alone."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise UsageError(f"{path}: expected a socket or nothing, found a file")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(path) != errno.ECONNREFUSED:
            raise UsageError(f"{path}: another server listens there")
    os.unlink(path)


def _remove_own(path: str, ident: tuple[int, int]) -> None:
    try:
        st = os.lstat(path)
        if (st.st_dev, st.st_ino) == ident:
            os.unlink(path)
    except FileNotFoundError:
        return

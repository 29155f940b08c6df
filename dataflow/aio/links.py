"""What carries one connection: the transports under `Connection`, but for sockets (`socklink`)."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Protocol

from ..p9.errors import ProtocolError
from ..p9.locks import LockTable
from ..p9.server import Session
from ..p9.state import RootFactory
from ..p9.tree import Buffer, Peer
from .connection import Connection
from .direct import Client

CHUNK = 1 << 16


class Owner(Protocol):
    """The server that a link belongs to."""

    root: RootFactory
    msize: int
    locks: LockTable

    def admit(self, link: Link) -> bool:
        """Count a link in, unless there are too many."""

    def lost(self, link: Link) -> None:
        """Count a link out and release what its connection held, in the background; once."""

    def note(self, err: Exception) -> None:
        """Count and log what ended a connection."""


class Link:
    """A connection and the transport under it."""

    connection: Connection
    pumped = False

    def connect(self, owner: Owner, peer: Peer) -> None:
        """Begin a session."""
        session = Session(owner.msize)
        self.connection = Connection(
            session, owner.root, peer, owner.locks, self.send, self.throttle, pumped=self.pumped
        )

    def counts(self) -> tuple[int, int, int]:
        """Return requests and octets in and out that the session did not see."""
        return (0, 0, 0)

    def send(self, pieces: list[Buffer]) -> None:
        """Send answers, or queue them."""
        raise NotImplementedError

    def throttle(self, stop: bool) -> None:
        """Stop receiving, or go on."""
        raise NotImplementedError

    def abort(self) -> None:
        """Hang up at once."""
        raise NotImplementedError


class StreamLink(Link):
    """A connection over a StreamReader and a StreamWriter."""

    def __init__(self, owner: Owner, writer: asyncio.StreamWriter, peer: Peer) -> None:
        self._writer = writer
        self.readable = asyncio.Event()
        self.readable.set()
        self._draining: asyncio.Task[None] | None = None
        self.connect(owner, peer)

    def send(self, pieces: list[Buffer]) -> None:
        """Hand over to the transport; above its mark no read produces more."""
        self._writer.writelines(pieces)
        if self._draining is None and self._writer.transport.get_write_buffer_size() > CHUNK:
            self.connection.set_writable(False)
            self._draining = asyncio.get_running_loop().create_task(self.drain())
            self._draining.add_done_callback(self._drained)

    def _drained(self, task: asyncio.Task[None]) -> None:
        self._draining = None
        if not task.cancelled() and task.exception() is None:
            self.connection.set_writable(True)

    async def drain(self) -> None:
        """Wait until the transport takes more."""
        await self._writer.drain()

    def throttle(self, stop: bool) -> None:
        """Stop receiving, or go on."""
        if stop:
            self.readable.clear()
        else:
            self.readable.set()

    def abort(self) -> None:
        """Hang up at once."""
        self._writer.transport.abort()


class DirectLink(Link):
    """A conversation within the process."""

    def __init__(self, owner: Owner, client: Client, peer: Peer) -> None:
        self._owner = owner
        self._client = client
        self._ended = False
        self.connect(owner, peer)

    def request(self, message: bytes | bytearray) -> None:
        """Take one whole message, which is ours to keep."""
        if self._ended:
            return
        try:
            self.connection.receive_message(message)
        except ProtocolError as err:
            self._owner.note(err)
            self._end(str(err))

    def refuse(self, why: str) -> None:
        """End before the beginning."""
        self._ended = True
        self._client.lost(why)

    async def close(self) -> None:
        """Cancel what is under way and release everything."""
        self._ended = True
        self._owner.lost(self)
        await self.connection.close()

    def send(self, pieces: list[Buffer]) -> None:
        """Hand answers to the client."""
        self._client.answered(pieces)

    def throttle(self, stop: bool) -> None:
        """Ask the client to stop, or to go on."""
        self._client.throttle(stop)

    def abort(self) -> None:
        """Tell the client that it is over."""
        self._end("the server was closed")

    def _end(self, why: str) -> None:
        self._ended = True
        self._owner.lost(self)
        self._client.lost(why)


def peer_of(sock: socket.socket | None, peername: object = None) -> Peer:
    """Tell who is at the other end, as far as the kernel knows."""
    if sock is not None and sock.family == socket.AF_UNIX:
        pid, uid, gid = struct.unpack(
            "3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        )
        return Peer("unix:", pid, uid, gid)
    name = peername
    return Peer(f"tcp:{name[0]}:{name[1]}" if isinstance(name, tuple) else "")

"""Serves a tree over 9P on unix sockets, TCP, inherited sockets, or any pair of asyncio streams."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from dataclasses import dataclass
from types import TracebackType

from ..p9.const import MSIZE_DEFAULT
from ..p9.errors import ProtocolError, UsageError
from ..p9.locks import LockTable
from ..p9.server import SessionStatistics
from ..p9.state import RootFactory
from ..p9.tree import Context, Node, Peer
from . import accept
from .direct import Client, Conversation
from .links import CHUNK, DirectLink, Link, StreamLink, peer_of
from .socklink import SocketLink

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 4096


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
        self.root: RootFactory = _same(root) if isinstance(root, Node) else root
        self.msize = msize
        self._connections_max = connections_max
        self.locks = LockTable(event=asyncio.Event)
        self._listeners: list[accept.Listener] = []
        self._paths: list[tuple[str, tuple[int, int]]] = []
        self._live: set[Link] = set()
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
        sock = accept.bind_unix(path, mode)
        st = os.lstat(path)
        self._paths.append((path, (st.st_dev, st.st_ino)))
        await self.listen_socket(sock)
        return f"unix:{path}"

    async def listen_tcp(self, host: str, port: int, *, insecure: bool = False) -> str:
        """Listen on TCP; 9P has no authentication, so beyond loopback needs `insecure`.

        Port 0 takes a free one; returns the address as "tcp:HOST:PORT".
        """
        if not insecure and not accept.is_loopback(host):
            raise UsageError(f"{host} is not a loopback address: expected insecure=True")
        loop = asyncio.get_running_loop()
        kind, flags = socket.SOCK_STREAM, socket.AI_PASSIVE
        found = await loop.getaddrinfo(host or None, port, type=kind, flags=flags)
        socks = [accept.bind_tcp(info) for info in dict.fromkeys(found)]
        for sock in socks:
            await self.listen_socket(sock)
        return _shown(socks[0].getsockname())

    async def listen_fd(self, fd: int, *, insecure: bool = False) -> str:
        """Serve an inherited descriptor, a listener or a connection; returns "fd:N".

        A TCP socket beyond loopback needs `insecure`.  The descriptor is the server's from now on.
        """
        sock = accept.adopt(fd)
        if sock.family != socket.AF_UNIX and not insecure:
            host = sock.getsockname()[0]
            if not accept.is_loopback(host):
                sock.detach()
                raise UsageError(f"{host} is not a loopback address: expected insecure=True")
        if accept.is_listening(sock):
            await self.listen_socket(sock)
        else:
            self._adopt(sock)
        return f"fd:{fd}"

    async def listen_inherited(self, *, insecure: bool = False) -> list[str]:
        """Serve what a service manager passed in LISTEN_FDS (sd_listen_fds(3)), maybe nothing."""
        pid, count = os.environ.get("LISTEN_PID", ""), os.environ.get("LISTEN_FDS", "")
        return [await self.listen_fd(n, insecure=insecure) for n in accept.inherited(pid, count)]

    async def listen_socket(self, sock: socket.socket) -> None:
        """Accept on a bound stream socket, which then belongs to the server."""
        self._listeners.append(accept.Listener(sock, self._adopt))

    async def serve_socket(self, sock: socket.socket) -> None:
        """Serve one connected stream socket, such as an inherited descriptor, until it ends."""
        await self._adopt(sock).done.wait()

    def _adopt(self, sock: socket.socket) -> SocketLink:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = SocketLink(self, sock)
        link.start()
        return link

    async def handle(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        peer: Peer | None = None,
    ) -> None:
        """Serve one client over any pair of streams until it ends; closes the writer."""
        if peer is None:
            info = writer.get_extra_info
            peer = peer_of(info("socket"), info("peername"))
        link = StreamLink(self, writer, peer)
        if not self.admit(link):
            writer.close()
            return
        try:
            while data := await reader.read(CHUNK):
                link.connection.receive(data)
                await link.readable.wait()
                await link.drain()
        except (ProtocolError, OSError) as err:
            self.note(err)
        finally:
            self._live.discard(link)
            self._retire(link)
            await link.connection.close()
            writer.close()

    def converse(self, client: Client, peer: Peer | None = None) -> Conversation:
        """Serve a client in this process, message by message, until `close` of what is returned."""
        link = DirectLink(self, client, peer or Peer("direct"))
        if not self.admit(link):
            link.refuse(f"more than {self._connections_max} connections")
        return link

    async def close(self) -> None:
        """Stop listening, end all connections, cancel their requests."""
        for listener in self._listeners:
            listener.close()
        for path, ident in self._paths:
            accept.remove_own(path, ident)
        for link in list(self._live):
            link.abort()
        while self._endings:
            await asyncio.wait(self._endings)
        self._listeners.clear()
        self._paths.clear()

    def statistics(self) -> ServerStatistics:
        """Return counters since the server was made."""
        sums = list(self._past)
        for link in self._live:
            _add(sums, link)
        return ServerStatistics(
            len(self._live), self._accepted, self._rejected, self._broken, SessionStatistics(*sums)
        )

    def admit(self, link: Link) -> bool:
        """Count a link in, unless there are too many."""
        if len(self._live) >= self._connections_max:
            self._rejected += 1
            return False
        self._accepted += 1
        self._live.add(link)
        return True

    def _retire(self, link: Link) -> None:
        _add(self._past, link)

    def lost(self, link: Link) -> None:
        """Count a link out and release what its connection held, in the background; once."""
        if link not in self._live:
            return
        self._live.discard(link)
        self._retire(link)
        task = asyncio.get_running_loop().create_task(link.connection.close())
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    def note(self, err: Exception) -> None:
        """Count and log what ended a connection."""
        if isinstance(err, ProtocolError):
            self._broken += 1
            log.warning("9P connection ended: %s", err)


def _same(root: Node) -> RootFactory:
    async def factory(ctx: Context) -> Node:
        return root

    return factory


def _add(sums: list[int], link: Link) -> None:
    counts = link.connection.statistics()
    unseen = dict(zip(("requests", "octets_in", "octets_out"), link.counts(), strict=True))
    for i, name in enumerate(SessionStatistics.__slots__):
        sums[i] += getattr(counts, name) + unseen.get(name, 0)


def _shown(name: tuple[str, int]) -> str:
    return f"tcp:[{name[0]}]:{name[1]}" if ":" in name[0] else f"tcp:{name[0]}:{name[1]}"

"""`Vsock`: streams between a machine and its host, in asyncio and at unix sockets.

    vsock = Vsock(directory="/run/vm1")
    async with Machine(..., vsock=vsock) as vm:
        reader, writer = await vm.vsock.connect(1024)           # a port of the guest's
        server = await vm.vsock.start_server(callback, 2048)    # a port of ours, CID 2

In `directory` are HyperKit's names: `connect` leads to any port of the guest, `%08x.%08x` of its
CID and a port of `forwards` (with a link `guest.%08x`) to that port, and what the guest connects to
is looked for at `00000002.%08x`.  `firecracker` is the path of Firecracker's socket, and what the
guest connects to is looked for at that path and `_<port>`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from ..devices.vsock import VsockDevice
from ..errors import UsageError
from ..vsock.connection import Connection
from ..vsock.events import Statistics
from ..vsock.table import BUF_ALLOC, LIMIT
from ..vsock.wire import HOST_CID, PORT_MAX
from .vsock_doors import FIRECRACKER_LEN, HYPERKIT_LEN, Door, firecracker, hyperkit
from .vsock_socket import Dial, SocketEnd
from .vsock_stream import VsockTransport

TIMEOUT = 10.0  # seconds that a guest has for its answer
STREAM_LIMIT = 64 << 10
Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]


class VsockServer:
    """A port of the host's that the guest may connect to, until `close`."""

    def __init__(self, ports: dict[int, Connected], port: int) -> None:
        self._ports = ports
        self.port = port

    def close(self) -> None:
        """Refuse further connections; those that are there go on."""
        self._ports.pop(self.port, None)

    async def __aenter__(self) -> VsockServer:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()


class Vsock:
    """The vsock device of one machine, whose guest has the address `cid`."""

    def __init__(
        self,
        cid: int = 3,
        directory: str | Path | None = None,
        firecracker: str | Path | None = None,
        *,
        forwards: Sequence[int] = (),
        limit: int = LIMIT,
        buffer: int = BUF_ALLOC,
    ) -> None:
        """Describe it; nothing is opened before the machine starts.

        `limit` bounds the connections, `buffer` the bytes of each that wait for the host: their
        product is what a hostile guest can make this process hold.
        """
        self.device = VsockDevice(cid, self._offered, limit=limit, buf_alloc=buffer)
        self.cid = cid
        self._limit = limit
        self._directory = None if directory is None else Path(directory)
        self._firecracker = None if firecracker is None else str(firecracker)
        self._forwards = tuple(_port(port) for port in forwards)
        if forwards and directory is None:
            raise UsageError("vsock forwards need a directory to put their sockets in")
        self._ports: dict[int, Connected] = {}
        self._ends: dict[SocketEnd | Dial | VsockTransport, None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._undo = contextlib.ExitStack()

    # The machine's side.

    def open(self) -> None:
        """Listen at the unix sockets; UsageError with the path if one cannot be had."""
        if self._loop is not None:
            raise UsageError(f"this Vsock (cid {self.cid}) belongs to another machine")
        self._loop = asyncio.get_running_loop()
        self.device.bind(self._loop)
        try:
            if self._directory is not None:
                self._open_directory(self._directory)
            if self._firecracker is not None:
                self._door(self._firecracker, firecracker, FIRECRACKER_LEN, _answer)
        except BaseException:
            self.close()
            raise

    def _open_directory(self, directory: Path) -> None:
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise UsageError(f"vsock directory {directory}: {error.strerror}") from None
        self._door(str(directory / "connect"), hyperkit(self.cid), HYPERKIT_LEN)
        for port in self._forwards:
            name = f"{self.cid:08x}.{port:08x}"
            self._door(str(directory / name), partial(_always, port), 0)
            link = directory / f"guest.{port:08x}"
            with contextlib.suppress(FileNotFoundError):
                if link.is_symlink():
                    link.unlink()
            try:
                link.symlink_to(name)
            except OSError as error:
                raise UsageError(f"{link}: {error.strerror}") from None
            self._undo.callback(link.unlink, missing_ok=True)

    def _door(
        self,
        path: str,
        parse: Callable[[bytes], int | None],
        length: int,
        greeting: Callable[[Connection], bytes] = lambda connection: b"",
    ) -> None:
        assert self._loop is not None

        def dial(port: int, sock: socket.socket) -> None:
            self._dial(port, sock, greeting)

        self._undo.callback(Door(path, parse, length, dial, self._loop).close)

    def close(self) -> None:
        """End what is connected and remove the sockets; may be called again."""
        self._undo.close()
        if self._loop is None:
            return
        self.device.reset()
        for end in list(self._ends):
            if isinstance(end, VsockTransport):
                end.abort()
            else:
                end.close()
        self.device.release()

    def pause(self) -> None:
        """Let nothing time out: the machine stands still."""
        self.device.pause()

    def resume(self) -> None:
        """Go on."""
        self.device.resume()

    # The user's side.

    async def connect(
        self, port: int, *, timeout: float = TIMEOUT, limit: int = STREAM_LIMIT
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a port of the guest.

        Raises `ConnectionRefusedError` if nobody listens there, and `TimeoutError` if the guest
        does not answer for `timeout` seconds (of its time: not while it is paused).
        """
        loop = self._running()
        connection = self.device.table.connect(_port(port), self.device.now + timeout)
        if connection is None:
            raise ConnectionRefusedError(f"vsock port {port}: too many connections")
        reader = asyncio.StreamReader(limit, loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        waiter: asyncio.Future[None] = loop.create_future()
        transport = VsockTransport(self.device, connection, protocol, loop, self._gone, waiter)
        self._ends[transport] = None
        self.device.pump()
        try:
            await waiter
        except asyncio.CancelledError:
            transport.abort()
            raise
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def start_server(self, callback: Connected, port: int) -> VsockServer:
        """Call `callback` with (reader, writer) for what the guest connects to CID 2, `port`.

        May be called before the machine starts.
        """
        if _port(port) in self._ports:
            raise UsageError(f"vsock port {port} has a server already")
        self._ports[port] = callback
        return VsockServer(self._ports, port)

    def transport_reset(self) -> None:
        """End all connections and tell the guest (VIRTIO_VSOCK_EVENT_TRANSPORT_RESET)."""
        self.device.transport_reset()

    def statistics(self) -> Statistics:
        """Return counters."""
        return self.device.table.statistics()

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise UsageError("the machine of this Vsock was not started")
        return self._loop

    # What comes in.

    def _offered(self, connection: Connection) -> None:
        """Find who serves the port that the guest wants: a server of ours, then a socket."""
        loop = self._running()
        if len(self._ends) >= self._limit:  # some still wait for slow programs of the host
            self.device.abort(connection)
            return
        callback = self._ports.get(connection.host_port)
        if callback is not None:
            reader = asyncio.StreamReader(STREAM_LIMIT, loop)
            protocol = asyncio.StreamReaderProtocol(reader, callback, loop=loop)
            transport = VsockTransport(self.device, connection, protocol, loop, self._gone)
            self._ends[transport] = None
            self.device.accept(connection)
            transport.begin()
            return
        path = self._path(connection.host_port)
        if path is None:
            self.device.abort(connection)
            return
        try:
            dial = Dial(self.device, connection, path, loop, self._dialled, self._gone)
        except OSError:  # out of descriptors
            self.device.abort(connection)
            return
        self._ends[dial] = None
        dial.start()

    def _path(self, port: int) -> str | None:
        """Return the path of the socket for a port of the host's, if there is one."""
        paths = []
        if self._directory is not None:
            paths.append(str(self._directory / f"{HOST_CID:08x}.{port:08x}"))
        if self._firecracker is not None:
            paths.append(f"{self._firecracker}_{port}")
        return next((path for path in paths if os.path.exists(path)), None)

    def _dialled(self, connection: Connection, sock: socket.socket) -> None:
        end = SocketEnd(self.device, connection, sock, self._running(), self._gone)
        self._ends[end] = None
        self.device.accept(connection)
        end.established()

    def _dial(
        self, port: int, sock: socket.socket, greeting: Callable[[Connection], bytes]
    ) -> None:
        """Connect a socket of the host's to a port of the guest."""
        connection = None
        if len(self._ends) < self._limit:
            connection = self.device.table.connect(port, self.device.now + TIMEOUT)
        if connection is None:
            sock.close()
            return
        end = SocketEnd(self.device, connection, sock, self._running(), self._gone, greeting)
        self._ends[end] = None
        self.device.pump()

    def _gone(self, end: SocketEnd | Dial | VsockTransport) -> None:
        self._ends.pop(end, None)


def _answer(connection: Connection) -> bytes:
    return b"OK %d\n" % connection.host_port


def _always(port: int, asked: bytes) -> int:
    return port


def _port(port: int) -> int:
    if not 0 <= port < PORT_MAX:
        raise UsageError(f"vsock port is {port}, expected 0 to {PORT_MAX - 1}")
    return port

"""A socket on the host as the end of a vsock connection: bytes go between it and guest memory."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
from collections.abc import Callable

from ..devices.queue import cut
from ..devices.vsock import VsockDevice
from ..vsock.connection import Connection
from ..vsock.table import LINGER
from ..vsock.wire import Shutdown

_FLAGS = socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT


class SocketEnd:
    """Takes over `sock`; `greeting` is written to it when the guest takes a request.

    What the socket does not take at once is copied and waits here, at most what the guest has
    credit for.  `gone` is called once, when the socket is closed.
    """

    def __init__(
        self,
        device: VsockDevice,
        connection: Connection,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        gone: Callable[[SocketEnd], None],
        greeting: Callable[[Connection], bytes] = lambda connection: b"",
    ) -> None:
        sock.setblocking(False)
        self._device = device
        self._connection = connection
        self._sock = sock
        self._fd = sock.fileno()
        self._loop = loop
        self._gone = gone
        self._greeting = greeting
        self._waiting = bytearray()  # for the socket
        self._reading = self._writing = False  # what the loop watches
        self._drained = False  # the socket had nothing more when it was last read
        self._read_all = False  # to the end, or the guest wants no more
        self._wrote_all = False
        self._linger: asyncio.TimerHandle | None = None
        connection.user = self

    # The device's side.

    def established(self) -> None:
        """Begin to read the socket."""
        greeting = self._greeting(self._connection)
        try:
            sent = self._sock.send(greeting, _FLAGS) if greeting else 0
        except OSError:
            sent = -1
        if sent != len(greeting):
            self._device.abort(self._connection)
            self.close()
            return
        self._device.wake(self._connection)

    def take(self, pieces: list[memoryview]) -> None:
        """Send to the socket, straight from the guest's memory if it keeps up."""
        sent = 0
        if not self._waiting:
            try:
                sent = self._sock.sendmsg(pieces, [], _FLAGS)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                self._failed()
                return
        size = sum(map(len, pieces))
        if sent < size:
            self._waiting += b"".join(cut(pieces, sent, size - sent))
            self._watch_write(True)
        if sent:
            self._device.consumed(self._connection, sent)

    @property
    def source(self) -> int:
        """The socket, while there may be something in it."""
        return -1 if self._read_all else self._fd

    def fill(self, pieces: list[memoryview]) -> int:
        """Receive from the socket straight into the guest's memory."""
        if self._read_all:
            return 0
        try:
            return self.received(self._sock.recvmsg_into(pieces, 0, socket.MSG_DONTWAIT)[0])
        except OSError as error:
            return self.received(-(error.errno or errno.EIO))

    def received(self, result: int) -> int:
        """Watch the socket when it is empty, and see its end or that nobody is behind it."""
        if result in (-errno.EAGAIN, -errno.EINTR):
            self._drained = True
            self._watch_read(True)
        elif result < 0:
            self._failed()
        elif not result:
            self._at_end()
        return max(0, result)

    def peer_shutdown(self) -> None:
        """Pass the guest's half close on, after what it sent before."""
        if self._connection.peer_shutdown & Shutdown.RCV and not self._read_all:
            self._read_all = True
            self._watch_read(False)
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RD)
        self._settle()

    def closed(self, why: str, clean: bool) -> None:
        """Close the socket, after what is still for it, unless nobody reads that."""
        self._read_all = True
        self._watch_read(False)
        if not self._waiting:
            self.close()
        elif self._linger is None and self._fd >= 0:
            self._linger = self._loop.call_later(LINGER, self.close)

    # The socket's side.

    def _readable(self) -> None:
        self._drained = False
        self._device.wake(self._connection)
        if not self._drained:  # the guest has no credit or buffers: it comes back when it has
            self._watch_read(False)

    def _writable(self) -> None:
        try:
            sent = self._sock.send(self._waiting, _FLAGS)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._waiting.clear()
            self._failed()
            return
        del self._waiting[:sent]
        self._device.consumed(self._connection, sent)
        if not self._waiting:
            self._watch_write(False)
            self._settle()

    def _at_end(self) -> None:
        """The socket's user will send no more; if it is gone altogether, neither should we."""
        self._read_all = True
        self._watch_read(False)
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0)):
            self._failed()
            return
        self._device.shut_down(self._connection)
        self._settle()

    def _failed(self) -> None:
        """Nobody is behind the socket any more."""
        self._device.end(self._connection)
        self.close()

    def _settle(self) -> None:
        """Do what is due once everything was passed on."""
        if self._waiting or self._fd < 0:
            return
        if self._linger is not None:
            self.close()
            return
        peer = self._connection.peer_shutdown
        if peer & Shutdown.SEND and not self._wrote_all:
            self._wrote_all = True
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
        if self._wrote_all and self._read_all:
            self._device.end(self._connection)
            self.close()

    def _watch_read(self, on: bool) -> None:
        if on is not self._reading and self._fd >= 0:
            self._reading = on
            if on:
                self._loop.add_reader(self._fd, self._readable)
            else:
                self._loop.remove_reader(self._fd)

    def _watch_write(self, on: bool) -> None:
        if on is not self._writing and self._fd >= 0:
            self._writing = on
            if on:
                self._loop.add_writer(self._fd, self._writable)
            else:
                self._loop.remove_writer(self._fd)

    def close(self) -> None:
        """Close the socket; may be called again."""
        if self._fd < 0:
            return
        self._watch_read(False)
        self._watch_write(False)
        if self._linger is not None:
            self._linger.cancel()
        self._fd = -1
        self._sock.close()
        self._waiting.clear()
        self._gone(self)


class Dial:
    """Connects to the socket at `path` for a connection that the guest offered, without waiting.

    A unix socket whose backlog is full says so at once and tells nobody when that changes; so it
    is asked again, for as long as Linux's guests wait.
    """

    AGAIN = 0.02  # seconds
    PATIENCE = 2.0

    def __init__(
        self,
        device: VsockDevice,
        connection: Connection,
        path: str,
        loop: asyncio.AbstractEventLoop,
        connected: Callable[[Connection, socket.socket], None],
        gone: Callable[[Dial], None],
    ) -> None:
        self._device = device
        self._connection = connection
        self._path = path
        self._loop = loop
        self._connected = connected
        self._gone = gone
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._sock.setblocking(False)
        self._until = loop.time() + self.PATIENCE
        self._timer: asyncio.TimerHandle | None = None
        connection.user = self

    def start(self) -> None:
        """Try, and refuse the connection if nobody listens."""
        try:
            self._sock.connect(self._path)
        except (BlockingIOError, InterruptedError):
            if self._loop.time() < self._until:
                self._timer = self._loop.call_later(self.AGAIN, self.start)
                return
            self._refuse()
        except OSError:
            self._refuse()
        else:
            self._gone(self)
            self._connected(self._connection, self._sock)

    def _refuse(self) -> None:
        self._device.abort(self._connection)
        self.close()

    def established(self) -> None:
        """Never happens: the guest offered it."""

    def take(self, pieces: list[memoryview]) -> None:
        """Never happens: it is not accepted yet."""

    source = -1

    def received(self, result: int) -> int:
        """Never happens: there is no source."""
        return 0

    def fill(self, pieces: list[memoryview]) -> int:
        """Have nothing."""
        return 0

    def peer_shutdown(self) -> None:
        """Never happens: it is not accepted yet."""

    def closed(self, why: str, clean: bool) -> None:
        """Give up: the guest did."""
        self.close()

    def close(self) -> None:
        """Give up; may be called again."""
        if self._timer is not None:
            self._timer.cancel()
        self._sock.close()
        self._gone(self)

"""Unix sockets between front-ends and back-ends: listening at a path, and connecting to one whose
server comes and goes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from .unix import UnixListener

RETRY_MIN, RETRY_MAX = 0.05, 1.0  # seconds between attempts to connect


class Dialer:
    """Gets one connection at a time for `connected`: by connecting, or by waiting for the other
    end where it `listens`.

    After `open` it tries until there is one; `again` asks for the next.
    """

    def __init__(
        self, path: str, connected: Callable[[socket.socket], None], *, listens: bool = False
    ) -> None:
        self.path = path
        self._listens = listens
        self._connected = connected
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: UnixListener | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pause = RETRY_MIN
        self.why = "not tried yet"  # the last attempt failed

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin; UsageError where it cannot be listened."""
        self._loop = loop
        if not self._listens:
            self._try()
            return
        self._listener = UnixListener(self.path)
        self.why = "nobody connected"
        loop.add_reader(self._listener.fileno(), self._accept)

    def again(self) -> None:
        """Get another connection, soon."""
        if self._loop is None:
            return
        if self._listener is not None:
            self._loop.add_reader(self._listener.fileno(), self._accept)
        elif self._timer is None:
            self._timer = self._loop.call_later(self._pause, self._try)
            self._pause = min(2 * self._pause, RETRY_MAX)

    def settled(self) -> None:
        """The connection was good: the next one that is needed is tried at once."""
        self._pause = RETRY_MIN

    def _try(self) -> None:
        self._timer = None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        sock.setblocking(False)
        try:
            sock.connect(self.path)
        except OSError as exc:
            sock.close()
            self.why = exc.strerror or str(exc)
            self.again()
            return
        self._connected(sock)

    def _accept(self) -> None:
        assert self._listener is not None
        assert self._loop is not None
        try:
            sock, _ = self._listener.sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        self._loop.remove_reader(self._listener.fileno())  # the next one waits for its turn
        self._connected(sock)

    def close(self) -> None:
        """Try no more; may be called again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._listener is not None and self._loop is not None:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
        self._listener = self._loop = None

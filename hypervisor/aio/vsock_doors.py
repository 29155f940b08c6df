"""Unix sockets at which programs of the host ask for a connection to a port of the guest.

HyperKit's is `DIR/connect`: 18 bytes, `%08x.%08x\\n` of CID and port, and no answer.  Firecracker's
takes `CONNECT <port>\\n` and answers `OK <port of the host>\\n`.  A socket of a port's own asks for
nothing.  Not a byte more than the request is read: what follows is the guest's.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable

from ..vhost.unix import UnixListener
from ..vsock.wire import PORT_MAX

BACKLOG = 128
ASKING_MAX = 64  # programs that connected and have not said what they want
PATIENCE = 10.0  # seconds that they may take
HYPERKIT_LEN = 18
FIRECRACKER_LEN = 19  # of the longest request

Parse = Callable[[bytes], int | None]  # the port; None: not all there yet; ValueError: no request


def hyperkit(cid: int) -> Parse:
    """Return the parser of HyperKit's request to the guest `cid`."""

    def parse(data: bytes) -> int | None:
        if len(data) < HYPERKIT_LEN:
            return None
        match = re.fullmatch(rb"([0-9a-f]{8})\.([0-9a-f]{8})\n", data, re.IGNORECASE)
        if match is None or int(match[1], 16) != cid:
            raise ValueError(f"{data!r}, expected {cid:08x}.<port>")
        return int(match[2], 16)

    return parse


def firecracker(data: bytes) -> int | None:
    """Parse Firecracker's request."""
    if b"\n" not in data:
        if len(data) >= FIRECRACKER_LEN:
            raise ValueError(f"{data!r}, expected CONNECT <port>")
        return None
    match = re.fullmatch(rb"connect +(\d{1,10}) *\r?\n", data, re.IGNORECASE)
    if match is None or int(match[1]) > PORT_MAX:
        raise ValueError(f"{data!r}, expected CONNECT <port>")
    return int(match[1])


class Door:
    """Listens at `path`; `parse` reads what is asked for, `dial` gets the port and the socket.

    `length` is that of the longest request, 0 where nothing is asked.
    """

    def __init__(
        self,
        path: str,
        parse: Parse,
        length: int,
        dial: Callable[[int, socket.socket], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._parse = parse
        self._length = length
        self._dial = dial
        self._loop = loop
        self._asking: dict[socket.socket, asyncio.TimerHandle] = {}
        self._heard: dict[socket.socket, bytes] = {}
        self.refused = 0  # requests that were none
        self._listener = UnixListener(path, BACKLOG)
        self._watching = False
        self._watch(True)

    def _watch(self, on: bool) -> None:
        """Accept, or leave programs in the backlog while too many are asking."""
        if on is self._watching:
            return
        self._watching = on
        if on:
            self._loop.add_reader(self._listener.sock.fileno(), self._accept)
        else:
            self._loop.remove_reader(self._listener.sock.fileno())

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:  # out of descriptors: wait until one is free
            self._watch(False)
            self._loop.call_later(1.0, self._again)
            return
        sock.setblocking(False)
        if not self._length:
            self._open(sock, b"")
            return
        self._heard[sock] = b""
        self._asking[sock] = self._loop.call_later(PATIENCE, self._refuse, sock)
        self._loop.add_reader(sock.fileno(), self._listen, sock)
        self._watch(len(self._asking) < ASKING_MAX)

    def _again(self) -> None:
        if self._listener.sock.fileno() >= 0:
            self._watch(True)

    def _listen(self, sock: socket.socket) -> None:
        heard = self._heard[sock]
        try:
            ahead = sock.recv(self._length - len(heard), socket.MSG_PEEK)
            line, newline, _ = ahead.partition(b"\n")
            heard += sock.recv(len(line + newline)) if ahead else b""
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            ahead = b""
        if not ahead:
            self._refuse(sock)
            return
        self._heard[sock] = heard
        self._open(sock, heard)

    def _open(self, sock: socket.socket, heard: bytes) -> None:
        try:
            port = self._parse(heard)
        except ValueError:
            self._refuse(sock)
            return
        if port is not None:
            self._forget(sock)
            self._dial(port, sock)

    def _refuse(self, sock: socket.socket) -> None:
        self.refused += 1
        self._forget(sock)
        sock.close()

    def _forget(self, sock: socket.socket) -> None:
        timer = self._asking.pop(sock, None)
        if timer is not None:
            timer.cancel()
            self._loop.remove_reader(sock.fileno())
            del self._heard[sock]
            self._again()

    def close(self) -> None:
        """Stop listening, and close what is still asking."""
        self._watch(False)
        for sock in list(self._asking):
            with contextlib.suppress(OSError):
                self._refuse(sock)
        self._watch(False)
        self._listener.close()

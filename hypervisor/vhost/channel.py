"""Messages and descriptors over a vhost-user connection, from either of its ends."""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections.abc import Callable
from typing import NamedTuple

from ..errors import PeerError
from . import messages as wire

FDS_MAX = wire.REGIONS_BASELINE
_SPACE = socket.CMSG_SPACE(4 * FDS_MAX)


class Disconnected(PeerError):
    """The other end closed its socket, or does not read what it is sent."""


class Incoming(NamedTuple):
    """One message; `fds` belong to whoever takes it."""

    header: wire.Header
    payload: bytes
    fds: tuple[int, ...]


def close_fds(fds: list[int] | tuple[int, ...]) -> None:
    """Close descriptors that nobody wanted."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


class Channel:
    """Reads whole messages without waiting; never more than one ahead.

    `peer` names the other end in errors, `parse` reads the headers that it sends.
    """

    def __init__(
        self,
        sock: socket.socket,
        peer: str = "front-end",
        parse: Callable[[bytes], wire.Header] = wire.parse_header,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._peer = peer
        self._parse = parse
        self._data = b""
        self._fds: list[int] = []
        self._header: wire.Header | None = None

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._sock.fileno()

    def receive(self) -> Incoming | None:
        """Return the next message, None if it is not there yet; MessageError, Disconnected."""
        if self._header is None:
            if not self._fill(wire.HEADER.size):
                return None
            self._header, self._data = self._parse(self._data), b""
        if not self._fill(self._header.size):
            return None
        message = Incoming(self._header, self._data, tuple(self._fds))
        self._header, self._data = None, b""
        self._fds.clear()
        return message

    def _fill(self, size: int) -> bool:
        """Read until `size` bytes are there: no further, so that descriptors stay with theirs."""
        while len(self._data) < size:
            try:
                data, ancillary, flags, _ = self._sock.recvmsg(
                    size - len(self._data), _SPACE, socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as exc:
                raise Disconnected(f"{self._peer}: {exc.strerror}") from exc
            self._take_fds(ancillary)
            if flags & socket.MSG_CTRUNC or len(self._fds) > FDS_MAX:
                raise wire.MessageError(f"descriptors, expected at most {FDS_MAX} a message")
            if not data:
                raise Disconnected(f"{self._peer} closed the connection")
            self._data += data
        return True

    def _take_fds(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                self._fds.extend(fds)

    def send(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        """Send a message; an end that does not read what it is sent is as good as gone."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            sent = self._sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)
        except OSError as exc:
            raise Disconnected(f"{self._peer}: {exc.strerror}") from exc
        if sent != len(data):
            raise Disconnected(f"{self._peer} does not read what it is sent")

    def close(self) -> None:
        """Close the socket and what came with an unfinished message."""
        close_fds(self._fds)
        self._fds.clear()
        self._sock.close()

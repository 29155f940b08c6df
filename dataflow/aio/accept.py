"""Listening sockets of 9P servers: unix sockets, TCP of the loopback, inherited descriptors."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Callable

from ..p9.errors import UsageError

BACKLOG = 1024
_AT_ONCE = 64  # accepted in a row
_PAUSE = 1.0  # seconds without accepting when descriptors or memory ran out
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
LISTEN_FDS_START = 3  # sd_listen_fds(3)


class Listener:
    """Accepts on one socket until closed."""

    def __init__(self, sock: socket.socket, accepted: Callable[[socket.socket], object]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._accepted = accepted
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        sock.listen(BACKLOG)
        self._loop.add_reader(sock.fileno(), self._accept)

    def close(self) -> None:
        """Stop and close the socket."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
        if self._pause is not None:
            self._pause.cancel()
        self._sock.close()

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                conn = self._sock.accept()[0]
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as err:
                if err.errno not in _EXHAUSTED:
                    raise
                self._loop.remove_reader(self._sock.fileno())
                self._pause = self._loop.call_later(_PAUSE, self._resume)
                return
            self._accepted(conn)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock.fileno(), self._accept)


def bind_unix(path: str, mode: int) -> socket.socket:
    """Return a socket bound to `path`; a dead socket there is replaced."""
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
    return sock


def bind_tcp(info: tuple[int, int, int, str, tuple[object, ...]]) -> socket.socket:
    """Return a socket bound to what getaddrinfo found."""
    family, kind, proto, _, where = info
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
    except BaseException:
        sock.close()
        raise
    return sock


def inherited(pid: str, count: str) -> list[int]:
    """Return descriptors from LISTEN_PID and LISTEN_FDS of the environment (sd_listen_fds(3))."""
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return []
    return list(range(LISTEN_FDS_START, LISTEN_FDS_START + int(count)))


def adopt(fd: int) -> socket.socket:
    """Return the stream socket that a descriptor is; raises `UsageError` for anything else."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError as err:
        raise UsageError(f"fd {fd}: expected a socket: {err.strerror}") from err
    if sock.type != socket.SOCK_STREAM or sock.family not in _FAMILIES:
        sock.detach()
        raise UsageError(f"fd {fd}: expected a unix or TCP stream socket, found {sock.family.name}")
    sock.set_inheritable(False)
    return sock


def is_listening(sock: socket.socket) -> bool:
    """Tell a listener from a connection."""
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def is_loopback(host: str) -> bool:
    """Tell whether only this host reaches an address."""
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


def remove_own(path: str, ident: tuple[int, int]) -> None:
    """Remove a socket that is still the one that was made."""
    try:
        st = os.lstat(path)
        if (st.st_dev, st.st_ino) == ident:
            os.unlink(path)
    except FileNotFoundError:
        return


_FAMILIES = {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6}

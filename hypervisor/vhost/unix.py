"""Listening unix sockets that only their owner may use."""

from __future__ import annotations

import contextlib
import os
import socket
import stat

from ..errors import UsageError

BACKLOG = 64  # connections that wait for `accept`
PATH_MAX = 107  # unix(7): sun_path without its terminator


class UnixListener:
    """Listens at `path`, mode 0600; replaces a socket that nobody serves, UsageError if that is
    not so.  `sock` does not block."""

    def __init__(self, path: str, backlog: int = BACKLOG) -> None:
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            _remove_stale(path)
            # Before bind, so that the file never has another mode: unix(7), Linux.
            os.fchmod(self.sock.fileno(), 0o600)
            self.sock.bind(path)
            self.sock.listen(backlog)
        except OSError as exc:
            self.sock.close()
            raise UsageError(f"{path}: {exc.strerror or exc}") from exc
        except UsageError:
            self.sock.close()
            raise
        self.sock.setblocking(False)
        self._inode = os.stat(path).st_ino

    def fileno(self) -> int:
        """Return the listening socket's descriptor."""
        return self.sock.fileno()

    def close(self) -> None:
        """Stop listening and remove the socket file, unless somebody else's stands there now."""
        if self.sock.fileno() < 0:
            return
        self.sock.close()
        with contextlib.suppress(OSError):
            if os.stat(self.path).st_ino == self._inode:
                os.unlink(self.path)


def _remove_stale(path: str) -> None:
    """Remove a socket file that nobody serves; UsageError if it is served or no socket."""
    if len(os.fsencode(path)) > PATH_MAX:
        raise UsageError(f"{path}: socket path, expected at most {PATH_MAX} bytes")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"{path}: exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass
    raise UsageError(f"{path}: somebody serves this socket already")

"""Where the sockets of running machines lie: a directory of the user's own, one socket a machine.

A socket that nobody listens at is what a killed process left: it is removed by whoever finds it.
All that happens under the directory's lock, so that a socket between bind and listen is not taken
for a dead one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import UsageError

SUFFIX = ".sock"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_PATH_MAX = 107  # bytes of sun_path without its NUL
_LISTEN = 16


class NameInUseError(UsageError):
    """A machine of that name runs already."""


def directory(environ: Mapping[str, str], uid: int) -> Path:
    """Return the directory of `uid`'s sockets; made by `prepare`, when there is something to serve.

    $XDG_RUNTIME_DIR counts only where it is that user's: sudo keeps another one's.
    """
    for base in (environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{uid}"):
        with contextlib.suppress(OSError):
            if base and os.stat(base).st_uid == uid:
                return Path(base) / "trikit" / "hypervisor"
    return Path(f"/tmp/trikit-{uid}") / "hypervisor"


def prepare(path: Path, uid: int) -> None:
    """Make the directory, mode 0700; UsageError where it, or the one above, is not ours alone."""
    for each in (path.parent, path):
        try:
            each.mkdir(mode=0o700, exist_ok=True)
            found = each.lstat()
        except OSError as error:
            raise UsageError(f"cannot make {each}: {error.strerror}; see --no-control") from None
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & 0o022:
            raise UsageError(
                f"{each} is not a directory that only user {uid} writes to: remove it,"
                " or set XDG_RUNTIME_DIR"
            )


def check_name(name: str) -> str:
    """Return `name`; UsageError unless it can be that of a socket."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"the name {name!r}, expected letters, digits, and _.- after the first")
    return name


def socket_path(place: Path, name: str) -> Path:
    """Return the path of the socket of machine `name`."""
    return place / (check_name(name) + SUFFIX)


class Claim:
    """A listening socket at a path, which is removed with it."""

    def __init__(self, path: Path, sock: socket.socket) -> None:
        self.path = path
        self.sock = sock
        self._inode = path.lstat().st_ino

    @property
    def name(self) -> str:
        """The machine's name."""
        return self.path.name.removesuffix(SUFFIX)

    def close(self) -> None:
        """Stop listening and remove the socket; does nothing when called again."""
        self.sock.close()
        with contextlib.suppress(OSError):
            if self.path.lstat().st_ino == self._inode:
                self.path.unlink()


def claim(path: Path) -> Claim:
    """Listen at `path`, mode 0600; a dead socket there is replaced.

    NameInUseError where a machine listens.
    """
    if len(os.fsencode(path)) > _PATH_MAX:
        raise UsageError(f"{path} is longer than the {_PATH_MAX} bytes that a socket's path may be")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with _locked(path.parent):
            if is_dead(path):
                path.unlink()
            before = os.umask(0o177)
            try:
                sock.bind(str(path))
            finally:
                os.umask(before)
            sock.listen(_LISTEN)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            name = path.name.removesuffix(SUFFIX)
            raise NameInUseError(
                f"a machine {name} runs already: choose another --name, or `hypervisor stop {name}`"
            ) from None
        raise UsageError(f"cannot listen at {path}: {error.strerror}") from None
    return Claim(path, sock)


def is_dead(path: Path) -> bool:
    """Tell whether `path` is a socket at which nobody listens."""
    with contextlib.suppress(OSError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            return probe.connect_ex(str(path)) == errno.ECONNREFUSED
    return False


def running(place: Path) -> list[Path]:
    """Return the sockets of the machines that run, by name; remove what dead ones left."""
    if not place.is_dir():
        return []
    with _locked(place):
        found = sorted(place.glob("*" + SUFFIX))
        dead = {path for path in found if is_dead(path)}
        for path in dead:
            path.unlink(missing_ok=True)
    return [path for path in found if path not in dead]


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[None]:
    handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

"""Git's locks (`<ref>.lock`), as we make them: whose one is can be told.

A lock is a link to a file that names the journal of its owner; when that is dead, the lock is known
to be nobody's.  A link is made whole or not at all, also by a power cut, costs a file system less
than a new file, and every git takes it for a lock like others.  Where there is no journal, or the
file system has no hard links, the lock is a symbolic link with the name for its target.
"""

from __future__ import annotations

import os
import time

from .syncing import replace_file

_MARK = "dataflow:"
_TEXT_MAX = 256  # octets of a lock that are looked at


class Mark:
    """What the locks of this process say; `directory` is where the journals are."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._owner = f"pid-{os.getpid()}"
        self._file = ""

    def belong_to(self, owner: str) -> None:
        """Let locks from now on be those of the journal `owner`."""
        if owner != self._owner:
            file = mark_of(self._directory, owner)
            if not os.path.exists(file):
                replace_file(file, f"{_MARK}{owner}\n".encode())
            self._owner, self._file = owner, file

    def lock(self, path: str) -> None:
        """Make the lock `path`; `FileExistsError`, `FileNotFoundError` for want of a directory."""
        try:
            if self._file:
                os.link(self._file, path)
                return
        except (FileExistsError, NotADirectoryError):
            raise
        except OSError:  # no hard links here, or the mark is gone, or the directory is missing
            if os.path.isdir(os.path.dirname(path)):
                self._file = ""
        os.symlink(_MARK + self._owner, path)


def mark_of(directory: str, owner: str) -> str:
    """Return the file that the locks of a journal in `directory` are links to."""
    return f"{directory}/lock-{owner}"


def lock_owner(path: str) -> str:
    """Return the journal's name for a lock of ours, "" for any other lock."""
    try:
        text = os.readlink(path)
    except OSError:  # a file, or nothing
        text = _beginning(path)
    return text.removeprefix(_MARK).rstrip("\n") if text.startswith(_MARK) else ""


def _beginning(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        return os.read(fd, _TEXT_MAX).decode("ascii", "replace")
    finally:
        os.close(fd)


def identity(path: str) -> tuple[int, int]:
    """Return what tells a lock from a later one of the same name."""
    try:
        found = os.lstat(path)
    except OSError:
        return 0, 0
    return found.st_ino, _since(found)


def age(path: str) -> float:
    """Return how old a lock is, in seconds."""
    try:
        return max(0.0, time.time() - _since(os.lstat(path)) / 1e9)
    except OSError:
        return 0.0


def _since(lock: os.stat_result) -> int:
    """Return when a lock was made, in nanoseconds; a link to a mark: when the last one was."""
    return lock.st_ctime_ns if lock.st_nlink > 1 else lock.st_mtime_ns

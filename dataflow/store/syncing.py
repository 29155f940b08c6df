"""Making files durable: one by one where they are few, else with the whole file system."""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
from collections.abc import Collection

FEW = 32  # paths up to which each is synced: a whole file system may hold gigabytes of others

_libc = ctypes.CDLL(None, use_errno=True)


def fsync_path(path: str) -> None:
    """Make a file's octets, or a directory's names, durable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def syncfs(fd: int) -> None:
    """Make durable all that was written to the file system of `fd` (syncfs(2))."""
    if _libc.syncfs(fd):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def sync_paths(paths: Collection[str], root: str, fd: int) -> None:
    """Make files and the directories that lead to them from `root` durable, there or not.

    `fd` is a file on the same file system.
    """
    if len(paths) > FEW:
        syncfs(fd)
        return
    todo = set(paths)
    for path in paths:
        while len(path := os.path.dirname(path)) >= len(root):
            todo.add(path)
    for path in sorted(todo, reverse=True):  # what is in a directory before the directory
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            fsync_path(path)


def replace_file(path: str, octets: bytes) -> None:
    """Make a file hold `octets`, durably and at once; whoever reads sees the old or the new."""
    directory = os.path.dirname(path)
    os.makedirs(directory, exist_ok=True)
    fd, temporary = tempfile.mkstemp(dir=directory, prefix=".tmp-")
    try:
        with open(fd, "wb") as f:
            f.write(octets)
            f.flush()
            os.fchmod(fd, 0o644)
            os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    fsync_path(directory)

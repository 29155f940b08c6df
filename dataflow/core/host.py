"""What the host tells without waiting for a disk."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from ._core import lib

_LATER = {-errno.EAGAIN, -errno.ENOSYS, -errno.EINVAL, -errno.E2BIG}  # old kernels say the others


class Found(NamedTuple):
    """An O_PATH descriptor, which is the caller's, and what qids are made of."""

    fd: int
    mode: int
    dev: int
    ino: int
    size: int
    mtime_ns: int


def lookup_nowait(dir_fd: int, name: str) -> Found | None:
    """Find one name below a directory, confined to it; None where the disk must be asked."""
    f = lib.p9_lookup(dir_fd, os.fsencode(name))
    if f.fd >= 0:
        return Found(f.fd, f.mode, f.dev, f.ino, f.size, f.mtime_ns)
    if f.fd in _LATER:
        return None
    raise OSError(-f.fd, os.strerror(-f.fd), name)


def in_memory(fd: int) -> bool:
    """Tell whether a file lies in a file system that is nothing but memory (tmpfs, ramfs)."""
    return bool(lib.p9_in_memory(fd))

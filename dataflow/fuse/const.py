"""Numbers of the kernel's FUSE protocol, version 7.31 (include/uapi/linux/fuse.h)."""

from __future__ import annotations

import enum

MAJOR, MINOR = 7, 31
ROOT_ID = 1
HEADER_SIZE = 40  # struct fuse_in_header
WRITE_MAX = 1 << 20  # bytes of one FUSE_WRITE; more needs more than 256 pages
BUFFER_SIZE = WRITE_MAX + 4096  # what one read of /dev/fuse may return
LOCK_END = (1 << 63) - 1  # the end of a lock that reaches to the end of the file


class Op(enum.IntEnum):
    """What the kernel asks for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    READDIRPLUS = 44
    RENAME2 = 45


class Init(enum.IntFlag):
    """Flags of FUSE_INIT: what both sides can do."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    FLOCK_LOCKS = 1 << 10
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22


class Fopen(enum.IntFlag):
    """Flags of an answer to FUSE_OPEN."""

    DIRECT_IO = 1
    KEEP_CACHE = 2


class Fattr(enum.IntFlag):
    """Which fields FUSE_SETATTR sets."""

    MODE = 1
    UID = 2
    GID = 4
    SIZE = 8
    ATIME = 16
    MTIME = 32
    FH = 64
    ATIME_NOW = 128
    MTIME_NOW = 256


RELEASE_FLOCK_UNLOCK = 2
LK_FLOCK = 1
FSYNC_FDATASYNC = 1

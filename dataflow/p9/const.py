"""Numbers of 9P2000 (intro(5)), 9P2000.u and 9P2000.L (the Linux kernel's include/net/9p/9p.h)."""

from __future__ import annotations

import enum

NOTAG = 0xFFFF  # the tag of Tversion
NOFID = 0xFFFFFFFF  # "no afid" in Tattach
NONUNAME = 0xFFFFFFFF  # "no numeric user" in Tattach
NOGID = 0xFFFFFFFF  # "no group of its own" in what makes a file in 9P2000.L

HEADER_SIZE = 7  # size[4] type[1] tag[2]
IO_HEADER_SIZE = 24  # P9_IOHDRSZ: room kept beside the data of Tread and Twrite
MSIZE_MIN = 4096
MSIZE_MAX = 4 << 20
MSIZE_DEFAULT = 1 << 20
WALK_MAX = 16  # MAXWELEM: names in one Twalk
NAME_MAX = 255  # bytes of one path element
STRING_MAX = 65535  # what the length field of a string can say


class Dialect(enum.Enum):
    """The protocol versions spoken here, by the string that Tversion carries."""

    BASE = "9P2000"
    UNIX = "9P2000.u"
    LINUX = "9P2000.L"


class QidType(enum.IntFlag):
    """The type byte of a qid: the upper byte of a mode (stat(5))."""

    FILE = 0x00
    LINK = 0x01  # .u
    SYMLINK = 0x02  # .u and .L
    TMP = 0x04
    AUTH = 0x08
    MOUNT = 0x10
    EXCL = 0x20
    APPEND = 0x40
    DIR = 0x80


class Mode9(enum.IntFlag):
    """The mode word of 9P2000 and .u (stat(5)); the low nine bits are permissions."""

    DIR = 0x80000000
    APPEND = 0x40000000
    EXCL = 0x20000000
    AUTH = 0x08000000
    TMP = 0x04000000
    SYMLINK = 0x02000000  # from here on .u
    LINK = 0x01000000
    DEVICE = 0x00800000
    NAMEDPIPE = 0x00200000
    SOCKET = 0x00100000
    SETUID = 0x00080000
    SETGID = 0x00040000
    SETVTX = 0x00010000  # of Linux alone


class Open9(enum.IntFlag):
    """The mode byte of Topen and Tcreate in 9P2000 (open(5))."""

    READ = 0
    WRITE = 1
    RDWR = 2
    EXEC = 3
    TRUNC = 0x10
    RCLOSE = 0x40
    APPEND = 0x80  # .u


class OpenFlag(enum.IntFlag):
    """The flags of Tlopen and Tlcreate: those of open(2) on x86-64, on every machine."""

    RDONLY = 0
    WRONLY = 1
    RDWR = 2
    ACCMODE = 3
    CREAT = 0o100
    EXCL = 0o200
    NOCTTY = 0o400
    TRUNC = 0o1000
    APPEND = 0o2000
    NONBLOCK = 0o4000
    DSYNC = 0o10000
    FASYNC = 0o20000
    DIRECT = 0o40000
    LARGEFILE = 0o100000
    DIRECTORY = 0o200000
    NOFOLLOW = 0o400000
    NOATIME = 0o1000000
    CLOEXEC = 0o2000000
    SYNC = 0o4000000


class GetattrMask(enum.IntFlag):
    """The fields that Tgetattr asks for and Rgetattr says are valid."""

    MODE = 0x1
    NLINK = 0x2
    UID = 0x4
    GID = 0x8
    RDEV = 0x10
    ATIME = 0x20
    MTIME = 0x40
    CTIME = 0x80
    INO = 0x100
    SIZE = 0x200
    BLOCKS = 0x400
    BASIC = 0x7FF
    BTIME = 0x800
    GEN = 0x1000
    DATA_VERSION = 0x2000
    ALL = 0x3FFF


class SetattrMask(enum.IntFlag):
    """The fields that Tsetattr sets; ATIME and MTIME without _SET mean "now"."""

    MODE = 0x1
    UID = 0x2
    GID = 0x4
    SIZE = 0x8
    ATIME = 0x10
    MTIME = 0x20
    CTIME = 0x40
    ATIME_SET = 0x80
    MTIME_SET = 0x100


class LockType(enum.IntEnum):
    """The type of Tlock and Tgetlock."""

    RDLCK = 0
    WRLCK = 1
    UNLCK = 2


LOCK_BLOCK = 1  # the flag of Tlock: the client's process waits for the lock


class LockStatus(enum.IntEnum):
    """The answer of Rlock."""

    SUCCESS = 0
    BLOCKED = 1
    ERROR = 2
    GRACE = 3


AT_REMOVEDIR = 0x200  # the flag of Tunlinkat
XATTR_CREATE = 1
XATTR_REPLACE = 2

"""The messages of 9P2000.L, by the names of the Linux kernel's include/net/9p/9p.h."""

from __future__ import annotations

from typing import NamedTuple

from .messages_base import U8, U32, U64, Data, QidField, Str


class Rlerror(NamedTuple):
    """An error of 9P2000.L: a Linux error number."""

    ecode: U32


class Tstatfs(NamedTuple):
    """Request 8."""

    fid: U32


class Rstatfs(NamedTuple):
    """The answer to Tstatfs."""

    fstype: U32
    bsize: U32
    blocks: U64
    bfree: U64
    bavail: U64
    files: U64
    ffree: U64
    fsid: U64
    namelen: U32


class Tlopen(NamedTuple):
    """Request 12."""

    fid: U32
    flags: U32


class Rlopen(NamedTuple):
    """The answer to Tlopen."""

    qid: QidField
    iounit: U32


class Tlcreate(NamedTuple):
    """Request 14."""

    fid: U32
    name: Str
    flags: U32
    mode: U32
    gid: U32


class Rlcreate(NamedTuple):
    """The answer to Tlcreate."""

    qid: QidField
    iounit: U32


class Tsymlink(NamedTuple):
    """Request 16."""

    dfid: U32
    name: Str
    symtgt: Str
    gid: U32


class Rsymlink(NamedTuple):
    """The answer to Tsymlink."""

    qid: QidField


class Tmknod(NamedTuple):
    """Request 18."""

    dfid: U32
    name: Str
    mode: U32
    major: U32
    minor: U32
    gid: U32


class Rmknod(NamedTuple):
    """The answer to Tmknod."""

    qid: QidField


class Trename(NamedTuple):
    """Request 20."""

    fid: U32
    dfid: U32
    name: Str


class Rrename(NamedTuple):
    """The answer to Trename."""


class Treadlink(NamedTuple):
    """Request 22."""

    fid: U32


class Rreadlink(NamedTuple):
    """The answer to Treadlink."""

    target: Str


class Tgetattr(NamedTuple):
    """Request 24."""

    fid: U32
    request_mask: U64


class Rgetattr(NamedTuple):
    """The answer to Tgetattr."""

    valid: U64
    qid: QidField
    mode: U32
    uid: U32
    gid: U32
    nlink: U64
    rdev: U64
    size: U64
    blksize: U64
    blocks: U64
    atime_sec: U64
    atime_nsec: U64
    mtime_sec: U64
    mtime_nsec: U64
    ctime_sec: U64
    ctime_nsec: U64
    btime_sec: U64
    btime_nsec: U64
    gen: U64
    data_version: U64


class Tsetattr(NamedTuple):
    """Request 26."""

    fid: U32
    valid: U32
    mode: U32
    uid: U32
    gid: U32
    size: U64
    atime_sec: U64
    atime_nsec: U64
    mtime_sec: U64
    mtime_nsec: U64


class Rsetattr(NamedTuple):
    """The answer to Tsetattr."""


class Txattrwalk(NamedTuple):
    """Request 30."""

    fid: U32
    newfid: U32
    name: Str


class Rxattrwalk(NamedTuple):
    """The answer to Txattrwalk."""

    size: U64


class Txattrcreate(NamedTuple):
    """Request 32."""

    fid: U32
    name: Str
    attr_size: U64
    flags: U32


class Rxattrcreate(NamedTuple):
    """The answer to Txattrcreate."""


class Treaddir(NamedTuple):
    """Request 40."""

    fid: U32
    offset: U64
    count: U32  # type: ignore[assignment]  # shadows tuple.count


class Rreaddir(NamedTuple):
    """The answer to Treaddir."""

    data: Data


class Tfsync(NamedTuple):
    """Request 50."""

    fid: U32
    datasync: U32


class Rfsync(NamedTuple):
    """The answer to Tfsync."""


class Tlock(NamedTuple):
    """Request 52."""

    fid: U32
    locktype: U8
    flags: U32
    start: U64
    length: U64
    proc_id: U32
    client_id: Str


class Rlock(NamedTuple):
    """The answer to Tlock."""

    status: U8


class Tgetlock(NamedTuple):
    """Request 54."""

    fid: U32
    locktype: U8
    start: U64
    length: U64
    proc_id: U32
    client_id: Str


class Rgetlock(NamedTuple):
    """The answer to Tgetlock."""

    locktype: U8
    start: U64
    length: U64
    proc_id: U32
    client_id: Str


class Tlink(NamedTuple):
    """Request 70."""

    dfid: U32
    fid: U32
    name: Str


class Rlink(NamedTuple):
    """The answer to Tlink."""


class Tmkdir(NamedTuple):
    """Request 72."""

    dfid: U32
    name: Str
    mode: U32
    gid: U32


class Rmkdir(NamedTuple):
    """The answer to Tmkdir."""

    qid: QidField


class Trenameat(NamedTuple):
    """Request 74."""

    olddirfid: U32
    oldname: Str
    newdirfid: U32
    newname: Str


class Rrenameat(NamedTuple):
    """The answer to Trenameat."""


class Tunlinkat(NamedTuple):
    """Request 76."""

    dirfid: U32
    name: Str
    flags: U32


class Runlinkat(NamedTuple):
    """The answer to Tunlinkat."""

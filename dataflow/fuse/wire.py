"""The kernel's FUSE protocol as values: requests parsed, answers made; no descriptor in sight.

Every request is `struct fuse_in_header` and a body by opcode, every answer `struct fuse_out_header`
and a body; all in the machine's own byte order.  The kernel is trusted, so what it sends is checked
for length only (`WireError`).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ..p9.tree import Attr, Buffer
from .const import HEADER_SIZE, MAJOR, MINOR, Init

_IN = struct.Struct("=IIQQIIII")
_OUT = struct.Struct("=IiQ")
_ATTR = struct.Struct("=QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("=QQQQII")
_ATTR_OUT = struct.Struct("=QII")
_OPEN_OUT = struct.Struct("=QII")
_INIT_IN = struct.Struct("=IIII")
_INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")
_STATFS = struct.Struct("=QQQQQIIII24x")
_DIRENT = struct.Struct("=QQII")
_LOCK = struct.Struct("=QQII")
_NS = 1_000_000_000
OPEN = struct.Struct("=II")
CREATE = struct.Struct("=IIII")
MKDIR = struct.Struct("=II")
MKNOD = struct.Struct("=IIII")
GETATTR = struct.Struct("=IIQ")
SETATTR = struct.Struct("=I4xQQQQQQIIII4xII4x")
READ = struct.Struct("=QQIIQII")  # and write
RELEASE = struct.Struct("=QIIQ")
FLUSH = struct.Struct("=QIIQ")
FSYNC = struct.Struct("=QII")
LK = struct.Struct("=QQQQIIII")
INTERRUPT = struct.Struct("=Q")
FORGET = struct.Struct("=Q")
BATCH = struct.Struct("=II")
FORGET_ONE = struct.Struct("=QQ")
RENAME = struct.Struct("=Q")
RENAME2 = struct.Struct("=QII")
LINK = struct.Struct("=Q")
SETXATTR = struct.Struct("=II")
GETXATTR = struct.Struct("=II")


class WireError(Exception):
    """A request that is shorter than its own header says."""


class Request(NamedTuple):
    """One request; `unique` ties its answer to it."""

    opcode: int
    unique: int
    nodeid: int
    uid: int
    gid: int
    pid: int
    body: memoryview


class InitIn(NamedTuple):
    """What the kernel says of itself."""

    major: int
    minor: int
    max_readahead: int
    flags: int


class Entry(NamedTuple):
    """A name's node as the kernel is told of it; `valid` is how many seconds it may be believed."""

    nodeid: int
    ino: int
    attr: Attr
    valid: int


def parse(data: Buffer) -> Request:
    """Read a request; the body is a view of `data`."""
    view = memoryview(data)
    if len(view) < HEADER_SIZE:
        raise WireError(f"header: expected {HEADER_SIZE} bytes, found {len(view)}")
    size, opcode, unique, nodeid, uid, gid, pid, _ = _IN.unpack_from(view)
    if size != len(view):
        raise WireError(f"request: expected {size} bytes, found {len(view)}")
    return Request(opcode, unique, nodeid, uid, gid, pid, view[HEADER_SIZE:])


def take(form: struct.Struct, body: memoryview) -> tuple[int, ...]:
    """Read the fixed fields at the start of a body."""
    if len(body) < form.size:
        raise WireError(f"body: expected {form.size} bytes, found {len(body)}")
    return form.unpack_from(body)


def names(body: memoryview, count: int) -> list[str]:
    """Read `count` names, each ended by a zero byte."""
    parts = bytes(body).split(b"\0")
    if len(parts) <= count:
        raise WireError(f"names: expected {count}, found {len(parts) - 1}")
    return [part.decode("utf-8", "surrogateescape") for part in parts[:count]]


def forgets(request_body: memoryview) -> list[tuple[int, int]]:
    """Read the pairs (node, count) of FUSE_BATCH_FORGET."""
    count, _ = take(BATCH, request_body)
    rest = request_body[BATCH.size :]
    if len(rest) < count * FORGET_ONE.size:
        raise WireError(f"forgets: expected {count}, found {len(rest) // FORGET_ONE.size}")
    return [FORGET_ONE.unpack_from(rest, i * FORGET_ONE.size) for i in range(count)]


def answer(unique: int, pieces: list[Buffer], error: int = 0) -> list[Buffer]:
    """Put the header before the pieces of an answer; `error` is a positive errno."""
    size = _OUT.size + sum(len(piece) for piece in pieces)
    return [_OUT.pack(size, -error, unique), *pieces]


def init_in(body: memoryview) -> InitIn:
    """Read FUSE_INIT."""
    major, minor, readahead, flags = take(_INIT_IN, body)
    return InitIn(major, minor, readahead, flags)


def init_out(asked: InitIn, wanted: Init, write_max: int) -> bytes:
    """Answer FUSE_INIT with those of the wanted flags that the kernel has."""
    pages = (write_max + 4095) // 4096
    flags = int(wanted) & asked.flags
    return _INIT_OUT.pack(
        MAJOR, MINOR, asked.max_readahead, flags, 64, 48, write_max, 1, pages, 0, 0
    )


def attr_out(ino: int, attr: Attr, valid: int) -> bytes:
    """Answer FUSE_GETATTR and FUSE_SETATTR."""
    return _ATTR_OUT.pack(valid, 0, 0) + _attr(ino, attr)


def entry_out(entry: Entry) -> bytes:
    """Answer FUSE_LOOKUP and what else makes a name known."""
    head = _ENTRY.pack(entry.nodeid, 0, entry.valid, entry.valid, 0, 0)
    return head + _attr(entry.ino, entry.attr)


def open_out(fh: int, flags: int) -> bytes:
    """Answer FUSE_OPEN and FUSE_OPENDIR."""
    return _OPEN_OUT.pack(fh, flags, 0)


def write_out(size: int) -> bytes:
    """Answer FUSE_WRITE, and FUSE_GETXATTR where only the size was asked for."""
    return struct.pack("=II", size, 0)


def statfs_out(
    blocks: int, bfree: int, bavail: int, files: int, ffree: int, bsize: int, namelen: int
) -> bytes:
    """Answer FUSE_STATFS."""
    return _STATFS.pack(blocks, bfree, bavail, files, ffree, bsize, namelen, bsize, 0)


def lock_out(start: int, end: int, kind: int, pid: int) -> bytes:
    """Answer FUSE_GETLK; `end` is the last byte locked."""
    return _LOCK.pack(start, end, kind, pid)


def dirent(ino: int, offset: int, kind: int, name: str) -> bytes:
    """Make an entry of FUSE_READDIR; `offset` is where to go on behind it."""
    raw = name.encode("utf-8", "surrogateescape")
    return _DIRENT.pack(ino, offset, len(raw), kind) + raw + bytes(-len(raw) % 8)


NO_ENTRY = bytes(_ENTRY.size + _ATTR.size)
"""Before a `dirent` of FUSE_READDIRPLUS: no node is told of with this name."""


def _attr(ino: int, a: Attr) -> bytes:
    atime, atime_ns = divmod(a.atime_ns, _NS)
    mtime, mtime_ns = divmod(a.mtime_ns, _NS)
    ctime, ctime_ns = divmod(a.ctime_ns, _NS)
    return _ATTR.pack(
        *(ino, a.size, (a.size + 511) // 512, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns),
        *(a.mode, min(a.nlink, 0xFFFFFFFF), a.uid or 0, a.gid or 0, a.rdev & 0xFFFFFFFF),
        *(a.blksize & 0xFFFFFFFF, 0),
    )

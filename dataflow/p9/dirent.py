"""The entries inside Rreaddir of 9P2000.L: qid[13] offset[8] type[1] name[s]."""

from __future__ import annotations

import struct
from typing import NamedTuple

from .const import QidType
from .tree import Qid
from .wire import WireError

_HEAD = struct.Struct("<BIQQBH")
DT_DIR, DT_REG, DT_LNK = 4, 8, 10  # of <dirent.h>


class Dirent(NamedTuple):
    """One name; `offset` is the cookie from which a later Treaddir goes on behind it."""

    qid: Qid
    offset: int
    type: int
    name: str


def dirent_type(qid: Qid) -> int:
    """Return the <dirent.h> type that fits a qid; what is neither is said to be a file."""
    if qid.type & QidType.DIR:
        return DT_DIR
    return DT_LNK if qid.type & QidType.SYMLINK else DT_REG


def emit(entry: Dirent) -> bytes:
    """Make one entry; the name must be at most 65,535 bytes."""
    raw = entry.name.encode(errors="surrogateescape")
    return _HEAD.pack(*entry.qid, entry.offset, entry.type, len(raw)) + raw


def parse(data: memoryview) -> list[Dirent]:
    """Read all entries; raises `WireError` if they do not fill `data` exactly."""
    found, pos = [], 0
    while pos < len(data):
        if len(data) - pos < _HEAD.size:
            raise WireError(f"dirent: expected {_HEAD.size} bytes, found {len(data) - pos}")
        kind, version, path, offset, dtype, n = _HEAD.unpack_from(data, pos)
        pos += _HEAD.size
        if n > len(data) - pos:
            raise WireError(f"dirent name: expected {n} bytes, found {len(data) - pos}")
        name = bytes(data[pos : pos + n]).decode(errors="surrogateescape")
        found.append(Dirent(Qid(kind, version, path), offset, dtype, name))
        pos += n
    return found

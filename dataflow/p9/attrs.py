"""A client's attributes and flags in the forms of the dialects."""

from __future__ import annotations

import stat

from .const import (
    Mode9,
    Open9,
    OpenFlag,
    SetattrMask,
)
from .messages import (
    Message,
    Stat,
    Tsetattr,
    Twstat,
)
from .tree import Attr, SetAttr

_NS = 1_000_000_000
_KINDS = {Mode9.DIR: stat.S_IFDIR, Mode9.SYMLINK: stat.S_IFLNK, Mode9.NAMEDPIPE: stat.S_IFIFO}


def to_open9(flags: int) -> int:
    """Turn flags of open(2) into the mode of Topen."""
    mode = flags & OpenFlag.ACCMODE
    return mode | (Open9.TRUNC if flags & OpenFlag.TRUNC else 0)


def from_stat(s: Stat) -> Attr:
    """Turn a stat of 9P2000 or .u into attributes."""
    kind = next((k for bit, k in _KINDS.items() if s.mode & bit), stat.S_IFREG)
    return Attr(
        mode=kind | (s.mode & 0o777),
        size=s.length,
        uid=s.n_uid,
        gid=s.n_gid,
        atime_ns=s.atime * _NS,
        mtime_ns=s.mtime * _NS,
        target=s.extension,
    )


def to_wstat(fid: int, change: SetAttr) -> Message:
    """Say a change of attributes as Twstat."""
    keep = Stat()
    return Twstat(
        fid,
        keep._replace(
            mode=keep.mode if change.mode is None else change.mode,
            length=keep.length if change.size is None else change.size,
            mtime=keep.mtime if change.mtime_ns is None else change.mtime_ns // _NS,
        ),
    )


def to_setattr(fid: int, change: SetAttr) -> Message:
    """Say a change of attributes as Tsetattr."""
    valid = 0
    times: list[int] = []
    for value, bit, given in (
        (change.atime_ns, SetattrMask.ATIME, SetattrMask.ATIME_SET),
        (change.mtime_ns, SetattrMask.MTIME, SetattrMask.MTIME_SET),
    ):
        now = value in {None, SetAttr.NOW}
        valid |= 0 if value is None else bit | (0 if now else given)
        times += divmod(0 if value is None or now else value, _NS)
    fields = (change.mode, change.uid, change.gid, change.size)
    for number, field in zip(SetattrMask, fields, strict=False):
        valid |= 0 if field is None else number
    return Tsetattr(fid, int(valid), *(f or 0 for f in fields), *times)

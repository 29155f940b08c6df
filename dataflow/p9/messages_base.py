"""The fields of 9P messages, and the messages of 9P2000 (intro(5)) and 9P2000.u.

The annotations say how a field travels (`dataflow.p9.wire` reads them): U8 to U64 little-endian,
Str a 16-bit length and UTF-8, Data a 32-bit length and bytes, Names and Qids a 16-bit count and
items.  An "extended" field is absent in plain 9P2000 and has a default for it.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from .const import NONUNAME
from .tree import Buffer, Qid

U8 = Annotated[int, "B"]
U16 = Annotated[int, "H"]
U32 = Annotated[int, "I"]
U64 = Annotated[int, "Q"]
Str = Annotated[str, "str"]
Data = Annotated[Buffer, "data"]
Names = Annotated[tuple[str, ...], "names"]
Qids = Annotated[tuple[Qid, ...], "qids"]
QidField = Annotated[Qid, "qid"]
U32Extended = Annotated[int, "I", "extended"]
StrExtended = Annotated[str, "str", "extended"]


class Stat(NamedTuple):
    """The directory entry of 9P2000 and .u (stat(5)); all-ones numbers mean "leave alone"."""

    type: U16 = 0xFFFF
    dev: U32 = 0xFFFFFFFF
    qid: QidField = Qid(0xFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
    mode: U32 = 0xFFFFFFFF
    atime: U32 = 0xFFFFFFFF
    mtime: U32 = 0xFFFFFFFF
    length: U64 = 0xFFFFFFFFFFFFFFFF
    name: Str = ""
    uid: Str = ""
    gid: Str = ""
    muid: Str = ""
    extension: StrExtended = ""  # from here on .u
    n_uid: U32Extended = NONUNAME
    n_gid: U32Extended = NONUNAME
    n_muid: U32Extended = NONUNAME


StatField = Annotated[Stat, "stat"]


class Tversion(NamedTuple):
    """Request 100."""

    msize: U32
    version: Str


class Rversion(NamedTuple):
    """The answer to Tversion."""

    msize: U32
    version: Str


class Tauth(NamedTuple):
    """Request 102."""

    afid: U32
    uname: Str
    aname: Str
    n_uname: U32Extended = NONUNAME


class Rauth(NamedTuple):
    """The answer to Tauth."""

    aqid: QidField


class Tattach(NamedTuple):
    """Request 104."""

    fid: U32
    afid: U32
    uname: Str
    aname: Str
    n_uname: U32Extended = NONUNAME


class Rattach(NamedTuple):
    """The answer to Tattach."""

    qid: QidField


class Rerror(NamedTuple):
    """An error of 9P2000 and .u: a text, and in .u a number."""

    ename: Str
    errno: U32Extended = 0


class Tflush(NamedTuple):
    """Request 108."""

    oldtag: U16


class Rflush(NamedTuple):
    """The answer to Tflush."""


class Twalk(NamedTuple):
    """Request 110."""

    fid: U32
    newfid: U32
    names: Names


class Rwalk(NamedTuple):
    """The answer to Twalk."""

    qids: Qids


class Topen(NamedTuple):
    """Request 112."""

    fid: U32
    mode: U8


class Ropen(NamedTuple):
    """The answer to Topen."""

    qid: QidField
    iounit: U32


class Tcreate(NamedTuple):
    """Request 114."""

    fid: U32
    name: Str
    perm: U32
    mode: U8
    extension: StrExtended = ""


class Rcreate(NamedTuple):
    """The answer to Tcreate."""

    qid: QidField
    iounit: U32


class Tread(NamedTuple):
    """Request 116."""

    fid: U32
    offset: U64
    count: U32  # type: ignore[assignment]  # shadows tuple.count


class Rread(NamedTuple):
    """The answer to Tread."""

    data: Data


class Twrite(NamedTuple):
    """Request 118."""

    fid: U32
    offset: U64
    data: Data


class Rwrite(NamedTuple):
    """The answer to Twrite."""

    count: U32  # type: ignore[assignment]  # shadows tuple.count


class Tclunk(NamedTuple):
    """Request 120."""

    fid: U32


class Rclunk(NamedTuple):
    """The answer to Tclunk."""


class Tremove(NamedTuple):
    """Request 122."""

    fid: U32


class Rremove(NamedTuple):
    """The answer to Tremove."""


class Tstat(NamedTuple):
    """Request 124."""

    fid: U32


class Rstat(NamedTuple):
    """The answer to Tstat."""

    stat: StatField


class Twstat(NamedTuple):
    """Request 126."""

    fid: U32
    stat: StatField


class Rwstat(NamedTuple):
    """The answer to Twstat."""

"""Every message of 9P2000, 9P2000.u and 9P2000.L in one table."""

from __future__ import annotations

from .messages_base import (
    Rattach,
    Rauth,
    Rclunk,
    Rcreate,
    Rerror,
    Rflush,
    Ropen,
    Rread,
    Rremove,
    Rstat,
    Rversion,
    Rwalk,
    Rwrite,
    Rwstat,
    Stat,
    Tattach,
    Tauth,
    Tclunk,
    Tcreate,
    Tflush,
    Topen,
    Tread,
    Tremove,
    Tstat,
    Tversion,
    Twalk,
    Twrite,
    Twstat,
)
from .messages_linux import (
    Rfsync,
    Rgetattr,
    Rgetlock,
    Rlcreate,
    Rlerror,
    Rlink,
    Rlock,
    Rlopen,
    Rmkdir,
    Rmknod,
    Rreaddir,
    Rreadlink,
    Rrename,
    Rrenameat,
    Rsetattr,
    Rstatfs,
    Rsymlink,
    Runlinkat,
    Rxattrcreate,
    Rxattrwalk,
    Tfsync,
    Tgetattr,
    Tgetlock,
    Tlcreate,
    Tlink,
    Tlock,
    Tlopen,
    Tmkdir,
    Tmknod,
    Treaddir,
    Treadlink,
    Trename,
    Trenameat,
    Tsetattr,
    Tstatfs,
    Tsymlink,
    Tunlinkat,
    Txattrcreate,
    Txattrwalk,
)

Message = (
    Rlerror
    | Tstatfs
    | Rstatfs
    | Tlopen
    | Rlopen
    | Tlcreate
    | Rlcreate
    | Tsymlink
    | Rsymlink
    | Tmknod
    | Rmknod
    | Trename
    | Rrename
    | Treadlink
    | Rreadlink
    | Tgetattr
    | Rgetattr
    | Tsetattr
    | Rsetattr
    | Txattrwalk
    | Rxattrwalk
    | Txattrcreate
    | Rxattrcreate
    | Treaddir
    | Rreaddir
    | Tfsync
    | Rfsync
    | Tlock
    | Rlock
    | Tgetlock
    | Rgetlock
    | Tlink
    | Rlink
    | Tmkdir
    | Rmkdir
    | Trenameat
    | Rrenameat
    | Tunlinkat
    | Runlinkat
    | Tversion
    | Rversion
    | Tauth
    | Rauth
    | Tattach
    | Rattach
    | Rerror
    | Tflush
    | Rflush
    | Twalk
    | Rwalk
    | Topen
    | Ropen
    | Tcreate
    | Rcreate
    | Tread
    | Rread
    | Twrite
    | Rwrite
    | Tclunk
    | Rclunk
    | Tremove
    | Rremove
    | Tstat
    | Rstat
    | Twstat
    | Rwstat
)
"""Any message."""

TYPES: dict[int, type[Message]] = {
    7: Rlerror,
    8: Tstatfs,
    9: Rstatfs,
    12: Tlopen,
    13: Rlopen,
    14: Tlcreate,
    15: Rlcreate,
    16: Tsymlink,
    17: Rsymlink,
    18: Tmknod,
    19: Rmknod,
    20: Trename,
    21: Rrename,
    22: Treadlink,
    23: Rreadlink,
    24: Tgetattr,
    25: Rgetattr,
    26: Tsetattr,
    27: Rsetattr,
    30: Txattrwalk,
    31: Rxattrwalk,
    32: Txattrcreate,
    33: Rxattrcreate,
    40: Treaddir,
    41: Rreaddir,
    50: Tfsync,
    51: Rfsync,
    52: Tlock,
    53: Rlock,
    54: Tgetlock,
    55: Rgetlock,
    70: Tlink,
    71: Rlink,
    72: Tmkdir,
    73: Rmkdir,
    74: Trenameat,
    75: Rrenameat,
    76: Tunlinkat,
    77: Runlinkat,
    100: Tversion,
    101: Rversion,
    102: Tauth,
    103: Rauth,
    104: Tattach,
    105: Rattach,
    107: Rerror,
    108: Tflush,
    109: Rflush,
    110: Twalk,
    111: Rwalk,
    112: Topen,
    113: Ropen,
    114: Tcreate,
    115: Rcreate,
    116: Tread,
    117: Rread,
    118: Twrite,
    119: Rwrite,
    120: Tclunk,
    121: Rclunk,
    122: Tremove,
    123: Rremove,
    124: Tstat,
    125: Rstat,
    126: Twstat,
    127: Rwstat,
}
"""Message classes by the type byte; an even number is a request."""

__all__ = [
    "TYPES",
    "Message",
    "Rattach",
    "Rauth",
    "Rclunk",
    "Rcreate",
    "Rerror",
    "Rflush",
    "Rfsync",
    "Rgetattr",
    "Rgetlock",
    "Rlcreate",
    "Rlerror",
    "Rlink",
    "Rlock",
    "Rlopen",
    "Rmkdir",
    "Rmknod",
    "Ropen",
    "Rread",
    "Rreaddir",
    "Rreadlink",
    "Rremove",
    "Rrename",
    "Rrenameat",
    "Rsetattr",
    "Rstat",
    "Rstatfs",
    "Rsymlink",
    "Runlinkat",
    "Rversion",
    "Rwalk",
    "Rwrite",
    "Rwstat",
    "Rxattrcreate",
    "Rxattrwalk",
    "Stat",
    "Tattach",
    "Tauth",
    "Tclunk",
    "Tcreate",
    "Tflush",
    "Tfsync",
    "Tgetattr",
    "Tgetlock",
    "Tlcreate",
    "Tlink",
    "Tlock",
    "Tlopen",
    "Tmkdir",
    "Tmknod",
    "Topen",
    "Tread",
    "Treaddir",
    "Treadlink",
    "Tremove",
    "Trename",
    "Trenameat",
    "Tsetattr",
    "Tstat",
    "Tstatfs",
    "Tsymlink",
    "Tunlinkat",
    "Tversion",
    "Twalk",
    "Twrite",
    "Twstat",
    "Txattrcreate",
    "Txattrwalk",
]

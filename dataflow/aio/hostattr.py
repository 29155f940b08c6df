"""What clients may make of the host's inodes: modes, owners, times, extended attributes.

A guest's root is not the host's.  Whatever could lend rights on the host is taken away, unless the
directory is served with `keep_setuid`: set-user-ID bits, and set-group-ID bits of what is no
directory, are masked; a file that has them loses them as soon as it is opened to be written, as it
would if its writer were no root (inode(7)); attributes of the namespaces "security", where file
capabilities are, and "trusted" are not set.

Paths are magic links (proc(5)), which lead to exactly one inode and, for a symbolic link, to the
link itself.
"""

from __future__ import annotations

import errno
import os
import stat

from ..p9.const import XATTR_REPLACE
from ..p9.errors import P9Error
from ..p9.tree import Context, SetAttr

_SET_IDS = stat.S_ISUID | stat.S_ISGID
_NAMESPACES = ("user.", "system.posix_acl_access", "system.posix_acl_default")


def masked(mode: int, kind: int, keep_setuid: bool) -> int:
    """Return the permission bits that a client gets for those it asked for."""
    if keep_setuid:
        return mode
    return mode & ~(stat.S_ISUID if kind == stat.S_IFDIR else _SET_IDS)


def change(path: str, kind: int, wanted: SetAttr, keep_setuid: bool) -> None:
    """Do what chmod(2), chown(2), truncate(2) and utimensat(2) do, in the order that works."""
    if wanted.size is not None:
        os.truncate(path, wanted.size)
        if not keep_setuid:
            disarm(path)
    if wanted.uid is not None or wanted.gid is not None:
        uid = -1 if wanted.uid is None else wanted.uid
        os.chown(path, uid, -1 if wanted.gid is None else wanted.gid)
    if wanted.mode is not None:
        os.chmod(path, masked(wanted.mode, kind, keep_setuid))
    if wanted.atime_ns is not None or wanted.mtime_ns is not None:
        _set_times(path, wanted)


def _set_times(path: str, wanted: SetAttr) -> None:
    st = os.stat(path)
    if wanted.atime_ns == wanted.mtime_ns == SetAttr.NOW:
        os.utime(path)
        return
    # One of the two set to the present: let the kernel say what that is.
    if SetAttr.NOW in {wanted.atime_ns, wanted.mtime_ns}:
        os.utime(path)
    now = os.stat(path)
    atime = {None: st.st_atime_ns, SetAttr.NOW: now.st_atime_ns}
    mtime = {None: st.st_mtime_ns, SetAttr.NOW: now.st_mtime_ns}
    ns = (
        atime.get(wanted.atime_ns, wanted.atime_ns),
        mtime.get(wanted.mtime_ns, wanted.mtime_ns),
    )
    os.utime(path, ns=ns)  # type: ignore[arg-type]  # no None is left


def disarm(target: int | str) -> None:
    """Take set-ID bits from a regular file, a descriptor or a path, that a client is to change."""
    mode = os.stat(target).st_mode
    if stat.S_ISREG(mode) and mode & _SET_IDS:
        os.chmod(target, stat.S_IMODE(mode) & ~_SET_IDS)


def made(target: int | str, mode: int, ctx: Context) -> None:
    """Give what was just made its mode, whatever the server's umask is, and its owner.

    The client has applied its own umask.  Owners change only where the server is root.
    """
    st = os.stat(target)
    if not stat.S_ISLNK(st.st_mode) and mode & ~st.st_mode & 0o7777:
        os.chmod(target, mode | st.st_mode & stat.S_ISGID)
    if os.geteuid() == 0:
        uid = ctx.uid if ctx.uid and ctx.uid != st.st_uid else -1
        gid = _group(ctx)
        if uid != -1 or gid not in {-1, st.st_gid}:
            os.chown(target, uid, gid)


def _group(ctx: Context) -> int:
    """The group of a new file: the peer's own where the kernel vouches, else what it says."""
    if ctx.peer.uid:
        return ctx.peer.gid or -1
    return -1 if ctx.gid is None else ctx.gid


def set_xattr(path: str, name: str, value: bytes, flags: int, keep_setuid: bool) -> None:
    """Set an extended attribute, or remove it: v9fs says that with no value and XATTR_REPLACE."""
    if not keep_setuid and not name.startswith(_NAMESPACES):
        raise P9Error(errno.EPERM, f"Extended attributes {name.partition('.')[0]}.* are not set")
    if value or flags != XATTR_REPLACE:
        os.setxattr(path, name, value, flags)
    else:
        os.removexattr(path, name)

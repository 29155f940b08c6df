"""The requests of 9P2000.L, as the Linux kernel's client sends them."""

from __future__ import annotations

import errno
import stat
from dataclasses import replace
from typing import Any

from . import dirent
from .const import (
    AT_REMOVEDIR,
    LOCK_BLOCK,
    NOGID,
    GetattrMask,
    LockType,
    OpenFlag,
    SetattrMask,
)
from .errors import P9Error
from .fids import Fid, XattrRead, XattrWrite
from .locks import Lock, Owner, span
from .messages import (
    Message,
    Rfsync,
    Rgetattr,
    Rgetlock,
    Rlcreate,
    Rlink,
    Rlock,
    Rlopen,
    Rmkdir,
    Rmknod,
    Rread,
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
    Tread,
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
from .ops_common import Operation, read_file
from .state import State, check_name, open_node, owner, rename
from .tree import Attr, Context, Entry, SetAttr, Symlink

XATTR_MAX = 65536  # bytes of one value (xattr(7))
_NS = 1_000_000_000


async def t_lopen(state: State, t: Tlopen) -> Message:
    """Open a file or a directory."""
    fid = state.fids.get(t.fid)
    if t.flags & OpenFlag.DIRECTORY and fid.node.kind != stat.S_IFDIR:
        raise P9Error(errno.ENOTDIR)
    if fid.node.kind == stat.S_IFDIR and t.flags & OpenFlag.ACCMODE:
        raise P9Error(errno.EISDIR)
    fid.begin_open()
    handle = await open_node(fid, t.flags)
    return Rlopen(fid.node.qid, state.iounit(handle))


async def t_lcreate(state: State, t: Tlcreate) -> Message:
    """Create a file in the fid's directory; the fid then is that file, open."""
    fid = state.fids.get(t.fid)
    directory = fid.place.directory
    name = check_name(t.name)
    fid.begin_open()
    try:
        node, handle = await directory.create(name, t.flags, t.mode & 0o7777, _maker(fid, t.gid))
    except BaseException:
        fid.open = False
        raise
    fid.place = type(fid.place)(node, fid.place, name)
    fid.handle = handle
    return Rlcreate(node.qid, state.iounit(handle))


def _maker(fid: Fid, gid: int) -> Context:
    """Who makes something, and of which group it is to be."""
    return replace(fid.ctx, gid=None if gid == NOGID else gid)


async def t_read(state: State, t: Tread) -> Message:
    """Read a file; a directory is read with Treaddir."""
    return Rread(await read_file(state, state.fids.get(t.fid), t.offset, t.count))


async def t_readdir(state: State, t: Treaddir) -> Message:
    """List entries behind a cookie; offset 0 takes a new snapshot, so that cookies stay valid."""
    fid = state.fids.get(t.fid)
    directory = fid.place.directory
    if not fid.open:
        raise P9Error(errno.EBADF, "Can't read from unopened fid")
    if t.offset == 0:
        up = (fid.place.parent or fid.place).node.qid
        entries = await directory.entries(fid.ctx)
        fid.listing = (Entry(".", fid.node.qid), Entry("..", up), *entries)
    return Rreaddir(_pack(fid, t.offset, min(t.count, state.io_max)))


def _pack(fid: Fid, cookie: int, room: int) -> bytes:
    out: list[bytes] = []
    used = 0
    for i in range(cookie, len(fid.listing)):
        name, qid = fid.listing[i]
        raw = dirent.emit(dirent.Dirent(qid, i + 1, dirent.dirent_type(qid), name))
        if len(raw) > room - used:
            if not out:
                raise P9Error(errno.EINVAL, f"No room for one entry in {room} bytes")
            break
        out.append(raw)
        used += len(raw)
    return b"".join(out)


async def t_getattr(state: State, t: Tgetattr) -> Message:
    """Tell all basic attributes, whatever the mask asks for."""
    fid = state.fids.get(t.fid)
    return _attributes(fid, await fid.node.attr(fid.ctx))


def getattr_nowait(state: State, t: Tgetattr) -> Message | None:
    """Tell the attributes of a node that knows them at once."""
    fid = state.fids.get(t.fid)
    attr = fid.node.attr_nowait(fid.ctx)
    return None if attr is None else _attributes(fid, attr)


def _attributes(fid: Fid, a: Attr) -> Message:
    uid, gid = owner(a, fid.ctx)
    return Rgetattr(
        int(GetattrMask.BASIC),
        fid.node.qid,
        a.mode,
        uid,
        gid,
        a.nlink,
        a.rdev,
        a.size,
        a.blksize,
        -(-a.size // 512) if a.blocks is None else a.blocks,
        *divmod(a.atime_ns, _NS),
        *divmod(a.mtime_ns, _NS),
        *divmod(a.ctime_ns, _NS),
        *(0, 0, 0, 0),
    )


async def t_setattr(state: State, t: Tsetattr) -> Message:
    """Change attributes, among them the size."""
    fid = state.fids.get(t.fid)
    change = SetAttr(
        mode=t.mode & 0o7777 if t.valid & SetattrMask.MODE else None,
        uid=t.uid if t.valid & SetattrMask.UID else None,
        gid=t.gid if t.valid & SetattrMask.GID else None,
        size=t.size if t.valid & SetattrMask.SIZE else None,
        atime_ns=_time(
            t.valid & SetattrMask.ATIME, t.valid & SetattrMask.ATIME_SET, t.atime_sec, t.atime_nsec
        ),
        mtime_ns=_time(
            t.valid & SetattrMask.MTIME, t.valid & SetattrMask.MTIME_SET, t.mtime_sec, t.mtime_nsec
        ),
    )
    if change.size is not None and fid.node.kind == stat.S_IFDIR:
        raise P9Error(errno.EISDIR, "Can't set length of a directory")
    await fid.node.setattr(change, fid.ctx)
    return Rsetattr()


def _time(wanted: int, given: int, sec: int, nsec: int) -> int | None:
    if not wanted:
        return None
    return sec * _NS + nsec if given else SetAttr.NOW


async def t_statfs(state: State, t: Tstatfs) -> Message:
    """Tell about the file system."""
    fid = state.fids.get(t.fid)
    s = await fid.node.statfs(fid.ctx)
    return Rstatfs(
        s.type, s.bsize, s.blocks, s.bfree, s.bavail, s.files, s.ffree, s.fsid, s.namelen
    )


async def t_mkdir(state: State, t: Tmkdir) -> Message:
    """Make a directory."""
    fid = state.fids.get(t.dfid)
    ctx = _maker(fid, t.gid)
    made = await fid.place.directory.mkdir(check_name(t.name), t.mode & 0o7777, ctx)
    return Rmkdir(made.qid)


async def t_symlink(state: State, t: Tsymlink) -> Message:
    """Make a symbolic link."""
    fid = state.fids.get(t.dfid)
    if not t.symtgt:
        raise P9Error(errno.ENOENT, "Missing target for symlink!")
    ctx = _maker(fid, t.gid)
    made = await fid.place.directory.symlink(check_name(t.name), t.symtgt, ctx)
    return Rsymlink(made.qid)


async def t_mknod(state: State, t: Tmknod) -> Message:
    """Make a device, a pipe or a socket."""
    fid = state.fids.get(t.dfid)
    rdev = (t.major << 8) | t.minor
    ctx = _maker(fid, t.gid)
    made = await fid.place.directory.mknod(check_name(t.name), t.mode, rdev, ctx)
    return Rmknod(made.qid)


async def t_link(state: State, t: Tlink) -> Message:
    """Make a hard link."""
    fid = state.fids.get(t.dfid)
    await fid.place.directory.link(check_name(t.name), state.fids.get(t.fid).node, fid.ctx)
    return Rlink()


async def t_readlink(state: State, t: Treadlink) -> Message:
    """Read a symbolic link."""
    fid = state.fids.get(t.fid)
    if not isinstance(fid.node, Symlink):
        raise P9Error(errno.EINVAL)
    return Rreadlink(await fid.node.readlink(fid.ctx))


async def t_rename(state: State, t: Trename) -> Message:
    """Move a fid's file."""
    fid = state.fids.get(t.fid)
    await rename(state, fid.place, state.fids.get(t.dfid).place, t.name, fid.ctx)
    return Rrename()


async def t_renameat(state: State, t: Trenameat) -> Message:
    """Move a name from one directory to another."""
    old, new = state.fids.get(t.olddirfid), state.fids.get(t.newdirfid)
    place = type(old.place)(old.node, old.place, check_name(t.oldname))
    await rename(state, place, new.place, t.newname, old.ctx)
    return Rrenameat()


async def t_unlinkat(state: State, t: Tunlinkat) -> Message:
    """Remove a name from a directory."""
    fid = state.fids.get(t.dirfid)
    is_dir = bool(t.flags & AT_REMOVEDIR)
    await fid.place.directory.unlink(check_name(t.name), is_dir, fid.ctx)
    return Runlinkat()


async def t_fsync(state: State, t: Tfsync) -> Message:
    """Make a file durable; a directory needs nothing."""
    fid = state.fids.get(t.fid)
    if fid.handle is not None:
        await fid.handle.fsync(bool(t.datasync))
    elif not fid.open:
        raise P9Error(errno.EBADF)
    return Rfsync()


async def t_xattrwalk(state: State, t: Txattrwalk) -> Message:
    """Make a fid that reads an extended attribute, or their names if none is named."""
    fid = state.fids.get(t.fid)
    state.fids.reserve(t.newfid)
    try:
        if t.name:
            value = await fid.node.get_xattr(t.name, fid.ctx)
        else:
            names = await fid.node.xattrs(fid.ctx)
            value = b"".join(n.encode(errors="surrogateescape") + b"\0" for n in names)
        made = Fid(fid.place, fid.ctx)
        made.xattr = XattrRead(value)
        state.fids.put(t.newfid, made)
        return Rxattrwalk(len(value))
    finally:
        state.fids.release(t.newfid)


async def t_xattrcreate(state: State, t: Txattrcreate) -> Message:
    """Turn a fid into one that collects a value by Twrite and sets it at Tclunk."""
    fid = state.fids.get(t.fid)
    if fid.open or fid.xattr is not None:
        raise P9Error(errno.EBADF, "Already open")
    if t.attr_size > XATTR_MAX:
        raise P9Error(errno.E2BIG)
    fid.xattr = XattrWrite(t.name, t.attr_size, t.flags)
    return Rxattrcreate()


async def t_lock(state: State, t: Tlock) -> Message:
    """Take or give back a record lock; with the flag, wait for it (Tflush ends that)."""
    fid = state.fids.get(t.fid)
    want = _lock(state, t)
    if t.flags & LOCK_BLOCK:
        return Rlock(await state.locks.acquire_blocking(fid.node.qid_path, want))
    return Rlock(state.locks.acquire(fid.node.qid_path, want))


async def t_getlock(state: State, t: Tgetlock) -> Message:
    """Tell which lock stands in the way."""
    fid = state.fids.get(t.fid)
    held = state.locks.conflict(fid.node.qid_path, _lock(state, t))
    if held is None:
        return Rgetlock(int(LockType.UNLCK), t.start, t.length, t.proc_id, t.client_id)
    length = 0 if held.end >= 1 << 64 else held.end - held.start
    who = held.owner
    return Rgetlock(int(held.type), held.start, length, who.proc_id, who.client_id)


def _lock(state: State, t: Tlock | Tgetlock) -> Lock:
    if t.locktype not in set(LockType):
        raise P9Error(errno.EINVAL, f"lock type: expected 0 to 2, found {t.locktype}")
    start, end = span(t.start, t.length)
    return Lock(start, end, t.locktype, Owner(id(state), t.client_id, t.proc_id))


OPERATIONS: dict[type[Any], Operation] = {
    Tlopen: t_lopen,
    Tlcreate: t_lcreate,
    Tread: t_read,
    Treaddir: t_readdir,
    Tgetattr: t_getattr,
    Tsetattr: t_setattr,
    Tstatfs: t_statfs,
    Tmkdir: t_mkdir,
    Tsymlink: t_symlink,
    Tmknod: t_mknod,
    Tlink: t_link,
    Treadlink: t_readlink,
    Trename: t_rename,
    Trenameat: t_renameat,
    Tunlinkat: t_unlinkat,
    Tfsync: t_fsync,
    Txattrwalk: t_xattrwalk,
    Txattrcreate: t_xattrcreate,
    Tlock: t_lock,
    Tgetlock: t_getlock,
}

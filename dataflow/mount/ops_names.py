"""The operations on names and attributes."""

from __future__ import annotations

import errno
import stat

from ..fuse import wire
from ..fuse.const import Fattr, Op
from ..fuse.wire import Request
from ..p9.attrs import to_setattr
from ..p9.errors import P9Error
from ..p9.messages import (
    Rreadlink,
    Rstatfs,
    Tlink,
    Tmkdir,
    Tmknod,
    Treadlink,
    Tstatfs,
    Tsymlink,
)
from ..p9.tree import SetAttr
from .state import Answer, Operation, State

_NS = 1_000_000_000


async def lookup(state: State, request: Request) -> Answer:
    """FUSE_LOOKUP."""
    (name,) = wire.names(request.body, 1)
    return [await state.entry(request, state.inode(request.nodeid), name)]


async def getattr_(state: State, request: Request) -> Answer:
    """FUSE_GETATTR."""
    return [await _attributes(state, request)]


async def _attributes(state: State, request: Request) -> bytes:
    inode = state.inode(request.nodeid)
    with inode.held.use() as fid:
        qid, attr = await state.remote.getattr(fid)
    return wire.attr_out(qid.path, attr, inode.policy.valid)


async def setattr_(state: State, request: Request) -> Answer:
    """FUSE_SETATTR."""
    inode = state.inode(request.nodeid)
    change = _change(wire.take(wire.SETATTR, request.body))
    with inode.held.use() as fid:
        await state.remote.channel.call(to_setattr(fid, change))
    return [await _attributes(state, request)]


def _change(fields: tuple[int, ...]) -> SetAttr:
    valid, _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, uid, gid = fields

    def time(bit: Fattr, now: Fattr, seconds: int, rest: int) -> int | None:
        if not valid & bit:
            return None
        return SetAttr.NOW if valid & now else seconds * _NS + rest

    return SetAttr(
        mode=stat.S_IMODE(mode) if valid & Fattr.MODE else None,
        uid=uid if valid & Fattr.UID else None,
        gid=gid if valid & Fattr.GID else None,
        size=size if valid & Fattr.SIZE else None,
        atime_ns=time(Fattr.ATIME, Fattr.ATIME_NOW, atime, atime_ns),
        mtime_ns=time(Fattr.MTIME, Fattr.MTIME_NOW, mtime, mtime_ns),
    )


async def readlink(state: State, request: Request) -> Answer:
    """FUSE_READLINK."""
    with state.inode(request.nodeid).held.use() as fid:
        r = await state.remote.channel.rpc(Treadlink(fid), Rreadlink)
    return [r.target.encode("utf-8", "surrogateescape")]


async def symlink(state: State, request: Request) -> Answer:
    """FUSE_SYMLINK."""
    name, target = wire.names(request.body, 2)
    parent = state.inode(request.nodeid)
    with parent.held.use() as fid:
        await state.remote.channel.call(Tsymlink(fid, name, target, request.gid))
    return [await state.entry(request, parent, name)]


async def mknod(state: State, request: Request) -> Answer:
    """FUSE_MKNOD; also how a regular file is made without being opened."""
    mode, rdev, _, _ = wire.take(wire.MKNOD, request.body)
    (name,) = wire.names(request.body[wire.MKNOD.size :], 1)
    parent = state.inode(request.nodeid)
    with parent.held.use() as fid:
        call = Tmknod(fid, name, mode, rdev >> 8 & 0xFFF, rdev & 0xFF, request.gid)
        try:
            await state.remote.channel.call(call)
        except P9Error:
            if not stat.S_ISREG(mode):
                raise
            flags = _CREATE_NEW
            file = await state.remote.create(fid, name, flags, stat.S_IMODE(mode), request.gid)
            await file.close()
    return [await state.entry(request, parent, name)]


async def mkdir(state: State, request: Request) -> Answer:
    """FUSE_MKDIR."""
    mode, _ = wire.take(wire.MKDIR, request.body)
    (name,) = wire.names(request.body[wire.MKDIR.size :], 1)
    parent = state.inode(request.nodeid)
    with parent.held.use() as fid:
        await state.remote.channel.call(Tmkdir(fid, name, stat.S_IMODE(mode), request.gid))
    return [await state.entry(request, parent, name)]


async def unlink(state: State, request: Request) -> Answer:
    """FUSE_UNLINK and FUSE_RMDIR."""
    (name,) = wire.names(request.body, 1)
    parent = state.inode(request.nodeid)
    with parent.held.use() as fid:
        await state.remote.unlink(fid, name, request.opcode == Op.RMDIR)
    state.inodes.unlink(parent, name)
    return []


async def rename(state: State, request: Request) -> Answer:
    """FUSE_RENAME and FUSE_RENAME2; 9P has no exchange and no "unless it is there"."""
    form = wire.RENAME if request.opcode == Op.RENAME else wire.RENAME2
    directory, *flags = wire.take(form, request.body)
    if any(flags):
        raise P9Error(errno.EINVAL)
    name, new_name = wire.names(request.body[form.size :], 2)
    parent, to = state.inode(request.nodeid), state.inode(directory)
    with parent.held.use() as fid, to.held.use() as to_fid:
        await state.remote.rename(fid, name, to_fid, new_name)
    state.inodes.rename(parent, name, to, new_name)
    return []


async def link(state: State, request: Request) -> Answer:
    """FUSE_LINK."""
    (nodeid,) = wire.take(wire.LINK, request.body)
    (name,) = wire.names(request.body[wire.LINK.size :], 1)
    parent = state.inode(request.nodeid)
    with parent.held.use() as fid, state.inode(nodeid).held.use() as target:
        await state.remote.channel.call(Tlink(fid, target, name))
    return [await state.entry(request, parent, name)]


async def statfs(state: State, request: Request) -> Answer:
    """FUSE_STATFS."""
    with state.inode(request.nodeid).held.use() as fid:
        r = await state.remote.channel.rpc(Tstatfs(fid), Rstatfs)
    return [wire.statfs_out(r.blocks, r.bfree, r.bavail, r.files, r.ffree, r.bsize, r.namelen)]


_CREATE_NEW = 0o301  # O_WRONLY | O_CREAT | O_EXCL

OPERATIONS: dict[Op, Operation] = {
    Op.LOOKUP: lookup,
    Op.GETATTR: getattr_,
    Op.SETATTR: setattr_,
    Op.READLINK: readlink,
    Op.SYMLINK: symlink,
    Op.MKNOD: mknod,
    Op.MKDIR: mkdir,
    Op.UNLINK: unlink,
    Op.RMDIR: unlink,
    Op.RENAME: rename,
    Op.RENAME2: rename,
    Op.LINK: link,
    Op.STATFS: statfs,
}

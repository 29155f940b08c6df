"""The requests of 9P2000 and 9P2000.u."""

from __future__ import annotations

import errno
import stat
from typing import Any

from .const import Dialect, Mode9, Open9, OpenFlag
from .errors import P9Error
from .fids import Fid, Place
from .messages import (
    Message,
    Rcreate,
    Ropen,
    Rread,
    Rstat,
    Rwstat,
    Stat,
    Tcreate,
    Topen,
    Tread,
    Tstat,
    Twstat,
)
from .ops_common import Operation, read_file
from .state import State, check_name, open_node, owner, rename
from .tree import Attr, Context, Handle, Node, SetAttr
from .wire import emit_stat

_NS = 1_000_000_000
_KEEP32 = 0xFFFFFFFF
_KEEP64 = 0xFFFFFFFFFFFFFFFF
_SPECIAL = {
    stat.S_IFLNK: Mode9.SYMLINK,
    stat.S_IFIFO: Mode9.NAMEDPIPE,
    stat.S_IFSOCK: Mode9.SOCKET,
    stat.S_IFCHR: Mode9.DEVICE,
    stat.S_IFBLK: Mode9.DEVICE,
}

_SET_BITS = {
    int(Mode9.SETUID): stat.S_ISUID,
    int(Mode9.SETGID): stat.S_ISGID,
    int(Mode9.SETVTX): stat.S_ISVTX,
}


def _permissions(state: State, mode: int) -> int:
    """The permission bits of a mode that a client sent."""
    found = mode & 0o777
    if state.dialect is Dialect.UNIX:
        found |= sum(here for there, here in _SET_BITS.items() if mode & there)
    return found


def open_flags(mode: int) -> int:
    """Turn the mode of Topen into flags of open(2)."""
    access = (OpenFlag.RDONLY, OpenFlag.WRONLY, OpenFlag.RDWR, OpenFlag.RDONLY)[mode & 3]
    flags = int(access)
    if mode & Open9.TRUNC:
        flags |= OpenFlag.TRUNC
    if mode & Open9.APPEND:
        flags |= OpenFlag.APPEND
    return flags


def make_stat(state: State, name: str, node: Node, attr: Attr, ctx: Context) -> Stat:
    """Describe a node as stat(5) does; in .u with numbers and special files."""
    uid, gid = owner(attr, ctx)
    mode = attr.mode & 0o777
    if stat.S_ISDIR(attr.mode):
        mode |= Mode9.DIR
    extension = ""
    if state.dialect is Dialect.UNIX:
        mode |= sum(there for there, here in _SET_BITS.items() if attr.mode & here)
        mode |= _SPECIAL.get(stat.S_IFMT(attr.mode), Mode9(0))
        extension = _extension(attr)
    return Stat(
        type=0,
        dev=0,
        qid=node.qid,
        mode=int(mode),
        atime=attr.atime_ns // _NS & _KEEP32,
        mtime=attr.mtime_ns // _NS & _KEEP32,
        length=0 if node.kind == stat.S_IFDIR else attr.size,
        name=name or "/",
        uid=str(uid) if attr.uid is not None else ctx.uname or str(uid),
        gid=str(gid),
        muid="",
        extension=extension,
        n_uid=uid,
        n_gid=gid,
    )


def _extension(attr: Attr) -> str:
    kind = stat.S_IFMT(attr.mode)
    if kind == stat.S_IFLNK:
        return attr.target
    if kind in {stat.S_IFCHR, stat.S_IFBLK}:
        letter = "c" if kind == stat.S_IFCHR else "b"
        return f"{letter} {attr.rdev >> 8} {attr.rdev & 0xFF}"
    return ""


async def t_open(state: State, t: Topen) -> Message:
    """Open a file or a directory."""
    fid = state.fids.get(t.fid)
    writes = t.mode & (Open9.TRUNC | Open9.RCLOSE) or t.mode & 3 in {Open9.WRITE, Open9.RDWR}
    if fid.node.kind == stat.S_IFDIR and writes:
        raise P9Error(errno.EISDIR, "Is a directory")
    fid.begin_open()
    handle = await open_node(fid, open_flags(t.mode))
    fid.remove = bool(t.mode & Open9.RCLOSE)
    return Ropen(fid.node.qid, state.iounit(handle))


async def t_create(state: State, t: Tcreate) -> Message:
    """Create a file, or by bits of `perm` something else, and open it."""
    fid = state.fids.get(t.fid)
    name, place = check_name(t.name), fid.place
    fid.begin_open()
    try:
        node, handle = await _create(state, fid, name, t)
    except BaseException:
        fid.open = False
        raise
    fid.place = Place(node, place, name)
    fid.handle = handle
    fid.remove = bool(t.mode & Open9.RCLOSE)
    return Rcreate(node.qid, state.iounit(handle))


async def _create(state: State, fid: Fid, name: str, t: Tcreate) -> tuple[Node, Handle | None]:
    directory, perm = fid.place.directory, _permissions(state, t.perm)
    if t.perm & Mode9.DIR:
        return await directory.mkdir(name, perm, fid.ctx), None
    if t.perm & Mode9.SYMLINK:
        if not t.extension:
            raise P9Error(errno.ENOENT, "Missing target for symlink!")
        return await directory.symlink(name, t.extension, fid.ctx), None
    if t.perm & Mode9.NAMEDPIPE:
        return await directory.mknod(name, stat.S_IFIFO | perm, 0, fid.ctx), None
    if t.perm & Mode9.LINK and state.dialect is Dialect.UNIX:
        return await _link(state, fid, name, t.extension), None
    if t.perm & (Mode9.LINK | Mode9.DEVICE | Mode9.SOCKET | Mode9.AUTH):
        raise P9Error(errno.EOPNOTSUPP, f"Can't create with mode {t.perm:#o}")
    flags = open_flags(t.mode) | OpenFlag.CREAT | OpenFlag.EXCL  # open(5): an old file is an error
    return await directory.create(name, flags, perm, fid.ctx)


async def _link(state: State, fid: Fid, name: str, extension: str) -> Node:
    """Make a hard link; the extension is the number of the fid of the file (v9fs_vfs_link)."""
    number = extension.strip()
    if not (number.isascii() and number.isdigit()):
        raise P9Error(errno.EINVAL, f"link: expected the number of a fid, found {number[:20]!r}")
    node = state.fids.get(int(number)).node
    await fid.place.directory.link(name, node, fid.ctx)
    return node


async def t_read(state: State, t: Tread) -> Message:
    """Read a file, or whole entries of a directory."""
    fid = state.fids.get(t.fid)
    if fid.open and fid.node.kind == stat.S_IFDIR:
        return Rread(await _read_dir(state, fid, t.offset, min(t.count, state.io_max)))
    return Rread(await read_file(state, fid, t.offset, t.count))


async def _read_dir(state: State, fid: Fid, offset: int, room: int) -> bytes:
    directory = fid.place.directory
    if offset == 0:
        fid.listing, fid.cookie, fid.offset = tuple(await directory.entries(fid.ctx)), 0, 0
    if offset != fid.offset:
        raise P9Error(errno.EINVAL, "Can't seek in a directory")
    if offset and room <= fid.rest:  # v9fs asks for what the last answer left of its buffer
        return b""
    out: list[bytes] = []
    used = 0
    while fid.cookie < len(fid.listing):
        raw = await _entry(state, fid, fid.listing[fid.cookie].name)
        if len(raw) > room - used:
            if not out:
                raise P9Error(errno.EINVAL, f"No room for one entry in {room} bytes")
            break
        out.append(raw)
        used += len(raw)
        fid.cookie += 1
    fid.offset, fid.rest = offset + used, room - used
    return b"".join(out)


async def _entry(state: State, fid: Fid, name: str) -> bytes:
    """One entry, or nothing if the name is gone since the listing was made."""
    try:
        node = await fid.place.directory.lookup(name, fid.ctx)
        attr = await node.attr(fid.ctx)
    except (P9Error, OSError):
        return b""
    return emit_stat(make_stat(state, name, node, attr, fid.ctx), state.dialect)


async def t_stat(state: State, t: Tstat) -> Message:
    """Tell a fid's attributes."""
    fid = state.fids.get(t.fid)
    attr = await fid.node.attr(fid.ctx)
    return Rstat(make_stat(state, fid.place.name, fid.node, attr, fid.ctx))


async def t_wstat(state: State, t: Twstat) -> Message:
    """Change attributes and the name; all ones or an empty string leave a field alone (stat(5))."""
    fid = state.fids.get(t.fid)
    change = _change(state, fid, t.stat)
    if change == SetAttr() and not t.stat.name:  # wstat(5): this asks to make the file durable
        if fid.handle is not None:
            await fid.handle.fsync(False)
        return Rwstat()
    if change != SetAttr():
        await fid.node.setattr(change, fid.ctx)
    if t.stat.name and t.stat.name != fid.place.name:
        parent = fid.place.parent
        if parent is None:
            raise P9Error(errno.EBUSY, "Can't rename /")
        await rename(state, fid.place, parent, t.stat.name, fid.ctx)
    return Rwstat()


def _change(state: State, fid: Fid, s: Stat) -> SetAttr:
    is_dir = fid.node.kind == stat.S_IFDIR
    if s.mode != _KEEP32 and bool(s.mode & Mode9.DIR) != is_dir:
        raise P9Error(errno.EINVAL, "Incorrect is_directory flag for chmod")
    if s.length != _KEEP64 and is_dir:
        raise P9Error(errno.EISDIR, "Can't set length of a directory")
    return SetAttr(
        mode=None if s.mode == _KEEP32 else _permissions(state, s.mode),
        uid=None if s.n_uid == _KEEP32 else s.n_uid,
        gid=None if s.n_gid == _KEEP32 else s.n_gid,
        size=None if s.length == _KEEP64 else s.length,
        atime_ns=None if s.atime == _KEEP32 else s.atime * _NS,
        mtime_ns=None if s.mtime == _KEEP32 else s.mtime * _NS,
    )


OPERATIONS: dict[type[Any], Operation] = {
    Topen: t_open,
    Tcreate: t_create,
    Tread: t_read,
    Tstat: t_stat,
    Twstat: t_wstat,
}

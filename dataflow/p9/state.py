"""What the operations of one connection share, and the small things that all of them need."""

from __future__ import annotations

import errno
import stat
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from .const import IO_HEADER_SIZE, NAME_MAX, NOFID, NONUNAME, Dialect
from .errors import P9Error
from .fids import Fid, FidTable, Place, XattrWrite
from .locks import LockTable
from .server import Request
from .tree import Attr, Context, Handle, Node, Peer, SessionScope

RootFactory = Callable[[Context], Awaitable[Node]]
"""Returns the root for an attach; may look at `aname` and refuse with `P9Error`."""

Abort = Callable[[Iterable[Request]], Awaitable[None]]
"""Cancels running requests and waits until they have ended."""


@dataclass(slots=True)
class State:
    """One session, from Tversion to the next one or to the end of the connection."""

    root: RootFactory
    peer: Peer
    dialect: Dialect
    msize: int
    abort: Abort
    locks: LockTable
    scope: SessionScope = field(default_factory=SessionScope)
    fids: FidTable = field(default_factory=FidTable)

    @property
    def io_max(self) -> int:
        """The most data that one Tread or Twrite may carry."""
        return self.msize - IO_HEADER_SIZE

    def iounit(self, handle: Handle | None) -> int:
        """What Ropen says: the handle's wish, 0 for "as much as msize allows"."""
        return min(handle.iounit, self.io_max) if handle is not None else 0


def check_name(name: str) -> str:
    """Return a name that may be one path element; else ENOENT, EINVAL or ENAMETOOLONG."""
    if name == "":
        raise P9Error(errno.ENOENT, "Empty name")
    if name in {".", ".."} or "/" in name:
        raise P9Error(errno.EINVAL, f"{name!r} is not valid in 9p")
    if len(name.encode(errors="surrogateescape")) > NAME_MAX:
        raise P9Error(errno.ENAMETOOLONG)
    return name


async def attach(state: State, fid: int, afid: int, uname: str, aname: str, n_uname: int) -> Fid:
    """Make the fid of an attach."""
    if afid != NOFID:
        raise P9Error(errno.EINVAL, "Authentication is not needed: expected afid NOFID")
    state.fids.reserve(fid)
    try:
        number = None if n_uname == NONUNAME else n_uname
        ctx = Context(uname, aname, number, state.peer, state.scope)
        made = Fid(Place(await state.root(ctx)), ctx)
        state.fids.put(fid, made)
        return made
    finally:
        state.fids.release(fid)


async def step(state: State, place: Place, name: str, ctx: Context) -> Place:
    """Walk one name; `..` leads up, and stays at the root.

    9P2000 has no "."; in .L it may come from a directory listing (diodls walks it).
    """
    if name == "." and state.dialect is Dialect.LINUX:
        return place
    if name == "..":
        _ = place.directory
        return place.parent or place
    directory = place.directory
    return Place(await directory.lookup(check_name(name), ctx), place, name)


async def open_node(fid: Fid, flags: int) -> Handle | None:
    """Open a fid's node; the fid was claimed with `begin_open`.  A directory has no handle."""
    try:
        node = fid.node
        if node.kind == stat.S_IFDIR:
            return None
        opener = getattr(node, "open", None)
        if opener is None:
            raise P9Error(errno.ELOOP if node.kind == stat.S_IFLNK else errno.ENXIO)
        handle: Handle = await opener(flags, fid.ctx)
    except BaseException:
        fid.open = False
        raise
    fid.handle = handle
    return handle


async def close_fid(state: State, fid: Fid) -> None:
    """Release what a fid holds; it is out of the table already."""
    if fid.requests:
        await state.abort(list(fid.requests))
    handle, fid.handle = fid.handle, None
    if handle is not None:
        await handle.close()
    xattr = fid.xattr
    if isinstance(xattr, XattrWrite):
        if len(xattr.value) != xattr.size:
            bad = f"xattr: expected {xattr.size} bytes, found {len(xattr.value)}"
            raise P9Error(errno.EINVAL, bad)
        await fid.node.set_xattr(xattr.name, bytes(xattr.value), xattr.flags, fid.ctx)
    if fid.remove:
        await remove(fid)


async def remove(fid: Fid) -> None:
    """Unlink what a fid names."""
    directory, name = fid.place.holder
    await directory.unlink(name, fid.node.kind == stat.S_IFDIR, fid.ctx)


async def rename(state: State, place: Place, to: Place, name: str, ctx: Context) -> None:
    """Move a place into the directory `to` as `name`, and all fids that lead through it."""
    directory, old = place.holder
    await directory.rename(old, to.directory, check_name(name), ctx)
    key = (directory.qid_path, old)
    for fid in state.fids:
        fid.place.moved(key, to, name)


def owner(attr: Attr, ctx: Context) -> tuple[int, int]:
    """Return the uid and gid to show: nobody's node belongs to whoever asks."""
    uid = ctx.uid if attr.uid is None else attr.uid
    gid = (ctx.peer.gid or 0) if attr.gid is None else attr.gid
    return uid, gid

"""The requests that all dialects share: attach, walk, read, write, clunk, remove."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import Any

from .const import WALK_MAX, Dialect
from .errors import P9Error
from .fids import Fid, Place, XattrRead, XattrWrite
from .messages import (
    Message,
    Rattach,
    Rclunk,
    Rread,
    Rremove,
    Rwalk,
    Rwrite,
    Tattach,
    Tauth,
    Tclunk,
    Tread,
    Tremove,
    Twalk,
    Twrite,
)
from .state import State, attach, check_name, close_fid, remove, step
from .tree import Buffer, Directory, Qid

Operation = Callable[[State, Any], Awaitable[Message]]
_DOTS = frozenset({".", ".."})


async def t_auth(state: State, t: Tauth) -> Message:
    """Refuse: there is no authentication inside the protocol."""
    raise P9Error(errno.ENOENT, "Authentication is not needed")


async def t_attach(state: State, t: Tattach) -> Message:
    """Introduce a user and get the root."""
    fid = await attach(state, t.fid, t.afid, t.uname, t.aname, t.n_uname)
    return Rattach(fid.node.qid)


async def t_walk(state: State, t: Twalk) -> Message:
    """Walk names; a walk that ends early is an answer with fewer qids (walk(5))."""
    fid = state.fids.get(t.fid)
    if len(t.names) > WALK_MAX:
        raise P9Error(errno.EINVAL, f"Walk of {len(t.names)} names: at most {WALK_MAX}")
    # walk(5) forbids walking from an open fid; .L servers allow it, and diodls does it.
    stuck = fid.open and t.names and (state.dialect is not Dialect.LINUX or t.fid == t.newfid)
    if fid.xattr is not None or stuck:
        raise P9Error(errno.EBADF, "Can't walk from an open fid")
    if t.newfid == t.fid:
        return await _walk_in_place(state, fid, t.names)
    state.fids.reserve(t.newfid)
    try:
        place, qids = await _walk(state, fid, t.names)
        if len(qids) == len(t.names):
            state.fids.put(t.newfid, Fid(place, fid.ctx))
        return Rwalk(qids)
    finally:
        state.fids.release(t.newfid)


async def _walk_in_place(state: State, fid: Fid, names: tuple[str, ...]) -> Message:
    place, qids = await _walk(state, fid, names)
    if names and fid.open:
        raise P9Error(errno.EBADF, "Fid was opened while it walked")
    if len(qids) == len(names):
        fid.place = place
    return Rwalk(qids)


async def _walk(state: State, fid: Fid, names: tuple[str, ...]) -> tuple[Any, tuple[Qid, ...]]:
    place = fid.place
    qids: list[Qid] = []
    for name in names:
        try:
            place = await step(state, place, name, fid.ctx)
        except (P9Error, OSError):
            if not qids:  # walk(5): only the first name's failure is an error
                raise
            break
        qids.append(place.node.qid)
    return place, tuple(qids)


def walk_nowait(state: State, t: Twalk) -> Message | None:
    """Answer a walk to a new fid whose names are all there at once; None for all others."""
    fid = state.fids.get(t.fid)
    if t.newfid == t.fid or fid.xattr is not None or fid.open or len(t.names) > WALK_MAX:
        return None
    place = fid.place
    qids: list[Qid] = []
    for name in t.names:
        if name in _DOTS or not isinstance(place.node, Directory):
            return None
        try:
            node = place.node.lookup_nowait(check_name(name), fid.ctx)
        except (P9Error, OSError):
            if not qids:  # walk(5): only the first name's failure is an error
                raise
            return Rwalk(tuple(qids))
        if node is None:
            return None
        place = Place(node, place, name)
        qids.append(node.qid)
    state.fids.reserve(t.newfid)
    state.fids.put(t.newfid, Fid(place, fid.ctx))
    return Rwalk(tuple(qids))


def clunk_nowait(state: State, t: Tclunk) -> Message | None:
    """Forget a fid that holds nothing; None for all others."""
    fid = state.fids.get(t.fid)
    if fid.handle is not None or fid.xattr is not None or fid.remove or fid.requests:
        return None
    state.fids.pop(t.fid)
    return Rclunk()


def read_nowait(state: State, t: Tread) -> Message | None:
    """Answer a read that needs no waiting; None where it must go the long way."""
    fid = state.fids.get(t.fid)
    if fid.handle is None:
        return None
    data = fid.handle.read_nowait(t.offset, min(t.count, state.io_max))
    return None if data is None else Rread(data)


def write_nowait(state: State, t: Twrite) -> Message | None:
    """Answer a write that needs no waiting; None where it must go the long way."""
    fid = state.fids.get(t.fid)
    if fid.handle is None or fid.xattr is not None:
        return None
    written = fid.handle.write_nowait(t.offset, t.data)
    return None if written is None else Rwrite(written)


async def read_file(state: State, fid: Fid, offset: int, count: int) -> Buffer:
    """Read from an open file or an extended attribute."""
    count = min(count, state.io_max)
    if isinstance(fid.xattr, XattrRead):
        return fid.xattr.value[offset : offset + count]
    if fid.handle is None:
        if fid.open:
            raise P9Error(errno.EISDIR, "Is a directory")
        raise P9Error(errno.EBADF, "Can't read from unopened fid")
    data = await fid.handle.read(offset, count)
    return data if len(data) <= count else memoryview(data)[:count]


async def t_write(state: State, t: Twrite) -> Message:
    """Write to an open file, or collect the value of an extended attribute."""
    fid = state.fids.get(t.fid)
    if isinstance(fid.xattr, XattrWrite):
        return Rwrite(_write_xattr(fid.xattr, t.offset, t.data))
    if fid.handle is None:
        if fid.open:
            raise P9Error(errno.EISDIR, "Can't write to directories")
        raise P9Error(errno.EBADF, "Can't write to unopened fid")
    return Rwrite(await fid.handle.write(t.offset, t.data))


def _write_xattr(xattr: XattrWrite, offset: int, data: Buffer) -> int:
    if offset != len(xattr.value) or len(data) > xattr.size - offset:
        raise P9Error(errno.EINVAL, f"xattr: write of {len(data)} bytes at {offset}")
    xattr.value += data
    return len(data)


async def t_clunk(state: State, t: Tclunk) -> Message:
    """Forget a fid; it is gone even if that fails."""
    await close_fid(state, state.fids.pop(t.fid))
    return Rclunk()


async def t_remove(state: State, t: Tremove) -> Message:
    """Remove a fid's file and forget the fid, which is gone even if that fails (remove(5))."""
    fid = state.fids.pop(t.fid)
    fid.remove = False
    try:
        await remove(fid)
    finally:
        await close_fid(state, fid)
    return Rremove()


OPERATIONS: dict[type[Any], Operation] = {
    Tauth: t_auth,
    Tattach: t_attach,
    Twalk: t_walk,
    Twrite: t_write,
    Tclunk: t_clunk,
    Tremove: t_remove,
}

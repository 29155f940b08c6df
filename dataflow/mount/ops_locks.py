"""Record locks (fcntl(2)) and flock(2), and extended attributes, as far as the server has them."""

from __future__ import annotations

import asyncio
import errno

from ..fuse import wire
from ..fuse.const import LK_FLOCK, LOCK_END, Op
from ..fuse.wire import Request
from ..p9.const import LockStatus, LockType
from ..p9.errors import P9Error
from ..p9.messages import (
    Rgetlock,
    Rlock,
    Rxattrwalk,
    Tgetlock,
    Tlock,
    Txattrcreate,
    Txattrwalk,
)
from .state import Answer, OpenFile, Operation, State

AGAIN_MIN, AGAIN_MAX = 0.005, 0.25  # seconds between two tries for a lock: 9P has no queue


def record_client(owner: int) -> str:
    """Name the owner of record locks to the server."""
    return f"{owner:x}"


def flock_client(owner: int) -> str:
    """Name the owner of a flock(2): an open file, not a process."""
    return f"flock-{owner:x}"


async def setlk(state: State, request: Request) -> Answer:
    """FUSE_SETLK and, waiting, FUSE_SETLKW."""
    fh, owner, start, end, kind, pid, flags, _ = wire.take(wire.LK, request.body)
    found = state.file(fh)
    flock = bool(flags & LK_FLOCK)
    client = flock_client(owner) if flock else record_client(owner)
    length = 0 if end >= LOCK_END else end - start + 1
    # The owner's process is in the client's name; a fork shares a flock, so no pid may stand there.
    call = Tlock(found.file.fid, kind, 0, start, length, 0 if flock else pid, client)
    pause = AGAIN_MIN
    while True:
        status = (await state.remote.channel.rpc(call, Rlock)).status
        if status != LockStatus.BLOCKED or request.opcode == Op.SETLK:
            break
        await asyncio.sleep(pause)
        pause = min(2 * pause, AGAIN_MAX)
    if status != LockStatus.SUCCESS:
        raise P9Error(errno.EAGAIN if status == LockStatus.BLOCKED else errno.ENOLCK)
    if not flock and kind != LockType.UNLCK:
        found.inode.owners.add(owner)
        found.pids.add(pid)
    return []


async def unlock(state: State, found: OpenFile, client: str) -> None:
    """Give back all that an owner holds of a file."""
    for pid in {0, *found.pids}:
        call = Tlock(found.file.fid, LockType.UNLCK, 0, 0, 0, pid, client)
        await state.remote.channel.call(call)


async def getlk(state: State, request: Request) -> Answer:
    """FUSE_GETLK: which lock stands in the way."""
    fh, owner, start, end, kind, pid, _, _ = wire.take(wire.LK, request.body)
    length = 0 if end >= LOCK_END else end - start + 1
    call = Tgetlock(state.file(fh).file.fid, kind, start, length, pid, record_client(owner))
    r = await state.remote.channel.rpc(call, Rgetlock)
    last = r.start + r.length - 1 if r.length else LOCK_END
    return [wire.lock_out(r.start, last, r.locktype, r.proc_id)]


async def getxattr(state: State, request: Request) -> Answer:
    """FUSE_GETXATTR and FUSE_LISTXATTR; without room, only the size is asked for."""
    _refuse(state)
    room, _ = wire.take(wire.GETXATTR, request.body)
    name = ""
    if request.opcode == Op.GETXATTR:
        (name,) = wire.names(request.body[wire.GETXATTR.size :], 1)
    channel = state.remote.channel
    new = channel.take_fid()
    with state.inode(request.nodeid).held.use() as fid:
        try:
            size = (await channel.rpc(Txattrwalk(fid, new, name), Rxattrwalk)).size
        except P9Error:
            channel.return_fid(new)
            raise
    try:
        if room == 0:
            return [wire.write_out(size)]
        if size > room:
            raise P9Error(errno.ERANGE)
        return [await state.remote.read(new, size)]
    finally:
        channel.forget(new)


async def setxattr(state: State, request: Request) -> Answer:
    """FUSE_SETXATTR."""
    _refuse(state)
    size, flags = wire.take(wire.SETXATTR, request.body)
    rest = request.body[wire.SETXATTR.size :]
    (name,) = wire.names(rest, 1)
    value = bytes(rest[len(rest) - size :]) if size else b""
    await _put(state, request, name, value, flags)
    return []


async def removexattr(state: State, request: Request) -> Answer:
    """FUSE_REMOVEXATTR; 9P says it as an empty value."""
    _refuse(state)
    (name,) = wire.names(request.body, 1)
    await _put(state, request, name, b"", 0)
    return []


async def _put(state: State, request: Request, name: str, value: bytes, flags: int) -> None:
    with state.inode(request.nodeid).held.use() as fid:
        new, _ = await state.remote.walk(fid)
    try:
        await state.remote.channel.call(Txattrcreate(new, name, len(value), flags))
        if value:
            await state.remote.write(new, value)
    except BaseException:
        state.remote.channel.forget(new)
        raise
    await state.remote.channel.clunk(new)  # which is when the server sets it


def _refuse(state: State) -> None:
    """A repository has none; ENOSYS keeps the kernel from asking before every write."""
    if state.dataflow:
        raise P9Error(errno.ENOSYS)


OPERATIONS: dict[Op, Operation] = {
    Op.SETLK: setlk,
    Op.SETLKW: setlk,
    Op.GETLK: getlk,
    Op.GETXATTR: getxattr,
    Op.LISTXATTR: getxattr,
    Op.SETXATTR: setxattr,
    Op.REMOVEXATTR: removexattr,
}

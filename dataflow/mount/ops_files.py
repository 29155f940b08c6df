"""The operations on open files and directories."""

from __future__ import annotations

from ..fuse import wire
from ..fuse.const import FSYNC_FDATASYNC, RELEASE_FLOCK_UNLOCK, Op
from ..fuse.wire import Request
from ..p9.const import OpenFlag
from ..p9.dirent import Dirent
from ..p9.errors import NineError
from ..p9.tree import Buffer
from . import ops_locks
from .inodes import Policy
from .state import Answer, OpenFile, Operation, State

_PASSED = int(OpenFlag.ACCMODE | OpenFlag.TRUNC | OpenFlag.APPEND | OpenFlag.DIRECTORY)


async def open_(state: State, request: Request) -> Answer:
    """FUSE_OPEN and FUSE_OPENDIR."""
    flags, _ = wire.take(wire.OPEN, request.body)
    inode = state.inode(request.nodeid)
    with inode.held.use() as fid:
        file = await state.remote.open(fid, flags & _PASSED)
    return [state.opened(file, inode)]


async def create(state: State, request: Request) -> Answer:
    """FUSE_CREATE: make a file and open it."""
    flags, mode, _, _ = wire.take(wire.CREATE, request.body)
    (name,) = wire.names(request.body[wire.CREATE.size :], 1)
    parent = state.inode(request.nodeid)
    passed = flags & (_PASSED | OpenFlag.CREAT | OpenFlag.EXCL)
    with parent.held.use() as fid:
        file = await state.remote.create(fid, name, passed, mode & 0o7777, request.gid)
    try:
        entry = await state.entry(request, parent, name)
    except BaseException:
        state.remote.channel.forget(file.fid)
        raise
    inode = state.inode(state.told[request.unique][-1])
    return [entry, state.opened(file, inode)]


async def read(state: State, request: Request) -> Answer:
    """FUSE_READ.

    A page that the kernel keeps is filled up; a direct read returns what the server says, when it
    says it.  There one empty answer is a pause of a stream, made for the kernel's 9P client, and
    two in a row are the end.
    """
    fh, offset, size, *_ = wire.take(wire.READ, request.body)
    found = state.file(fh)
    if not found.direct:
        return [await found.file.read(offset, size)]
    data: Buffer = await found.file.pread(offset, size)
    return [data or await found.file.pread(offset, size)]


async def write(state: State, request: Request) -> Answer:
    """FUSE_WRITE."""
    fh, offset, size, *_ = wire.take(wire.READ, request.body)
    data = request.body[wire.READ.size :][:size]
    return [wire.write_out(await state.file(fh).file.write(offset, data))]


async def flush(state: State, request: Request) -> Answer:
    """FUSE_FLUSH: one descriptor of a file was closed, with which its owner's record locks go."""
    fh, _, _, owner = wire.take(wire.FLUSH, request.body)
    found = state.file(fh)
    if owner in found.inode.owners:
        found.inode.owners.discard(owner)
        await ops_locks.unlock(state, found, ops_locks.record_client(owner))
    return []


async def release(state: State, request: Request) -> Answer:
    """FUSE_RELEASE and FUSE_RELEASEDIR: nobody has the file open any more."""
    fh, _, flags, owner = wire.take(wire.RELEASE, request.body)
    found = state.files.pop(fh, None)
    if found is None:
        return []
    try:
        if flags & RELEASE_FLOCK_UNLOCK:
            await ops_locks.unlock(state, found, ops_locks.flock_client(owner))
    finally:
        await _close(found)
    return []


async def _close(found: OpenFile) -> None:
    try:
        await found.file.close()
    except NineError:
        return  # the kernel shows a release's error to nobody


async def fsync(state: State, request: Request) -> Answer:
    """FUSE_FSYNC and FUSE_FSYNCDIR."""
    fh, flags, _ = wire.take(wire.FSYNC, request.body)
    await state.file(fh).file.fsync(bool(flags & FSYNC_FDATASYNC))
    return []


async def readdir(state: State, request: Request) -> Answer:
    """FUSE_READDIR and FUSE_READDIRPLUS; the list is made anew at its start.

    Where nothing changes, the kernel is told of the nodes as well, and asks no more.
    """
    fh, offset, size, *_ = wire.take(wire.READ, request.body)
    found = state.file(fh)
    if offset == 0:
        found.entries = await state.remote.names(found.file)
    plus = request.opcode == Op.READDIRPLUS
    tells = plus and found.inode.policy is Policy.FOREVER
    out: list[Buffer] = []
    for i in range(offset, len(found.entries)):
        entry = found.entries[i]
        raw = wire.dirent(entry.qid.path, i + 1, entry.type, entry.name)
        size -= len(raw) + (len(wire.NO_ENTRY) if plus else 0)
        if size < 0:
            break
        if plus:
            out.append(await _told(state, request, found, entry) if tells else wire.NO_ENTRY)
        out.append(raw)
    return out


async def _told(state: State, request: Request, found: OpenFile, entry: Dirent) -> bytes:
    try:
        return await state.entry(request, found.inode, entry.name)
    except NineError:
        return wire.NO_ENTRY


OPERATIONS: dict[Op, Operation] = {
    Op.OPEN: open_,
    Op.OPENDIR: open_,
    Op.CREATE: create,
    Op.READ: read,
    Op.WRITE: write,
    Op.FLUSH: flush,
    Op.RELEASE: release,
    Op.RELEASEDIR: release,
    Op.FSYNC: fsync,
    Op.FSYNCDIR: fsync,
    Op.READDIR: readdir,
    Op.READDIRPLUS: readdir,
}

"""Runs requests against a tree: from a parsed request to its answer or error."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Any

from . import ops_base, ops_common, ops_linux
from .const import LOCK_BLOCK, Dialect
from .errors import P9Error
from .fids import Fid
from .messages import Message, Tclunk, Tgetattr, Tlock, Tread, Tremove, Twalk, Twrite
from .ops_common import Operation
from .server import Request
from .state import State, close_fid

log = logging.getLogger(__name__)

_OPERATIONS: dict[Dialect, dict[type[Any], Operation]] = {
    Dialect.BASE: {**ops_common.OPERATIONS, **ops_base.OPERATIONS},
    Dialect.UNIX: {**ops_common.OPERATIONS, **ops_base.OPERATIONS},
    Dialect.LINUX: {**ops_common.OPERATIONS, **ops_linux.OPERATIONS},
}

_NOWAIT: dict[type[Any], Callable[[State, Any], Message | None]] = {
    Tread: ops_common.read_nowait,
    Twrite: ops_common.write_nowait,
    Twalk: ops_common.walk_nowait,
    Tclunk: ops_common.clunk_nowait,
    Tgetattr: ops_linux.getattr_nowait,
}


def is_live(state: State, message: Message) -> bool:
    """Tell whether a request may wait for any time: a read of a live file, or a lock."""
    if isinstance(message, Tlock):
        return bool(message.flags & LOCK_BLOCK)
    if not isinstance(message, Tread):
        return False
    try:
        handle = state.fids.get(message.fid).handle
    except P9Error:
        return False
    return handle is not None and handle.live


def perform_nowait(state: State, message: Message) -> Message | None:
    """Answer a request that needs no waiting, or return None; raises as `perform`."""
    operation = _NOWAIT.get(type(message))
    return None if operation is None else operation(state, message)


def direct(state: State, number: int) -> tuple[int, int, int, int, int] | None:
    """Return (may, io, path, qid type, qid path) of a fid that is plain descriptors, or None.

    `may` has the bits of `core.outcome.May`.  It holds until the fid's next other request.
    """
    try:
        fid = state.fids.get(number)
    except P9Error:
        return None
    if fid.xattr is not None:
        return None
    node, io = fid.node, fid.handle.direct if fid.handle is not None else None
    path = node.stat_fd if state.dialect is Dialect.LINUX else -1
    may = 4 * (path >= 0) + (0 if io is None else io.read + 2 * io.write)
    may += 8 * (fid.handle is None and not fid.remove)
    qid = node.qid
    return (may, -1 if io is None else io.fd, path, qid.type, qid.path) if may else None


async def perform(state: State, request: Request) -> Message:
    """Answer a request; raises `P9Error` or whatever the tree raised (see `to_error`)."""
    message = request.message
    operation = _OPERATIONS[state.dialect].get(type(message))
    if operation is None:
        bad = f"{type(message).__name__} is not supported in {state.dialect.value}"
        raise P9Error(errno.EOPNOTSUPP, bad)
    fid = _subject(state, message)
    if fid is None:
        return await operation(state, message)
    fid.requests.add(request)
    try:
        return await operation(state, message)
    finally:
        fid.requests.discard(request)


def _subject(state: State, message: Message) -> Fid | None:
    """The fid that a request works on, so that its clunk can end the request."""
    if isinstance(message, Tclunk | Tremove):
        return None
    number = getattr(message, "fid", None)
    try:
        return None if number is None else state.fids.get(number)
    except P9Error:
        return None


def to_error(err: Exception) -> P9Error:
    """Turn what a tree raised into an answer; what no tree should raise is logged and EIO."""
    if isinstance(err, P9Error):
        return err
    if isinstance(err, OSError) and err.errno:
        return P9Error(err.errno, err.strerror)
    if isinstance(err, NotImplementedError):
        return P9Error(errno.EOPNOTSUPP)
    log.error("9P tree failed: %r", err, exc_info=err)
    return P9Error(errno.EIO, "Server error")


async def end(state: State) -> None:
    """Close every fid of a session that is over, and undo what hung on the connection."""
    for fid in state.fids:
        fid.xattr = None
        try:
            await close_fid(state, fid)
        except Exception as err:
            to_error(err)
    state.locks.release_session(id(state))
    state.scope.close()

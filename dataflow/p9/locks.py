"""POSIX record locks of Tlock and Tgetlock (fcntl(2)): one table for all clients of a server.

Who wants to wait for a lock waits until any lock of the file was given back and tries again.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NamedTuple, Protocol

from .const import LockStatus, LockType
from .errors import P9Error

LOCKS_MAX = 65536
_END = 1 << 64


class Owner(NamedTuple):
    """Who holds a lock: one process of one client on one connection."""

    session: int
    client_id: str
    proc_id: int


class Lock(NamedTuple):
    """Bytes [start, end) of a file held by `owner`."""

    start: int
    end: int
    type: int
    owner: Owner


def span(start: int, length: int) -> tuple[int, int]:
    """Turn the wire's start and length (0: to the end of the file) into [start, end)."""
    return start, min(start + length, _END) if length else _END


class Event(Protocol):
    """What `asyncio.Event` is."""

    def set(self) -> None:
        """Wake who waits."""

    async def wait(self) -> object:
        """Wait until set."""


class LockTable:
    """Locks by qid path, at most `limit` of them; with `event` clients may wait for them."""

    def __init__(self, limit: int = LOCKS_MAX, event: Callable[[], Event] | None = None) -> None:
        self._event = event
        self._waiting: dict[int, set[Event]] = {}
        self._files: dict[int, list[Lock]] = {}
        self._limit = limit
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def conflict(self, path: int, want: Lock) -> Lock | None:
        """Return a lock of another owner that stands against `want`, or None."""
        for held in self._files.get(path, ()):
            overlap = held.start < want.end and want.start < held.end
            write = LockType.WRLCK in {held.type, want.type}
            if overlap and write and held.owner != want.owner:
                return held
        return None

    def acquire(self, path: int, want: Lock) -> LockStatus:
        """Lock or unlock; BLOCKED if another owner stands in the way, then nothing changed."""
        if want.type != LockType.UNLCK and self.conflict(path, want) is not None:
            return LockStatus.BLOCKED
        kept = []
        for held in self._files.get(path, ()):
            kept += _cut(held, want) if held.owner == want.owner else [held]
        if want.type != LockType.UNLCK:
            kept.append(want)
        self._store(path, kept)
        return LockStatus.SUCCESS

    async def acquire_blocking(self, path: int, want: Lock) -> LockStatus:
        """As `acquire`, but wait while another owner stands in the way."""
        while (status := self.acquire(path, want)) is LockStatus.BLOCKED and self._event:
            event = self._event()
            waiting = self._waiting.setdefault(path, set())
            waiting.add(event)
            try:
                await event.wait()
            finally:
                waiting.discard(event)
                if not waiting and self._waiting.get(path) is waiting:
                    del self._waiting[path]
        return status

    def release_session(self, session: int) -> None:
        """Drop every lock of a connection that ended."""
        for path, locks in list(self._files.items()):
            self._store(path, [lock for lock in locks if lock.owner.session != session])

    def _store(self, path: int, locks: list[Lock]) -> None:
        grown = self._count + len(locks) - len(self._files.get(path, ()))
        if grown > self._limit and grown > self._count:
            raise P9Error(errno.ENOLCK)
        self._count = grown
        for event in self._waiting.get(path, ()):
            event.set()
        if locks:
            self._files[path] = locks
        else:
            self._files.pop(path, None)


def _cut(held: Lock, hole: Lock) -> list[Lock]:
    """Return what remains of `held` outside `hole`: an owner's new lock replaces its old one."""
    left = held._replace(end=min(held.end, hole.start))
    right = held._replace(start=max(held.start, hole.end))
    return [part for part in (left, right) if part.start < part.end]

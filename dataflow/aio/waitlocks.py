"""A lock table on which a request can wait, so that a lock passes on as soon as it is given back.

Linux's client asks for a lock that it must wait for with P9_LOCK_FLAGS_BLOCK, and asks again after
30 seconds when it is told that the lock is taken.  An answer that comes late spares it that; if
its process is interrupted it flushes the request, which cancels the wait.
"""

from __future__ import annotations

import asyncio

from ..p9.locks import Lock, LockTable


class WaitingLocks(LockTable):
    """The locks of a server on a loop."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: dict[int, set[asyncio.Future[None]]] = {}

    async def freed(self, path: int) -> bool:
        """Wait until the locks on `path` changed."""
        future = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(path, set())
        waiting.add(future)
        try:
            await future
        finally:
            waiting.discard(future)
            if not waiting and self._waiting.get(path) is waiting:
                del self._waiting[path]
        return True

    def _store(self, path: int, locks: list[Lock]) -> None:
        super()._store(path, locks)
        for future in self._waiting.get(path, ()):
            if not future.done():
                future.set_result(None)

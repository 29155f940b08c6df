"""Keeps open transactions in the repository, so that they survive the server.

A transaction is saved when its last connection ends, when a client syncs a file in it (fsync(2)),
and when the repository closes in order.  What was edited after the last of these is lost when the
server is killed; what was saved is there again at the next start, with a new lease.  A save in the
background copies the edits first, and is left out where they are large; the other two are not.

One server on a repository keeps: whoever holds the lock (flock(2), ends with its process).  The
transactions of others live in their memory only.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Coroutine
from typing import Any

from ..branch import kept
from ..branch.kept import Kept
from ..branch.repository import Repository
from ..branch.transaction import State, Transaction
from ..branch.watching import OnDisk
from ..store.base import Oid

BACKGROUND_MAX = 64 << 20  # octets of edits that are copied while others wait
LOCK = "dataflow-transactions.lock"
log = logging.getLogger(__name__)


class Keeper:
    """Writes open transactions into the repository, and takes them away when they end."""

    def __init__(self, repo: Repository) -> None:
        self._repo = repo
        self._lock: int | None = None
        self._saved: dict[str, tuple[Kept, int]] = {}  # by reference, with the edits' number
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, limit: int) -> list[tuple[Kept, Oid]]:
        """Return what was kept, with the trees; nothing if another server keeps here."""
        store = self._repo.engine.store
        if not isinstance(store, OnDisk):
            return []
        lock = os.open(os.path.join(store.common_dir, LOCK), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return []
        self._lock = lock
        found = kept.read(self._repo.engine, limit)
        self._saved = {what.ref: (what, -1) for what, _ in found}
        return found

    def later(self, transaction: Transaction, what: Kept) -> None:
        """Save a transaction in the background."""
        if self._lock is not None and transaction.held <= BACKGROUND_MAX:
            self._spawn(self.save(transaction, what))

    async def save(self, transaction: Transaction, what: Kept) -> None:
        """Save a transaction, if it has changed; one that is being committed is left alone."""
        t = transaction
        if self._lock is None or t.state is not State.OPEN:
            return
        if self._saved.get(what.ref) == (what, t.version):
            return
        version, tree = t.version, t.snapshot()
        self._saved[what.ref] = (what, -1)
        await self._repo.worker.write(kept.write, self._repo.engine, what, tree)
        if what.ref in self._saved:
            self._saved[what.ref] = (what, version)

    def drop(self, branch: str, name: str) -> None:
        """Forget a transaction that ended, in the background."""
        ref = kept.ref_of(branch, name)
        if self._saved.pop(ref, None) is not None:
            self._spawn(self._repo.worker.write(kept.point, self._repo.engine, ref, None))

    def _spawn(self, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (err := task.exception()) is not None:
            log.warning("a transaction could not be kept: %s", err)

    async def end(self) -> None:
        """Wait for what runs in the background, and let another server keep."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

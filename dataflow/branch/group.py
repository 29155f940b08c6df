"""Group commit: many jobs, one sync.

Theory of operation.  The jobs of a group run in order against the references as the group sees
them: those on disk, changed by the jobs before.  So the second commit to a branch builds on the
first, of which nobody else knows yet.  A job that fails takes back what it moved and fails alone.
At the end one `Store.update` makes all objects durable and moves all references, all or none,
each compared with what the group first saw; only then do the jobs count as done.

When that fails (another git moved a branch, or holds its lock; the disk is full), everything is
taken back and each job runs again as a group of its own: then it fails, or does not, for its own
reasons.  So a job must be repeatable: what it changes outside the store it changes in `settled`,
or takes back in `undone`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from ..errors import DataflowError, RefChangedError
from ..store.base import Oid, RefUpdate, Store
from .worker import Job

ATTEMPTS = 100  # how often a branch may move under one job before it fails

T = TypeVar("T")
Callback = Callable[[], object]


class Group:
    """The references as the jobs of one group see them, and what the group will move."""

    def __init__(self, store: Store) -> None:
        self.thread = threading.get_ident()
        self._store = store
        self._first: dict[str, Oid | None] = {}
        self._now: dict[str, Oid | None] = {}
        self._found: dict[str, Oid | None] = {}  # on disk, when the group first asked
        self._callbacks: list[tuple[Callback, Callback]] = []

    def ref(self, name: str) -> Oid | None:
        """Return what the reference points at for the next job."""
        if name in self._now:
            return self._now[name]
        if name not in self._found:
            self._found[name] = self._store.ref(name)
        return self._found[name]

    def stage(self, updates: Sequence[RefUpdate]) -> None:
        """Compare and set all of them, or none, in the group's view."""
        found = {u.name: self.ref(u.name) for u in updates}
        for u in updates:
            if found[u.name] != u.old:
                raise RefChangedError(u.name, u.old, found[u.name])
        for u in updates:
            self._first.setdefault(u.name, u.old)
            self._now[u.name] = u.new

    def when_settled(self, settled: Callback, undone: Callback) -> None:
        """Call one of these when the running job is durable, or is taken back."""
        self._callbacks.append((settled, undone))

    def run(self, job: Job) -> None:
        """Run a job; if it fails, it leaves nothing in the group."""
        kept, now, known = len(self._callbacks), dict(self._now), dict(self._first)
        job.result, job.error = None, None
        try:
            job.result = job.act()
        except Exception as exc:
            job.error = exc
            self._now, self._first = now, known
            self._undo(kept)

    def settle(self) -> Sequence[RefUpdate]:
        """Make everything durable and return what moved."""
        updates = [
            RefUpdate(name, old, self._now[name])
            for name, old in self._first.items()
            if old != self._now[name]
        ]
        if updates:
            self._store.update(updates)
        for settled, _ in self._callbacks:
            settled()
        return updates

    def undo(self) -> None:
        """Take everything back."""
        self._undo(0)

    def _undo(self, kept: int) -> None:
        while len(self._callbacks) > kept:
            self._callbacks.pop()[1]()


class Grouped:
    """Carries out groups of jobs on one store; `lost` is called when what was put is gone."""

    def __init__(
        self,
        store: Store,
        moved: Callable[[Sequence[RefUpdate]], object],
        lost: Callable[[], object],
    ) -> None:
        self._store = store
        self._moved = moved
        self._lost = lost
        self._lock = threading.Lock()
        self.group: Group | None = None

    def write(self, act: Callable[[], T]) -> T:
        """Do `act` as a part of the group that runs in this thread, or as a group of its own."""
        if self.mine is not None:
            return act()
        job = Job(act)
        self.carry_out([job])
        if job.error is not None:
            raise job.error
        return cast(T, job.result)

    @property
    def mine(self) -> Group | None:
        """The group that runs, for those in its thread."""
        group = self.group
        return group if group is not None and group.thread == threading.get_ident() else None

    def carry_out(self, jobs: Sequence[Job]) -> None:
        """Carry out jobs in order, with one sync if nothing goes wrong; never raises."""
        with self._lock:
            if jobs and self._together(jobs) is not None:
                for job in jobs:
                    self._alone(job)

    def _alone(self, job: Job) -> None:
        for _ in range(ATTEMPTS):
            error = self._together([job])
            if error is None:
                return
            job.result, job.error = None, error
            if not isinstance(error, RefChangedError):
                return

    def _together(self, jobs: Sequence[Job]) -> Exception | None:
        """Carry out a group; return why it was taken back, None if it was not."""
        self.group = group = Group(self._store)
        try:
            for job in jobs:
                group.run(job)
            updates = group.settle()
        except Exception as exc:
            group.undo()
            if not isinstance(exc, DataflowError):
                self._lost()
            return exc
        finally:
            self.group = None
        if updates:
            self._moved(updates)
        return None

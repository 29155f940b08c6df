"""Threads for what blocks: one that writes, so that commits have an order, and some that read.

The writer takes all jobs that wait and gives them to `carry_out` together, so that one sync serves
many commits; then it wakes all who wait, with one call into the loop.  A job that has not begun is
dropped when its waiter is cancelled; one that has begun runs to its end, so a commit is done or not
done, never half.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")

READERS = 2
GROUP_MAX = 256  # jobs carried out together
GATHER = 0.002  # seconds that a group waits for the jobs it expects
IDLE = 2.0  # seconds without a job after which `idle` is called


class Job:
    """Something to do in the writing thread, and what came of it: `result` or `error`."""

    __slots__ = ("act", "error", "loop", "result", "waiter")

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act
        self.result: Any = None
        self.error: BaseException | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.waiter: asyncio.Future[Any] | None = None

    @property
    def wanted(self) -> bool:
        """False once its waiter was cancelled."""
        return self.waiter is None or not self.waiter.cancelled()

    def wake(self) -> None:
        """Hand the outcome to the waiter; in its loop's thread."""
        if self.waiter is None or self.waiter.done():
            return
        if self.error is not None:
            self.waiter.set_exception(self.error)
        else:
            self.waiter.set_result(self.result)


def one_by_one(jobs: Sequence[Job]) -> None:
    """Carry out jobs that need no store."""
    for job in jobs:
        try:
            job.result = job.act()
        except Exception as exc:
            job.error = exc


class JobQueue:
    """Jobs for one thread, which sleeps until as many are there as it waits for.

    To wake it for each would hand the interpreter to and fro between it and those who ask.
    """

    def __init__(self) -> None:
        self._jobs: deque[Job | None] = deque()
        self._wanted = 0  # 0: nobody waits
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()

    def put(self, job: Job | None) -> None:
        """Add a job; None is the last."""
        self._jobs.append(job)
        if 0 < self._wanted <= len(self._jobs):
            self._bell.put(None)

    def wait(self, count: int, timeout: float | None) -> bool:
        """Wait until so many are there; say whether they are."""
        until = None if timeout is None else time.monotonic() + timeout
        self._wanted = count  # before the look: who puts one later sees it
        while len(self._jobs) < count:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                break
            with contextlib.suppress(queue.Empty):
                self._bell.get(timeout=left)
        self._wanted = 0
        return len(self._jobs) >= count

    def take(self, most: int) -> list[Job | None]:
        """Return what is there, the oldest first, up to so many."""
        return [self._jobs.popleft() for _ in range(min(most, len(self._jobs)))]


class Worker:
    """Runs blocking functions off the loop."""

    def __init__(
        self,
        carry_out: Callable[[Sequence[Job]], object] = one_by_one,
        idle: Callable[[], object] = lambda: None,
    ) -> None:
        self.writing = 0  # jobs asked for and not done
        self._carry_out = carry_out
        self._idle = idle
        self._jobs = JobQueue()
        self._writer: threading.Thread | None = None
        self._closed = False
        self._last = (0, 0)  # how many jobs the last two groups had
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="dataflow-read")

    async def write(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `job` after all writes asked for before; it may run again if its group failed."""
        if self._closed:
            raise RuntimeError("the repository is closed")
        made = Job(functools.partial(job, *args, **kwargs))
        made.loop = asyncio.get_running_loop()
        made.waiter = made.loop.create_future()
        if self._writer is None:
            self._writer = threading.Thread(target=self._run, name="dataflow-write", daemon=True)
            self._writer.start()
        self._jobs.put(made)
        self.writing += 1
        try:
            return cast(T, await made.waiter)
        finally:
            self.writing -= 1

    async def read(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `job`, which changes nothing, beside others."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, functools.partial(job, *args, **kwargs))

    def _run(self) -> None:
        while True:
            jobs, more = self._take()
            if jobs:
                self._act(jobs)
                _wake(jobs)
            if not more:
                return

    def _act(self, jobs: Sequence[Job]) -> None:
        try:
            self._carry_out([job for job in jobs if job.wanted])
        except BaseException as exc:  # a fault of ours: nobody may wait for ever
            for job in jobs:
                job.error = exc

    def _take(self) -> tuple[list[Job], bool]:
        """Return the jobs that wait, at least one, and whether there may be others.

        Those whom the last groups served are likely to ask again at once: they are waited for.
        """
        if not self._jobs.wait(1, IDLE):
            with contextlib.suppress(OSError):  # what cannot be synced stays in the journal
                self._idle()
            self._jobs.wait(1, None)
        self._jobs.wait(min(max(self._last), GROUP_MAX), GATHER)
        taken = self._jobs.take(GROUP_MAX)
        jobs = [job for job in taken if job is not None]
        self._last = (self._last[1], len(jobs))
        return jobs, len(jobs) == len(taken)

    async def aclose(self) -> None:
        """Wait for the jobs asked for and end the threads, without stopping the loop."""
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Wait for the jobs asked for and end the threads."""
        self._closed = True
        if self._writer is not None:
            self._jobs.put(None)
            self._writer.join()
            self._writer = None
        self._readers.shutdown(cancel_futures=True)


def _wake(jobs: Sequence[Job]) -> None:
    """Wake the waiters, with one call for each loop."""
    loops = {job.loop for job in jobs if job.loop is not None}
    for loop in loops:
        mine = [job for job in jobs if job.loop is loop]
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(_wake_all, mine)


def _wake_all(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.wake()

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
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
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
        try:
            first = self._jobs.get(timeout=IDLE)
        except queue.Empty:
            with contextlib.suppress(OSError):  # what cannot be synced stays in the journal
                self._idle()
            first = self._jobs.get()
        jobs: list[Job] = []
        patience = time.monotonic() + GATHER
        while first is not None:
            jobs.append(first)
            if len(jobs) == GROUP_MAX:
                break
            try:
                left = patience - time.monotonic() if len(jobs) < max(self._last) else 0
                first = self._jobs.get(timeout=left) if left > 0 else self._jobs.get_nowait()
            except queue.Empty:
                break
        self._last = (self._last[1], len(jobs))
        return jobs, first is not None

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

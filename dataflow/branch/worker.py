"""Threads for what blocks: one that writes, so that commits have an order, and some that read.

A job that has not begun is dropped when its waiter is cancelled; one that has begun runs to its
end, so a commit is done or not done, never half.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

READERS = 2


class Worker:
    """Runs blocking functions off the loop."""

    def __init__(self) -> None:
        self.writing = 0  # jobs asked for and not done
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="dataflow-write")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="dataflow-read")

    async def write(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `job` after all writes asked for before."""
        loop = asyncio.get_running_loop()
        self.writing += 1
        try:
            return await loop.run_in_executor(self._writer, functools.partial(job, *args, **kwargs))
        finally:
            self.writing -= 1

    async def read(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `job`, which changes nothing, beside others."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, functools.partial(job, *args, **kwargs))

    async def aclose(self) -> None:
        """Wait for the jobs that run and end the threads, without stopping the loop."""
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Wait for the jobs that run and end the threads."""
        self._writer.shutdown(cancel_futures=True)
        self._readers.shutdown(cancel_futures=True)

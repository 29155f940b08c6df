"""Blocking work beside the loop, each piece in a thread of its own that ends with it.

No pool: nothing stays behind in a process that starts one machine, and nobody's pool is used up.
What runs at once is bounded, so that many machines which start together leave the loop its share
of the interpreter.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")

AT_ONCE = 4  # threads that work; the others wait for their turn, without the GIL
_turn = threading.BoundedSemaphore(AT_ONCE)


def _nothing() -> None:
    pass


class Work(Generic[T]):
    """Runs `run` in a thread from now on; `await` it for what it returns or raises.

    Cancelling whoever waits does not end the thread: what it uses may be given back only after
    `settle` or `end`, the latter with `stop` called first, in the loop's thread, to hurry it.
    """

    def __init__(self, run: Callable[[], T], stop: Callable[[], None] = _nothing) -> None:
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._stop = stop
        self._result: T
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._main, args=(run,), name="work", daemon=True)
        self._thread.start()

    def _main(self, run: Callable[[], T]) -> None:
        try:
            with _turn:
                self._result = run()
        except BaseException as error:
            self._error = error
        with contextlib.suppress(RuntimeError):  # a loop that was closed under us
            self._loop.call_soon_threadsafe(self._over.set_result, None)

    def __await__(self) -> Generator[Any, None, T]:
        yield from asyncio.shield(self._over).__await__()
        self._thread.join()  # it has nothing left to do
        if self._error is not None:
            raise self._error
        return self._result

    async def settle(self) -> None:
        """Wait until the thread is gone, however often cancelled meanwhile; say nothing of it."""
        cancelled: BaseException | None = None
        while not self._over.done():
            try:
                await asyncio.shield(self._over)
            except asyncio.CancelledError as error:
                cancelled = error
        self._thread.join()
        if cancelled is not None:
            raise cancelled

    def stop(self) -> None:
        """Ask the work to end early."""
        self._stop()


async def end(works: Sequence[Work[Any]]) -> None:
    """Stop all of `works` and wait until their threads are gone, even when cancelled."""
    for work in works:
        work.stop()
    if works:
        try:
            await works[0].settle()
        finally:
            await end(works[1:])

"""An asyncio loop in virtual time: waiting takes no time, and every run is the same.

The loop has no descriptors.  Where a real loop would wait for the next timer, this one moves its
clock there.  `run_in_executor` calls in place, so that nothing depends on threads.  When nothing is
scheduled any more, no timer and no callback, nobody could ever wake the program: that is a
`Deadlock`, and it says where each task waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

from ..errors import UsageError

START = 1.0  # zero means "never" to some programs
TICK = 1e-9  # the clock moves at least this far for a timer: `time()` after it is later
LIMIT = 7 * 86400.0
LIBRARIES = (Path(asyncio.__file__).parent, Path(__file__).parent)  # say little about a program

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Deadlock(UsageError):
    """Nothing is scheduled while the program still waits."""


class TimeLimit(UsageError):
    """The program went on for longer than it may, in virtual time."""


class _Selector:
    """Stands where a real loop's selector is: waits by moving the clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        """Move the clock by `timeout`; None means that nothing is scheduled."""
        if timeout is None:
            self._loop._stuck()
        elif not self._loop._ready and not self._loop._stopping:
            self._loop._advance(max(timeout, TICK))
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs any asyncio program that does all of its input and output through `Host`s.

    `limit` bounds a run in virtual seconds, as periodic timers would let it go on for ever.
    """

    _ready: Any
    _stopping: bool

    def __init__(self, limit: float = LIMIT) -> None:
        super().__init__()
        self._now = START
        self._end = START + limit
        self._limit = limit
        self._clock_resolution = TICK
        self._selector = _Selector(self)
        self._main: asyncio.Task[Any] | None = None
        self._failure: UsageError | None = None

    def time(self) -> float:
        """Return the virtual time in seconds; it starts at 1."""
        return self._now

    def _advance(self, seconds: float) -> None:
        self._now += seconds
        if self._now > self._end:
            self._end = float("inf")
            self._fail(
                TimeLimit(
                    f"expected an end within {self._limit:g} virtual seconds; {self._waiting()}"
                )
            )

    def _stuck(self) -> None:
        self._fail(
            Deadlock(f"nothing is scheduled at {self._now:.9g} virtual seconds; {self._waiting()}")
        )

    def _fail(self, error: UsageError) -> None:
        """End the program: its main task is cancelled, so that it cleans up, then `run` raises."""
        main = self._main
        if self._failure is not None or main is None or main.done():
            raise error
        self._failure = error
        main.cancel(str(error))

    def _waiting(self) -> str:
        places = sorted(_place(task) for task in asyncio.all_tasks(self))
        return "waiting: " + "; ".join(places)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run a program to its end, then cancel what it left; returns its result."""
        with asyncio.Runner(loop_factory=lambda: self) as runner:
            return runner.run(self._watch(main))

    async def _watch(self, main: Coroutine[Any, Any, T]) -> T:
        self._main = asyncio.current_task()
        try:
            return await main
        except asyncio.CancelledError:
            if self._failure is not None:
                raise self._failure from None
            raise
        finally:
            self._main = None

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Call `func` now, in this thread; return a future that is done."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as e:
            future.set_exception(e)
        return future

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nothing sleeps that would have to be woken."""


def _place(task: asyncio.Task[Any]) -> str:
    """Say where a task waits: the innermost line that is neither asyncio's nor ours."""
    coro: Any = task.get_coro()
    own = inner = ""
    while (frame := getattr(coro, "cr_frame", None)) is not None:
        path = Path(frame.f_code.co_filename)
        inner = f"{frame.f_code.co_name} ({path.name}:{frame.f_lineno})"
        if path.parent not in LIBRARIES:
            own = inner
        coro = getattr(coro, "cr_await", None)
    return f"{task.get_name()} in {own or inner}"


def run(main: Coroutine[Any, Any, T], *, limit: float = LIMIT) -> T:
    """Run a program in virtual time; returns its result."""
    return VirtualLoop(limit).run(main)

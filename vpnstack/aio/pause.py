"""Pauses of microseconds, which the timers of a loop are too coarse for.

Datagrams know no backpressure.  Who forwards a flood without ever stopping fills the receiver's
socket and then works for nothing, on the processor that the receiver would need to empty it; a
short pause lets it run, and what comes meanwhile waits in the port's own queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

from ..core._core import lib

PAUSE_NS = 80_000  # some of what the pace before it took; a TAP's queue lasts far longer


class Pause:
    """Leaves descriptors of `loop` unread for a moment; `close` it in the end."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._paused: list[Callable[[], None]] = []
        self._timer: int | None = None

    def begin(self, fd: int, resume: Callable[[], None]) -> bool:
        """Stop reading `fd`, and have `resume` start again; False where that cannot be."""
        if self._timer is None:
            timer = self._timer = lib.pause_timer()
            if timer >= 0:
                self._loop.add_reader(timer, self._over)
        if self._timer < 0 or fd < 0:
            return False
        if not self._paused:
            lib.pause_start(self._timer, PAUSE_NS)
        self._loop.remove_reader(fd)
        self._paused.append(resume)
        return True

    def _over(self) -> None:
        if self._timer is None:
            return
        with contextlib.suppress(BlockingIOError):
            os.read(self._timer, 8)
        paused, self._paused = self._paused, []
        for resume in paused:
            resume()

    def close(self) -> None:
        """Forget who waits."""
        if self._timer is not None and self._timer >= 0:
            self._loop.remove_reader(self._timer)
            os.close(self._timer)
        self._timer = -1
        self._paused.clear()

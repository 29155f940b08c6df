"""The size of the user's terminal, handed to a console now and whenever it changes (SIGWINCH)."""

from __future__ import annotations

import asyncio
import os
import signal
from types import TracebackType
from typing import Self

from .console import Console


class Window:
    """While in use, `console` has the size of the terminal `fd`; for what is no terminal, nothing
    happens.  On the main thread's loop, as all signal handlers.
    """

    def __init__(self, fd: int, console: Console) -> None:
        self._fd = fd
        self._console = console
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        if os.isatty(self._fd):
            self._loop.add_signal_handler(signal.SIGWINCH, self._changed)
            self._changed()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.remove_signal_handler(signal.SIGWINCH)

    def _changed(self) -> None:
        cols, rows = os.get_terminal_size(self._fd)
        if cols and rows:  # else nobody has set it
            self._console.resize(cols, rows)

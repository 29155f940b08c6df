"""The user's terminal on a machine's console, and signals as the buttons of the machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import termios
import tty
from types import TracebackType
from typing import IO, Protocol, Self

from .console import Console

ESCAPE = b"\x1d"  # Ctrl-], as telnet has it


class Steered(Protocol):
    """What of a machine a terminal needs."""

    @property
    def console(self) -> Console:
        """The serial console."""

    async def stop(self, timeout: float) -> object:
        """Power button, deadline, kill."""

    async def kill(self) -> object:
        """End it at once."""


class Terminal:
    """While in use, connects `stdin` and `stdout` with the console; SIGTERM stops the machine."""

    def __init__(
        self,
        machine: Steered,
        stop_timeout: float,
        stdin: IO[str],
        stdout: IO[str],
        *,
        console: bool = True,
    ) -> None:
        self._machine = machine
        self._stop_timeout = stop_timeout
        self._stdin = stdin.fileno()
        self._stdout = stdout.fileno()
        self._console = console
        self._loop = asyncio.get_running_loop()
        self._saved: list[object] | None = None
        self._stopping: asyncio.Task[object] | None = None
        self._output: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.add_signal_handler(number, self.press)
        if self._console:
            if os.isatty(self._stdin):
                self._saved = termios.tcgetattr(self._stdin)
                tty.setraw(self._stdin)
            self._output = self._loop.create_task(self._copy_out())
            with contextlib.suppress(OSError):  # a regular file, which epoll does not take
                self._loop.add_reader(self._stdin, self._copy_in)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._loop.remove_reader(self._stdin)
        if self._saved is not None:
            termios.tcsetattr(self._stdin, termios.TCSADRAIN, self._saved)  # type: ignore[arg-type]
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.remove_signal_handler(number)

    async def finished(self) -> None:
        """Wait until everything the guest printed is out."""
        if self._output is not None:
            await self._output

    def press(self) -> None:
        """Ask the machine to power off; at the second time, kill it."""
        if self._stopping is None:
            self._stopping = self._loop.create_task(self._machine.stop(self._stop_timeout))
        else:
            self._kill = self._loop.create_task(self._machine.kill())

    def _copy_in(self) -> None:
        try:
            data = os.read(self._stdin, 4096)
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._stdin)
            return
        typed, escape, _ = data.partition(ESCAPE)
        if typed and not self._machine.console.closed:
            self._machine.console.write(typed)
        if escape:
            self.press()

    async def _copy_out(self) -> None:
        while data := await self._machine.console.read():
            await asyncio.to_thread(_write_all, self._stdout, data)


def _write_all(handle: int, data: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody reads any more: the machine goes on
        while data:
            data = data[os.write(handle, data) :]

"""The user's terminal on a machine's console."""

from __future__ import annotations

import asyncio
import contextlib
import os
import termios
import threading
import tty
from collections.abc import Callable
from types import TracebackType
from typing import IO, Self

from .console import Console

ESCAPE = b"\x1d"  # Ctrl-], as telnet has it
_CHUNK = 4096


class RawInput:
    """While in use, `typed` gets what comes in at `stdin`, up to Ctrl-], upon which `escaped` is
    called; a terminal is raw meanwhile.
    """

    def __init__(
        self,
        stdin: IO[str],
        typed: Callable[[bytes], object],
        escaped: Callable[[], object],
    ) -> None:
        self._stdin = stdin.fileno()
        self._typed = typed
        self._escaped = escaped
        self._loop = asyncio.get_running_loop()
        self._saved: list[object] | None = None

    def __enter__(self) -> Self:
        if os.isatty(self._stdin):
            self._saved = termios.tcgetattr(self._stdin)
            tty.setraw(self._stdin)
        with contextlib.suppress(OSError):  # a regular file, which epoll does not take
            self._loop.add_reader(self._stdin, self._copy)
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

    def _copy(self) -> None:
        try:
            data = os.read(self._stdin, _CHUNK)
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._stdin)
            return
        typed, escape, _ = data.partition(ESCAPE)
        if typed:
            self._typed(typed)
        if escape:
            self._escaped()


class Terminal:
    """While in use, connects `stdin` and `stdout` with a console; Ctrl-] calls `escaped`."""

    def __init__(
        self,
        console: Console,
        stdin: IO[str],
        stdout: IO[str],
        escaped: Callable[[], object],
    ) -> None:
        self._console = console
        self._stdout = Output(stdout)
        self._input = RawInput(stdin, self._type, escaped)
        self._output: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._input.__enter__()
        self._output = asyncio.get_running_loop().create_task(self._copy_out())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._input.__exit__(kind, error, trace)
        if self._output is not None:
            self._output.cancel()

    async def finished(self) -> None:
        """Wait until everything the guest printed is out."""
        if self._output is not None:
            await self._output

    def _type(self, data: bytes) -> None:
        if not self._console.closed:
            self._console.write(data)

    async def _copy_out(self) -> None:
        while data := await self._console.read():
            await self._stdout.write(data)


class Output:
    """A descriptor that others share, so that it stays blocking; the loop does not wait for it.

    Each write has a thread of its own, no pool's: one that nobody takes, as of a terminal that is
    stopped, keeps neither the loop nor the process from its end.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._turn = asyncio.Lock()

    async def write(self, data: bytes) -> None:
        """Write all of `data`, after what is being written; where nobody reads any more, drop it.

        Cancelled, it may still be written later.
        """
        async with self._turn:
            loop, fd = asyncio.get_running_loop(), self._stream.fileno()
            written: asyncio.Future[None] = loop.create_future()

            def work() -> None:
                _write_all(fd, data)
                with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                    loop.call_soon_threadsafe(_settle, written)

            threading.Thread(target=work, name="output", daemon=True).start()
            await written


def _settle(written: asyncio.Future[None]) -> None:
    if not written.done():
        written.set_result(None)


def _write_all(fd: int, data: bytes) -> None:
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(fd, data) :]

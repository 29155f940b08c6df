"""The terminal's size on its way to a console."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Iterator

import pytest

from hypervisor.aio.console import Console
from hypervisor.aio.window import Window


@pytest.fixture
def terminal() -> Iterator[int]:
    """A terminal of 100 columns and 30 rows."""
    ours, theirs = os.openpty()
    set_size(theirs, 100, 30)
    yield theirs
    os.close(ours)
    os.close(theirs)


def set_size(fd: int, cols: int, rows: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


async def test_the_size_at_first_and_when_it_changes(terminal: int) -> None:
    console = Console()
    sizes: list[tuple[int, int]] = []
    changed = asyncio.Event()

    def resized(cols: int, rows: int) -> None:
        sizes.append((cols, rows))
        changed.set()

    console.connect(len, resized)
    with Window(terminal, console):
        assert sizes == [(100, 30)]
        changed.clear()
        set_size(terminal, 132, 50)
        signal.raise_signal(signal.SIGWINCH)
        async with asyncio.timeout(20):
            await changed.wait()
    assert sizes == [(100, 30), (132, 50)]
    assert signal.getsignal(signal.SIGWINCH) is signal.SIG_DFL


async def test_a_terminal_that_has_no_size(terminal: int) -> None:
    console = Console()
    set_size(terminal, 0, 0)
    with Window(terminal, console):
        assert console.size == (80, 25)


async def test_what_is_no_terminal() -> None:
    console = Console()
    ours, theirs = os.pipe()
    with Window(ours, console):
        assert console.size == (80, 25)
    os.close(ours)
    os.close(theirs)


async def test_a_size_before_there_is_anyone_to_tell(terminal: int) -> None:
    console = Console()
    console.resize(40, 10)
    assert console.size == (40, 10)

"""Where a serial line can lead besides this terminal: a pseudo-terminal, a device, a ring file."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import tty
from pathlib import Path

from ..errors import UsageError
from .console import Console

RING_SIZE = 64 << 10  # bytes, as HyperKit's
_CHUNK = 4096
_WAITING_MAX = 1 << 20


class RingLog:
    """A file that keeps the last 64 KiB of what was printed, as HyperKit's `log=` does.

    It is mapped: what was printed is there when this process is killed, too.  The oldest byte is
    behind the newest one; the part not written yet holds zeros.
    """

    def __init__(self, path: Path, size: int = RING_SIZE) -> None:
        try:
            with open(path, "w+b") as file:
                file.truncate(size)
                self._ring = mmap.mmap(file.fileno(), size)
        except OSError as error:
            raise UsageError(f"cannot write the log {path}: {error.strerror}") from None
        self._at = 0

    def write(self, data: bytes) -> None:
        """Write `data` over the oldest."""
        size = len(self._ring)
        data = data[-size:]
        first = data[: size - self._at]
        self._ring[self._at : self._at + len(first)] = first
        self._ring[: len(data) - len(first)] = data[len(first) :]
        self._at = (self._at + len(data)) % size

    def close(self) -> None:
        """Let go of the file."""
        self._ring.close()


class Line:
    """Connects `console` with `fd`, a terminal device, which becomes ours.

    The guest is not held back: what nobody takes at the other end is dropped beyond 1 MiB.
    """

    def __init__(self, console: Console, fd: int) -> None:
        self._console = console
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._waiting = bytearray(console.unread)
        os.set_blocking(fd, False)
        console.taps.append(self._printed)
        self._loop.add_reader(fd, self._typed)

    def close(self) -> None:
        """Disconnect and close the device."""
        self._console.taps.remove(self._printed)
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        os.close(self._fd)

    def _printed(self, data: bytes) -> None:
        self._waiting += data
        del self._waiting[:-_WAITING_MAX]
        self._flush()

    def _flush(self) -> None:
        try:
            del self._waiting[: os.write(self._fd, self._waiting)]
        except BlockingIOError:
            pass
        except OSError:
            self._waiting.clear()
        if self._waiting:
            self._loop.add_writer(self._fd, self._flush)
        else:
            self._loop.remove_writer(self._fd)

    def _typed(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:  # a line that was hung up
            self._loop.remove_reader(self._fd)
        elif not self._console.closed:
            with contextlib.suppress(UsageError):  # more than the guest takes
                self._console.write(data)


class PseudoTerminal(Line):
    """A line to a new pseudo-terminal, whose `name` others open (`screen /dev/pts/3`)."""

    def __init__(self, console: Console) -> None:
        master, self._slave = os.openpty()
        # Held open: without any opener, the master would be readable with an error for good.
        self.name = os.ttyname(self._slave)
        tty.setraw(self._slave)
        super().__init__(console, master)

    def close(self) -> None:
        """Disconnect and remove the pseudo-terminal."""
        super().close()
        os.close(self._slave)


def open_device(console: Console, path: Path) -> Line:
    """Return a line to the terminal device at `path`, made raw."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"cannot open {path}: {error.strerror}") from None
    if not os.isatty(fd):
        os.close(fd)
        raise UsageError(f"{path} is not a terminal: expected one such as /dev/ttyS1")
    tty.setraw(fd)
    return Line(console, fd)

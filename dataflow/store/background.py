"""What work in the background needs: to be alone, to come last, and to be stopped."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator

NICE = 10
TURN = 0.0005  # seconds after which other threads may have the interpreter
LINGER = 0.02  # seconds after a write in which another one is likely


class Stopped(Exception):
    """Work in the background was asked to end."""


class Foreground:
    """What writers leave word with, so that work in the background keeps out of their way."""

    def __init__(self) -> None:
        self.busy_until = 0.0

    def busy(self) -> None:
        """Say that somebody writes now."""
        self.busy_until = time.monotonic() + LINGER


class Breath:
    """Called between two small pieces of work: lets writers have the interpreter at once.

    (They would wait 5 ms each time, sys.getswitchinterval.)  While they write, it takes a tenth of
    the time, or half if it is not `patient`.  Raises `Stopped` after `stop`.
    """

    def __init__(self, foreground: Foreground | None = None) -> None:
        self.patient = True
        self._foreground = foreground or Foreground()
        self._stopped = threading.Event()
        self._next = 0.0

    def __call__(self) -> None:
        if self._stopped.is_set():
            raise Stopped
        now = time.monotonic()
        if now < self._next:
            return
        if now < self._foreground.busy_until:
            self._stopped.wait(TURN * (9 if self.patient else 1))
        else:
            time.sleep(0)
        self._next = time.monotonic() + TURN

    def stop(self) -> None:
        """Make the next call raise."""
        self._stopped.set()


def come_last() -> None:
    """Give this thread a low priority, where threads have one (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


@contextlib.contextmanager
def alone(path: str) -> Iterator[bool]:
    """Hold the lock (flock(2)) on the file `path` if nobody has it; gives whether."""
    fd = _open(path)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def _open(path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, flags, 0o600)

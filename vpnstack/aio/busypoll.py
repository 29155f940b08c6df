"""Busy polling after a turn that ended quickly, as Linux's net.core.busy_poll.

One end of a conversation answers within microseconds, while waking a thread that sleeps takes tens
of them, in a virtual machine more.  After a turn that carried something the driver therefore looks
for the next event for a moment before it gives the processor back.  What does not pay is not
repeated: each miss doubles the number of turns that go by without.
"""

from __future__ import annotations

import contextlib
import os
import select

from ..core._core import lib

SKIP_MAX = 256  # turns without, after misses


class BusyPoll:
    """Waits for up to `usec` on the descriptors that were added; 0 turns it off."""

    def __init__(self, usec: int) -> None:
        cpus = len(os.sched_getaffinity(0))
        self.usec = usec if cpus > 1 else 0  # alone on a processor nobody can answer meanwhile
        self.hits = self.misses = 0
        self._skip = self._penalty = 0
        self._epoll = select.epoll() if self.usec else None

    def add(self, fd: int) -> None:
        """Wait for this descriptor too."""
        if self._epoll is not None and fd >= 0:
            self._epoll.register(fd, select.EPOLLIN)

    def remove(self, fd: int) -> None:
        """Wait for it no longer; it may be closed already."""
        if self._epoll is not None and fd >= 0:
            with contextlib.suppress(OSError, ValueError):
                self._epoll.unregister(fd)

    def wait(self) -> None:
        """Wait, if that has paid of late."""
        if self._epoll is None:
            return
        if self._skip:
            self._skip -= 1
        elif lib.spin_readable(self._epoll.fileno(), self.usec):
            self.hits += 1
            self._penalty = 0
        else:
            self.misses += 1
            self._penalty = min(2 * self._penalty + 1, SKIP_MAX)
            self._skip = self._penalty

    def close(self) -> None:
        """Give the descriptor back."""
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None

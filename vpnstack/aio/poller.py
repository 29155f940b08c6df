"""Host sockets by the thousand behind one descriptor of the loop, edge-triggered (epoll(7)).

A reader of the loop costs a handle, and two system calls each time it is stopped and started.  Here
a socket is entered once: who stops reading just does not read, and goes on when it wants to.  What
a turn's sockets brought is settled together, at its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import Callable

BATCH = 64
IN, OUT = select.EPOLLIN, select.EPOLLOUT
# A read stops short at an urgent mark as well, with more behind it (tcp(7)): no edge tells of that.
HUP = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLPRI
_READ = IN | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLET
_BOTH = _READ | OUT

Ready = Callable[[int], None]


class Poller:
    """Calls back with a mask of `IN`, `OUT` and `HUP` when a socket becomes ready.

    The edge-triggered rule: read until there is less than was asked for; after `HUP`, until the
    end of the stream or an error, or until nothing is left for now.  `settled` is called after
    every turn.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, settled: Callable[[], None]) -> None:
        self._loop = loop
        self._settled = settled
        self._epoll = select.epoll()
        self._ready: dict[int, Ready] = {}
        self._new: set[int] = set()  # in this turn: what was polled is of an older namesake
        loop.add_reader(self._epoll.fileno(), self._poll)

    def __len__(self) -> int:
        return len(self._ready)

    def fileno(self) -> int:
        """Return a descriptor that is readable when a socket is ready."""
        return self._epoll.fileno()

    def watch(self, fd: int, ready: Ready, *, writing: bool = False) -> None:
        """Watch a descriptor, or change how; with `writing` also for room to write."""
        mask = _BOTH if writing else _READ
        if fd in self._ready:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)
            self._new.add(fd)
        self._ready[fd] = ready

    def forget(self, fd: int) -> None:
        """Stop watching a descriptor, which is closed next: that takes it off the kernel's list."""
        self._ready.pop(fd, None)

    def release(self, fd: int) -> None:
        """Stop watching a descriptor that stays open."""
        if self._ready.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _poll(self) -> None:
        self._new.clear()
        for fd, mask in self._epoll.poll(0, BATCH):
            ready = self._ready.get(fd)
            if ready is None or fd in self._new:
                continue
            try:
                ready(mask)
            except Exception as e:  # one socket's fault is not another's
                context = {"message": "a socket's callback failed", "exception": e}
                self._loop.call_exception_handler(context)
        self._settled()

    def close(self) -> None:
        """Stop."""
        if not self._epoll.closed:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._ready.clear()

"""The passive side (RFC 9293 3.10.1): a bounded queue of handshakes and of connections to accept.

The owner makes a child for each SYN through `on_syn`, drives it like any connection, and tells the
listener when it is `established` or `closed`.  A full queue drops the SYN, which the peer repeats;
an owner that wants to answer it all the same does so by `cookie`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .config import Config
from .connection import Connection
from .segment import Segment


@dataclass(frozen=True, slots=True)
class ListenerStatistics:
    """Counters of one listener."""

    opened: int  # SYNs that made a child
    accepted: int
    overflowed: int  # SYNs dropped because a queue was full
    pending: int  # handshakes under way
    waiting: int  # connections that wait for `accept`


class Listener:
    """Connections to one local address; `backlog` bounds each of its two queues."""

    __slots__ = ("_accepted", "_opened", "_overflowed", "_pending", "_ready", "backlog", "config")

    def __init__(self, config: Config, backlog: int = 128) -> None:
        self.config = config
        self.backlog = max(backlog, 1)
        self._pending: set[Connection] = set()
        self._ready: deque[Connection] = deque()
        self._opened = self._accepted = self._overflowed = 0

    def on_syn(self, syn: Segment, now: float, iss: int, hold: bool = False) -> Connection | None:
        """Return the child for a SYN, None when it is dropped for want of room."""
        if len(self._pending) >= self.backlog or len(self._ready) >= self.backlog:
            self._overflowed += 1
            return None
        child = Connection.passive(self.config, syn, now, iss, hold)
        self._pending.add(child)
        self._opened += 1
        return child

    def established(self, child: Connection) -> None:
        """Move a child whose handshake is complete to the queue of `accept`."""
        if child in self._pending:
            self._pending.remove(child)
            self._ready.append(child)

    def closed(self, child: Connection) -> None:
        """Forget a child that ended before it was accepted."""
        self._pending.discard(child)
        if child in self._ready:
            self._ready.remove(child)

    def accept(self) -> Connection | None:
        """Return the oldest connection that waits, None when there is none."""
        if not self._ready:
            return None
        self._accepted += 1
        return self._ready.popleft()

    def close(self) -> list[Connection]:
        """Stop listening; return the children nobody accepted, aborted, to be driven to the end."""
        children = [*self._pending, *self._ready]
        self._pending.clear()
        self._ready.clear()
        for child in children:
            child.abort()
        return children

    def statistics(self) -> ListenerStatistics:
        """Return counters since the listener was made."""
        return ListenerStatistics(
            self._opened, self._accepted, self._overflowed, len(self._pending), len(self._ready)
        )

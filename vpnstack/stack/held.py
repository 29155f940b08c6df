"""SYNs that wait for a decision: how many there may be, and of whom.

Who knocks at closed doors blocks no open ones: one destination has a part of the table only, and
where that is full the SYN that has waited for long makes room, as those do whose destination is
silent.  Its sender asks again.
"""

from __future__ import annotations

from collections import Counter

from .flow import Flow

HELD_MAX = 4096
HELD_EACH = 1024  # for one destination
PATIENCE = 1.0  # seconds for which a held SYN keeps its place


class Held:
    """The flows of one table whose SYN was not answered yet."""

    __slots__ = ("_each", "_since")

    def __init__(self) -> None:
        self._since: dict[Flow, float] = {}  # the oldest first
        self._each: Counter[tuple[bytes, int]] = Counter()  # by destination

    def __len__(self) -> int:
        return len(self._since)

    def add(self, flow: Flow, now: float) -> None:
        """Hold a flow."""
        self._since[flow] = now
        self._each[flow.local] += 1

    def discard(self, flow: Flow) -> None:
        """Hold a flow no longer, if it was."""
        if self._since.pop(flow, None) is None:
            return
        local = flow.local
        self._each[local] -= 1
        if not self._each[local]:
            del self._each[local]

    def full(self, destination: tuple[bytes, int]) -> bool:
        """Tell whether too many wait for one destination."""
        return self._each[destination] >= HELD_EACH

    def in_the_way(self, now: float) -> Flow | None:
        """Return who has to go before one more is held, where somebody may be sent away."""
        oldest, since = next(iter(self._since.items()))
        return oldest if now - since >= PATIENCE else None

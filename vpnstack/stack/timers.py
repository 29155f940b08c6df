"""When each flow is looked at next: a heap of times, of which the outdated stay until too many."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sized

from .flow import Flow

SLACK = 64  # outdated entries that are not worth a search


class Timers:
    """The timers of the flows of one table; `Flow.timer` is the one that counts."""

    __slots__ = ("_flows", "_heap", "_serial")

    def __init__(self, flows: Sized) -> None:
        self._flows = flows
        self._heap: list[tuple[float, int, Flow]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._heap)

    def arm(self, flow: Flow, at: float) -> None:
        """Wake a flow at `at`, in place of what it had before."""
        flow.timer = at
        self._serial += 1
        if len(self._heap) > SLACK + 2 * len(self._flows):
            self._heap = [one for one in self._heap if one[2].timer == one[0]]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (at, self._serial, flow))

    def due(self, now: float) -> Iterator[Flow]:
        """Take out the flows whose time has come, the earliest first."""
        while self._heap and self._heap[0][0] <= now:
            at, _, flow = heapq.heappop(self._heap)
            if flow.timer == at:
                flow.timer = None
                yield flow

    def deadline(self) -> float | None:
        """Return when `due` has something, as far as is known."""
        return self._heap[0][0] if self._heap else None

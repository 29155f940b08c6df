"""The bounded backlog of a link that does not take frames now: copies, oldest first."""

from __future__ import annotations

from collections import deque

from ..core.burst import Burst

OCTETS_MAX = 8 << 20  # two bursts of 64 super-segments
FRAME_COST = 256  # bytes that Python keeps beside a frame's own


class Backlog:
    """Frames that wait for a link, copied; refuses what would exceed `octets_max`.

    Each frame counts `FRAME_COST` more than its length: many small ones are bounded as well.
    """

    __slots__ = ("_frames", "octets", "octets_max")

    def __init__(self, octets_max: int = OCTETS_MAX) -> None:
        self._frames: deque[tuple[bytes, bytes]] = deque()
        self.octets = 0
        self.octets_max = octets_max

    def __len__(self) -> int:
        return len(self._frames)

    def push(self, burst: Burst, start: int = 0) -> int:
        """Copy frames `start` and up; return how many did not fit and are dropped."""
        dropped = 0
        for i in range(start, burst.count):
            size = burst[i].len + FRAME_COST
            if self.octets + size > self.octets_max:
                dropped += 1
                continue
            self._frames.append((burst.vnet(i), burst.octets(i)))
            self.octets += size
        return dropped

    def fill(self, burst: Burst) -> None:
        """Put as many of the oldest frames as fit into the empty `burst`, leaving them here."""
        for vnet, octets in self._frames:
            if burst.full:
                return
            burst.append(octets, vnet)

    def drop_first(self, n: int) -> None:
        """Forget the `n` oldest frames: they are sent."""
        for _ in range(n):
            self.octets -= len(self._frames.popleft()[1]) + FRAME_COST

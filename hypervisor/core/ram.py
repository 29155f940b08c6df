"""Memory of a machine of our own: one memfd, mapped here and shared by descriptor."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..errors import UsageError
from ..queue.state import Region
from .memory import GuestMemory

HUGE = 2 << 20


class GuestRam:
    """`ranges` of (guest physical address, size) behind the descriptor `fd`, in that order.

    Populated by touch, left out of core dumps; `huge` asks for 2 MiB pages.  `memory` is what
    virtqueues and devices take (front-end addresses are guest physical ones).
    """

    def __init__(self, ranges: Sequence[tuple[int, int]], huge: bool = False) -> None:
        raise NotImplementedError

    @property
    def regions(self) -> tuple[Region, ...]:
        """The ranges with their offsets in the file."""
        return self.memory.regions

    def host(self, gpa: int, size: int = 1) -> int:
        """Return the host address of `size` bytes at `gpa`; UsageError where there are none."""
        raise NotImplementedError

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Copy `data` to `gpa`; UsageError unless it lies inside one range."""
        raise NotImplementedError

    def read(self, gpa: int, size: int) -> bytes:
        """Copy `size` bytes from `gpa`; UsageError unless they lie inside one range."""
        raise NotImplementedError

    def close(self) -> None:
        """Unmap and close; after `Vm.close`.  Calling it again does nothing."""
        raise NotImplementedError

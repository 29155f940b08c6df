"""The pvpanic device (QEMU's docs/specs/pvpanic.rst): one port by which a guest's kernel says that
it panicked.

Linux drives it with `pvpanic-mmio`, which finds it as QEMU0001 in the DSDT and takes an I/O port as
well as memory; Debian's kernels, the cloud one too, have it as a module.
"""

from __future__ import annotations

import enum
from collections.abc import Callable


class Panic(enum.IntFlag):
    """What a guest can say, one bit each."""

    PANICKED = 1 << 0
    CRASH_LOADED = 1 << 1  # it panicked, and a crash kernel takes over: the machine goes on


class PanicPort:
    """Calls `panicked`, with one event a bit, for what the guest writes."""

    def __init__(self, panicked: Callable[[Panic], None]) -> None:
        self._panicked = panicked

    def read(self, port: int, size: int) -> int:
        """Return the events that we know."""
        return int(Panic.PANICKED | Panic.CRASH_LOADED)

    def write(self, port: int, size: int, value: int) -> None:
        """Tell of the events in `value`; other bits are ignored."""
        for event in Panic:
            if value & event:
                self._panicked(event)

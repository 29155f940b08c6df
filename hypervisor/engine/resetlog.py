"""QEMU's log of resets, through a pipe: the one place where emulation tells of a triple fault.

QMP calls it a reset like any other.  A pipe and not a file, because a guest that sends INIT to its
processors writes into that log for ever; only the end is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

_TRIPLE_FAULT = b"Triple fault"
_KEPT = 256


class ResetLog:
    """The reading end, drained on the loop; `fd` is QEMU's end until `started`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._read, self.fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self.fd, True)
        self._tail = b""
        self._loop.add_reader(self._read, self._drain)

    @property
    def args(self) -> list[str]:
        """QEMU's arguments for it."""
        return ["-d", "cpu_reset", "-D", f"/proc/self/fd/{self.fd}"]

    def started(self) -> None:
        """Close QEMU's end, which it has inherited."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _drain(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._read, 65536)
            self._tail = (self._tail + data)[-_KEPT:]
            if not data:
                self._loop.remove_reader(self._read)
            return bool(data)
        return False

    def triple_fault(self) -> bool:
        """Tell whether the last thing that QEMU wrote was of a triple fault."""
        while self._drain():
            pass
        return _TRIPLE_FAULT in self._tail

    def close(self) -> None:
        """Give both ends back."""
        self.started()
        self._loop.remove_reader(self._read)
        os.close(self._read)

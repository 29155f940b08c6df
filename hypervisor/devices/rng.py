"""virtio-rng (virtio 1.2, 5.4): entropy from the host."""

from __future__ import annotations

import os

from .base import Device, Line

DEVICE_ID = 4
QUEUE_SIZE = 64
BYTES_A_CHAIN = 4096  # a request for more gets less (5.4.6.2): the loop has others to serve


class Rng(Device):
    """Fills every buffer that the driver gives it."""

    device_id = DEVICE_ID
    queue_sizes = (QUEUE_SIZE,)

    def __init__(self) -> None:
        super().__init__()
        self.octets = 0  # handed out
        self._line: Line | None = None

    def activate(self, line: Line) -> None:
        """Serve the queue of `line`."""
        self._line = line

    def notified(self, index: int) -> None:
        """Fill what waits."""
        if self._line is None:
            return
        queue = self._line.queues[index]
        for chain in queue.chains():
            written = chain.write(os.urandom(min(chain.writable_len, BYTES_A_CHAIN)))
            self.octets += written
            queue.push(chain, written)
        queue.publish()

    def reset(self) -> None:
        """Serve nothing until the next line."""
        self._line = None

"""A virtio device of your own: an entropy source that anybody can predict, in a few lines.

A device says what it is, takes chains from its queues and gives them back.  Memory, rings,
registers, feature negotiation and interrupts are the kit's; a driver that breaks a rule never
reaches the device.  `hypervisor.devices` has larger ones: rng.py, console.py, balloon.py, net.py.
"""

from __future__ import annotations

import random

from hypervisor.devices.base import Device, Line


class Dice(Device):
    """virtio-rng (virtio 1.2, 5.4) from a seed: the same throws in every run of a guest."""

    device_id = 4
    queue_sizes = (8,)

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._rng = random.Random(seed)
        self._line: Line | None = None

    def activate(self, line: Line) -> None:
        """Begin: the driver is ready."""
        self._line = line

    def notified(self, index: int) -> None:
        """Fill the buffers that the driver added, and interrupt it once."""
        if self._line is None:
            return
        queue = self._line.queues[index]
        for chain in queue.chains():
            data = self._rng.randbytes(min(chain.writable_len, 4096))
            queue.push(chain, chain.write(data))
        queue.publish()

    def reset(self) -> None:
        """Stop: the driver is gone, until it activates the device again."""
        self._line = None

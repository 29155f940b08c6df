"""What a virtio device is, whatever the transport (virtio 1.2, chapter 2), and what it gets when
its driver is ready.

A device of your own is a subclass of `Device` with a few methods, see examples/virtio_device.py.
Everything is called on the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from ..core.memory import GuestMemory
from ..core.ring import Ring
from .queue import Queue


def unbound() -> None:
    """Stand for `config_changed` of a device without a transport."""


@dataclass(frozen=True, slots=True)
class Line:
    """One activation of a device: from DRIVER_OK until the driver resets it.

    `queues` has all queues by index; those that the driver did not make ready are not `attached`.
    They are fresh ones each time, so what is pushed to those of an earlier line goes nowhere.
    `kicks` and `call` are borrowed descriptors.
    """

    memory: GuestMemory
    features: int  # negotiated, the transport's among them
    queues: tuple[Queue, ...]
    loop: asyncio.AbstractEventLoop
    config_changed: Callable[[], None]
    failed: Callable[[str], None]  # the driver broke a rule, for this reason: DEVICE_NEEDS_RESET
    kicks: tuple[int, ...] = ()
    call: int = -1
    look: Callable[[], None] = unbound  # let the driver read the configuration, changed or not


def unheard(what: str) -> None:
    """Stand for `warn` of a device without a machine."""


class Device:
    """A virtio device; a subclass sets the numbers and overrides what it needs."""

    device_id = 0  # virtio 1.2, chapter 5
    features = 0  # bits of the device type alone; the ring's are the transport's
    queue_sizes: tuple[int, ...] = ()  # at most, powers of two
    ring_features = ~0  # of the ring's bits, those that the device can do
    takes_kicks = False  # reads `line.kicks` itself and gets no `notified`

    def __init__(self) -> None:
        self.config_changed: Callable[[], None] = unbound  # set by the transport; call it any time
        self.warn: Callable[[str], None] = unheard  # set by the machine: one line for its user

    async def prepare(self) -> None:
        """Get ready, before the machine is made; raise a HypervisorError that says why not."""

    def config(self) -> bytes:
        """Return the whole configuration space as it is now."""
        return b""

    def config_written(self, offset: int, data: bytes) -> None:
        """Take what the driver wrote inside the configuration space; by default nothing is."""

    def activate(self, line: Line) -> None:
        """Begin to work: the driver is ready (DRIVER_OK)."""

    def notified(self, index: int) -> None:
        """Look into queue `index`: the driver kicked it."""

    def ring(self, index: int) -> tuple[Ring, int] | None:
        """Return the ring that this device walks in place of the line's queue `index`, and the
        kicks that it took there itself; for the machine's statistics."""
        return None

    def stopped(self, index: int) -> asyncio.Future[None] | None:
        """Let go of queue `index`, which is detached: the driver took it back (QueueReady 0).
        Return a future as `reset` does if something still uses its memory."""

    def reset(self) -> asyncio.Future[None] | None:
        """Forget the line.  Return a future if memory of the guest is still in use (by a thread,
        say): the driver sees the reset end (2.4) when it is done."""

    def suspend(self) -> asyncio.Future[None] | None:
        """Forget the line, but its driver may go on with another where it was: a machine in another
        process was paused, see `devices.vhost_serve`.  By default as `reset`."""
        return self.reset()

    async def close(self) -> None:
        """Release what the device holds, after `reset`; may be called again."""

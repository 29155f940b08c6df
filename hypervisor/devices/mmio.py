"""virtio over MMIO (virtio 1.2, 4.2): one page of registers in front of a device.

The page is memory that the guest reads without an exit, so it shows at any time what a read is to
return: after each write, and whenever the device's configuration changes.  Writes come to `write`,
except for kicks (an eventfd a queue) and the acknowledgement of used buffers, which needs nobody:
a device has its interrupt alone, and InterruptStatus always says that buffers may have been used.

What a driver writes against the rules is counted and ignored, as hardware would.  A queue whose
rings or chains break a rule stops the device: DEVICE_NEEDS_RESET until the driver resets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from ..core.memory import GuestMemory
from ..errors import HypervisorError
from ..queue.state import Fault
from .base import Device, Line, unbound
from .queue import Queue
from .registers import (
    ADDRESSES,
    INTERRUPT_CONFIG,
    INTERRUPT_USED,
    PAGE,
    TRANSITIONS,
    TRANSPORT_FEATURES,
    VERSION_1,
    Page,
    Register,
    Status,
)
from .setup import QueueSetup, TransportStatistics

log = logging.getLogger(__name__)
_Later = asyncio.Future[None] | None

LOUD = 8  # failures of a device that are logged as warnings: its guest may go on for ever


class Transport:
    """The register page of `device`, whose queues are kicked through `kicks` and call `call`.

    `page` is PAGE bytes that the guest sees read-only; `memory` maps guest physical addresses (as
    `uva` too).  `kicks` and `call` are non-blocking eventfds that stay the caller's.
    """

    def __init__(
        self,
        device: Device,
        memory: GuestMemory,
        loop: asyncio.AbstractEventLoop,
        page: memoryview,
        kicks: Sequence[int],
        call: int,
    ) -> None:
        if len(kicks) != len(device.queue_sizes):
            raise ValueError(f"{len(kicks)} kicks, expected {len(device.queue_sizes)}")
        self.device = device
        self.status = Status.RESET
        self.features = 0  # as the driver chose
        self._memory = memory
        self._loop = loop
        self._page = Page(page, device.device_id)
        self._kicks = tuple(kicks)
        self._call = call
        self._line: Line | None = None
        self._activations = 0
        self._queues: list[QueueSetup] = []
        self._ending: _Later = None  # the device lets go of the last line
        self._resetting: _Later = None  # and the driver waits for it
        self._stopping: _Later = None  # likewise, of one queue
        self._counters = TransportStatistics()
        self._kicked_count = [0] * len(kicks)
        device.config_changed = self.config_changed
        self._clear()

    def _clear(self) -> None:
        """Be as after a reset (2.4)."""
        self.status = Status.RESET
        self.features = 0
        self._features_sel = [0, 0]  # device's, driver's
        self._queue_sel = 0
        past = [queue.counters for queue in self._queues] or [(0, 0, 0)] * len(self._kicks)
        self._queues = list(map(QueueSetup, self.device.queue_sizes, self._kicks, past))
        self._ending = None
        self._page.acknowledge(INTERRUPT_CONFIG)
        self._page.show_config(self.device.config())
        self._show_features()
        self._show_queue()
        self._show_status()

    # Registers as the guest sees them.

    def read(self, offset: int, size: int) -> int:
        """Return what a read of the page gives: for guests whose reads exit."""
        return int.from_bytes(self._page.memory[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> asyncio.Future[None] | None:
        """Do what the driver's write asks for; never raises for what the guest does.

        A future means that the device still works on it (a reset): the processor that wrote should
        go on when it is done, and any later write waits for it likewise.
        """
        self._count(writes=1)
        if offset >= Register.CONFIG:
            self._write_config(offset - Register.CONFIG, size, value)
            return None
        handler = _WRITES.get(offset) if size == 4 else None
        if handler is None or not handler(self, value & 0xFFFFFFFF):
            self._refuse(offset, size, value)
        stopping = None if self._stopping is None or self._stopping.done() else self._stopping
        return self._resetting or stopping

    def statistics(self) -> TransportStatistics:
        """Return counters since the device was made."""
        return replace(self._counters, queues=tuple(map(self._queue, range(len(self._queues)))))

    def _queue(self, index: int) -> tuple[int, int, int, int]:
        kicks = self._kicked_count[index]
        if (own := self.device.ring(index)) is not None:
            ring, own_kicks = own
            return kicks + own_kicks, ring.chains, ring.octets, ring.calls
        return kicks, *self._queues[index].counters

    def _count(self, **more: int) -> None:
        now = self._counters
        self._counters = replace(now, **{k: getattr(now, k) + n for k, n in more.items()})

    def _refuse(self, offset: int, size: int, value: int) -> None:
        self._count(refused=1)
        log.debug(
            "device %d: write of %#x (%d bytes) to register %#x ignored in status %#x",
            self.device.device_id, value, size, offset, self.status,
        )  # fmt: skip

    def _show_features(self) -> None:
        sel = self._features_sel[0]
        self._page.show(Register.DEVICE_FEATURES, self.offered >> 32 * sel if sel < 2 else 0)

    def _show_queue(self) -> None:
        at = self._queue_sel
        known = at < len(self._queues)
        self._page.show(Register.QUEUE_NUM_MAX, self._queues[at].most if known else 0)
        self._page.show(Register.QUEUE_READY, known and self._queues[at].queue is not None)

    def _show_status(self) -> None:
        self._page.show(Register.STATUS, self.status)

    @property
    def offered(self) -> int:
        """Feature bits of device and transport."""
        return self.device.features | TRANSPORT_FEATURES & self.device.ring_features

    # Configuration changes and failures.

    def config_changed(self) -> None:
        """Show the device's configuration anew, and tell a running driver if it changed."""
        if self._page.show_config(self.device.config()) and self._line is not None:
            self._interrupt_config()

    def _interrupt_config(self) -> None:
        self._page.raise_config()
        with contextlib.suppress(BlockingIOError):  # a full counter is an interrupt already
            os.eventfd_write(self._call, 1)

    def _write_config(self, offset: int, size: int, value: int) -> None:
        if size not in (1, 2, 4, 8) or size > self._page.config_len - offset or self._gone:
            self._refuse(Register.CONFIG + offset, size, value)
            return
        data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        self._guarded(partial(self.device.config_written, offset, data))
        self._page.show_config(self.device.config())

    def fail(self, why: str) -> None:
        """Stop the device until the driver resets it (2.1.2)."""
        if self.status & Status.DEVICE_NEEDS_RESET:
            return
        self._count(failures=1)
        level = logging.WARNING if self._counters.failures <= LOUD else logging.DEBUG
        log.log(level, "device %d needs a reset: %s", self.device.device_id, why)
        self._unwatch()
        self.status |= Status.DEVICE_NEEDS_RESET
        self._show_status()
        if self.status & Status.DRIVER_OK:
            self._interrupt_config()

    @property
    def _gone(self) -> bool:
        return bool(self.status & (Status.DEVICE_NEEDS_RESET | Status.FAILED))

    # One method a register: False refuses the value.

    def _set_device_features_sel(self, value: int) -> bool:
        self._features_sel[0] = value
        self._show_features()
        return True

    def _set_driver_features_sel(self, value: int) -> bool:
        self._features_sel[1] = value
        return True

    def _set_driver_features(self, value: int) -> bool:
        sel = self._features_sel[1]
        if self.status != Status.ACKNOWLEDGE | Status.DRIVER or sel > 1:
            return value == 0 and sel > 1
        self.features = self.features & ~(0xFFFFFFFF << 32 * sel) | value << 32 * sel
        return True

    def _set_queue_sel(self, value: int) -> bool:
        self._queue_sel = value
        self._show_queue()
        return True

    def _configured(self) -> QueueSetup | None:
        """Return the selected queue if it may be set up now: between FEATURES_OK and DRIVER_OK."""
        if self.status & (Status.DRIVER_OK | Status.FEATURES_OK) != Status.FEATURES_OK:
            return None
        if self._gone or self._queue_sel >= len(self._queues):
            return None
        setup = self._queues[self._queue_sel]
        return setup if setup.queue is None else None

    def _set_queue_num(self, value: int) -> bool:
        setup = self._configured()
        return setup is not None and setup.set_num(value)

    def _set_queue_addr(self, value: int, name: str, shift: int) -> bool:
        setup = self._configured()
        if setup is not None:
            setup.set_addr(value, name, shift)
        return setup is not None

    def _set_queue_ready(self, value: int) -> bool:
        if value == 0:
            self._stop_queue()
            return True
        setup = self._configured()
        if setup is None or value != 1:
            return False
        failed = partial(self._queue_failed, self._queue_sel)
        fault = setup.make_ready(self._memory, self.features, self._call, failed)
        if fault is not None:
            failed(fault)
        self._show_queue()
        return fault is None

    def _queue_failed(self, index: int, fault: Fault) -> None:
        self.fail(f"queue {index}: {fault}")

    def _stop_queue(self) -> None:
        if self._queue_sel >= len(self._queues):
            return
        setup = self._queues[self._queue_sel]
        if setup.queue is not None:
            setup.stop()
            if self._line is not None:
                self._stopping = self._guarded(partial(self.device.stopped, self._queue_sel))
        self._show_queue()

    def _queue_notify(self, value: int) -> bool:
        if value >= len(self._kicks) or self._line is None:
            return False
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self._kicks[value], 1)
        return True

    def _interrupt_ack(self, value: int) -> bool:
        self._page.acknowledge(value)
        return not value & ~(INTERRUPT_USED | INTERRUPT_CONFIG)

    # Device status.

    def _set_status(self, value: int) -> bool:
        if value == Status.RESET:
            self._reset()
            return True
        if value & Status.FAILED:
            self.status |= Status.FAILED
            self._deactivate()  # the driver gave up: its memory may serve something else
            self._show_status()
            return True
        before = self.status & ~Status.DEVICE_NEEDS_RESET
        after = Status(value & ~int(Status.DEVICE_NEEDS_RESET))  # keeps bits that are none
        if self._resetting is not None or after not in TRANSITIONS.get(before, ()):
            return False
        if after & ~before & Status.FEATURES_OK and not self._features_fit():
            return False  # 3.1.1: the driver reads that the bit did not stay
        self.status |= after
        if after & ~before & Status.DRIVER_OK:
            self._activate()
        self._show_status()
        return True

    def _features_fit(self) -> bool:
        return not self.features & ~self.offered and bool(self.features & VERSION_1)

    def _activate(self) -> None:
        if self._gone:
            return
        queues = tuple(setup.queue or Queue() for setup in self._queues)
        self._activations += 1
        failed = partial(self._line_failed, self._activations)
        self._line = Line(
            self._memory, self.features, queues, self._loop,
            self.config_changed, failed, self._kicks, self._call, self._interrupt_config,
        )  # fmt: skip
        self._guarded(partial(self.device.activate, self._line))
        if self._gone or self.device.takes_kicks:
            return
        for index, (kick, queue) in enumerate(zip(self._kicks, queues, strict=True)):
            if queue.attached:
                self._loop.add_reader(kick, self._kicked, index)

    def _line_failed(self, activation: int, why: str) -> None:
        """Fail unless the driver reset the device since: a line may end late."""
        if self._line is not None and activation == self._activations:
            self.fail(why)

    def _kicked(self, index: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._kicks[index])
        self._kicked_count[index] += 1
        self._guarded(partial(self.device.notified, index))

    def _guarded(self, call: Callable[[], _Later]) -> _Later:
        """Call the device; what it says about its driver ends the activation, not the process."""
        try:
            return call()
        except (HypervisorError, OSError) as exc:
            self.fail(str(exc))
            return None

    def _unwatch(self) -> None:
        if self._line is not None and not self.device.takes_kicks:
            for kick in self._kicks:
                self._loop.remove_reader(kick)

    def _reset(self) -> None:
        if self._resetting is not None:
            return
        self._count(resets=1)
        self._deactivate()
        if self._ending is None or self._ending.done():
            self._clear()
            return
        self._resetting = self._ending
        self._resetting.add_done_callback(self._reset_done)

    def _reset_done(self, _: asyncio.Future[None]) -> None:
        self._resetting = None
        self._clear()

    def _deactivate(self) -> None:
        """Take the queues off the rings and then the device off the line."""
        for setup in self._queues:
            setup.stop()
        if self._line is None:
            return
        self._unwatch()
        self._line = None
        for kick in self._kicks:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(kick)
        self._ending = self.device.reset()

    def close(self) -> None:
        """Take the device off the guest's memory, which it may use until its own `close` returns.

        Descriptors and page are not touched afterwards; may be called again.
        """
        self._deactivate()
        self.status = Status.RESET  # nobody is there to be interrupted
        self._page = Page(memoryview(bytearray(PAGE)), self.device.device_id)
        self.device.config_changed = unbound


_WRITES: dict[int, Callable[[Transport, int], bool]] = {
    Register.DEVICE_FEATURES_SEL: Transport._set_device_features_sel,
    Register.DRIVER_FEATURES: Transport._set_driver_features,
    Register.DRIVER_FEATURES_SEL: Transport._set_driver_features_sel,
    Register.QUEUE_SEL: Transport._set_queue_sel,
    Register.QUEUE_NUM: Transport._set_queue_num,
    Register.QUEUE_READY: Transport._set_queue_ready,
    Register.QUEUE_NOTIFY: Transport._queue_notify,
    Register.INTERRUPT_ACK: Transport._interrupt_ack,
    Register.STATUS: Transport._set_status,
    Register.SHM_SEL: lambda transport, value: True,  # no region, whatever is selected
    **{
        low + shift // 8: partial(Transport._set_queue_addr, name=name, shift=shift)
        for low, name in ADDRESSES
        for shift in (0, 32)
    },
}

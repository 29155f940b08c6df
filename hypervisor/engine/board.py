"""The board of a machine on KVM: memory, serial port, I/O ports, and a page for each virtio device.

A virtio device's page is memory that the guest reads without an exit; its doorbells and interrupt
acknowledgements are eventfds, and its interrupt is an irqfd, so data moves without one too.  What
is left, configuration mostly, comes to `read` and `write`.

The pages of all devices are one memory slot: making one takes the kernel milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..aio.console import Console
from ..aio.work import Work
from ..core import kvm
from ..core.ram import GuestRam
from ..core.wiring import Wiring
from ..devices.base import Device
from ..devices.i8042 import KeyboardController
from ..devices.mmio import Transport
from ..devices.pm import Power
from ..devices.pvpanic import Panic, PanicPort
from ..devices.rtc import Rtc
from ..pc import layout
from .statistics import DeviceStatistics, QueueStatistics

ALL_ONES = 0xFFFFFFFFFFFFFFFF
_QUEUE_NOTIFY = 0x50  # virtio 1.2, 4.2.2
_INTERRUPT_ACK = 0x64
_USED_BUFFER = 1


class PortDevice(Protocol):
    """Something that answers I/O ports."""

    def read(self, port: int, size: int) -> int:
        """Return what the guest reads."""

    def write(self, port: int, size: int, value: int) -> None:
        """Take what the guest writes."""


@dataclass(frozen=True, slots=True)
class _Wires:
    """What connects a device with the guest: its page, and eventfds for its queues and its call."""

    page: memoryview
    kicks: Sequence[int]
    call: int


class Board:
    """Everything of a machine but its processors; `close`, once they were told to stop, waits."""

    def __init__(
        self,
        memory: int,
        devices: Sequence[Device],
        power_off: Callable[[], None],
        reset: Callable[[], None],
        panicked: Callable[[Panic], None],
    ) -> None:
        self.devices = tuple(devices)  # in the order of their pages
        self._slots = [layout.slot(number) for number in range(len(devices))]
        self._vm: kvm.Vm | None = None
        self._uart: kvm.Uart | None = None
        self._loop = asyncio.get_running_loop()
        self._undo = contextlib.ExitStack()
        self._wires: list[_Wires] = []
        self._transports: list[Transport] = []
        self._counted: tuple[DeviceStatistics, ...] = ()
        self._release: Work[None] | None = None
        self.first_output = 0.0  # when the guest first printed, on the monotonic clock
        self._console_done: Callable[[], None] = lambda: None
        self.drain: Callable[[], None] = lambda: None  # takes what the serial port has printed
        self._power = Power(power_off, reset)
        self._ports: dict[int, PortDevice] = {}
        for device, ports in (
            (Rtc(), (layout.RTC_PORT, layout.RTC_PORT + 1)),
            (KeyboardController(reset), (layout.I8042_DATA, layout.I8042_COMMAND)),
            (PanicPort(panicked), (layout.PVPANIC_PORT,)),
            (self._power, range(layout.PM_PORT, layout.PM_PORT + layout.PM_PORTS)),
        ):
            self._ports.update(dict.fromkeys(ports, device))
        self.ram = GuestRam([(part.address, part.size) for part in layout.ram(memory)])
        self._undo.callback(self.ram.close)

    @property
    def vm(self) -> kvm.Vm:
        """The virtual machine that was wired."""
        assert self._vm is not None
        return self._vm

    def wire(self, vm: kvm.Vm) -> Wiring:
        """Give `vm` memory, serial port, doorbells and interrupts: once the result `connect`s."""
        self._vm = vm
        wiring = Wiring(vm)
        for region in self.ram.regions:
            wiring.map(region.gpa, self.ram.host(region.gpa, region.size), region.size)
        self._uart = vm.uart(layout.UART_PORT, layout.UART_GSI)
        if self.devices:
            pages = wiring.page(layout.MMIO, len(self.devices) * layout.PAGE)
            for slot, device in zip(self._slots, self.devices, strict=True):
                at = slot.address - layout.MMIO
                page = pages[at : at + layout.PAGE]
                self._wires.append(self._wire(wiring, slot, device, page))
        return wiring

    def _wire(self, wiring: Wiring, slot: layout.Slot, device: Device, page: memoryview) -> _Wires:
        call = self._eventfd()
        kicks = [self._eventfd() for _ in device.queue_sizes]
        for index, kick in enumerate(kicks):
            wiring.ioeventfd(kick, slot.address + _QUEUE_NOTIFY, 4, index)
        # The interrupt status never changes for used buffers: nobody looks at these.
        wiring.ioeventfd(self._eventfd(), slot.address + _INTERRUPT_ACK, 4, _USED_BUFFER)
        wiring.irqfd(call, slot.gsi)
        return _Wires(page, kicks, call)

    def _eventfd(self) -> int:
        fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._undo.callback(os.close, fd)
        return fd

    def attach(self, console: Console) -> None:
        """Let the loop serve what was wired; `console` is closed with the board."""
        assert self._uart is not None
        self._connect(console, self._uart)
        self._transports = [
            Transport(device, self.ram.memory, self._loop, wires.page, wires.kicks, wires.call)
            for device, wires in zip(self.devices, self._wires, strict=True)
        ]

    def _connect(self, console: Console, uart: kvm.Uart) -> None:
        def ready() -> None:
            data = uart.read()
            if data and not self.first_output:
                self.first_output = time.monotonic()
            console.receive(data)
            console.flush()

        def done() -> None:
            self._console_done = self.drain = lambda: None
            self._loop.remove_reader(uart.fd)
            ready()  # what the guest said last
            console.close()

        console.connect(uart.write)
        self._loop.add_reader(uart.fd, ready)
        self.drain = ready
        self._console_done = done

    def statistics(self) -> tuple[DeviceStatistics, ...]:
        """Return the devices' counters; those of the time of `close` after it."""
        if self._transports:
            self._counted = tuple(map(_count, self._transports))
        return self._counted

    def read(self, exit_: kvm.Exit) -> int:
        """Return what a processor reads; where nothing is, all ones."""
        device = self._ports.get(exit_.address) if exit_.kind is kvm.ExitKind.IO else None
        return ALL_ONES if device is None else device.read(exit_.address, exit_.size)

    def write(self, exit_: kvm.Exit) -> asyncio.Future[None] | None:
        """Do what a processor writes; it goes on when the future is done, if there is one."""
        if exit_.kind is kvm.ExitKind.IO:
            if (device := self._ports.get(exit_.address)) is not None:
                device.write(exit_.address, exit_.size, exit_.value)
            return None
        number, offset = divmod(exit_.address - layout.MMIO, layout.PAGE)
        if not 0 <= number < len(self._transports):
            return None
        return self._transports[number].write(offset, exit_.size, exit_.value)

    def press_power_button(self) -> None:
        """Raise the power button's event and its interrupt."""
        self._power.press_button()
        self.vm.irq_line(layout.GED_GSI, True)
        self.vm.irq_line(layout.GED_GSI, False)

    async def close(self) -> None:
        """Let go of everything, the virtual machine too; may be called again."""
        self.statistics()
        while self._transports:
            transport = self._transports.pop()
            transport.close()
            await transport.device.close()
        self._console_done()
        if self._release is None:
            self._release = Work(self._give_back)
        await self._release.settle()

    def _give_back(self) -> None:
        """Release what the kernel holds: it takes a while (`Vm.close`)."""
        if self._vm is not None:
            self._vm.close()
        self._wires.clear()
        self._undo.close()


def _count(transport: Transport) -> DeviceStatistics:
    found, device = transport.statistics(), transport.device
    return DeviceStatistics(
        type(device).__name__.lower(),
        device.device_id,
        found.writes,
        found.resets,
        found.failures,
        tuple(QueueStatistics(*counters) for counters in found.queues),
    )

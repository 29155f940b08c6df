"""The board of a machine on KVM: memory, serial port, I/O ports, and a page for each virtio device.

A virtio device's page is memory that the guest reads without an exit; its doorbells and interrupt
acknowledgements are eventfds, and its interrupt is an irqfd, so data moves without one too.  What
is left, configuration mostly, comes to `read` and `write`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Protocol

from ..aio.console import Console
from ..core import kvm
from ..core.ram import GuestRam
from ..devices.base import Device
from ..devices.i8042 import KeyboardController
from ..devices.mmio import Transport
from ..devices.pm import Power
from ..devices.pvpanic import Panic, PanicPort
from ..devices.rtc import Rtc
from ..pc import layout

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


class Board:
    """Everything of a machine but its processors; `close` after they have stopped."""

    def __init__(
        self,
        vm: kvm.Vm,
        memory: int,
        power_off: Callable[[], None],
        reset: Callable[[], None],
        panicked: Callable[[Panic], None],
    ) -> None:
        self.vm = vm
        self._loop = asyncio.get_running_loop()
        self._undo = contextlib.ExitStack()
        self._transports: list[Transport] = []
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

    def map_memory(self) -> None:
        """Show the guest its memory."""
        for region in self.ram.regions:
            self.vm.map(region.gpa, self.ram.host(region.gpa, region.size), region.size)

    def connect(self, console: Console) -> None:
        """Put the serial port on `console`, which is closed with the board."""
        uart = self.vm.uart(layout.UART_PORT, layout.UART_GSI)

        def ready() -> None:
            console.receive(uart.read())
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

    def add(self, device: Device) -> None:
        """Give `device` the next page and interrupt."""
        slot = layout.slot(len(self._transports))
        address = slot.address
        page = self.vm.page(address)
        call = self._eventfd()
        kicks = [self._eventfd() for _ in device.queue_sizes]
        for index, kick in enumerate(kicks):
            self.vm.ioeventfd(kick, address + _QUEUE_NOTIFY, 4, index)
        # The interrupt status never changes for used buffers: nobody looks at these.
        self.vm.ioeventfd(self._eventfd(), address + _INTERRUPT_ACK, 4, _USED_BUFFER)
        self.vm.irqfd(call, slot.gsi)
        self._transports.append(Transport(device, self.ram.memory, self._loop, page, kicks, call))

    def _eventfd(self) -> int:
        fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._undo.callback(os.close, fd)
        return fd

    @property
    def devices(self) -> Sequence[Device]:
        """The devices, in the order of their pages."""
        return [transport.device for transport in self._transports]

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
        while self._transports:
            transport = self._transports.pop()
            transport.close()
            await transport.device.close()
        self._console_done()
        self.vm.close()
        self._undo.close()

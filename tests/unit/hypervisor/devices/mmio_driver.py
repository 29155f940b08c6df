"""A driver for tests: sets up a device behind its register page as Linux's virtio_mmio does."""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import Sequence

from vhost_driver import GPA, Buffer, DriverRing, Guest, called

from hypervisor.core.memory import GuestMemory
from hypervisor.devices.base import Device
from hypervisor.devices.mmio import Transport
from hypervisor.devices.registers import PAGE, RING_EVENT_IDX, Register, Status
from hypervisor.queue.state import Region

ALL = 0xFFFF_FFFF_FFFF_FFFF
LIVE = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK


class Bench:
    """A device on its transport with a loop that turns when told, and a driver's hands on it."""

    def __init__(
        self,
        device: Device,
        size: int = 1 << 20,
        guest: Guest | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.device = device
        self.loop = loop or asyncio.new_event_loop()
        self.guest = guest or Guest(size)
        if guest is None:  # which otherwise says itself where it lies
            self.guest.region = Region(GPA, size, GPA, 0)
        self.memory: GuestMemory = self.guest.memory()
        self.page = mmap.mmap(-1, PAGE)
        self.kicks = [os.eventfd(0, os.EFD_NONBLOCK) for _ in device.queue_sizes]
        self.call = os.eventfd(0, os.EFD_NONBLOCK)
        self.view = memoryview(self.page)
        self.transport = Transport(device, self.memory, self.loop, self.view, self.kicks, self.call)
        self.rings: list[DriverRing] = []

    def read(self, register: int, size: int = 4) -> int:
        return int.from_bytes(self.page[register : register + size], "little")

    def write(self, register: int, value: int, size: int = 4) -> asyncio.Future[None] | None:
        return self.transport.write(register, size, value)

    @property
    def status(self) -> int:
        return self.read(Register.STATUS)

    @property
    def refused(self) -> int:
        return self.transport.statistics().refused

    @property
    def needs_reset(self) -> bool:
        return bool(self.status & Status.DEVICE_NEEDS_RESET)

    def offered(self) -> int:
        value = 0
        for sel in (1, 0):
            self.write(Register.DEVICE_FEATURES_SEL, sel)
            value = value << 32 | self.read(Register.DEVICE_FEATURES)
        return value

    def negotiate(self, features: int = ALL) -> int:
        """Reset and agree on features; returns them."""
        self.write(Register.STATUS, 0)
        self.write(Register.STATUS, Status.ACKNOWLEDGE)
        self.write(Register.STATUS, Status.ACKNOWLEDGE | Status.DRIVER)
        chosen = self.offered() & features
        for sel in (1, 0):
            self.write(Register.DRIVER_FEATURES_SEL, sel)
            self.write(Register.DRIVER_FEATURES, chosen >> 32 * sel & 0xFFFFFFFF)
        self.write(Register.STATUS, LIVE & ~Status.DRIVER_OK)
        return chosen

    def setup_queue(self, index: int, ring: DriverRing, num: int | None = None) -> None:
        self.write(Register.QUEUE_SEL, index)
        assert self.read(Register.QUEUE_READY) == 0
        self.write(Register.QUEUE_NUM, ring.size if num is None else num)
        for register, address in (
            (Register.QUEUE_DESC_LOW, ring.desc),
            (Register.QUEUE_DRIVER_LOW, ring.avail),
            (Register.QUEUE_DEVICE_LOW, ring.used),
        ):
            self.write(register, address & 0xFFFFFFFF)
            self.write(register + 4, address >> 32)
        self.write(Register.QUEUE_READY, 1)

    def start(
        self, features: int = ALL, queues: Sequence[int] | None = None, size: int = 8
    ) -> Bench:
        """Do all that a driver does until the device is live, with fresh rings."""
        chosen = self.negotiate(features)
        indexes = range(len(self.kicks)) if queues is None else queues
        self.rings = []
        for index in range(len(self.kicks)):
            most = self.device.queue_sizes[index]
            ring = DriverRing(self.guest, min(size, most), chosen)
            self.rings.append(ring)
            if index in indexes:
                self.setup_queue(index, ring)
        self.write(Register.STATUS, LIVE)
        return self

    def kick(self, index: int) -> None:
        """Notify the device as the ioeventfd does, and let it work."""
        os.eventfd_write(self.kicks[index], 1)
        self.turn()

    def turn(self) -> None:
        """Two turns of the loop: what is readable now, and what that made ready."""
        for _ in range(2):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def readable(self, data: bytes) -> Buffer:
        """Return a buffer that holds `data`."""
        buffer = Buffer(self.guest.alloc(max(1, len(data)), align=1), len(data))
        self.guest.write(buffer.gpa, data)
        return buffer

    def writable(self, size: int) -> Buffer:
        return Buffer(self.guest.alloc(size), size, writable=True)

    def octets(self, buffer: Buffer) -> bytes:
        return self.guest.read(buffer.gpa, buffer.size)

    def interrupts(self) -> int:
        """Return how often the device raised its interrupt since the last call."""
        return called(self.call)

    def close(self) -> None:
        self.transport.close()
        self.turn()
        self.loop.run_until_complete(self.device.close())
        self.loop.close()
        self.memory.close()
        self.guest.close()
        for fd in (*self.kicks, self.call):
            os.close(fd)


NO_EVENT_IDX = ALL & ~RING_EVENT_IDX

"""Where everything lies in a guest of the KVM engine: memory, MMIO pages, interrupts, ports.

The one place that knows; the boot data, the devices and the engine import it.  Addresses are
guest-physical, GSIs are pins of KVM's I/O APIC (24 of them, and KVM's default routing is 1:1).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError

PAGE = 0x1000
MIB = 1 << 20
GIB = 1 << 30

# RAM lies below the gap for MMIO, and what does not fit there from 4 GiB on.
LOW_RAM_END = 3 * GIB
HIGH_RAM = 4 * GIB
MIN_RAM = 2 * MIB

# Below 1 MiB.
GDT = 0x500
FLAT = 0x1000  # a flat binary, which so may be as large as FLAT_END - FLAT
START_INFO = 0x6000  # hvm_start_info of PVH, its modules and memory map
ZERO_PAGE = 0x7000  # boot_params
PAGE_TABLES = 0x9000  # PML4, PDPT, four page directories
CMDLINE = 0x20000
CMDLINE_SIZE = 2048  # with the NUL at its end
FLAT_END = LOW_END = 0x9FC00  # where a PC's extended BIOS data area begins
MP_TABLE = LOW_END  # for kernels without ACPI, which look into the last KiB below 640 KiB
RSDP = 0xE0000  # and the other ACPI tables after it
SMBIOS = 0xF0000  # the entry point, and the tables after it
BIOS_END = 0x100000
KERNEL = 0x100000

# Above RAM.
MMIO = 0xD0000000
IOAPIC = 0xFEC00000
LAPIC = 0xFEE00000
IDENTITY_MAP = 0xFFFBC000  # KVM_SET_IDENTITY_MAP_ADDR
TSS = 0xFFFBD000  # KVM_SET_TSS_ADDR, three pages

# Interrupts.  GSI 9 would be the SCI, which hardware-reduced ACPI has not: the button takes it.
GSIS = 24
UART_GSI = 4
RTC_GSI = 8
GED_GSI = 9
FIRST_DEVICE_GSI = 5
_DEVICE_GSIS = tuple(n for n in range(FIRST_DEVICE_GSI, GSIS) if n not in (RTC_GSI, GED_GSI))
MAX_DEVICES = len(_DEVICE_GSIS)  # 17: each device has a GSI of its own
MAX_CPUS = 16

# Ports, and how many of each.
UART_PORT, UART_PORTS = 0x3F8, 8
RTC_PORT, RTC_PORTS = 0x70, 2  # index, data
I8042_DATA = 0x60
I8042_COMMAND = 0x64
I8042_RESET = 0xFE  # written to I8042_COMMAND
PVPANIC_PORT, PVPANIC_PORTS = 0x505, 1
PM_PORT, PM_PORTS = 0x600, 16
SLEEP_CONTROL = PM_PORT  # one byte, ACPI 6.5, 4.8.3.7
SLEEP_STATUS = PM_PORT + 1  # one byte
RESET = PM_PORT + 2  # one byte
GED_EVENTS = PM_PORT + 4  # four bytes: GED_* bits, cleared by reading

SLEEP_TYPE_S5 = 5
SLEEP_ENABLE = 1 << 5
SLEEP_S5 = SLEEP_ENABLE | SLEEP_TYPE_S5 << 2  # what a power-off writes to SLEEP_CONTROL
RESET_VALUE = 1  # what a reboot writes to RESET
GED_POWER_BUTTON = 1 << 0


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of virtio-mmio device `number`: one page at `address`, one interrupt `gsi`."""

    number: int
    address: int
    gsi: int


@dataclass(frozen=True, slots=True)
class Range:
    """A piece of guest RAM: `size` bytes at `address`."""

    address: int
    size: int

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.address + self.size


def gsi(number: int) -> int:
    """Return the interrupt of device `number`."""
    if not 0 <= number < MAX_DEVICES:
        raise UsageError(f"expected at most {MAX_DEVICES} virtio devices, found number {number}")
    return _DEVICE_GSIS[number]


def slot(number: int) -> Slot:
    """Return the place of device `number`, counted from 0."""
    return Slot(number, MMIO + number * PAGE, gsi(number))


def ram(size: int) -> tuple[Range, ...]:
    """Return the one or two pieces into which `size` bytes of RAM fall, lowest first."""
    if size < MIN_RAM or size % PAGE:
        raise UsageError(f"expected RAM of at least 2 MiB in whole pages, found {size} bytes")
    low = Range(0, min(size, LOW_RAM_END))
    return (low,) if low.size == size else (low, Range(HIGH_RAM, size - low.size))

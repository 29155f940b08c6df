"""ACPI 6.5 tables of our machine: hardware-reduced, without PCI, virtio devices over MMIO.

Section numbers are the ACPI specification's.  Everything lies between `layout.RSDP` and
`layout.BIOS_END`, where a BIOS would be; kernels also find it by scanning there (5.2.5.1).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ..errors import UsageError
from . import aml, layout

_HEADER = struct.Struct("<4sIBB6s8sI4sI")  # 5.2.6
_OEM_ID, _OEM_TABLE_ID, _CREATOR = b"TRIKIT", b"HYPERVSR", b"TRIK"
_LAPIC = struct.Struct("<BBBBI")  # 5.2.12.2
_IOAPIC = struct.Struct("<BBBBII")  # 5.2.12.3
_GAS_IO, _GAS_BYTE = 1, 1

# 5.2.9.3: WBINVD works, the power button is a control method (as there is no fixed one), and
# there is a reset register.
_WBINVD, _PWR_BUTTON, _SLP_BUTTON = 1 << 0, 1 << 4, 1 << 5
_RESET_REG_SUP, _HW_REDUCED_ACPI = 1 << 10, 1 << 20
FADT_FLAGS = _WBINVD | _PWR_BUTTON | _SLP_BUTTON | _RESET_REG_SUP | _HW_REDUCED_ACPI
# 5.2.9.4: devices on an ISA bus, no VGA.  The bit for an 8042 is left out: Linux then does not
# look for a keyboard; its reset through port 0x64 works all the same.
_LEGACY_DEVICES, _NO_VGA = 1 << 0, 1 << 2
FADT_BOOT_ARCH = _LEGACY_DEVICES | _NO_VGA
_PCAT_COMPAT = 1  # 5.2.12: KVM's irqchip has the two 8259s


def tables(cpus: int, slots: Sequence[layout.Slot]) -> bytes:
    """Return all tables, to be written at `layout.RSDP`."""
    if not 1 <= cpus <= layout.MAX_CPUS:
        raise UsageError(f"expected 1 to {layout.MAX_CPUS} CPUs, found {cpus}")
    blob = bytearray(64)  # the RSDP, which needs the XSDT's address, goes there at the end

    def place(table: bytes) -> int:
        address = layout.RSDP + len(blob)
        blob.extend(table.ljust(-(-len(table) // 16) * 16, b"\0"))
        return address

    dsdt_at = place(dsdt(slots))
    entries = [place(fadt(dsdt_at)), place(madt(cpus))]
    xsdt_at = place(_table(b"XSDT", 1, struct.pack(f"<{len(entries)}Q", *entries)))
    blob[:36] = rsdp(xsdt_at)
    return bytes(blob)


def rsdp(xsdt: int) -> bytes:
    """Return the root pointer, revision 2 (5.2.5.3): two checksums, no RSDT."""
    data = bytearray(
        struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, _OEM_ID, 2, 0, 36, xsdt, 0),
    )
    data[8] = -sum(data[:20]) & 0xFF
    data[32] = -sum(data) & 0xFF
    return bytes(data)


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    size = _HEADER.size + len(body)
    ids = (_OEM_ID, _OEM_TABLE_ID, 1, _CREATOR, 1)
    data = bytearray(_HEADER.pack(signature, size, revision, 0, *ids) + body)
    data[9] = -sum(data) & 0xFF
    return bytes(data)


def fadt(dsdt: int) -> bytes:
    """Return the fixed description table, revision 6.5 (5.2.9), for hardware-reduced ACPI."""
    data = bytearray(276)
    struct.pack_into("<I", data, 40, dsdt)
    struct.pack_into("<H", data, 109, FADT_BOOT_ARCH)
    struct.pack_into("<I", data, 112, FADT_FLAGS)
    data[116:128] = _register(layout.RESET)
    data[128] = layout.RESET_VALUE
    data[131] = 5  # the minor version
    struct.pack_into("<Q", data, 140, dsdt)
    data[244:256] = _register(layout.SLEEP_CONTROL)
    data[256:268] = _register(layout.SLEEP_STATUS)
    data[268:276] = b"TRIKIT\0\0"  # hypervisor vendor
    return _table(b"FACP", 6, bytes(data[_HEADER.size :]))


def _register(port: int) -> bytes:
    return struct.pack("<BBBBQ", _GAS_IO, 8, 0, _GAS_BYTE, port)  # 5.2.3.2


def madt(cpus: int) -> bytes:
    """Return the interrupt controllers (5.2.12): a local APIC a CPU, and one I/O APIC from GSI 0.

    No source overrides: KVM routes GSI n to pin n by default, 0 included, where a PC has the timer
    on pin 2.
    """
    body = struct.pack("<II", layout.LAPIC, _PCAT_COMPAT)
    body += b"".join(_LAPIC.pack(0, 8, cpu, cpu, 1) for cpu in range(cpus))
    body += _IOAPIC.pack(1, 12, 0, 0, layout.IOAPIC, 0)
    return _table(b"APIC", 5, body)


def dsdt(slots: Sequence[layout.Slot]) -> bytes:
    """Return the description of the devices, and of the state S5 that a power-off enters."""
    sleep = aml.package(*(aml.integer(n) for n in (layout.SLEEP_TYPE_S5, 0, 0, 0)))
    devices = [_serial(), _clock(), _panic(), _power_button(), _event_device()]
    devices += [_virtio(each) for each in slots]
    return _table(b"DSDT", 2, aml.name("\\_S5", sleep) + aml.scope("\\_SB", *devices))


def _serial() -> bytes:
    where = (aml.io(layout.UART_PORT, layout.UART_PORTS), aml.interrupt(layout.UART_GSI))
    return aml.device(
        "COM1",
        aml.name("_HID", aml.eisa_id("PNP0501")),
        aml.name("_UID", aml.integer(0)),
        aml.name("_CRS", aml.resources(*where)),
    )


def _clock() -> bytes:
    # Without an interrupt: ours tells the time and never raises one, and Linux then sets no alarms.
    return aml.device(
        "RTC",
        aml.name("_HID", aml.eisa_id("PNP0B00")),
        aml.name("_CRS", aml.resources(aml.io(layout.RTC_PORT, layout.RTC_PORTS))),
    )


def _panic() -> bytes:
    return aml.device(
        "PEVT",
        aml.name("_HID", aml.string("QEMU0001")),
        aml.name("_CRS", aml.resources(aml.io(layout.PVPANIC_PORT, layout.PVPANIC_PORTS))),
        aml.name("_STA", aml.integer(0xF)),
    )


def _power_button() -> bytes:
    return aml.device(
        "PWRB", aml.name("_HID", aml.eisa_id("PNP0C0C")), aml.name("_UID", aml.integer(0))
    )


def _event_device() -> bytes:
    """Describe the generic event device (5.6.9): its interrupt runs _EVT, which asks what it is."""
    pressed = aml.bitwise_and(aml.LOCAL0, aml.integer(layout.GED_POWER_BUTTON))
    return aml.device(
        "GED",
        aml.name("_HID", aml.string("ACPI0013")),
        aml.name("_UID", aml.integer(0)),
        aml.name("_CRS", aml.resources(aml.interrupt(layout.GED_GSI))),
        aml.io_region("EREG", layout.GED_EVENTS, 4),
        aml.field("EREG", ("ESEL", 32)),
        aml.method(
            "_EVT",
            1,
            aml.store(aml.path("ESEL"), aml.LOCAL0),  # read once: reading clears it
            aml.if_true(pressed, aml.notify("\\_SB.PWRB", 0x80)),
        ),
    )


def _virtio(slot: layout.Slot) -> bytes:
    where = (aml.memory32_fixed(slot.address, layout.PAGE), aml.interrupt(slot.gsi))
    return aml.device(
        f"VR{slot.number:02X}",
        aml.name("_HID", aml.string("LNRO0005")),
        aml.name("_UID", aml.integer(slot.number)),
        aml.name("_CCA", aml.integer(1)),
        aml.name("_CRS", aml.resources(*where)),
    )

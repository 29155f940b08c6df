"""ACPI tables: checksums, pointers, and fields at the offsets of ACPI 6.5."""

import struct

import pytest

from hypervisor.errors import UsageError
from hypervisor.pc import acpi, layout

SLOTS = [layout.slot(n) for n in range(layout.MAX_DEVICES)]


def at(blob: bytes, address: int) -> bytes:
    """Return the table at a guest address, by its length field."""
    start = address - layout.RSDP
    (length,) = struct.unpack_from("<I", blob, start + 4)
    table = blob[start : start + length]
    assert len(table) == length
    return table


def walk(blob: bytes) -> dict[bytes, bytes]:
    """Follow the pointers as a kernel does; every checksum must be right."""
    assert blob[:8] == b"RSD PTR "
    assert sum(blob[:20]) & 0xFF == sum(blob[:36]) & 0xFF == 0
    assert (blob[15], struct.unpack_from("<I", blob, 20)[0]) == (2, 36)
    xsdt = at(blob, struct.unpack_from("<Q", blob, 24)[0])
    addresses = struct.unpack_from(f"<{(len(xsdt) - 36) // 8}Q", xsdt, 36)
    tables = {b"XSDT": xsdt} | {t[:4]: t for t in (at(blob, each) for each in addresses)}
    tables[b"DSDT"] = at(blob, struct.unpack_from("<Q", tables[b"FACP"], 140)[0])
    for table in tables.values():
        assert sum(table) & 0xFF == 0
    return tables


@pytest.mark.parametrize(("cpus", "devices"), [(1, 0), (4, 3), (16, 17)])
def test_tables_are_linked_and_fit(cpus: int, devices: int) -> None:
    blob = acpi.tables(cpus, SLOTS[:devices])
    assert set(walk(blob)) == {b"XSDT", b"FACP", b"APIC", b"DSDT"}
    assert layout.RSDP + len(blob) <= layout.BIOS_END


def test_fadt() -> None:
    """5.2.9, table 5.9."""
    fadt = walk(acpi.tables(1, []))[b"FACP"]
    assert (len(fadt), fadt[8], fadt[131]) == (276, 6, 5)
    assert struct.unpack_from("<I", fadt, 40) == struct.unpack_from("<Q", fadt, 140)
    (flags,) = struct.unpack_from("<I", fadt, 112)
    assert flags & 1 << 20  # HW_REDUCED_ACPI
    assert flags & 1 << 10  # RESET_REG_SUP
    assert flags & 1 << 4  # the power button is a control method
    (boot_arch,) = struct.unpack_from("<H", fadt, 109)
    assert boot_arch & 2 == 0  # no 8042
    assert struct.unpack_from("<BBBBQ", fadt, 116) == (1, 8, 0, 1, 0x602)  # RESET_REG
    assert fadt[128] == layout.RESET_VALUE
    assert struct.unpack_from("<BBBBQ", fadt, 244) == (1, 8, 0, 1, 0x600)  # SLEEP_CONTROL_REG
    assert struct.unpack_from("<BBBBQ", fadt, 256) == (1, 8, 0, 1, 0x601)  # SLEEP_STATUS_REG
    # Hardware-reduced: SCI_INT to GPE1_BASE, and the extended blocks, are not there.
    assert fadt[46:109] == bytes(63)
    assert fadt[148:244] == bytes(96)


def test_madt() -> None:
    """5.2.12, tables 5.19, 5.21 and 5.23."""
    madt = walk(acpi.tables(3, []))[b"APIC"]
    assert struct.unpack_from("<II", madt, 36) == (0xFEE00000, 1)
    for cpu in range(3):
        assert struct.unpack_from("<BBBBI", madt, 44 + 8 * cpu) == (0, 8, cpu, cpu, 1)
    assert struct.unpack_from("<BBBBII", madt, 68) == (1, 12, 0, 0, 0xFEC00000, 0)
    assert len(madt) == 80


def test_dsdt_names_every_device() -> None:
    dsdt = acpi.dsdt(SLOTS)
    assert dsdt.count(b"LNRO0005\0") == 17
    for slot in SLOTS:
        assert struct.pack("<BHBII", 0x86, 9, 1, slot.address, 0x1000) in dsdt
        assert struct.pack("<BHBBI", 0x89, 6, 3, 1, slot.gsi) in dsdt
    assert b"\x08\\_S5_\x12\x07\x04\x0a\x05\0\0\0" in dsdt
    assert b"ACPI0013\0" in dsdt
    assert b"QEMU0001\0" in dsdt
    assert struct.pack("<BBHHBB", 0x47, 1, 0x505, 0x505, 1, 1) in dsdt


@pytest.mark.parametrize("cpus", [0, 17])
def test_bad_cpus(cpus: int) -> None:
    with pytest.raises(UsageError, match=f"expected 1 to 16 CPUs, found {cpus}"):
        acpi.tables(cpus, [])

"""SMBIOS as a kernel reads it: found by its anchor, summed, walked, and its UUID printed."""

import struct
import uuid

import pytest
from guest_images import Ram, bz_image, vmlinux

from hypervisor.pc import boot, layout, smbios

ID = "00112233-4455-6677-8899-aabbccddeeff"
AREA = 0xF0000


def area(tables: bytes) -> bytes:
    """Return the 64 KiB that a kernel scans."""
    return tables.ljust(0x10000, b"\0")


def structures(memory: bytes) -> dict[int, tuple[bytes, list[bytes]]]:
    """Find the anchor (5.2.2) and return each type's formatted part and strings (6.1)."""
    (at,) = [n for n in range(0, len(memory), 16) if memory[n : n + 5] == b"_SM3_"]
    entry = memory[at : at + 24]
    assert sum(entry) % 256 == 0
    assert entry[6] == 24
    assert tuple(entry[7:10]) == (3, 7, 0)
    assert tuple(entry[10:12]) == (1, 0)
    size, address = struct.unpack_from("<IQ", entry, 12)
    table = memory[address - AREA : address - AREA + size]
    assert len(table) == size
    found: dict[int, tuple[bytes, list[bytes]]] = {}
    while 127 not in found:
        kind, length = table[0], table[1]
        assert kind not in found
        assert length >= 4
        end = table.index(b"\0\0", length)
        found[kind] = table[:length], table[length:end].split(b"\0")
        table = table[end + 2 :]
    assert table == b""
    return found


def test_the_system_has_the_uuid() -> None:
    formatted, strings = structures(area(smbios.tables(ID)))[1]
    assert len(formatted) == 0x1B
    # "The UUID {00112233-4455-6677-8899-AABBCCDDEEFF} would thus be represented as" (7.2.1)
    assert formatted[8:24] == bytes.fromhex("33221100 55447766 8899AABBCCDDEEFF")
    assert [strings[n - 1] for n in formatted[4:6]] == [b"trikit", b"hypervisor"]
    assert formatted[6:8] == b"\0\0"  # no version, no serial number
    assert formatted[24] == 6  # power switch


def test_the_firmware_says_that_the_machine_is_virtual() -> None:
    formatted, strings = structures(area(smbios.tables(ID)))[0]
    assert len(formatted) == 0x1A
    assert formatted[0x13] == 1 << 4
    month, day, year = strings[formatted[8] - 1].split(b"/")
    assert (len(month), len(day), len(year)) == (2, 2, 4)


def test_handles_differ() -> None:
    found = structures(area(smbios.tables(ID)))
    assert set(found) == {0, 1, 127}
    assert len({formatted[2:4] for formatted, _ in found.values()}) == 3
    assert found[127] == (b"\x7f\x04\x02\x00", [b""])


@pytest.mark.parametrize("kernel", [bz_image(), vmlinux()], ids=["bzImage", "ELF"])
@pytest.mark.parametrize("acpi", [True, False])
def test_every_kernel_gets_it_in_reserved_memory(kernel: bytes, acpi: bool) -> None:
    ram = Ram()
    made = str(uuid.uuid4())
    board = {"cpus": layout.MAX_CPUS, "devices": layout.MAX_DEVICES, "ram_size": 256 << 20}
    boot.load(ram, kernel, **board, acpi=acpi, uuid=made)
    formatted, _ = structures(area(ram.writes[AREA]))[1]
    assert str(uuid.UUID(bytes_le=formatted[8:24])) == made
    if acpi:  # which lies before it
        assert layout.RSDP + len(ram.writes[layout.RSDP]) <= AREA
    (kind,) = [k for at, size, k in boot.Board(256 << 20).e820() if at <= AREA < at + size]
    assert kind == 2  # reserved


def test_without_a_uuid_there_is_none() -> None:
    ram = Ram()
    boot.load(ram, bz_image(), cpus=1, ram_size=256 << 20)
    assert AREA not in ram.writes

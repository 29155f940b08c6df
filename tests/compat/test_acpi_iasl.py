"""Intel's compiler, which is ACPICA as in Linux, reads our tables and finds what we meant."""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hypervisor.pc import acpi, layout

SLOTS = [layout.slot(n) for n in range(layout.MAX_DEVICES)]


@pytest.fixture
def iasl(require: Callable[..., None], tmp_path: Path) -> Callable[..., str]:
    """Give a function that runs iasl in the test's directory and returns what it said."""
    require("iasl")

    def run(*words: str) -> str:
        done = subprocess.run(
            ["iasl", *words], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert not re.search(r"[Ww]arning|[Ee]rror|[Ii]nvalid|Incorrect", without_totals(said)), (
            said
        )
        return said

    return run


def without_totals(said: str) -> str:
    """Drop the line that counts errors, whose number is checked as the return code."""
    return re.sub(r"0 (Errors|Warnings)|Compilation successful.*", "", said)


def disassembled(iasl: Callable[..., str], directory: Path, table: bytes) -> str:
    (directory / "table.aml").write_bytes(table)
    iasl("-d", "table.aml")
    return (directory / "table.dsl").read_text()


def test_dsdt_survives_a_round_trip(iasl: Callable[..., str], tmp_path: Path) -> None:
    dsdt = acpi.dsdt(SLOTS)
    source = disassembled(iasl, tmp_path, dsdt)
    for slot in SLOTS:
        assert f"Device (VR{slot.number:02X})" in source
        assert f"0x{slot.address:08X}," in source
    assert source.count("Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive") == 19
    assert "Notify (PWRB, 0x80)" in source or "Notify (\\_SB.PWRB, 0x80)" in source
    # Without optimisation the compiler must give back our very bytes, but for the header's
    # compiler identifier and checksum.
    iasl("-oa", "-p", "again", "table.dsl")
    again = (tmp_path / "again.aml").read_bytes()
    assert again[36:] == dsdt[36:]


def test_fadt(iasl: Callable[..., str], tmp_path: Path) -> None:
    text = disassembled(iasl, tmp_path, acpi.fadt(0xE0040))
    for line in (
        r"Hardware Reduced \(V5\) : 1",
        r"Reset Register Supported \(V2\) : 1",
        r"Control Method Power Button \(V1\) : 1",
        r"8042 Present on ports 60/64 \(V2\) : 0",
        r"DSDT Address : 000E0040",
    ):
        assert re.search(line, text), line
    registers = re.findall(r"Address : 0000000000000(60\d)", text)
    assert registers == ["602", "600", "601"]


def test_madt(iasl: Callable[..., str], tmp_path: Path) -> None:
    text = disassembled(iasl, tmp_path, acpi.madt(4))
    assert text.count("[Processor Local APIC]") == 4
    assert re.search(r"I/O Apic ID : 00\n.*Reserved : 00\n.*Address : FEC00000", text)


# iasl reads root pointers only as source.
RSDP_SOURCE = """
[0008] Signature : "RSD PTR "
[0001] Checksum : 00
[0006] Oem ID : "TRIKIT"
[0001] Revision : 02
[0004] RSDT Address : 00000000
[0004] Length : 00000024
[0008] XSDT Address : {xsdt:016X}
[0001] Extended Checksum : 00
[0003] Reserved : 000000
"""


def test_rsdp(iasl: Callable[..., str], tmp_path: Path) -> None:
    blob = acpi.tables(4, SLOTS)
    (xsdt,) = struct.unpack_from("<Q", blob, 24)
    (tmp_path / "rsdp.asl").write_text(RSDP_SOURCE.format(xsdt=xsdt))
    iasl("rsdp.asl")
    assert (tmp_path / "rsdp.aml").read_bytes() == blob[:36]


def test_xsdt(iasl: Callable[..., str], tmp_path: Path) -> None:
    blob = acpi.tables(4, SLOTS)
    start = struct.unpack_from("<Q", blob, 24)[0] - layout.RSDP
    table = blob[start : start + struct.unpack_from("<I", blob, start + 4)[0]]
    fadt, madt = struct.unpack_from("<2Q", table, 36)
    text = disassembled(iasl, tmp_path, table)
    assert f"{fadt:016X}" in text
    assert f"{madt:016X}" in text

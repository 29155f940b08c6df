"""The distribution's kernel starts from our boot data on QEMU's emulated processor.

QEMU gets RAM as `boot.load` fills it and, in place of firmware, thirty instructions that bring the
processor to the entry's state: KVM would do that with `cpu.regs` and `cpu.sregs`, which the nested
lane tests.  The virtio devices are not there; that Linux asks for them shows that it has read the
DSDT.  A port that ends QEMU stands where the sleep control register is.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from guest_images import Ram

from hypervisor.engine.host import QEMU
from hypervisor.engine.tsc import frequency_khz
from hypervisor.errors import UsageError
from hypervisor.image.build import Image, Spec, build
from hypervisor.image.cache import Cache, default_directory
from hypervisor.pc import boot, cpu, layout
from hypervisor.pc.cmdline import default_cmdline
from hypervisor.pc.elf import PT_NOTE, headers

pytestmark = pytest.mark.timeout(180)

SIZE = 256 * layout.MIB
ROM_SIZE = 0x10000
ROM = 0x100000 - ROM_SIZE  # where real mode finds it


@pytest.fixture(scope="module")
def image(require: Callable[..., None]) -> Image:
    require(QEMU)
    try:
        return build(Spec(), Cache(default_directory(os.environ)))
    except UsageError as error:
        pytest.skip(f"no image: {error}")


def firmware(entry: cpu.Entry) -> bytes:
    """Return a ROM that goes from the reset vector to `entry`."""
    long = entry.mode is cpu.Mode.LONG
    gdtr = 0x80
    code = b"\xfa\x2e\x66\x0f\x01\x16" + struct.pack("<H", gdtr)  # cli; lgdt cs:[gdtr]
    cr0 = cpu.CR0_PE | cpu.CR0_ET
    if long:
        cr0 |= cpu.CR0_PG
        for register, value in ((b"\xe0", cpu.CR4_PAE), (b"\xd8", layout.PAGE_TABLES)):
            code += b"\x66\xb8" + struct.pack("<I", value) + b"\x0f\x22" + register  # cr4, cr3
        code += b"\x66\xb9" + struct.pack("<I", 0xC0000080)  # mov ecx, EFER
        code += b"\x66\xb8" + struct.pack("<I", cpu.EFER_LME) + b"\x66\x31\xd2\x0f\x30"  # wrmsr
    code += b"\x66\xb8" + struct.pack("<I", cr0) + b"\x0f\x22\xc0"  # mov cr0, eax
    code += b"\x66\xea" + struct.pack("<IH", ROM + len(code) + 8, cpu.BOOT_CS)  # jmp far
    code += b"\x66\xb8" + struct.pack("<H", cpu.BOOT_DS)  # mov ax, BOOT_DS; then all segments
    code += b"".join(
        b"\x8e" + register for register in (b"\xd8", b"\xc0", b"\xd0", b"\xe0", b"\xe8")
    )
    code += b"\xbe" + struct.pack("<I", entry.rsi) + b"\xbb" + struct.pack("<I", entry.rbx)
    code += b"\xb8" + struct.pack("<I", entry.address) + b"\xff\xe0"  # jmp eax
    assert len(code) <= gdtr
    table = struct.pack("<HI", len(cpu.gdt(entry.mode)) - 1, layout.GDT)
    rom = code.ljust(gdtr, b"\0") + table
    return rom.ljust(ROM_SIZE - 16, b"\xf4") + b"\xea\0\0\0\xf0".ljust(16, b"\0")


def run(entry: cpu.Entry, ram: Ram, directory: Path) -> tuple[int, str]:
    """Start QEMU with this memory; return its exit code and the console's text."""
    (directory / "rom").write_bytes(firmware(entry))
    args = [QEMU, "-machine", "microvm,acpi=off,rtc=on,x-option-roms=off", "-accel", "tcg"]
    args += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-smp", "2"]
    args += ["-m", f"{SIZE >> 20}M", "-bios", "rom", "-serial", "stdio"]
    args += ["-device", f"isa-debug-exit,iobase={layout.SLEEP_CONTROL},iosize=1"]
    for gpa, data in ram.writes.items():
        (directory / f"{gpa:x}").write_bytes(data)
        args += ["-device", f"loader,file={gpa:x},addr={gpa:#x},force-raw=on"]
    typed = "modprobe virtio_mmio; ls -d /sys/bus/platform/devices/*; poweroff -f\n"
    done = subprocess.run(
        args, cwd=directory, input=typed, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout + done.stderr


def without_pvh(elf: bytes) -> bytes:
    """Rename the notes, so that the kernel is entered in long mode."""
    out = bytearray(elf)
    for each in headers(elf):
        if each.kind == PT_NOTE:
            notes = out[each.offset : each.offset + each.filesz]
            out[each.offset : each.offset + each.filesz] = notes.replace(b"Xen\0", b"Nex\0")
    return bytes(out)


@pytest.mark.parametrize("mode", [cpu.Mode.PROTECTED, cpu.Mode.LONG])
def test_linux_finds_what_we_describe(image: Image, mode: cpu.Mode, tmp_path: Path) -> None:
    kernel = image.kernel.read_bytes()
    if mode is cpu.Mode.LONG:
        kernel = without_pvh(kernel)
    # A guest that measures the emulated clock on a busy host may fail to: it is told.
    extra = f"mitigations=off no_timer_check tsc_early_khz={frequency_khz()}"
    ram = Ram()
    entry = boot.load(
        ram,
        kernel,
        image.initrd.read_bytes(),
        default_cmdline(extra, quiet=False),
        cpus=2,
        ram_size=SIZE,
        devices=3,
    )
    assert entry.mode is mode
    code, said = run(entry, ram, tmp_path)
    assert "Reduced hardware" in said or "ACPI: Using ACPI (MADT)" in said, said
    assert "ACPI Error" not in said
    assert "ACPI BIOS" not in said
    assert "smp: Brought up 1 node, 2 CPUs" in said
    assert "ACPI: button: Power Button" in said
    for number in range(3):
        assert f"LNRO0005:{number:02x}" in said, said
    assert code == layout.SLEEP_S5 << 1 | 1, said[-2000:]

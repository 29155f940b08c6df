"""ELF kernels: segments and the PVH note among others."""

import struct

import pytest
from guest_images import PVH_NOTE, vmlinux

from hypervisor.pc import elf


def note(name: bytes, desc: bytes, kind: int) -> bytes:
    out = struct.pack("<III", len(name), len(desc), kind)
    for each in (name, desc):
        out += each + bytes(-len(each) % 4)
    return out


def test_parse() -> None:
    kernel = elf.parse(vmlinux(b"code", PVH_NOTE))
    assert (kernel.entry, kernel.pvh) == (0x1000040, 0x1000123)
    (segment,) = kernel.segments
    assert (segment.address, bytes(segment.data), segment.size) == (0x1000000, b"code", 0x800000)


@pytest.mark.parametrize(
    ("notes", "expected"),
    [
        (b"", None),
        (PVH_NOTE[:15], None),
        (note(b"Linux\0", b"12345", 257) + PVH_NOTE, 0x1000123),
        (note(b"Xen\0", struct.pack("<I", 0x1000200), 18), 0x1000200),
        (note(b"Xen\0", b"\0\0\0\0", 17), None),
        (note(b"GNU\0", b"\0\0\0\0", 18), None),
        (struct.pack("<III", 0xFFFFFFFF, 0xFFFFFFFF, 1) + PVH_NOTE, None),
    ],
)
def test_pvh_entry(notes: bytes, expected: int | None) -> None:
    assert elf.pvh_entry(vmlinux(note=notes)) == expected


def test_error_carries_its_values() -> None:
    with pytest.raises(elf.KernelError) as caught:
        elf.parse(vmlinux(machine=3))
    assert (caught.value.expected, caught.value.found) == ("machine 62 (x86-64)", "machine 3")

"""Kernels and memory for tests: the smallest files that a loader accepts."""

from __future__ import annotations

import struct

from hypervisor.pc.elf import PHDR, Bytes

PVH_NOTE = struct.pack("<III4sQ", 4, 8, 18, b"Xen\0", 0x1000123)


class Ram:
    """Guest RAM as a dictionary of what was written where."""

    def __init__(self) -> None:
        self.writes: dict[int, bytes] = {}

    def write(self, gpa: int, data: Bytes) -> None:
        """Remember `data`."""
        self.writes[gpa] = bytes(data)


def bz_image(
    code: bytes = bytes(0x1000),
    *,
    version: int = 0x020F,
    xloadflags: int = 1,
    init_size: int = 0x2000000,
    initrd_addr_max: int = 0x7FFFFFFF,
    cmdline_size: int = 2047,
) -> bytes:
    """Return a relocatable bzImage with one setup sector after the first."""
    image = bytearray(1024)
    image[0x1F1] = 1
    struct.pack_into("<I", image, 0x1F4, -(-len(code) // 16))
    struct.pack_into("<H", image, 0x1FE, 0xAA55)
    image[0x200:0x202] = b"\xeb\x66"  # jmp over the header, whose end this so tells
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, version)
    image[0x211] = 0x81
    struct.pack_into("<I", image, 0x22C, initrd_addr_max)
    struct.pack_into("<IBBHI", image, 0x230, 0x200000, 1, 21, xloadflags, cmdline_size)
    struct.pack_into("<QI", image, 0x258, 0x1000000, init_size)
    return bytes(image) + code


def vmlinux(
    data: bytes = b"code",
    note: bytes = b"",
    *,
    paddr: int = 0x1000000,
    memsz: int = 0x800000,
    machine: int = 62,
) -> bytes:
    """Return an ELF kernel: one segment to load, and a segment of notes."""
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head += struct.pack("<HHIQQQ", 2, machine, 1, 0x1000040, 64, 0)
    head += struct.pack("<IHHHHHH", 0, 64, PHDR.size, 2, 0, 0, 0)
    at = 64 + 2 * PHDR.size
    load = PHDR.pack(1, 5, at, 0xFFFFFFFF81000000, paddr, len(data), memsz, 1)
    notes = PHDR.pack(4, 4, at + len(data), 0, 0, len(note), len(note), 4)
    return head + load + notes + data + note


def newc(*names: str) -> bytes:
    """Return a cpio archive of files with five bytes each, and its end."""
    out = b""
    for name in (*names, "TRAILER!!!"):
        data = b"" if name == "TRAILER!!!" else b"12345"
        fields = [0] * 13
        fields[6], fields[11] = len(data), len(name) + 1
        out += b"070701" + "".join(f"{each:08X}" for each in fields).encode()
        out += name.encode() + b"\0"
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return out

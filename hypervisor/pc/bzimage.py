"""The Linux/x86 boot protocol: a bzImage's setup header, and boot_params (the "zero page").

Field offsets are those of Documentation/arch/x86/boot.rst and zero-page.rst; they are the same in
the file and in boot_params.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from .elf import Bytes, KernelError, view

SIGNATURE = b"HdrS"
SIGNATURE_AT = 0x202
ENTRY_64 = 0x200  # from where the kernel was loaded
OLDEST = 0x020C  # the first with xloadflags
HEADER = 0x1F1
E820_MAX = 128
RAM, RESERVED = 1, 2

_SECTOR = 512
_HEADER_END = 0x290  # of the space that boot_params has for it
_XLF_KERNEL_64 = 1 << 0
_LOADED_HIGH = 1 << 0
_CAN_USE_HEAP = 1 << 7
_TYPE_OF_LOADER_UNDEFINED = 0xFF
_E820 = struct.Struct("<QQI")

E820 = Sequence[tuple[int, int, int]]  # address, size, kind


@dataclass(frozen=True, slots=True)
class BzImage:
    """What a loader needs of a bzImage; `header` is the setup header from byte 0x1F1 on."""

    version: int
    header: bytes
    code: Bytes
    relocatable: bool
    pref_address: int
    init_size: int
    initrd_addr_max: int
    cmdline_size: int


def is_bzimage(image: Bytes) -> bool:
    """Tell whether `image` has the signature of a Linux kernel."""
    return bytes(image[SIGNATURE_AT : SIGNATURE_AT + 4]) == SIGNATURE


def parse(image: Bytes) -> BzImage:
    """Read the setup header; raises `KernelError`."""
    if not is_bzimage(image):
        found = bytes(image[SIGNATURE_AT : SIGNATURE_AT + 4]).hex() or f"{len(image)} bytes"
        raise KernelError("not a bzImage", "HdrS at byte 0x202", found)
    if len(image) < 0x268:
        raise KernelError("bzImage is truncated", f"{0x268} bytes of header", f"{len(image)}")
    head = bytes(image[:_HEADER_END])
    (version,) = struct.unpack_from("<H", head, 0x206)
    (flags,) = struct.unpack_from("<H", head, 0x236)
    if version < OLDEST or not flags & _XLF_KERNEL_64:
        found = f"{version >> 8}.{version & 0xFF:02}, xloadflags {flags:#x}"
        raise KernelError(
            "bzImage has no 64-bit entry", "boot protocol 2.12 with XLF_KERNEL_64", found
        )
    return _read(image, head, version)


def _read(image: Bytes, head: bytes, version: int) -> BzImage:
    start = ((head[0x1F1] or 4) + 1) * _SECTOR
    (paragraphs,) = struct.unpack_from("<I", head, 0x1F4)
    # syssize rounds up to 16 bytes, which the file need not.
    if len(image) + 15 < start + paragraphs * 16 or len(image) <= start + ENTRY_64:
        expected = max(start + paragraphs * 16, start + ENTRY_64 + 1)
        raise KernelError("bzImage is truncated", f"{expected} bytes", f"{len(image)}")
    (initrd_addr_max,) = struct.unpack_from("<I", head, 0x22C)
    (cmdline_size,) = struct.unpack_from("<I", head, 0x238)
    pref_address, init_size = struct.unpack_from("<QI", head, 0x258)
    return BzImage(
        version=version,
        header=head[HEADER : SIGNATURE_AT + head[0x201]],
        code=view(image)[start:],
        relocatable=bool(head[0x234]),
        pref_address=pref_address,
        init_size=init_size,
        initrd_addr_max=initrd_addr_max,
        cmdline_size=cmdline_size,
    )


@dataclass(frozen=True, slots=True)
class Handover:
    """What the loader tells the kernel; `initrd` is address and size, `rsdp` 0 without ACPI."""

    kernel: int
    cmdline: int
    initrd: tuple[int, int]
    rsdp: int
    memory: E820


def boot_params(header: bytes, handover: Handover) -> bytes:
    """Return the zero page; `header` is empty for an ELF kernel, which brings none."""
    page = bytearray(4096)
    page[HEADER : HEADER + len(header)] = header
    page[0x210] = _TYPE_OF_LOADER_UNDEFINED
    page[0x211] = (page[0x211] | _LOADED_HIGH) & ~_CAN_USE_HEAP
    struct.pack_into("<I", page, 0x214, handover.kernel)
    if not header:
        struct.pack_into("<H", page, 0x1FE, 0xAA55)
        page[0x202:0x206] = SIGNATURE
        struct.pack_into("<I", page, 0x230, 0x1000000)  # kernel_alignment: of nothing here
    struct.pack_into("<II", page, 0x218, *handover.initrd)
    struct.pack_into("<I", page, 0x228, handover.cmdline)
    struct.pack_into("<Q", page, 0x070, handover.rsdp)
    page[0x1E8] = len(handover.memory)
    for number, each in enumerate(handover.memory):
        _E820.pack_into(page, 0x2D0 + number * _E820.size, *each)
    return bytes(page)

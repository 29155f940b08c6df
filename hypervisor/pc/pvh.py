"""The PVH boot protocol's hvm_start_info (Xen xen/include/public/arch-x86/hvm/start_info.h)."""

from __future__ import annotations

import struct

from .bzimage import Handover

MAGIC = 0x336EC578
_INFO = struct.Struct("<IIIIQQQQII")
_MODULE = struct.Struct("<QQQQ")
_MEMORY = struct.Struct("<QQII")


def start_info(address: int, handover: Handover) -> bytes:
    """Return the structure to be written at `address`, its module list and memory map behind it."""
    modules = b""
    if handover.initrd[1]:
        modules = _MODULE.pack(*handover.initrd, 0, 0)
    memory = b"".join(_MEMORY.pack(*each, 0) for each in handover.memory)
    modules_at = address + 64
    memory_at = modules_at + _MODULE.size
    info = _INFO.pack(
        *(MAGIC, 1, 0, bool(modules)),  # magic, version, flags, nr_modules
        modules_at if modules else 0,
        handover.cmdline,
        handover.rsdp,
        memory_at,
        len(handover.memory),
        0,
    )
    return info.ljust(64, b"\0") + modules.ljust(_MODULE.size, b"\0") + memory

"""From a bzImage to the ELF kernel inside it, without what a boot never reads.

An ELF kernel with a PVH entry (CONFIG_PVH) starts without the decompressor, which costs seconds
under emulation: measured 1.7 s to init instead of 5.2 s.  Formats: Linux
Documentation/arch/x86/boot.rst (setup header) and the ELF64 specification.
"""

from __future__ import annotations

import gzip
import lzma
import struct
import zlib

from ..errors import UsageError
from ..pc.elf import PHDR, PT_LOAD, headers, pvh_entry


def unpack(image: bytes) -> bytes | None:
    """Return the ELF file in a bzImage, or None where its compression is not xz or gzip.

    Raises `UsageError` when `image` is no bzImage of boot protocol 2.08 or later.
    """
    if image[0x202:0x206] != b"HdrS" or len(image) < 0x260:
        raise UsageError("not a Linux bzImage: no HdrS signature at byte 0x202")
    (version,) = struct.unpack_from("<H", image, 0x206)
    if version < 0x0208:
        raise UsageError(f"boot protocol {version:#06x} is older than 0x0208")
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = ((image[0x1F1] or 4) + 1) * 512 + offset
    payload = image[start : start + length]
    try:
        elf = _decompress(payload)
    except (lzma.LZMAError, zlib.error, OSError, EOFError) as error:
        raise UsageError(f"the kernel's compressed payload is damaged: {error}") from None
    return elf if elf is not None and elf[:4] == b"\x7fELF" else None


def _decompress(payload: bytes) -> bytes | None:
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(payload)  # a size field follows the stream
    if payload.startswith(b"\x1f\x8b"):
        return gzip.decompress(payload[:-4])
    return None


def trim(elf: bytes) -> bytes:
    """Drop sections, relocations and the zeros at the end of each segment: nobody loads them."""
    out = bytearray(elf)
    end = 64
    for each in headers(elf):
        size = each.filesz
        if each.kind == PT_LOAD:
            size = len(elf[each.offset : each.offset + size].rstrip(b"\0"))
            struct.pack_into("<Q", out, each.at + 32, size)
        end = max(end, each.offset + size, each.at + PHDR.size)
    struct.pack_into("<Q", out, 40, 0)  # e_shoff
    struct.pack_into("<HHH", out, 58, 0, 0, 0)  # e_shentsize, e_shnum, e_shstrndx
    return bytes(out[:end])


def has_pvh(elf: bytes) -> bool:
    """Tell whether a note names a PVH entry point (XEN_ELFNOTE_PHYS32_ENTRY)."""
    return pvh_entry(elf) is not None

"""Finds an initrd that is cut off, as far as that shows without unpacking it.

Format: Linux Documentation/driver-api/early-userspace/buffer-format.rst ("newc").
"""

from __future__ import annotations

from .elf import Bytes, KernelError

_MAGICS = (b"070701", b"070702")
_HEADER = 110
_TRAILER = b"TRAILER!!!\0"


def check(initrd: Bytes) -> None:
    """Raise `KernelError` for an empty initrd, or one whose first cpio archive has no end.

    Compressed archives are left to the kernel.
    """
    if len(initrd) == 0:
        raise KernelError("the initrd is empty", "a cpio archive", "0 bytes")
    at = 0
    while bytes(initrd[at : at + 6]) in _MAGICS:
        size, name_size = _sizes(initrd, at)
        name = bytes(initrd[at + _HEADER : at + _HEADER + name_size])
        if name == _TRAILER:
            return
        at = -(-(at + _HEADER + name_size) // 4) * 4
        at = -(-(at + size) // 4) * 4
    if at:  # it began as one
        raise KernelError(
            "the initrd is truncated", f"an entry at byte {at}", f"{len(initrd)} bytes"
        )


def _sizes(initrd: Bytes, at: int) -> tuple[int, int]:
    """Return the sizes of file and name."""
    fields = bytes(initrd[at : at + _HEADER])
    try:
        digits = fields[6:].decode("ascii")  # 13 numbers of eight hexadecimal digits
        numbers = bytes.fromhex(digits)
    except ValueError:
        numbers = b""
    if len(numbers) != 52:
        what = f"the initrd's entry at byte {at} is damaged or cut off"
        raise KernelError(what, "104 hexadecimal digits", ascii(fields[6:22]))
    return int.from_bytes(numbers[24:28], "big"), int.from_bytes(numbers[44:48], "big")

"""An assembler for the little of ACPI's machine language that our DSDT needs (ACPI 6.5, 20.2).

Every function returns the bytes of one term; terms are concatenated.  Names are written as in ASL:
four characters a segment, filled with "_", `\\` for the root, dots between segments.
"""

from __future__ import annotations

import struct
from typing import Final

LOCAL0: Final = b"\x60"
NULL_NAME: Final = b"\0"
SYSTEM_IO: Final = 1
DWORD_ACCESS: Final = 3


def _length(body: bytes) -> bytes:
    """Encode a PkgLength, which counts itself (20.2.4)."""
    if len(body) + 1 < 1 << 6:
        return bytes([len(body) + 1])
    for extra in (1, 2, 3):
        size = len(body) + 1 + extra
        if size < 1 << (4 + 8 * extra):
            return bytes([extra << 6 | size & 0xF]) + (size >> 4).to_bytes(extra, "little")
    raise ValueError(f"expected less than 2**28 bytes in an AML package, found {len(body)}")


def _package(opcode: bytes, body: bytes) -> bytes:
    return opcode + _length(body) + body


def path(name: str) -> bytes:
    """Encode a name string (20.2.2)."""
    root, segments = (b"\\", name[1:]) if name.startswith("\\") else (b"", name)
    parts = [each.ljust(4, "_").encode("ascii") for each in segments.split(".") if each]
    if any(len(each) != 4 for each in parts) or len(parts) > 255:
        raise ValueError(f"expected segments of up to four characters, found {name!r}")
    prefix = {0: b"\0", 1: b"", 2: b"\x2e"}.get(len(parts), b"\x2f" + bytes([len(parts)]))
    return root + prefix + b"".join(parts)


def integer(value: int) -> bytes:
    """Encode an integer in the shortest form (20.2.3)."""
    if value in (0, 1):
        return bytes([value])
    for prefix, size in ((0x0A, 1), (0x0B, 2), (0x0C, 4), (0x0E, 8)):
        if value < 1 << (8 * size):
            return bytes([prefix]) + value.to_bytes(size, "little")
    raise ValueError(f"expected an integer of at most 64 bits, found {value:#x}")


def string(value: str) -> bytes:
    """Encode a string."""
    return b"\x0d" + value.encode("ascii") + b"\0"


def eisa_id(value: str) -> bytes:
    """Encode an EISA identifier such as PNP0501 (19.6.36, EISAID)."""
    a, b, c = (ord(each) - 0x40 for each in value[:3])
    packed = (a << 10 | b << 5 | c) << 16 | int(value[3:], 16)
    return b"\x0c" + packed.to_bytes(4, "big")


def name(name: str, value: bytes) -> bytes:
    """Encode Name (name, value)."""
    return b"\x08" + path(name) + value


def scope(name: str, *terms: bytes) -> bytes:
    """Encode Scope (name) {terms}."""
    return _package(b"\x10", path(name) + b"".join(terms))


def device(name: str, *terms: bytes) -> bytes:
    """Encode Device (name) {terms}."""
    return _package(b"\x5b\x82", path(name) + b"".join(terms))


def method(name: str, arguments: int, *terms: bytes) -> bytes:
    """Encode Method (name, arguments, Serialized) {terms}."""
    return _package(b"\x14", path(name) + bytes([arguments | 1 << 3]) + b"".join(terms))


def package(*elements: bytes) -> bytes:
    """Encode Package () {elements}."""
    return _package(b"\x12", bytes([len(elements)]) + b"".join(elements))


def io_region(name: str, port: int, size: int) -> bytes:
    """Encode OperationRegion (name, SystemIO, port, size)."""
    return b"\x5b\x80" + path(name) + bytes([SYSTEM_IO]) + integer(port) + integer(size)


def field(region: str, *fields: tuple[str, int]) -> bytes:
    """Encode Field (region, DWordAcc, NoLock, Preserve) {names with their sizes in bits}."""
    elements = b"".join(path(each) + _field_length(bits) for each, bits in fields)
    return _package(b"\x5b\x81", path(region) + bytes([DWORD_ACCESS]) + elements)


def _field_length(bits: int) -> bytes:
    # The encoding of a PkgLength, but it counts bits and not itself.
    return bytes([bits]) if bits < 1 << 6 else bytes([1 << 6 | bits & 0xF, bits >> 4])


def store(value: bytes, target: bytes) -> bytes:
    """Encode Store (value, target)."""
    return b"\x70" + value + target


def bitwise_and(left: bytes, right: bytes) -> bytes:
    """Encode And (left, right), whose value is used where it stands."""
    return b"\x7b" + left + right + NULL_NAME


def if_true(condition: bytes, *terms: bytes) -> bytes:
    """Encode If (condition) {terms}."""
    return _package(b"\xa0", condition + b"".join(terms))


def notify(device: str, value: int) -> bytes:
    """Encode Notify (device, value)."""
    return b"\x86" + path(device) + integer(value)


def resources(*descriptors: bytes) -> bytes:
    """Encode ResourceTemplate () {descriptors}."""
    data = b"".join(descriptors) + b"\x79\0"  # end tag, with a checksum that is not used (6.4.2.9)
    return _package(b"\x11", integer(len(data)) + data)


def memory32_fixed(address: int, size: int) -> bytes:
    """Encode Memory32Fixed (ReadWrite, address, size) (6.4.3.4)."""
    return struct.pack("<BHBII", 0x86, 9, 1, address, size)


def interrupt(gsi: int) -> bytes:
    """Encode Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) {gsi} (6.4.3.6).

    Edge, because an irqfd raises a line and lowers it at once.
    """
    return struct.pack("<BHBBI", 0x89, 6, 0b0011, 1, gsi)


def io(port: int, size: int) -> bytes:
    """Encode IO (Decode16, port, port, 1, size) (6.4.2.5)."""
    return struct.pack("<BBHHBB", 0x47, 1, port, port, 1, size)

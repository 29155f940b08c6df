"""SMBIOS 3 tables (DMTF DSP0134, 3.7): who the machine is, above all its UUID.

Section numbers are that specification's.  The entry point lies where kernels that were not started
by UEFI look for it (5.2.2): from 0xF0000 on, at a multiple of 16.
"""

from __future__ import annotations

import struct
from uuid import UUID

from . import layout

_ENTRY_POINT = struct.Struct("<5sBBBBBBxIQ")  # 5.2.2, of 64 bits
_VERSION, _ENTRY_POINT_REVISION = (3, 7, 0), 1
_HEADER = struct.Struct("<BBH")  # 6.1.2: type, length without the strings, handle
_BIOS = struct.Struct("<BBHBBQBBBBBBH")  # 7.1
_SYSTEM = struct.Struct("<BBBB16sBBB")  # 7.2
_FIRMWARE, _SYSTEM_INFORMATION, _END_OF_TABLE = 0, 1, 127
_CHARACTERISTICS_UNKNOWN = 1 << 3  # 7.1.1
_VIRTUAL_MACHINE = 1 << 4  # 7.1.2.2
_NO_CONTROLLER = 0xFF
_POWER_SWITCH = 6  # 7.2.2
_VENDOR, _PRODUCT, _RELEASE, _DATE = "trikit", "hypervisor", "1", "01/01/2026"


def tables(uuid: str) -> bytes:
    """Return entry point and structures, to be written at `layout.SMBIOS`; `uuid` in hex."""
    structures = _firmware() + _system(UUID(uuid)) + _structure(_END_OF_TABLE, 2, b"")
    at = -(-_ENTRY_POINT.size // 16) * 16
    entry = bytearray(
        _ENTRY_POINT.pack(
            *(b"_SM3_", 0, _ENTRY_POINT.size, *_VERSION, _ENTRY_POINT_REVISION),
            *(len(structures), layout.SMBIOS + at),
        )
    )
    entry[5] = -sum(entry) & 0xFF
    return bytes(entry).ljust(at, b"\0") + structures


def _firmware() -> bytes:
    """Describe the firmware, which there is none of: that the machine is a virtual one."""
    strings = (1, 2, 0, 3)  # vendor, version, no segment, date
    more = (0, _CHARACTERISTICS_UNKNOWN, 0, _VIRTUAL_MACHINE)
    versions = (1, 0, _NO_CONTROLLER, _NO_CONTROLLER, 0)
    return _structure(
        _FIRMWARE, 0, _BIOS.pack(*strings, *more, *versions), _VENDOR, _RELEASE, _DATE
    )


def _system(uuid: UUID) -> bytes:
    """Describe the system; of the UUID the first three fields are little-endian (7.2.1)."""
    body = _SYSTEM.pack(1, 2, 0, 0, uuid.bytes_le, _POWER_SWITCH, 0, 0)
    return _structure(_SYSTEM_INFORMATION, 1, body, _VENDOR, _PRODUCT)


def _structure(kind: int, handle: int, body: bytes, *strings: str) -> bytes:
    text = b"".join(each.encode() + b"\0" for each in strings) or b"\0"  # 6.1.3
    return _HEADER.pack(kind, _HEADER.size + len(body), handle) + body + text + b"\0"

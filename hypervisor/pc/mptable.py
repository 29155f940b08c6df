"""An MP table, for kernels without ACPI (Intel MultiProcessor Specification 1.4, chapter 4).

It says what the MADT says: the processors, the I/O APIC, and that ISA interrupt n is pin n.
"""

from __future__ import annotations

import struct

from . import layout

_POINTER = struct.Struct("<4sIBBBB4x")
_HEADER = struct.Struct("<4sHBB8s12sIHHII")
_CPU = struct.Struct("<BBBBII8x")
_BUS = struct.Struct("<BB6s")
_IOAPIC = struct.Struct("<BBBBI")
_INTERRUPT = struct.Struct("<BBHBBBB")

_APIC_VERSION = 0x14
_CPU_ENABLED, _CPU_BOOTSTRAP = 1 << 0, 1 << 1
_CPU_SIGNATURE, _FEATURE_FPU_APIC = 0x600, 0x201
_INT, _NMI, _EXT_INT = 0, 1, 3
_EDGE_HIGH = 1 | 1 << 2


def table(cpus: int) -> bytes:
    """Return floating pointer and configuration table, to be written at `layout.MP_TABLE`."""
    ioapic = cpus  # identifiers are shared with the processors (4.3.3)
    entries = [
        _CPU.pack(
            *(0, cpu, _APIC_VERSION, _CPU_ENABLED | (0 if cpu else _CPU_BOOTSTRAP)),
            *(_CPU_SIGNATURE, _FEATURE_FPU_APIC),
        )
        for cpu in range(cpus)
    ]
    entries += [_BUS.pack(1, 0, b"ISA   "), _IOAPIC.pack(2, ioapic, 0x11, 1, layout.IOAPIC)]
    # Bus 0 is ISA, whose numbers end at 15; Linux takes the further pins as they are.
    entries += [_INTERRUPT.pack(3, _INT, _EDGE_HIGH, 0, n, ioapic, n) for n in range(layout.GSIS)]
    entries += [
        _INTERRUPT.pack(4, _EXT_INT, 0, 0, 0, 0, 0),  # the 8259 is wired to the first APIC's LINT0
        _INTERRUPT.pack(4, _NMI, 0, 0, 0, 0xFF, 1),
    ]
    return _pointer() + _configuration(entries)


def _pointer() -> bytes:
    pointer = bytearray(_POINTER.pack(b"_MP_", layout.MP_TABLE + 16, 1, 4, 0, 0))
    pointer[10] = -sum(pointer) & 0xFF
    return bytes(pointer)


def _configuration(entries: list[bytes]) -> bytes:
    body = b"".join(entries)
    size = _HEADER.size + len(body)
    ids = (b"TRIKIT  ", b"HYPERVISOR  ", 0, 0, len(entries), layout.LAPIC, 0)
    data = bytearray(_HEADER.pack(b"PCMP", size, 4, 0, *ids) + body)
    data[7] = -sum(data) & 0xFF
    return bytes(data)

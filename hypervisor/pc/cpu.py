"""The first processor's state at a kernel's entry, packed as KVM takes it.

Structures: Linux arch/x86/include/uapi/asm/kvm.h.  States: Documentation/arch/x86/boot.rst, "64-bit
boot protocol"; Xen's docs/misc/pvh.pandoc.  The other processors wait for INIT and need none.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from . import layout

_SEGMENT = struct.Struct("<QIHBBBBBBBBBx")  # kvm_segment
_TABLE = struct.Struct("<QH6x")  # kvm_dtable
_REGISTERS = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
    *(f"r{n}" for n in range(8, 16)),
    *("rip", "rflags"),
)
REGS_SIZE, SREGS_SIZE = 144, 312

BOOT_CS, BOOT_DS, BOOT_TSS = 0x10, 0x18, 0x20  # selectors; the first two are Linux's
CR0_PE, CR0_ET, CR0_PG = 1 << 0, 1 << 4, 1 << 31
CR4_PAE = 1 << 5
EFER_LME, EFER_LMA = 1 << 8, 1 << 10
_APIC_BASE = layout.LAPIC | 1 << 11 | 1 << 8  # enabled, of the bootstrap processor
_RFLAGS = 1 << 1  # the bit that is always set; interrupts are off

_PTE_PRESENT, _PTE_WRITE, _PTE_LARGE = 1 << 0, 1 << 1, 1 << 7
_LARGE_PAGE = 2 * layout.MIB

_MSR_MISC_ENABLE, _FAST_STRINGS = 0x1A0, 1 << 0
_MSR_MTRR_DEF_TYPE, _MTRR_ENABLE, _WRITE_BACK = 0x2FF, 1 << 11, 6


class Mode(Enum):
    """How the processor stands at the entry."""

    REAL = 16
    PROTECTED = 32  # flat segments, no paging: PVH
    LONG = 64  # the first 4 GiB mapped to themselves


@dataclass(frozen=True, slots=True)
class Entry:
    """Where and how a kernel starts: mode, address, and the registers that hold something."""

    mode: Mode
    address: int
    rsi: int = 0  # boot_params, in long mode
    rbx: int = 0  # hvm_start_info, in protected mode
    rsp: int = 0


@dataclass(frozen=True, slots=True)
class _Segment:
    """A segment as both the descriptor table and KVM describe it."""

    selector: int
    limit: int
    kind: int
    s: int = 1
    db: int = 0
    long: int = 0
    granular: int = 0

    def packed(self) -> bytes:
        """Return struct kvm_segment."""
        flags = (self.kind, 1, 0, self.db, self.s, self.long, self.granular, 0, 0)
        return _SEGMENT.pack(0, self.limit, self.selector, *flags)

    def descriptor(self) -> int:
        """Return the 8 bytes of the descriptor table as a number (base 0)."""
        limit = self.limit >> 12 if self.granular else self.limit
        high = (limit >> 16) | self.long << 5 | self.db << 6 | self.granular << 7
        return limit & 0xFFFF | (self.kind | self.s << 4 | 1 << 7) << 40 | high << 48


_CODE, _DATA, _TSS_BUSY = 0xB, 0x3, 0xB  # execute and read, read and write, both accessed


def _segments(mode: Mode) -> tuple[_Segment, _Segment, _Segment]:
    """Return code, data and task segment."""
    if mode is Mode.REAL:
        return _Segment(0, 0xFFFF, _CODE), _Segment(0, 0xFFFF, _DATA), _Segment(0, 0xFFFF, 0xB, 0)
    wide, long = int(mode is Mode.PROTECTED), int(mode is Mode.LONG)
    return (
        _Segment(BOOT_CS, 0xFFFFFFFF, _CODE, db=wide, long=long, granular=1),
        _Segment(BOOT_DS, 0xFFFFFFFF, _DATA, db=1, granular=1),
        _Segment(BOOT_TSS, 0x67, _TSS_BUSY, s=0),
    )


def gdt(mode: Mode) -> bytes:
    """Return the descriptor table for `layout.GDT`; empty in real mode."""
    if mode is Mode.REAL:
        return b""
    # A 64-bit TSS descriptor has 16 bytes; its upper half is 0, as is its base.
    return struct.pack("<6Q", 0, 0, *(each.descriptor() for each in _segments(mode)), 0)


def page_tables() -> bytes:
    """Return tables for `layout.PAGE_TABLES` that map the first 4 GiB to themselves."""
    table = layout.PAGE_TABLES
    entry = _PTE_PRESENT | _PTE_WRITE
    pml4 = struct.pack("<Q", table + layout.PAGE | entry).ljust(layout.PAGE, b"\0")
    directories = (table + (2 + n) * layout.PAGE | entry for n in range(4))
    pdpt = struct.pack("<4Q", *directories).ljust(layout.PAGE, b"\0")
    pages = (n * _LARGE_PAGE | entry | _PTE_LARGE for n in range(4 * 512))
    return pml4 + pdpt + struct.pack("<2048Q", *pages)


def regs(entry: Entry) -> bytes:
    """Return struct kvm_regs."""
    values: Mapping[str, int] = {
        "rip": entry.address,
        "rflags": _RFLAGS,
        "rsi": entry.rsi,
        "rbx": entry.rbx,
        "rsp": entry.rsp,
    }
    return struct.pack("<18Q", *(values.get(each, 0) for each in _REGISTERS))


def sregs(entry: Entry) -> bytes:
    """Return struct kvm_sregs."""
    code, data, task = (each.packed() for each in _segments(entry.mode))
    table = gdt(entry.mode)
    tables = _TABLE.pack(layout.GDT if table else 0, len(table) - 1 if table else 0xFFFF)
    tables += _TABLE.pack(0, 0xFFFF if entry.mode is Mode.REAL else 0)
    cr0, cr3, cr4, efer = _control(entry.mode)
    control = struct.pack("<7Q", cr0, 0, cr3, cr4, 0, efer, _APIC_BASE)
    return code + data * 5 + task + _unusable() + tables + control + bytes(32)


def _unusable() -> bytes:
    """Return the local descriptor table's segment: there is none."""
    return _SEGMENT.pack(0, 0xFFFF, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1)


def _control(mode: Mode) -> tuple[int, int, int, int]:
    """Return CR0, CR3, CR4 and EFER."""
    if mode is Mode.REAL:
        return CR0_ET, 0, 0, 0
    if mode is Mode.PROTECTED:
        return CR0_PE | CR0_ET, 0, 0, 0
    return CR0_PE | CR0_ET | CR0_PG, layout.PAGE_TABLES, CR4_PAE, EFER_LME | EFER_LMA


def msrs() -> bytes:
    """Return struct kvm_msrs with what firmware would have set, on every processor.

    Linux before 6.3 leaves PAT off where it finds MTRRs disabled.
    """
    values = (
        (_MSR_MISC_ENABLE, _FAST_STRINGS),
        (_MSR_MTRR_DEF_TYPE, _MTRR_ENABLE | _WRITE_BACK),
    )
    entries = b"".join(struct.pack("<IIQ", index, 0, value) for index, value in values)
    return struct.pack("<II", len(values), 0) + entries


def fpu() -> bytes:
    """Return struct kvm_fpu as a reset leaves it: all exceptions masked, 64-bit precision."""
    data = bytearray(416)
    struct.pack_into("<H", data, 128, 0x37F)  # fcw
    struct.pack_into("<I", data, 408, 0x1F80)  # mxcsr
    return bytes(data)

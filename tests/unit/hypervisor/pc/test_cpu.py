"""Registers at the entry, against Linux's kvm.h and the boot protocols."""

import struct
from dataclasses import dataclass

import pytest

from hypervisor.pc import cpu, layout
from hypervisor.pc.cpu import Entry, Mode

SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
LONG = Entry(Mode.LONG, 0x100200, rsi=0x7000)
PROTECTED = Entry(Mode.PROTECTED, 0x1000123, rbx=0x6000)
REAL = Entry(Mode.REAL, 0x1000, rsp=0x1000)
ALL = [LONG, PROTECTED, REAL]


@dataclass
class Segment:
    base: int
    limit: int
    selector: int
    kind: int
    present: int
    dpl: int
    db: int
    s: int
    l: int  # noqa: E741  (Linux's name)
    g: int
    avl: int
    unusable: int


def segment(data: bytes, name: str) -> Segment:
    return Segment(*struct.unpack_from("<QIHBBBBBBBBB", data, 24 * SEGMENTS.index(name)))


def control(data: bytes) -> dict[str, int]:
    names = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")
    return dict(zip(names, struct.unpack_from("<7Q", data, 224), strict=True))


@pytest.mark.parametrize("entry", ALL)
def test_sizes(entry: Entry) -> None:
    assert len(cpu.regs(entry)) == 144
    assert len(cpu.sregs(entry)) == 312
    assert len(cpu.fpu()) == 416


def test_regs() -> None:
    general = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp")
    names = (*general, *(f"r{n}" for n in range(8, 16)), "rip", "rflags")
    for entry, expected in [
        (LONG, {"rip": 0x100200, "rsi": 0x7000, "rflags": 2}),
        (PROTECTED, {"rip": 0x1000123, "rbx": 0x6000, "rflags": 2}),
        (REAL, {"rip": 0x1000, "rsp": 0x1000, "rflags": 2}),
    ]:
        values = dict(zip(names, struct.unpack("<18Q", cpu.regs(entry)), strict=True))
        assert {name: value for name, value in values.items() if value} == expected


def test_long_mode() -> None:
    """boot.rst: paging, __BOOT_CS and __BOOT_DS as flat segments, interrupts disabled."""
    data = cpu.sregs(LONG)
    cs, ds = segment(data, "cs"), segment(data, "ds")
    assert (cs.selector, cs.base, cs.limit, cs.kind) == (0x10, 0, 0xFFFFFFFF, 0xB)
    assert (cs.l, cs.db, cs.g, cs.s, cs.present) == (1, 0, 1, 1, 1)
    assert (ds.selector, ds.kind, ds.db, ds.l) == (0x18, 3, 1, 0)
    assert all(segment(data, name) == ds for name in ("es", "fs", "gs", "ss"))
    assert control(data) == {
        "cr0": 0x80000011,
        "cr2": 0,
        "cr3": 0x9000,
        "cr4": 0x20,
        "cr8": 0,
        "efer": 0x500,
        "apic_base": 0xFEE00900,
    }


def test_protected_mode() -> None:
    """pvh.pandoc: PE alone, CS and DS flat with 32 bits, TR a 32-bit TSS of limit 0x67."""
    data = cpu.sregs(PROTECTED)
    cs, tr = segment(data, "cs"), segment(data, "tr")
    assert (cs.base, cs.limit, cs.kind, cs.db, cs.l, cs.g) == (0, 0xFFFFFFFF, 0xB, 1, 0, 1)
    assert (tr.base, tr.limit, tr.kind, tr.s, tr.present) == (0, 0x67, 0xB, 0, 1)
    values = control(data)
    assert (values["cr0"], values["cr4"], values["efer"]) == (0x11, 0, 0)


def test_real_mode() -> None:
    data = cpu.sregs(REAL)
    for name in ("cs", "ds", "es", "ss"):
        found = segment(data, name)
        assert (found.base, found.selector, found.limit, found.g, found.db) == (0, 0, 0xFFFF, 0, 0)
    assert control(data)["cr0"] & 1 == 0
    assert cpu.gdt(Mode.REAL) == b""


@pytest.mark.parametrize("entry", ALL)
def test_there_is_no_local_table_and_no_pending_interrupt(entry: Entry) -> None:
    data = cpu.sregs(entry)
    assert segment(data, "ldt").unusable == 1
    assert data[280:] == bytes(32)


@pytest.mark.parametrize(
    ("mode", "code"), [(Mode.LONG, 0x00AF9B000000FFFF), (Mode.PROTECTED, 0x00CF9B000000FFFF)]
)
def test_gdt_says_what_the_segments_say(mode: Mode, code: int) -> None:
    table = struct.unpack("<6Q", cpu.gdt(mode))
    assert table == (0, 0, code, 0x00CF93000000FFFF, 0x00008B0000000067, 0)
    data = cpu.sregs(Entry(mode, 0))
    base, limit = struct.unpack_from("<QH", data, 192)
    assert (base, limit) == (layout.GDT, 47)


def test_page_tables_map_4_gib_to_themselves() -> None:
    tables = cpu.page_tables()
    assert len(tables) == 6 * 4096

    def entry(table: int, index: int) -> int:
        value: int = struct.unpack_from("<Q", tables, table - layout.PAGE_TABLES + 8 * index)[0]
        return value

    for address in (0, 0x100200, 0xBFFFFFFF, 0xFEE00000, 0xFFFFFFFF):
        pdpt = entry(layout.PAGE_TABLES, 0)
        directory = entry(pdpt & ~0xFFF, address >> 30)
        page = entry(directory & ~0xFFF, address >> 21 & 511)
        assert pdpt & 3 == directory & 3 == 3
        assert page & 0x83 == 0x83
        assert page & ~0xFFF == address & ~0x1FFFFF
    assert tables[8:4096] == bytes(4088)


def test_msrs() -> None:
    data = cpu.msrs()
    assert struct.unpack_from("<II", data) == (2, 0)
    assert list(struct.iter_unpack("<IIQ", data[8:])) == [(0x1A0, 0, 1), (0x2FF, 0, 0x806)]


def test_fpu_masks_all_exceptions() -> None:
    data = cpu.fpu()
    assert struct.unpack_from("<H", data, 128)[0] == 0x37F
    assert struct.unpack_from("<I", data, 408)[0] == 0x1F80

"""The guest's physical map: nothing overlaps, interrupts are unique."""

from itertools import pairwise

import pytest

from hypervisor.errors import UsageError
from hypervisor.pc import layout
from hypervisor.pc.layout import GIB, MIB, Range


def test_low_memory_does_not_overlap() -> None:
    pieces = [
        (layout.GDT, 0x100),
        (layout.START_INFO, layout.PAGE),
        (layout.ZERO_PAGE, layout.PAGE),
        (layout.PAGE_TABLES, 6 * layout.PAGE),
        (layout.CMDLINE, layout.CMDLINE_SIZE),
        (layout.MP_TABLE, 1024),
        (layout.RSDP, layout.BIOS_END - layout.RSDP),
    ]
    for (start, size), (after, _) in pairwise(pieces):
        assert start + size <= after


def test_slots_are_pages_with_an_interrupt_each() -> None:
    slots = [layout.slot(n) for n in range(layout.MAX_DEVICES)]
    assert [s.address for s in slots[:3]] == [0xD0000000, 0xD0001000, 0xD0002000]
    gsis = [s.gsi for s in slots]
    assert gsis[:4] == [5, 6, 7, 10]
    assert len(set(gsis)) == 17
    assert not {layout.UART_GSI, layout.RTC_GSI, layout.GED_GSI} & set(gsis)
    assert max(gsis) == 23


@pytest.mark.parametrize("number", [-1, layout.MAX_DEVICES])
def test_slot_out_of_range(number: int) -> None:
    with pytest.raises(UsageError, match=f"at most 17 virtio devices, found number {number}"):
        layout.slot(number)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (256 * MIB, (Range(0, 256 * MIB),)),
        (3 * GIB, (Range(0, 3 * GIB),)),
        (5 * GIB, (Range(0, 3 * GIB), Range(4 * GIB, 2 * GIB))),
    ],
)
def test_ram_leaves_the_gap_free(size: int, expected: tuple[Range, ...]) -> None:
    assert layout.ram(size) == expected
    assert all(r.end <= layout.MMIO or r.address >= layout.HIGH_RAM for r in expected)


@pytest.mark.parametrize("size", [0, -4096, layout.MIN_RAM - 4096, layout.MIN_RAM + 1])
def test_ram_of_odd_size(size: int) -> None:
    with pytest.raises(UsageError, match=f"found {size} bytes"):
        layout.ram(size)


def test_a_power_off_is_slp_en_with_type_5() -> None:
    """ACPI 6.5, table 4.19: SLP_TYPx in bits 2 to 4, SLP_EN bit 5."""
    assert layout.SLEEP_S5 == 0b0011_0100

"""Guest memory of our own: ranges of one file."""

from __future__ import annotations

import os

import pytest

from hypervisor.core.ram import GuestRam
from hypervisor.errors import UsageError

RANGES = [(0, 0x2000), (0x100000000, 0x1000)]


def test_ranges_share_one_file() -> None:
    ram = GuestRam(RANGES)
    ram.write(0x1FFE, b"ab")
    ram.write(0x100000000, b"cd")
    assert os.pread(ram.fd, 4, 0x1FFE) == b"abcd"
    assert ram.read(0x100000000, 2) == b"cd"
    assert [(r.gpa, r.uva, r.offset) for r in ram.regions] == [
        (0, 0, 0),
        (0x100000000, 0x100000000, 0x2000),
    ]
    ram.close()
    ram.close()


@pytest.mark.parametrize(("gpa", "size"), [(0x1FFF, 2), (0x2000, 1), (0xFFFFFFFF, 2), (2**63, 1)])
def test_what_is_not_inside_one_range_is_refused(gpa: int, size: int) -> None:
    ram = GuestRam(RANGES)
    with pytest.raises(UsageError, match="inside one range"):
        ram.read(gpa, size)
    ram.close()


def test_odd_and_overlapping_ranges_are_refused() -> None:
    with pytest.raises(UsageError, match="multiples of 4096"):
        GuestRam([(0, 0x1800)])
    with pytest.raises(UsageError, match="overlaps"):
        GuestRam([(0, 0x2000), (0x1000, 0x1000)])
    with pytest.raises(UsageError, match="multiples of 2097152"):
        GuestRam([(0, 0x1000)], huge=True)

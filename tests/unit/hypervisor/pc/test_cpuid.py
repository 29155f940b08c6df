"""CPUID masks: topology, what is hidden, what is kept."""

import struct

import pytest

from hypervisor.errors import UsageError
from hypervisor.pc import cpuid
from hypervisor.pc.cpuid import Leaf, emit, masked, parse

INDEXED = cpuid.SIGNIFICANT_INDEX
AMD = Leaf(0, 0, 0, 0x10, *(int.from_bytes(x, "little") for x in (b"Auth", b"cAMD", b"enti")))
INTEL = Leaf(0, 0, 0, 0x1F, *(int.from_bytes(x, "little") for x in (b"Genu", b"ntel", b"ineI")))


def leaf(function: int, *registers: int, index: int = 0, flags: int = 0) -> Leaf:
    return Leaf(function, index, flags, *registers)


def run(leaves: list[Leaf], cpu: int = 0, cpus: int = 1, nested: bool = False) -> list[Leaf]:
    return parse(masked(emit(leaves), cpu, cpus, nested=nested))


def one(before: Leaf, cpu: int = 0, cpus: int = 1, *, vendor: Leaf = INTEL) -> Leaf:
    _, after = run([vendor, before], cpu, cpus)
    return after


def test_entries_are_40_bytes() -> None:
    """Linux kvm.h: function, index, flags, eax, ebx, ecx, edx, three of padding."""
    data = emit([Leaf(1, 2, 3, 4, 5, 6, 7)])
    assert data == struct.pack("<7I", 1, 2, 3, 4, 5, 6, 7) + bytes(12)
    assert parse(data) == [Leaf(1, 2, 3, 4, 5, 6, 7)]


@pytest.mark.parametrize(("cpu", "cpus", "count"), [(0, 1, 1), (3, 4, 4), (4, 5, 8), (15, 16, 16)])
def test_leaf_1_identifier_and_count(cpu: int, cpus: int, count: int) -> None:
    after = one(leaf(1, 0x800F12, 0x7F030800, 0, 0), cpu, cpus)
    assert after.ebx == cpu << 24 | count << 16 | 0x0800
    assert bool(after.edx & 1 << 28) is (cpus > 1)


def test_leaf_1_features() -> None:
    after = one(leaf(1, 0, 0, 1 << 3 | 1 << 5 | 1 << 27 | 1 << 0, 1 << 28))
    assert after.ecx == 1 << 31 | 1 << 24 | 1 << 21 | 1 << 0  # MONITOR, VMX, OSXSAVE are gone
    assert after.edx == 0


def test_nested_keeps_virtualization() -> None:
    before = [
        AMD,
        leaf(1, 0, 0, 1 << 5, 0),
        leaf(0x80000001, 0, 0, 4, 0),
        leaf(0x8000000A, 1, 2, 3, 4),
    ]
    hidden, kept = run(before), run(before, nested=True)
    assert (hidden[1].ecx & 1 << 5, hidden[2].ecx & 4, hidden[3].eax) == (0, 0, 0)
    assert (kept[1].ecx & 1 << 5, kept[2].ecx & 4, kept[3].eax) == (1 << 5, 4, 1)


@pytest.mark.parametrize("function", [0x0B, 0x1F])
def test_extended_topology_replaces_what_was_there(function: int) -> None:
    before = [leaf(function, 9, 9, n, 99, index=n, flags=INDEXED) for n in range(3)]
    assert run(before, 2, 3) == [
        leaf(function, 0, 1, 0x100, 2, index=0, flags=INDEXED),
        leaf(function, 2, 3, 0x201, 2, index=1, flags=INDEXED),
        leaf(function, 0, 0, 2, 2, index=2, flags=INDEXED),
    ]


def test_extended_topology_is_not_invented() -> None:
    assert run([INTEL], 1, 2) == [INTEL]


def test_leaf_4_sharing() -> None:
    """EAX: type 4:0, level 7:5, sharing threads 25:14, cores 31:26 (both less one)."""
    first = one(leaf(4, 0xFC1FC000 | 1 << 5 | 1, 7, 8, 9), 0, 4)
    assert first.eax == 3 << 26 | 1 << 5 | 1
    third = one(leaf(4, 0xFC1FC000 | 3 << 5 | 3, 7, 8, 9), 0, 4)
    assert third.eax == 3 << 26 | 3 << 14 | 3 << 5 | 3
    assert one(leaf(4, 0, 0, 0, 0), 0, 4).eax == 0
    assert third.ebx == 7


def test_amd_topology() -> None:
    assert one(leaf(0x80000001, 0, 0, 0, 0), 1, 4, vendor=AMD).ecx == 1 << 1
    assert one(leaf(0x80000001, 0, 0, 2, 0), 0, 1, vendor=AMD).ecx == 0
    assert one(leaf(0x80000008, 0x3030, 0, 0x507F, 0), 1, 6, vendor=AMD).ecx == 3 << 12 | 5
    node = one(leaf(0x8000001E, 99, 0x1FF, 0x7FF, 0), 3, 4, vendor=AMD)
    assert (node.eax, node.ebx, node.ecx) == (3, 3, 0)
    cache = one(leaf(0x8000001D, 0x1C163, 0, 0, 0), 1, 4, vendor=AMD)
    assert cache.eax == 0x163 | 3 << 14


def test_intel_keeps_its_extended_leaves() -> None:
    before = leaf(0x80000008, 0x3027, 0, 0, 0)
    assert one(before, 0, 4) == before
    assert one(leaf(0x80000001, 0, 0, 1, 0), 0, 4).ecx == 1


@pytest.mark.parametrize("function", [5, 0xA, 0x80000022])
def test_hidden_leaves(function: int) -> None:
    assert one(leaf(function, 1, 2, 3, 4)) == leaf(function, 0, 0, 0, 0)


def test_power_keeps_the_timer_that_does_not_stop() -> None:
    assert one(leaf(6, 0x77, 2, 9, 0)) == leaf(6, 4, 0, 0, 0)


@pytest.mark.parametrize("function", [7, 0xD, 0x40000000, 0x40000001, 0x80000007])
def test_kept_leaves(function: int) -> None:
    before = leaf(function, 0x0100003B, 2, 3, 4, index=1, flags=INDEXED)
    assert one(before, 1, 2) == before


@pytest.mark.parametrize(("cpu", "cpus"), [(1, 1), (-1, 1), (0, 17)])
def test_bad_processor(cpu: int, cpus: int) -> None:
    with pytest.raises(UsageError, match=f"found {cpu}"):
        masked(b"", cpu, cpus)


def test_bad_length() -> None:
    with pytest.raises(UsageError, match="entries of 40 bytes, found 41"):
        parse(bytes(41))

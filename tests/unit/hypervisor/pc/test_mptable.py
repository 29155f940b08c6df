"""The MP table against Intel's MultiProcessor Specification 1.4."""

import struct

from hypervisor.pc import layout, mptable


def test_pointer_and_header() -> None:
    table = mptable.table(4)
    assert table[:4] == b"_MP_"
    assert struct.unpack_from("<IBB", table, 4) == (layout.MP_TABLE + 16, 1, 4)
    assert sum(table[:16]) & 0xFF == 0
    config = table[16:]
    assert config[:4] == b"PCMP"
    assert struct.unpack_from("<H", config, 4)[0] == len(config)
    assert sum(config) & 0xFF == 0
    assert struct.unpack_from("<I", config, 36)[0] == layout.LAPIC


def test_the_largest_fits_into_the_last_kib_below_640() -> None:
    assert layout.MP_TABLE + len(mptable.table(layout.MAX_CPUS)) <= 640 * 1024


def test_entries() -> None:
    config = mptable.table(3)[16:]
    (count,) = struct.unpack_from("<H", config, 34)
    at, kinds = 44, []
    while at < len(config):
        kinds.append(config[at])
        at += 20 if config[at] == 0 else 8
    assert at == len(config)
    assert count == len(kinds)
    assert kinds == [0, 0, 0, 1, 2, *[3] * 24, 4, 4]


def test_only_the_first_processor_is_the_bootstrap_one() -> None:
    config = mptable.table(3)[16:]
    assert [config[44 + 20 * n + 3] for n in range(3)] == [3, 1, 1]
    assert [config[44 + 20 * n + 1] for n in range(3)] == [0, 1, 2]


def test_interrupts_are_edges_that_go_to_the_pin_of_their_number() -> None:
    config = mptable.table(1)[16:]
    at = 44 + 20 + 8 + 8
    for n in range(24):
        assert struct.unpack_from("<BBHBBBB", config, at + 8 * n) == (3, 0, 5, 0, n, 1, n)

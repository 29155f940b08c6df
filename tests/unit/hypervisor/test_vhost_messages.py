"""The vhost-user codec: sizes and flags are strict, and parse undoes emit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.queue.state import Region
from hypervisor.vhost import messages as wire
from hypervisor.vhost.messages import Header, MessageError, Request, VringAddr, VringState

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
half = st.integers(0, 2**63 - 1)
regions = st.builds(Region, half, st.integers(1, 2**63), half, half)


def header(request: Request) -> Header:
    return Header(request, wire.VERSION, 0)


@given(st.sampled_from(Request), st.booleans(), st.binary(max_size=64))
def test_header(request: Request, need_reply: bool, payload: bytes) -> None:
    flags = wire.NEED_REPLY if need_reply else 0
    parsed = wire.parse_header(wire.emit(request, payload, flags)[:12])
    assert parsed == Header(request, flags | wire.VERSION, len(payload))
    assert parsed.need_reply is need_reply


@pytest.mark.parametrize(
    ("number", "flags", "size"),
    [(0, 1, 0), (44, 1, 0), (2**32 - 1, 1, 0), (1, 0, 0), (1, 2, 0), (1, 3, 0), (1, 5, 0),
     (1, 0x11, 0), (5, 1, wire.SIZE_MAX + 1), (5, 1, 2**32 - 1)],
)  # fmt: skip
def test_header_bad(number: int, flags: int, size: int) -> None:
    with pytest.raises(MessageError):
        wire.parse_header(wire.HEADER.pack(number, flags, size))


@given(u64, st.builds(VringState, u32, u32), st.builds(VringAddr, u32, u32, u64, u64, u64, u64))
def test_numbers(value: int, state: VringState, addr: VringAddr) -> None:
    assert wire.parse_u64(header(Request.SET_FEATURES), wire.emit_u64(value)) == value
    assert wire.parse_state(header(Request.SET_VRING_NUM), wire.emit_state(state)) == state
    assert wire.parse_addr(header(Request.SET_VRING_ADDR), wire.emit_addr(addr)) == addr


@given(st.lists(regions, min_size=1, max_size=8))
def test_table(table: list[Region]) -> None:
    payload = wire.emit_table(tuple(table))
    found = wire.parse_table(header(Request.SET_MEM_TABLE), payload)
    assert found == tuple(table)
    padded = payload.ljust(wire.TABLE_MAX, b"\0")
    assert wire.parse_table(header(Request.SET_MEM_TABLE), padded) == found


@given(regions)
def test_region(region: Region) -> None:
    payload = wire.emit_region(region)
    assert wire.parse_region(header(Request.ADD_MEM_REG), payload) == region


@pytest.mark.parametrize(
    "region",
    [Region(0, 0, 0, 0), Region(2**64 - 1, 2, 0, 0), Region(0, 2, 2**64 - 1, 0),
     Region(0, 2, 0, 2**64 - 1), Region(0, 2**64 - 1, 1, 0)],
)  # fmt: skip
def test_region_wraps_around(region: Region) -> None:
    with pytest.raises(MessageError, match="wrap"):
        wire.parse_region(header(Request.ADD_MEM_REG), wire.emit_region(region))


@pytest.mark.parametrize("count", [0, 9, 2**32 - 1])
def test_table_count(count: int) -> None:
    payload = count.to_bytes(4, "little") + bytes(4 + 32 * 8)
    with pytest.raises(MessageError, match="regions"):
        wire.parse_table(header(Request.SET_MEM_TABLE), payload)


@given(st.binary(max_size=300))
def test_sizes_are_exact(payload: bytes) -> None:
    for parse, size in (
        (wire.parse_none, 0),
        (wire.parse_u64, 8),
        (wire.parse_state, 8),
        (wire.parse_addr, 40),
        (wire.parse_region, 40),
    ):
        if len(payload) != size:
            with pytest.raises(MessageError, match="bytes, expected"):
                parse(header(Request.SET_OWNER), payload)

"""pack.c: whole bursts copied into one buffer and taken out of it again."""

from __future__ import annotations

import random

import pytest
from vpnstack.core._core import ffi, lib

from vpnstack.core.burst import Burst


def burst_of(*sizes: int) -> tuple[Burst, list[tuple[bytes, bytes]]]:
    rng = random.Random(sum(sizes))
    content = [(rng.randbytes(12), rng.randbytes(size)) for size in sizes]
    burst = Burst(max(len(sizes), 1))
    for vnet, octets in content:
        burst.append(octets, vnet)
    return burst, content


def content_of(burst: Burst) -> list[tuple[bytes, bytes]]:
    return [(burst.vnet(i), burst.octets(i)) for i in range(burst.count)]


@pytest.mark.parametrize(
    "sizes", [(), (0,), (1,), (14, 60, 1514), (lib.FRAME_LEN_MAX,) * 3, tuple(range(64))]
)
def test_a_packed_burst_comes_out_as_it_was(sizes: tuple[int, ...]) -> None:
    burst, content = burst_of(*sizes)
    packed = burst.pack()
    burst.clear()
    assert packed.count == len(sizes)
    assert packed.octets == sum(sizes)
    out = Burst()
    assert out.unpack(packed) == len(sizes)
    assert packed.count == 0
    del packed  # the burst keeps the memory
    assert content_of(out) == content


def test_a_packed_burst_is_taken_in_parts() -> None:
    burst, content = burst_of(*range(100, 110))
    packed = burst.pack()
    got = []
    for expected in (4, 4, 2, 0):
        out = Burst(4)
        assert out.unpack(packed) == expected
        got += content_of(out)
    assert got == content


def test_frames_in_pieces_are_joined() -> None:
    burst = Burst(1)
    f = burst.append(b"head")
    tail = ffi.from_buffer(b"tail")
    f.iovcnt, f.len = 2, 8
    f.iov[1].iov_base, f.iov[1].iov_len = ffi.cast("void *", tail), 4
    out = Burst()
    out.unpack(burst.pack())
    assert out.octets(0) == b"headtail"


def test_what_does_not_fit_is_left_out() -> None:
    burst, _ = burst_of(100, 100)
    memory = ffi.new("uint8_t[]", 150)
    packed = ffi.new("uint32_t *")
    assert lib.frame_pack(burst.array, 2, memory, 150, packed) == 120
    assert packed[0] == 1
    burst[0].len = lib.FRAME_LEN_MAX + 1
    assert lib.frame_pack(burst.array, 2, memory, 150, packed) == 0


def test_a_buffer_that_ends_early_gives_nothing() -> None:
    burst, _ = burst_of(100)
    packed = burst.pack()
    packed.end = 50
    assert Burst().unpack(packed) == 0

"""The memory of rings: given back when they drain, taken again, bounded, never shown."""

from __future__ import annotations

import random

import pytest

from vpnstack.proto.tcp import buffer
from vpnstack.proto.tcp.buffer import FIRST_SIZE, STOCK_OCTETS, RingBuffer


@pytest.fixture(autouse=True)
def _empty_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "_stock", {})
    monkeypatch.setattr(buffer, "_stocked", 0)


def filled(limit: int, octets: bytes) -> RingBuffer:
    ring = RingBuffer(limit)
    assert ring.write(octets) == len(octets)
    return ring


def test_drained_ring_holds_nothing_and_takes_the_same_memory_again() -> None:
    ring = filled(1 << 20, bytes(300_000))
    memory, size = ring._data, ring.allocated
    ring.release(300_000)
    assert ring.allocated == 0
    ring.write(b"x")
    assert ring._data is memory
    assert ring.allocated == size


def test_used_memory_shows_only_what_was_written() -> None:
    filled(1 << 20, b"secret" * 100).release(600)
    ring = filled(1 << 20, b"public")
    assert bytes(ring.peek(0, len(ring))) == b"public"


def test_two_rings_never_share_memory() -> None:
    filled(1 << 16, bytes(FIRST_SIZE)).release(FIRST_SIZE)
    a, b = filled(1 << 16, b"a" * 9), filled(1 << 16, b"b" * 9)
    assert a._data is not b._data
    assert (bytes(a.peek(0, 9)), bytes(b.peek(0, 9))) == (b"a" * 9, b"b" * 9)


def test_memory_of_a_ring_that_grew_is_not_taken_by_others() -> None:
    """Segments under way may still look into it."""
    ring = filled(1 << 20, b"old" * 1000)
    view = ring.peek(0, 3000)
    ring.write(bytes(100_000))
    filled(1 << 20, b"new" * 1000)
    assert bytes(view) == b"old" * 1000


def test_stock_is_bounded() -> None:
    rings = [filled(1 << 20, bytes(1 << 20)) for _ in range(12)]
    for ring in rings:
        ring.release(1 << 20)
    assert buffer._stocked == STOCK_OCTETS
    assert sum(len(d) for pieces in buffer._stock.values() for d in pieces) == STOCK_OCTETS


def test_many_rings_against_plain_bytes() -> None:
    """Whatever the order of writes and releases, each ring returns its own bytes."""
    rng = random.Random(4)
    rings = [(RingBuffer(1 << 16), bytearray()) for _ in range(8)]
    for _ in range(4000):
        ring, model = rng.choice(rings)
        if rng.random() < 0.5:
            data = rng.randbytes(rng.randrange(20_000))
            model += data[: ring.write(data)]
        else:
            n = rng.choice([len(model), rng.randrange(len(model) + 1)])
            ring.release(n)
            del model[:n]
        assert bytes(ring.peek(0, len(ring))) == model

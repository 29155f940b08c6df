"""Fuzz target: fragments in any order, from bytes; the bounds hold and nothing foreign appears."""

from __future__ import annotations

import random
import sys

from vpnstack.proto.reassembly import Config, Fragment, Reassembler

CONFIG = Config(octets=16 << 10, octets_source=8 << 10, packets=8, packets_source=4, pieces=16)
HEADS = (bytes([0x45]) + bytes(19), bytes([0x60]) + bytes(39))
STEP = 6


def fragment(record: bytes) -> Fragment:
    """Make a fragment of six octets: family, source, identification, offset, size, flags."""
    kind, ident, place, high, size, flags = record
    head = HEADS[kind & 1]
    source = bytes([kind >> 1 & 3]) * (4 if kind & 1 == 0 else 16)
    offset = (place | (high & 31) << 8) * 8
    data = bytes([ident]) * (size * 8 + (flags >> 4 & 1))
    key = bytes([kind & 7, ident & 7])
    return Fragment(key, source, 6 if flags & 2 else 17, offset, bool(flags & 1), head, data, head)


def TestOneInput(data: bytes) -> None:
    """Feed fragments; check the bounds after each."""
    machine = Reassembler(CONFIG)
    now = 0.0
    for at in range(0, len(data) - STEP + 1, STEP):
        part = fragment(data[at : at + STEP])
        now += (data[at] >> 5) * 2.0
        made = machine.receive(part, now)
        if isinstance(made, bytes):
            assert len(made) <= 65575
            assert part.data == b"" or part.data[:1] in made
        stats = machine.statistics()
        assert stats.packets <= CONFIG.packets
        assert stats.octets <= CONFIG.octets
        machine.expire(now)
    machine.expire(now + 61.0)
    assert machine.statistics().octets == 0
    assert machine.deadline() is None


def seeded(cases: int, seed: int = 1) -> None:
    """Run deterministic cases that often complete and often overlap."""
    rng = random.Random(seed)
    for _ in range(cases):
        wild = rng.random() < 0.3
        records = [
            bytes([rng.choice((0, 1, 34)), rng.randrange(4), rng.randrange(256 if wild else 6),
                   rng.randrange(256) if wild else 0, rng.randrange(256 if wild else 3),
                   rng.choice((0, 1, 1, 1, 16, 3))])
            for _ in range(rng.randrange(40))
        ]  # fmt: skip
        TestOneInput(b"".join(records))


if __name__ == "__main__":
    import atheris

    atheris.Setup(sys.argv, TestOneInput)
    atheris.Fuzz()

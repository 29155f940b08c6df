"""Random rings in random memory: the C queue and its Python twin take the same chains, write the
same bytes and break for the same reason.

`TestOneInput` is an atheris target; run this file to fuzz, with a number for that many
cases without atheris, or `fuzz(seed, count)` for a fixed run.
"""

from __future__ import annotations

import random
import struct
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "unit" / "hypervisor"))

import inputs
from vhost_driver import GPA, UVA, Guest

from hypervisor.core.memory import GuestMemory
from hypervisor.core.ring import Ring
from hypervisor.queue.layout import Feature
from hypervisor.queue.split import SplitQueue
from hypervisor.queue.state import QueueState, Region
from vpnstack.core.burst import Burst

SIZE = 1 << 16
STEPS = 12
TILE = 128  # different descriptors; memory repeats them
FLAGS = (0, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 8)
FEATURES = (
    Feature.VERSION_1,
    Feature.NET_MRG_RXBUF,
    Feature.RING_INDIRECT_DESC,
    Feature.RING_EVENT_IDX,
    Feature.NET_GUEST_CSUM,
    Feature.NET_GUEST_ECN,
)


class World:
    """One guest with one of the two queues on it."""

    def __init__(self, queue: Ring | SplitQueue, content: bytes, state: QueueState) -> None:
        self.guest = Guest(SIZE)
        self.guest.map[:] = content
        self.memory = GuestMemory()
        part = SIZE // 4  # the rings in the first half, in one region
        for start, size in ((0, 2 * part), (2 * part, part), (3 * part, part)):
            self.memory.add(Region(GPA + start, size, UVA + start, start), self.guest.fd)
        self.queue = queue
        self.queue.set_call(-1)
        self.fault = queue.attach(self.memory, state)

    def transmit(self, capacity: int) -> tuple[object, ...]:
        """Pop up to `capacity` frames: what came of it.

        Of several the octets say nothing: where a buffer lies on the used ring, the element of the
        next frame is written into one that C only points to.
        """
        burst = Burst(capacity)
        self.queue.tx_pop(burst)
        if capacity > 1:
            return tuple((burst[i].len, burst.vnet(i)) for i in range(burst.count))
        return tuple((burst.octets(i), burst.vnet(i)) for i in range(burst.count))

    def receive(self, frames: list[bytes], vnet: bytes) -> int:
        """Push frames: how many were taken."""
        burst = Burst()
        for frame in frames:
            burst.append(frame, vnet)
        return self.queue.rx_push(burst)

    def chain(self, written: int) -> object:
        """Take a chain and give it back with so many bytes written, or keep it: what it was."""
        found = self.queue.chain_pop()
        if found is None:
            return None
        head, readable, writable = found
        out = head, list(map(bytes, readable)), list(map(len, writable))
        if written:
            self.queue.chain_push(head, written)
            self.queue.publish()
        return out

    def seen(self) -> tuple[object, ...]:
        """Everything that can be compared."""
        return self.queue.fault, self.queue.attached, self.queue.dropped, self.guest.map[:]

    def close(self) -> None:
        self.queue.detach()
        self.memory.close()
        self.guest.close()


def _address(rng: random.Random) -> int:
    kind = rng.random()
    if kind < 0.85:
        return GPA + rng.randrange(SIZE)
    if kind < 0.93:
        return GPA + rng.choice((2, 3)) * SIZE // 4 - rng.randrange(64)
    return rng.choice((0, GPA - 1, GPA + SIZE, 2**64 - 1, rng.getrandbits(64)))


def _length(rng: random.Random) -> int:
    kind = rng.random()
    if kind < 0.6:
        return rng.randrange(1, 200)
    if kind < 0.9:
        return 16 * rng.randrange(1, 12)
    return rng.choice((0, 1, 15, SIZE, 0xFFFFFFFF, rng.getrandbits(32)))


def _content(rng: random.Random, size: int) -> bytearray:
    """Memory full of descriptors, mostly plausible ones, with small rings on top of it."""
    out = bytearray()
    for _ in range(TILE):
        after = rng.randrange(size) if rng.random() < 0.97 else rng.getrandbits(16)
        out += struct.pack("<QIHH", _address(rng), _length(rng), rng.choice(FLAGS), after)
    return out * (SIZE // 16 // TILE)


def _place(rng: random.Random, size: int) -> tuple[int, int, int]:
    """Offsets of descriptor table, available and used ring; sometimes on top of each other."""
    if rng.random() < 0.1:
        return tuple(rng.randrange(SIZE) & -16 for _ in range(3))  # type: ignore[return-value]
    return 0, 16 * size, 16 * size + 1024


def TestOneInput(data: bytes) -> None:
    """One world twice, the same steps, compared after each."""
    rng = random.Random(data)
    size = rng.choice((1, 2, 4, 8, 16, 64))
    content = _content(rng, size)
    desc, avail, used = _place(rng, size)
    last = rng.getrandbits(16)
    ahead = rng.randrange(size + 1) if rng.random() < 0.95 else rng.getrandbits(16)
    content[avail : avail + 4] = struct.pack("<HH", rng.getrandbits(1), (last + ahead) & 0xFFFF)
    for i in range(size):
        head = rng.randrange(size) if rng.random() < 0.98 else rng.getrandbits(16)
        content[avail + 4 + 2 * i : avail + 6 + 2 * i] = struct.pack("<H", head)
    features = sum(int(bit) for bit in FEATURES if rng.random() < 0.7)
    state = QueueState(size, UVA + desc, UVA + avail, UVA + used, features, last)
    content = content[:SIZE].ljust(SIZE, b"\0")
    worlds = [World(Ring(), bytes(content), state), World(SplitQueue(), bytes(content), state)]
    try:
        _compare(rng, worlds[0], worlds[1], avail)
    finally:
        for world in worlds:
            world.close()


def _compare(rng: random.Random, one: World, two: World, avail: int) -> None:
    assert one.fault == two.fault, (one.fault, two.fault)
    for _ in range(STEPS):
        kind = rng.randrange(6)
        if kind == 0:
            found = [world.queue.publish() for world in (one, two)]
        elif kind == 1:
            found = [world.queue.arm() for world in (one, two)]
        elif kind == 2:
            value = struct.pack("<H", rng.getrandbits(16))
            for world in (one, two):
                world.guest.map[avail + 2 : avail + 4] = value
            continue
        elif kind == 3:
            capacity = rng.choice((1, 1, 3, 16))
            found = [world.transmit(capacity) for world in (one, two)]
        elif kind == 4:
            written = rng.choice((0, 1, 1, 7))
            found = [world.chain(written) for world in (one, two)]
        else:
            frames = [rng.randbytes(rng.randrange(1, 400)) for _ in range(rng.randrange(1, 4))]
            vnet = rng.randbytes(12)
            found = [world.receive(frames, vnet) for world in (one, two)]
        assert found[0] == found[1], (kind, found)
        assert one.seen() == two.seen(), (kind, one.queue.fault, two.queue.fault)


def fuzz(seed: int, count: int) -> None:
    """Run `count` cases from `seed`."""
    inputs.seeded(TestOneInput, seed, count)


if __name__ == "__main__":
    inputs.main(TestOneInput, fuzz)

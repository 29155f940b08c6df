"""A hostile driver of a disk: any requests in any cuts on any rings, resets in their middle.

Nothing raises, nothing leaks, nobody hangs: after all of it the disk serves an honest driver, and
no byte outside the image's size was ever written.  `TestOneInput` is an atheris target; run this
file to fuzz, or `fuzz(seed, count)` for a fixed run.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "unit" / "hypervisor"))
sys.path.append(str(Path(__file__).parents[1] / "unit" / "hypervisor" / "devices"))

import inputs
from disk_driver import FLUSH, HEADER, IOERR, OK, SEGMENT, UNSUPP, DiskDriver
from mmio_driver import LIVE, Bench
from vhost_driver import GPA, Buffer

from hypervisor.devices.block import Backing, Block
from hypervisor.devices.registers import Register

MEMORY = 1 << 17
SECTORS = 256
ACTS = 25
KINDS = (0, 0, 1, 1, 4, 8, 10, 11, 13, 99, 0xFFFFFFFF)
SIZES = (1, 15, 16, 17, 20, 511, 512, 513, 4096, 8192)


def _sector(rng: random.Random) -> int:
    edge = rng.choice((0, SECTORS - 1, SECTORS, 1 << 63, (1 << 64) - 1))
    return rng.choice((rng.randrange(SECTORS), edge, rng.getrandbits(64)))


def _buffer(rng: random.Random, writable: bool) -> Buffer:
    size = rng.choice(SIZES)
    at = GPA + rng.randrange(MEMORY - size)
    if rng.random() < 0.05:
        at, size = rng.getrandbits(64), rng.getrandbits(32)
    return Buffer(at, size, writable)


def _plausible(rng: random.Random, driver: DiskDriver) -> None:
    """Post a request that begins as one should."""
    bench = driver.bench
    ring = rng.choice(bench.rings)
    header = Buffer(GPA + MEMORY - 64, rng.choice((16, 16, 16, 16, 15, 1)))
    bench.guest.write(header.gpa, HEADER.pack(rng.choice(KINDS), 0, _sector(rng)))
    segment = SEGMENT.pack(
        _sector(rng), rng.choice((0, 1, 8, rng.getrandbits(32))), rng.choice((0, 1, 2))
    )
    bench.guest.write(GPA + MEMORY - 48, segment)
    buffers = [header]
    if rng.random() < 0.3:
        buffers.append(Buffer(GPA + MEMORY - 48, 16))
    buffers += [_buffer(rng, writable=False) for _ in range(rng.randrange(3))]
    buffers += [_buffer(rng, writable=True) for _ in range(rng.randrange(3))]
    if rng.random() < 0.9:
        buffers.append(Buffer(GPA + MEMORY - 16, 1, writable=True))
    ring.add(*buffers[: ring.size])


def _scribble(rng: random.Random, driver: DiskDriver) -> None:
    """Put anything into the rings."""
    for ring in driver.bench.rings:
        for i in range(ring.size):
            address = rng.choice((GPA + rng.randrange(MEMORY), rng.getrandbits(64)))
            size = rng.choice((*SIZES, 0, rng.getrandbits(32)))
            ring.set_desc(i, address, size, rng.getrandbits(3), rng.randrange(ring.size + 1))
        for _ in range(rng.randrange(4)):
            ring.post(rng.randrange(ring.size + 1))


def _act(rng: random.Random, driver: DiskDriver) -> None:
    bench, dice = driver.bench, rng.random()
    if dice < 0.55:
        _plausible(rng, driver)
    elif dice < 0.62:
        _scribble(rng, driver)
    elif dice < 0.67:
        driver.reset()
        bench.guest.clear()
        bench.start(rng.choice((-1, 1 << 32, rng.getrandbits(64) | 1 << 32)), size=8)
    elif dice < 0.72:
        bench.write(Register.QUEUE_SEL, rng.randrange(3))
        bench.write(Register.QUEUE_READY, 0)
    elif dice < 0.75:
        bench.write(Register.CONFIG + rng.randrange(64), rng.getrandbits(8), 1)
    else:
        bench.kick(rng.randrange(len(bench.kicks)))


def TestOneInput(data: bytes) -> None:
    """One disk and a few acts; descriptors are counted before and after."""
    rng = random.Random(data)
    before = len(os.listdir("/proc/self/fd"))
    fd = os.memfd_create("image")
    os.ftruncate(fd, SECTORS * 512)
    block = Block(Backing(SECTORS, fd=fd, read_only=rng.random() < 0.1), queues=rng.randrange(1, 3))
    block.warn = lambda why: None
    driver = DiskDriver(Bench(block, MEMORY), [])
    try:
        driver.bench.start(size=8)
        for _ in range(ACTS):
            _act(rng, driver)
        assert driver.start().bench.status == LIVE
        status, _ = driver.do(FLUSH)
        assert status == OK, (status, IOERR, UNSUPP)
        assert os.fstat(fd).st_size == SECTORS * 512
    finally:
        driver.bench.close()
        os.close(fd)
    assert len(os.listdir("/proc/self/fd")) <= before


def fuzz(seed: int, count: int) -> None:
    """Run `count` disks from `seed`."""
    inputs.seeded(TestOneInput, seed, count)


if __name__ == "__main__":
    inputs.main(TestOneInput, fuzz)

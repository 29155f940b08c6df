"""A hostile driver's memory: any rings, tables and indexes, for every device on its transport.

Whatever lies in guest memory, no device raises, touches a byte outside it (fences lie on both
sides; run this under asan.sh too) or works without a bound on one kick.  The first byte of an input
chooses the device, the rest are acts.  fuzz_mmio.py is the same for registers.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "unit" / "hypervisor"))
sys.path.append(str(Path(__file__).parents[1] / "unit" / "hypervisor" / "devices"))

import inputs
from inputs import Stream
from mmio_driver import ALL, LIVE, Bench
from vhost_driver import GPA, Guest

from hypervisor.devices.balloon import Balloon
from hypervisor.devices.base import Device
from hypervisor.devices.console import VirtioConsole
from hypervisor.devices.net import Net
from hypervisor.devices.registers import Register
from hypervisor.devices.rng import Rng
from hypervisor.queue import layout
from hypervisor.queue.state import Region
from vpnstack.core.burst import Burst
from vpnstack.link.port import PortClosed

SIZE = 1 << 16
FENCE = 0x800  # inside the pages that are mapped, outside guest memory
PATTERN = b"\xc5\x5c\x3a\xa3" * (FENCE // 4)
ACTS = 300
KICK = 2.0  # seconds of this thread that one kick may take; without a sanitizer 10 ms are many
FEATURES = (ALL, 1 << 32, 1 << 32 | 1 << 28, 1 << 32 | 1 << 29)  # VERSION_1, INDIRECT, EVENT_IDX


class Fenced(Guest):
    """Guest memory with a fence on each side in the file, and in the mapping."""

    def __init__(self) -> None:
        super().__init__(SIZE + 2 * FENCE)
        self.size = SIZE
        self.region = Region(GPA, SIZE, GPA, FENCE)
        self.map[:FENCE] = self.map[-FENCE:] = PATTERN

    def write(self, gpa: int, data: bytes) -> None:
        at = gpa - GPA + FENCE
        self.map[at : at + len(data)] = data

    def read(self, gpa: int, size: int) -> bytes:
        at = gpa - GPA + FENCE
        return self.map[at : at + size]

    def clear(self) -> None:
        self.map[FENCE:-FENCE] = bytes(SIZE)
        self._free = 0

    def check(self) -> None:
        """Fail if the fences were written to."""
        assert self.map[:FENCE] == self.map[-FENCE:] == PATTERN, "written outside guest memory"


def seen(data: bytes) -> None:
    """Take what a device hands out: it must not come from behind a fence."""
    assert PATTERN[:16] not in data, "read outside guest memory"


def _use_net(device: Device, data: bytes) -> None:
    assert isinstance(device, Net)
    burst = Burst(4)
    try:
        device.port.rx_burst(burst)
        for index in range(len(burst)):
            seen(burst.octets(index))
        device.port.rx_done(burst)
        burst.clear()
        burst.append(bytes(60) + data)
        device.port.tx_burst(burst)
    except PortClosed:
        return


def _use_console(device: Device, data: bytes) -> None:
    assert isinstance(device, VirtioConsole)
    device.write(data)
    device.resize(len(data), 25)


def _use_balloon(device: Device, data: bytes) -> None:
    assert isinstance(device, Balloon)
    device.set_target(len(data) << 12)


# How to make a device, and what the host does with it meanwhile.
DEVICES: tuple[tuple[Callable[[], Device], Callable[[Device, bytes], None]], ...] = (
    (Rng, lambda device, data: None),
    (Balloon, _use_balloon),
    (lambda: VirtioConsole(seen), _use_console),
    (lambda: Net(bytes(6)), _use_net),
)


class Driver:
    """Acts on a bench as the input says."""

    def __init__(self, stream: Stream, bench: Bench, use: Callable[[Device, bytes], None]) -> None:
        self.stream = stream
        self.bench = bench
        self._use = use
        self.acts = (
            self.kick, self.kick, self.kick, self.kick, self.post, self.post, self.post, self.post,
            self.describe, self.describe, self.table, self.table, self.use, self.use,
            self.register, self.scribble, self.jump, self.restart,
        )  # fmt: skip

    def restart(self) -> None:
        """Reset and set up fresh rings, whose descriptors are buffers to begin with."""
        self.bench.guest.clear()
        self.bench.start(self.stream.choice(FEATURES), size=self.stream.choice((8, 4, 64)))
        for ring in self.bench.rings:
            flags, size = self.stream.number() & layout.DESC_WRITE, 32 * self.stream.number()
            for index in range(ring.size):
                address = GPA + SIZE // 2 + 64 * index
                ring.set_desc(index, address, size or 1, flags)

    def _ring(self) -> int:
        return self.stream.number() % len(self.bench.kicks)

    def _descriptor(self) -> bytes:
        """Return one that mostly makes sense, at the edges of memory often."""
        s = self.stream
        kind = s.number()
        if kind < 200:
            address, length = GPA + s.number(2), 16 * s.number() + 1
        elif kind < 240:  # up to the very end, and beyond it by a little
            length = s.number() + 1
            address = GPA + SIZE - length + (s.number() % 4 == 0)
        else:
            address, length = (
                s.choice((GPA - 1, GPA, s.number(8))),
                s.choice((0, SIZE, s.number(4))),
            )
        flags = s.number() & (layout.DESC_NEXT | layout.DESC_WRITE) if kind % 16 else s.number(2)
        return layout.DESC.pack(address, length, flags, s.number() % 8)

    def describe(self) -> None:
        """Write one descriptor."""
        ring = self.bench.rings[self._ring()]
        index = self.stream.number() % ring.size
        self.bench.guest.write(ring.desc + 16 * index, self._descriptor())

    def table(self) -> None:
        """Write an indirect table, and a descriptor for it."""
        ring, count = self.bench.rings[self._ring()], self.stream.number() % 20
        at = GPA + SIZE - 16 * max(1, count) - self.stream.number() % 64
        self.bench.guest.write(at, b"".join(self._descriptor() for _ in range(count)))
        size = 16 * count + self.stream.choice((0, 0, 0, 0, 0, 0, 1, 64, 1 << 20))
        index = self.stream.number() % ring.size
        ring.set_desc(index, at, size, layout.DESC_INDIRECT | self.stream.choice((0, 0, 0, 1, 2)))

    def post(self) -> None:
        """Make a chain available, mostly one that is there."""
        ring = self.bench.rings[self._ring()]
        head = self.stream.number()
        ring.post(ring.size if head == 0xFF else head % ring.size)

    def jump(self) -> None:
        """Set the available index, or the driver's event, to anything."""
        ring = self.bench.rings[self._ring()]
        at = self.stream.choice((ring.avail + 2, ring.avail, ring.avail + 4 + 2 * ring.size))
        self.bench.guest.set16(at, self.stream.number(2))

    def scribble(self) -> None:
        """Write anything anywhere, the used ring included."""
        data = self.stream.take(self.stream.number() % 32)
        at = min(self.stream.number(2), SIZE - len(data))
        self.bench.guest.write(GPA + at, data)

    def use(self) -> None:
        """Let the host use the device."""
        self._use(self.bench.device, self.stream.take(self.stream.number()))

    def register(self) -> None:
        """Take a queue away, notify by exit, or write configuration."""
        register = self.stream.choice(
            (Register.QUEUE_SEL, Register.QUEUE_READY, Register.QUEUE_NOTIFY, Register.CONFIG)
        )
        self.bench.write(register, self.stream.number() % 4)

    def kick(self) -> None:
        """Let the device look, for a bounded time, and start anew if it had enough."""
        begin = time.thread_time()
        self.bench.kick(self._ring())
        taken = time.thread_time() - begin
        assert taken < KICK, f"one kick took {taken:.1f} s"
        if self.bench.needs_reset:
            self.restart()


def TestOneInput(data: bytes) -> None:
    """One device and a few hundred acts; descriptors are counted before and after."""
    stream = Stream(data)
    before = len(os.listdir("/proc/self/fd"))
    make, use = stream.choice(DEVICES)
    guest = Fenced()
    bench = Bench(make(), guest=guest)
    try:
        driver = Driver(stream, bench, use)
        driver.restart()
        for _ in range(ACTS):
            if not stream.more:
                break
            stream.choice(driver.acts)()
            guest.check()
        guest.clear()
        assert bench.start(size=4).status == LIVE
    finally:
        bench.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def fuzz(seed: int, count: int) -> None:
    """Run `count` devices from `seed`."""
    inputs.seeded(TestOneInput, seed, count, (64, 512, 2048))


if __name__ == "__main__":
    inputs.main(TestOneInput, fuzz)

"""A driver of virtio-blk for tests: requests as Linux makes them, and waiting for their ends."""

from __future__ import annotations

import os
import select
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmio_driver import ALL, Bench
from vhost_driver import Buffer, called

from hypervisor.devices.block import Block
from hypervisor.devices.disk import Disk
from hypervisor.devices.registers import Register, Status
from hypervisor.engine.disks import open_raw

HEADER = struct.Struct("<IIQ")
SEGMENT = struct.Struct("<QII")
IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2
PENDING = 0xEE  # no status
PATIENCE = 20.0


@dataclass
class Asked:
    """A request that was posted."""

    head: int
    data: tuple[Buffer, ...]
    status: Buffer


class DiskDriver:
    """Drives a `Block` on a bench."""

    def __init__(self, bench: Bench, warnings: list[str]) -> None:
        self.bench = bench
        self.warnings = warnings
        assert isinstance(bench.device, Block)
        self.device = bench.device

    def start(self, features: int = ALL, size: int = 16) -> DiskDriver:
        self.reset()
        self.bench.guest.clear()
        self.bench.start(features, size=size)
        return self

    def reset(self) -> None:
        """Reset the device and wait, as a processor does that wrote 0."""
        self.bench.write(Register.STATUS, 0)
        self.settle(lambda: self.bench.status == Status.RESET)

    def settle(self, done: Callable[[], object]) -> None:
        """Turn the loop at news of the device until something is so."""
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end
            select.select([self.device.event], [], [], 0.01)  # the loop may have read it already
            self.bench.turn()

    def ask(
        self,
        kind: int,
        sector: int = 0,
        *,
        out: bytes = b"",
        into: int = 0,
        cuts: int = 1,
        queue: int = 0,
    ) -> Asked:
        """Post a request with `out` as data, or room for `into` bytes, in `cuts` buffers."""
        bench, ring = self.bench, self.bench.rings[queue]
        header = bench.readable(HEADER.pack(kind, 0, sector))
        data: list[Buffer] = []
        for i in range(cuts):
            if out:
                data.append(bench.readable(out[len(out) * i // cuts : len(out) * (i + 1) // cuts]))
            elif into:
                data.append(bench.writable(into * (i + 1) // cuts - into * i // cuts))
        status = bench.writable(1)
        bench.guest.write(status.gpa, bytes([PENDING]))
        buffers = [header, *data, status]
        head = ring.add(*buffers) if len(buffers) <= 4 else ring.add_indirect(*buffers)
        return Asked(head, tuple(data), status)

    def kick(self, queue: int = 0) -> None:
        os.eventfd_write(self.bench.kicks[queue], 1)

    def wait(self, count: int = 1, queue: int = 0) -> list[tuple[int, int]]:
        """Kick, and wait for so many used elements."""
        bench, ring = self.bench, self.bench.rings[queue]
        self.kick(queue)
        done: list[tuple[int, int]] = []
        while True:
            done += ring.used_elements()
            if len(done) >= count:
                return done
            ring.set_used_event(ring.used_seen)
            if bench.guest.u16(ring.used + 2) != ring.used_seen:
                continue  # it came before the device saw that we want to hear of it
            assert select.select([bench.call], [], [], PATIENCE)[0], f"{len(done)} of {count}"
            called(bench.call)

    def status(self, asked: Asked) -> int:
        return self.bench.octets(asked.status)[0]

    def do(self, kind: int, sector: int = 0, **what: object) -> tuple[int, int]:
        """Do one request; returns its status and used length."""
        asked = self.ask(kind, sector, **what)  # type: ignore[arg-type]
        ((_, written),) = self.wait()
        return self.status(asked), written

    def read(self, sector: int, size: int, cuts: int = 1) -> bytes:
        asked = self.ask(IN, sector, into=size, cuts=cuts)
        assert self.wait() == [(asked.head, size + 1)]
        assert self.status(asked) == OK
        return b"".join(map(self.bench.octets, asked.data))

    def write(self, sector: int, data: bytes, cuts: int = 1) -> None:
        assert self.do(OUT, sector, out=data, cuts=cuts) == (OK, 1)

    def clear(self, kind: int, *segments: tuple[int, int, int]) -> int:
        """Discard or write zeroes; returns the status."""
        return self.do(kind, out=b"".join(SEGMENT.pack(*each) for each in segments))[0]

    def news(self) -> Sequence[str]:
        """Return what the device warned of since the last call, after the loop turned."""
        select.select([self.device.event], [], [], PATIENCE)
        self.bench.turn()
        said, self.warnings[:] = list(self.warnings), []
        return said


def device(path: Path, *, queues: int = 1, **options: object) -> tuple[Block, list[str]]:
    """Return a device of a raw image, and the list that its warnings go to."""
    warnings: list[str] = []
    disk = Disk(path, **options)  # type: ignore[arg-type]
    block = Block(
        open_raw(disk, warnings.append),
        name=path.name,
        serial=disk.serial,
        sector_size=disk.sector_size,
        queues=queues,
    )
    block.warn = warnings.append
    return block, warnings

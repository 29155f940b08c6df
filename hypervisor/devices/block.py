"""virtio-blk (virtio 1.2, 5.2): a disk whose data C threads move (core/blk.c).

What is left here is its configuration, and its life: threads are started for a line, and a reset
ends when the last of them let go of guest memory.  Errors reach the guest from C, and `warn` once.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import logging
import os
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..core.blk import (
    CLEAR_MAX,
    SECTOR,
    SEGMENTS_MAX,
    BlockFault,
    BlockQueue,
    BlockStatistics,
    Image,
)
from ..core.ring import Ring
from ..errors import UsageError
from .base import Device, Line

log = logging.getLogger(__name__)

DEVICE_ID = 2
QUEUE_SIZE = 256
QUEUES_MAX = 16
PHYSICAL = 4096  # bytes that the host writes at once without reading first
QUIET = 10.0  # seconds in which the same error is not told again
# 5.2.4: capacity, size_max, seg_max, geometry, blk_size, topology, writeback, num_queues, limits of
# discard and of write zeroes.
CONFIG = struct.Struct("<QII4xIBBHIBxHIIIIIB3x")
WRITEBACK = 32  # its offset
_EXPLAIN = {
    errno.ENOSPC: "the host's disk is full: make room there",
    errno.EDQUOT: "the quota on the host's disk is used up: make room there",
    errno.ENODATA: "the image became shorter than it was when the machine started",
    errno.ESTALE: "the image was deleted: what is written is lost when the machine ends",
}


class Feature(enum.IntFlag):
    """Feature bits (5.2.3)."""

    SIZE_MAX = 1 << 1
    SEG_MAX = 1 << 2
    RO = 1 << 5
    BLK_SIZE = 1 << 6
    FLUSH = 1 << 9
    TOPOLOGY = 1 << 10
    CONFIG_WCE = 1 << 11
    MQ = 1 << 12
    DISCARD = 1 << 13
    WRITE_ZEROES = 1 << 14


async def nothing() -> None:
    """Close what needs no closing."""


@dataclass(frozen=True, slots=True)
class Backing:
    """Where a disk's contents are: a descriptor, or a handle of libnbd (see `core.blk.Image`).

    `close` gives back what it holds, once nothing uses it any more.
    """

    sectors: int
    fd: int = -1
    nbd: int = 0
    read_only: bool = False
    align: int = 0
    named: bool = False
    discards: bool = True
    zeroes: bool = True
    granularity: int = PHYSICAL  # bytes below which a discard frees nothing
    close: Callable[[], Awaitable[object]] = nothing


class Block(Device):
    """A disk of `backing`, which it closes; `name` is how warnings call it."""

    device_id = DEVICE_ID
    takes_kicks = True

    def __init__(
        self,
        backing: Backing,
        *,
        name: str = "disk",
        serial: str = "",
        sector_size: int = SECTOR,
        queues: int = 1,
    ) -> None:
        super().__init__()
        if not 1 <= queues <= QUEUES_MAX:
            raise UsageError(f"{queues} queues for a disk, expected 1 to {QUEUES_MAX}")
        self.name = name
        self.warn: Callable[[str], None] = log.warning
        self.queue_sizes = (QUEUE_SIZE,) * queues
        self.features = _features(backing, queues)
        self.backing = backing
        self._sector_size = sector_size
        self._writeback = True
        self._image = Image(
            backing.sectors * SECTOR // sector_size * sector_size // SECTOR,
            fd=backing.fd,
            nbd=backing.nbd,
            read_only=backing.read_only,
            align=backing.align,
            named=backing.named,
            serial=serial.encode(),
        )
        self._line: Line | None = None
        self._running: dict[int, BlockQueue] = {}
        self._waiting: list[tuple[set[BlockQueue], asyncio.Future[None]]] = []
        self._past = BlockStatistics()
        self._told: dict[int, float] = {}
        self._closed = False

    @property
    def event(self) -> int:
        """The eventfd by which the threads tell news; the loop reads it."""
        return self._image.event

    def config(self) -> bytes:
        """Return capacity, geometry and limits."""
        backing, size = self.backing, self._sector_size
        capacity = backing.sectors * SECTOR // size * size // SECTOR
        physical = max(PHYSICAL, size) // size
        return CONFIG.pack(
            capacity, 0, QUEUE_SIZE - 2, size,
            physical.bit_length() - 1, 0, physical, 0,
            self._writeback, len(self.queue_sizes),
            CLEAR_MAX, SEGMENTS_MAX, max(backing.granularity, size) // SECTOR,
            CLEAR_MAX, SEGMENTS_MAX, 1,
        )  # fmt: skip

    def ring(self, index: int) -> tuple[Ring, int] | None:
        """Return the ring that the threads of a queue walk; they do not count its kicks."""
        queue = self._running.get(index)
        return None if queue is None else (queue.ring, 0)

    def config_written(self, offset: int, data: bytes) -> None:
        """Take the driver's word on caching writes (5.2.5.2)."""
        known = self._line is not None and self._line.features & Feature.CONFIG_WCE
        if known and offset == WRITEBACK and len(data) == 1:
            self._cache(bool(data[0]))

    def _cache(self, writeback: bool) -> None:
        self._writeback = writeback
        self._image.writethrough(not writeback)

    def activate(self, line: Line) -> None:
        """Start threads for the queues of `line`."""
        self._line = line
        self._cache(bool(line.features & (Feature.FLUSH | Feature.CONFIG_WCE)))
        line.loop.add_reader(self._image.event, self._look)
        used = len(line.queues) if line.features & Feature.MQ else 1
        for index in range(used):
            queue = line.queues[index]
            if not queue.attached or queue.state is None:
                continue
            # The rings are the threads' own: the line's may be detached at any time.
            ring = Ring()
            ring.set_call(line.call)
            if (fault := ring.attach(line.memory, queue.state)) is not None:
                raise UsageError(f"queue {index}: {fault}")
            kick = line.kicks[index]
            self._running[index] = BlockQueue(self._image, ring, line.features, kick)

    def _look(self) -> None:
        """Take news of the threads."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._image.event)
        if (fault := self._image.fault()) is not None:
            self._tell(fault)
        for index, queue in list(self._running.items()):
            if queue.ended:
                self._ended(index, queue)
        for each in list(self._waiting):
            left, future = each
            left &= set(self._running.values())
            if not left:
                self._waiting.remove(each)
                if not future.done():
                    future.set_result(None)

    def _ended(self, index: int, queue: BlockQueue) -> None:
        del self._running[index]
        self._past += queue.statistics()
        fault = queue.ring.fault
        queue.free()
        if fault is not None and self._line is not None:
            line = self._line
            self._stop(self._running)  # it has no other way to tell its driver (2.1.2)
            line.failed(f"queue {index}: {fault}")

    def _tell(self, fault: BlockFault) -> None:
        now = asyncio.get_running_loop().time() if self._line is None else self._line.loop.time()
        if now - self._told.get(fault.error, -QUIET) < QUIET:
            return
        self._told[fault.error] = now
        why = _EXPLAIN.get(fault.error) or os.strerror(fault.error)
        self.warn(f"{self.name}: {fault.kind} at sector {fault.sector} failed: {why}")

    def _stop(self, queues: dict[int, BlockQueue]) -> None:
        for queue in queues.values():
            queue.stop()

    def _until_ended(self, queues: dict[int, BlockQueue]) -> asyncio.Future[None] | None:
        if not queues or self._line is None:
            return None
        future: asyncio.Future[None] = self._line.loop.create_future()
        self._waiting.append((set(queues.values()), future))
        return future

    def stopped(self, index: int) -> asyncio.Future[None] | None:
        """Take no more from this queue; done when its memory is not touched any more."""
        mine = {i: queue for i, queue in self._running.items() if i == index}
        self._stop(mine)
        return self._until_ended(mine)

    def reset(self) -> asyncio.Future[None] | None:
        """Stop; done when what was going on has let go of guest memory."""
        self._stop(self._running)
        future = self._until_ended(self._running)
        self._line = None
        self._writeback = True
        return future

    async def close(self) -> None:
        """Wait for the threads, and let go of the image."""
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        if self._running:
            future = loop.create_future()
            self._stop(self._running)
            self._waiting.append((set(self._running.values()), future))
            await future
        loop.remove_reader(self._image.event)
        self._image.close()
        await self.backing.close()

    def statistics(self) -> BlockStatistics:
        """Return counters since the device was made."""
        return sum((queue.statistics() for queue in self._running.values()), self._past)


def _features(backing: Backing, queues: int) -> int:
    bits = Feature.SEG_MAX | Feature.BLK_SIZE | Feature.TOPOLOGY | Feature.FLUSH
    bits |= Feature.CONFIG_WCE
    if queues > 1:
        bits |= Feature.MQ
    if backing.read_only:
        return int(bits | Feature.RO)
    if backing.discards:
        bits |= Feature.DISCARD
    if backing.zeroes:
        bits |= Feature.WRITE_ZEROES
    return int(bits)

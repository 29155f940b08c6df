"""virtio-balloon (virtio 1.2, 5.5): memory that the guest lends back, and memory that it reports
as free.  Either way the pages become holes in the file behind guest memory.
"""

from __future__ import annotations

import asyncio
import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ..core.memory import discard
from ..errors import UsageError
from .base import Device, Line
from .queue import Chain, Queue

DEVICE_ID = 5
INFLATE, DEFLATE, STATS = 0, 1, 2
PAGE = 4096  # 5.5.6
CONFIG = struct.Struct("<III I")  # num_pages, actual, free_page_hint_cmd_id, poison_val (5.5.4)
ACTUAL = 4  # its offset
STAT = struct.Struct("<HQ")  # 5.5.6.3.1
STATS_MAX = 64
PFNS_A_CHAIN = 1024  # Linux sends 256; what is beyond is counted and stays the guest's
PIECES_A_CHAIN = 64  # of a report; Linux sends 32, each a call of the kernel for us


class Feature(enum.IntFlag):
    """Feature bits (5.5.3)."""

    MUST_TELL_HOST = 1 << 0
    STATS_VQ = 1 << 1
    DEFLATE_ON_OOM = 1 << 2
    FREE_PAGE_HINT = 1 << 3
    PAGE_POISON = 1 << 4
    REPORTING = 1 << 5


class Stat(enum.IntEnum):
    """Tags of the guest's memory statistics (5.5.6.4)."""

    SWAP_IN = 0
    SWAP_OUT = 1
    MAJFLT = 2
    MINFLT = 3
    MEMFREE = 4
    MEMTOT = 5
    AVAIL = 6
    CACHES = 7
    HTLB_PGALLOC = 8
    HTLB_PGFAIL = 9


@dataclass(frozen=True, slots=True)
class BalloonStatistics:
    """Counters since the device was made, in bytes but for `refused`."""

    inflated: int = 0
    reported: int = 0
    refused: int = 0  # pages that could not be given back


class Balloon(Device):
    """Asks the guest for memory (`set_target`) and takes what it reports as free."""

    device_id = DEVICE_ID
    # The last one is free page reporting's in the specification.  Drivers number the queues that
    # there are without gaps, so it is the highest that the driver sets up.  Linux refuses reporting
    # with fewer than 32 entries.
    queue_sizes = (8, 8, 8, 64, 64)
    # Without PAGE_POISON: a guest that poisons free pages then reports none.
    features = int(Feature.STATS_VQ | Feature.DEFLATE_ON_OOM | Feature.REPORTING)

    def __init__(self) -> None:
        super().__init__()
        self.actual = 0  # bytes in the balloon, as the driver says
        self._target = 0
        self._line: Line | None = None
        self._reporting = -1
        self._held: Chain | None = None  # the statistics buffer, until we ask for news
        self._asked: list[asyncio.Future[dict[int, int]]] = []
        self._inflated = self._reported = self._refused = 0

    def set_target(self, size: int) -> None:
        """Ask the guest to lend `size` bytes in all."""
        if size < 0 or size // PAGE > 0xFFFFFFFF:
            raise UsageError(f"balloon of {size} bytes, expected 0 to {0xFFFFFFFF * PAGE}")
        self._target = size // PAGE
        self.config_changed()

    def config(self) -> bytes:
        """Return the target and what the driver said last."""
        return CONFIG.pack(self._target, self.actual // PAGE, 0, 0)

    def config_written(self, offset: int, data: bytes) -> None:
        """Take the driver's word for the balloon's size."""
        if offset == ACTUAL and len(data) == 4:
            self.actual = int.from_bytes(data, "little") * PAGE

    def activate(self, line: Line) -> None:
        """Serve the queues of `line`."""
        self._line = line
        spare = [i for i, queue in enumerate(line.queues) if i >= STATS and queue.attached]
        if spare and line.features & Feature.REPORTING:
            self._reporting = spare[-1]

    def notified(self, index: int) -> None:
        """Take pages, or the statistics."""
        if self._line is None:
            return
        queue = self._line.queues[index]
        if index == self._reporting:
            self._report(queue)
        elif index == STATS:
            self._take_stats(queue)
        else:
            self._balloon(queue, index == INFLATE)

    def _balloon(self, queue: Queue, inflate: bool) -> None:
        assert self._line is not None
        for chain in queue.chains():
            for pfns in _pfns(chain) if inflate else ():
                done, refused = self._line.memory.discard_pfns(pfns)
                self._inflated += done
                self._refused += refused
            if inflate:
                self._refused += max(0, chain.readable_len // 4 - PFNS_A_CHAIN)
            queue.push(chain)
        queue.publish()

    def _report(self, queue: Queue) -> None:
        """Discard pages that are the buffers themselves (5.5.6.7)."""
        for chain in queue.chains():
            for number, piece in enumerate(chain.writable):
                done = discard(piece) if number < PIECES_A_CHAIN else 0
                self._reported += done
                self._refused += (len(piece) - done) // PAGE
            queue.push(chain)
        queue.publish()

    def _take_stats(self, queue: Queue) -> None:
        """Keep the driver's one buffer (5.5.6.3): giving it back is asking for news."""
        for chain in queue.chains():
            if self._held is not None:
                queue.push(self._held)
            self._held = chain
            data = chain.read(STATS_MAX * STAT.size)
            whole = data[: len(data) // STAT.size * STAT.size]
            stats = dict(STAT.iter_unpack(whole))
            asked, self._asked = self._asked, []
            for future in asked:
                if not future.done():
                    future.set_result(stats)
        queue.publish()

    def ask(self) -> asyncio.Future[dict[int, int]]:
        """Ask the guest for its statistics: values by `Stat`, those that it knows.

        UsageError when its driver does not offer them now.
        """
        if self._line is None or (self._held is None and not self._asked):
            raise UsageError("the guest's balloon driver has no statistics")
        future = self._line.loop.create_future()
        self._asked.append(future)
        if self._held is not None:
            held, self._held = self._held, None
            self._line.queues[STATS].done(held)
        return future

    def reset(self) -> None:
        """Forget the line; the guest has its pages again when it touches them."""
        self._line = None
        self._held = None
        self._reporting = -1
        self.actual = 0
        for future in self._asked:
            future.cancel()
        self._asked.clear()

    def statistics(self) -> BalloonStatistics:
        """Return counters."""
        return BalloonStatistics(self._inflated, self._reported, self._refused)


def _pfns(chain: Chain) -> Iterator[memoryview]:
    """Yield the page numbers of a chain, up to PFNS_A_CHAIN of them."""
    left = 4 * PFNS_A_CHAIN
    for piece in chain.readable:
        part = piece[: min(left, len(piece) // 4 * 4)]
        left -= len(part)
        if part:
            yield part

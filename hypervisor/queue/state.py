"""What a queue is made of, apart from guest memory: enough to attach it, move it or restore it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class QueueError(enum.IntEnum):
    """Why a queue broke; numbers and values as in `enum vq_error` (core/vring.h)."""

    OK = 0
    BAD_SIZE = 1
    BAD_ALIGN = 2
    BAD_RING = 3
    BAD_AVAIL_IDX = 4
    BAD_HEAD = 5
    BAD_NEXT = 6
    BAD_LOOP = 7
    BAD_ADDR = 8
    BAD_LEN = 9
    BAD_INDIRECT = 10
    BAD_NESTED = 11
    BAD_FEATURE = 12
    BAD_DIRECTION = 13
    BAD_PIECES = 14
    BAD_REQUEST = 15


_TEXT = {
    QueueError.OK: "no fault ({a}, {b})",
    QueueError.BAD_SIZE: "queue size {a}, expected a power of two up to {b}",
    QueueError.BAD_ALIGN: "ring address {a:#x}, expected a multiple of {b}",
    QueueError.BAD_RING: "ring at {a:#x} of {b} bytes, expected inside one memory region",
    QueueError.BAD_AVAIL_IDX: "available index {a}, expected at most the queue size above {b}",
    QueueError.BAD_HEAD: "head {a}, expected below {b}",
    QueueError.BAD_NEXT: "next descriptor {a}, expected below {b}",
    QueueError.BAD_LOOP: "chain at head {a}, expected at most {b} descriptors",
    QueueError.BAD_ADDR: "buffer at {a:#x} of {b} bytes, expected inside guest memory",
    QueueError.BAD_LEN: "buffer at {a:#x} of {b} bytes, expected some",
    QueueError.BAD_INDIRECT: "indirect table at {a:#x} of {b} bytes, expected whole descriptors",
    QueueError.BAD_NESTED: "chain at head {a}, expected no indirect flag there (flags {b:#x})",
    QueueError.BAD_FEATURE: "chain at head {a}, expected no indirect flag: not negotiated",
    QueueError.BAD_DIRECTION: "chain at head {a}, expected the other direction (flags {b:#x})",
    QueueError.BAD_PIECES: "chain at head {a}, expected at most {b} pieces of memory",
    QueueError.BAD_REQUEST: "request at head {a} of {b} bytes, expected room for an answer",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A broken rule with the values found; reads as one line."""

    error: QueueError
    a: int = 0
    b: int = 0

    def __str__(self) -> str:
        return _TEXT[self.error].format(a=self.a, b=self.b)


@dataclass(frozen=True, slots=True)
class QueueState:
    """Where a queue lies and how far it is; addresses are the front-end's (vhost-user) or equal
    to guest physical ones (a device of our own)."""

    size: int
    desc: int
    avail: int
    used: int
    features: int
    last_avail: int = 0


@dataclass(frozen=True, slots=True)
class Region:
    """`size` bytes of guest memory: guest physical `gpa`, front-end virtual `uva`, and `offset`
    in the file that backs it (vhost-user, memory region description)."""

    gpa: int
    size: int
    uva: int
    offset: int

    def overlaps(self, other: Region) -> bool:
        """Say whether both hold some guest physical address."""
        return self.gpa < other.gpa + other.size and other.gpa < self.gpa + self.size

"""The C data path of virtio-blk behind two classes: an image, and a queue with its threads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from ._core import ffi, lib
from .ring import Ring

SECTOR = 512
ID_LEN = 20
SEGMENTS_MAX = int(lib.BLK_SEGMENTS_MAX)
CLEAR_MAX = int(lib.BLK_CLEAR_MAX)
KINDS = ("read", "write", "flush", "discard", "write zeroes", "other")
_WHY = 256


@dataclass(frozen=True, slots=True)
class BlockFault:
    """Errors that the guest got; the values are those of the latest, `error` an errno."""

    error: int
    kind: str
    sector: int
    count: int


@dataclass(frozen=True, slots=True)
class BlockStatistics:
    """Counters of a queue or a disk; octets are those that were asked for and done."""

    reads: int = 0
    writes: int = 0
    flushes: int = 0
    discards: int = 0  # and zeroes written
    read_octets: int = 0
    written_octets: int = 0
    errors: int = 0
    unsupported: int = 0
    calls: int = 0
    threads: int = 0  # the most that a queue had at once

    def __add__(self, other: BlockStatistics) -> BlockStatistics:
        """Return both together."""
        return BlockStatistics(
            self.reads + other.reads,
            self.writes + other.writes,
            self.flushes + other.flushes,
            self.discards + other.discards,
            self.read_octets + other.read_octets,
            self.written_octets + other.written_octets,
            self.errors + other.errors,
            self.unsupported + other.unsupported,
            self.calls + other.calls,
            max(self.threads, other.threads),
        )


@dataclass(frozen=True, slots=True)
class Nbd:
    """An export that was opened: libnbd's handle, which an `Image` takes, and what it can do."""

    handle: int
    size: int
    read_only: bool
    trims: bool
    zeroes: bool


def has_nbd() -> bool:
    """Say whether libnbd is here."""
    return bool(lib.blk_nbd_load())


def open_nbd(fd: int) -> Nbd:
    """Open the export behind the connected socket `fd`, which is taken; `has_nbd` said yes before.

    UsageError says what the server did wrong.  Blocks for a handshake.
    """
    assert has_nbd()
    size, flags = ffi.new("uint64_t *"), ffi.new("uint32_t *")
    why = ffi.new("char[]", _WHY)
    handle = int(lib.blk_nbd_open(fd, size, flags, why, _WHY))
    if not handle:
        raise UsageError(bytes(ffi.string(why)).decode("utf-8", "replace"))
    bits = int(flags[0])
    return Nbd(handle, int(size[0]), bool(bits & 1), bool(bits & 2), bool(bits & 4))


class Image:
    """The contents of a disk: `fd`, which stays the caller's, or an NBD handle, which becomes ours.

    `event` becomes readable when there is a fault to take or a queue ended.  `align` is what
    O_DIRECT wants of memory, 0 without; `named` says that the file has a name to lose.
    """

    def __init__(
        self,
        sectors: int,
        *,
        fd: int = -1,
        nbd: int = 0,
        read_only: bool = False,
        align: int = 0,
        named: bool = False,
        serial: bytes = b"",
    ) -> None:
        self.event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        setup = ffi.new("struct blk_setup *")
        setup.fd, setup.nbd, setup.sectors, setup.align = fd, nbd, sectors, align
        setup.read_only, setup.named, setup.event = read_only, named, self.event
        ffi.memmove(setup.id, serial.ljust(ID_LEN, b"\0"), ID_LEN)
        self.pointer: Any = lib.blk_image_new(setup)
        if self.pointer == ffi.NULL:
            raise MemoryError

    def writethrough(self, on: bool) -> None:
        """Let writes be durable when they are answered."""
        lib.blk_image_writethrough(self.pointer, on)

    def fault(self) -> BlockFault | None:
        """Return what the guest was refused since the last call."""
        out = ffi.new("struct blk_fault *")
        if not lib.blk_fault_take(self.pointer, out):
            return None
        return BlockFault(out.error, KINDS[out.kind], out.sector, out.count)

    def close(self) -> None:
        """Let go of it; all queues have been freed.  Calling it again does nothing."""
        if self.event < 0:
            return
        lib.blk_image_free(self.pointer)
        os.close(self.event)
        self.pointer, self.event = ffi.NULL, -1


class BlockQueue:
    """Serves the attached `ring` from threads until `stop`, or until its driver breaks a rule.

    `kick` is borrowed.  Free it once it has `ended`: image, ring and memory must live until then.
    """

    def __init__(self, image: Image, ring: Ring, features: int, kick: int) -> None:
        self.ring = ring
        self._pointer: Any = lib.blk_start(image.pointer, ring.q, features, kick)
        if self._pointer == ffi.NULL:
            raise UsageError("no thread can be started for a disk: too many run already")

    def stop(self) -> None:
        """Ask the threads to end; does not wait for what they do."""
        lib.blk_stop(self._pointer)

    @property
    def ended(self) -> bool:
        """True once nothing touches guest memory any more."""
        return bool(lib.blk_ended(self._pointer))

    def statistics(self) -> BlockStatistics:
        """Return counters."""
        out = ffi.new("struct blk_counters *")
        lib.blk_count(self._pointer, out)
        n, octets = out.requests, out.octets
        return BlockStatistics(
            n[lib.BLK_READ],
            n[lib.BLK_WRITE],
            n[lib.BLK_FLUSH],
            n[lib.BLK_DISCARD] + n[lib.BLK_ZERO],
            octets[lib.BLK_READ],
            octets[lib.BLK_WRITE],
            out.errors,
            out.unsupported,
            out.calls,
            out.threads,
        )

    def free(self) -> None:
        """Give it back after it has ended, and take the ring off guest memory."""
        assert self.ended
        lib.blk_free(self._pointer)
        self._pointer = ffi.NULL
        self.ring.detach()

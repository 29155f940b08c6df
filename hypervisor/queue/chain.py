"""Descriptor chains in pure Python: the rules of core/vring.c, every one in the same order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from .layout import (
    CHAIN_MAX,
    DESC,
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
    PIECES_MAX,
)
from .state import Fault, QueueError, Region


class Memory(Protocol):
    """Guest memory: `hypervisor.core.memory.GuestMemory` is one."""

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions, the first match counts."""

    def view(self, region: Region) -> memoryview:
        """Return a region's bytes, writable."""


class Broken(Exception):
    """Carries the fault to where the queue is marked."""

    def __init__(self, error: QueueError, a: int, b: int) -> None:
        super().__init__(Fault(error, a, b))
        self.fault = Fault(error, a, b)


class Desc(NamedTuple):
    """A private copy of a descriptor (2.7.5)."""

    addr: int
    len: int
    flags: int
    next: int


Places = tuple[tuple[Region, memoryview], ...]


def places(memory: Memory) -> Places:
    """Return the regions with their bytes."""
    return tuple((region, memory.view(region)) for region in memory.regions)


def translate(memory: Places, gpa: int, size: int) -> memoryview | None:
    """Return up to `size` contiguous bytes at `gpa`; None outside of guest memory."""
    for region, view in memory:
        if region.gpa <= gpa < region.gpa + region.size:
            at = gpa - region.gpa
            return view[at : at + min(size, region.size - at)]
    return None


def translate_ring(memory: Places, uva: int, size: int) -> memoryview | None:
    """Return exactly `size` bytes at front-end address `uva`, inside one region."""
    for region, view in memory:
        if region.uva <= uva < region.uva + region.size:
            at = uva - region.uva
            return view[at : at + size] if size <= region.size - at else None
    return None


def _gather(memory: Places, head: int, desc: Desc, taken: int) -> Iterator[memoryview]:
    addr, left = desc.addr, desc.len
    while left:
        piece = translate(memory, addr, left)
        if piece is None:
            raise Broken(QueueError.BAD_ADDR, desc.addr, desc.len)
        if taken == PIECES_MAX:
            raise Broken(QueueError.BAD_PIECES, head, PIECES_MAX)
        taken += 1
        addr += len(piece)
        left -= len(piece)
        yield piece


def _indirect(memory: Places, head: int, desc: Desc, allowed: bool) -> memoryview:
    if not allowed:
        raise Broken(QueueError.BAD_FEATURE, head, desc.flags)
    if desc.len == 0 or desc.len % DESC.size or desc.len // DESC.size > CHAIN_MAX:
        raise Broken(QueueError.BAD_INDIRECT, desc.addr, desc.len)
    table = translate(memory, desc.addr, desc.len)
    if table is None or len(table) < desc.len:
        raise Broken(QueueError.BAD_ADDR, desc.addr, desc.len)
    return table


def walk(
    memory: Places,
    table: memoryview,
    head: int,
    *,
    writable: bool | None,
    indirect: bool,
    pieces: list[memoryview],
) -> int:
    """Append the buffers of the chain at `head` to `pieces`; Broken if it breaks a rule.

    With `writable` None, readable ones come first (2.7.4.2); returns where those end.
    """
    entries = len(table) // DESC.size
    most = min(entries, CHAIN_MAX)
    if head >= entries:
        raise Broken(QueueError.BAD_HEAD, head, entries)
    i, n, nested, readable = head, 0, False, 0
    while True:
        if n == most:
            raise Broken(QueueError.BAD_LOOP, head, most)
        n += 1
        desc = Desc(*DESC.unpack_from(table, i * DESC.size))
        if desc.flags & DESC_INDIRECT:
            if nested or desc.flags & DESC_NEXT:
                raise Broken(QueueError.BAD_NESTED, head, desc.flags)
            table = _indirect(memory, head, desc, indirect)
            entries = most = len(table) // DESC.size
            i, n, nested = 0, 0, True
            continue
        if desc.len == 0:
            raise Broken(QueueError.BAD_LEN, desc.addr, desc.len)
        write = bool(desc.flags & DESC_WRITE)
        if len(pieces) > readable and not write if writable is None else write != writable:
            raise Broken(QueueError.BAD_DIRECTION, head, desc.flags)
        pieces.extend(_gather(memory, head, desc, len(pieces)))
        readable = readable if write else len(pieces)
        if not desc.flags & DESC_NEXT:
            return readable
        if desc.next >= entries:
            raise Broken(QueueError.BAD_NEXT, desc.next, entries)
        i = desc.next

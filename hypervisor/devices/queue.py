"""A virtqueue as a device uses it: chains come out, used elements go back (virtio 1.2, 2.6, 2.7).

The rings are walked by C (core/vring.c, core/chain.c); a chain is lists of memoryviews over guest
memory, readable first, bounded by the rules there.  A driver that breaks one breaks the queue:
`pop` returns None from then on and the transport is told.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from ..core.memory import GuestMemory
from ..core.ring import Pieces, Ring
from ..queue.state import Fault, QueueState


class Chain:
    """A request of the driver's: what it wrote for us, and where we may write.

    The views are good until the chain is pushed or the queue detached.
    """

    __slots__ = ("head", "readable", "writable")

    def __init__(
        self, head: int, readable: Sequence[memoryview], writable: Sequence[memoryview]
    ) -> None:
        self.head = head
        self.readable = readable
        self.writable = writable

    @property
    def readable_len(self) -> int:
        """Bytes that the driver wrote."""
        return _octets(self.readable)

    @property
    def writable_len(self) -> int:
        """Bytes that we may write."""
        return _octets(self.writable)

    def read(self, size: int, offset: int = 0) -> bytes:
        """Return a copy of up to `size` readable bytes from `offset`."""
        return bytes(self.gather(size, offset))

    def gather(self, size: int, offset: int = 0) -> bytearray:
        """Do as `read`, one copy cheaper."""
        if isinstance(self.readable, Pieces):
            return self.readable.read(size, offset)
        out = bytearray()
        for piece in self.readable:
            if len(out) == size:
                break
            part = piece[offset : offset + size - len(out)]
            offset = max(0, offset - len(piece))
            out += part
        return out

    def write(self, data: bytes | bytearray | memoryview, offset: int = 0) -> int:
        """Copy `data` to the writable bytes from `offset`; returns how much found room."""
        if isinstance(self.writable, Pieces):
            return self.writable.write(data, offset)
        left = memoryview(data).cast("B")
        done = 0
        for piece in self.writable:
            if not left:
                break
            part = piece[offset : offset + len(left)]
            offset = max(0, offset - len(piece))
            part[:] = left[: len(part)]
            left = left[len(part) :]
            done += len(part)
        return done


def _octets(pieces: Sequence[memoryview]) -> int:
    return pieces.octets if isinstance(pieces, Pieces) else sum(map(len, pieces))


def cut(pieces: Sequence[memoryview], start: int, size: int) -> list[memoryview]:
    """Return `size` bytes of `pieces` from `start`, or what there is of them, in place."""
    out = []
    for piece in pieces:
        if start >= len(piece):
            start -= len(piece)
            continue
        part = piece[start : start + size]
        start = 0
        size -= len(part)
        if len(part):
            out.append(part)
        if not size:
            break
    return out


class Queue:
    """One virtqueue, device side; `failed` hears of the rule that its driver broke, once.

    `kick` is the borrowed eventfd that says that the driver added something; -1 if nobody reads it.
    """

    def __init__(self, failed: Callable[[Fault], None] | None = None, kick: int = -1) -> None:
        self.ring = Ring()
        self.state: QueueState | None = None  # where the driver put it
        self._failed = failed
        self._kick = kick

    def attach(self, memory: GuestMemory, state: QueueState) -> Fault | None:
        """Put the queue on rings inside `memory`; returns what is wrong with them."""
        self.state = state
        return self.ring.attach(memory, state)

    def detach(self) -> None:
        """Let go of the rings: nothing is popped any more, and what is pushed goes nowhere."""
        self.ring.detach()

    @property
    def attached(self) -> bool:
        """True while the queue lies in guest memory and is not broken."""
        return self.ring.attached

    @property
    def size(self) -> int:
        """Entries of the rings; 0 while they are nowhere."""
        return int(self.ring.q.size)

    def pop(self) -> Chain | None:
        """Take the next chain; None when there is none or the queue is broken."""
        pieces = self.ring.chain_pop()
        if pieces is None:
            self.check()
            return None
        return Chain(*pieces)

    def chains(self) -> Iterator[Chain]:
        """Take the chains that wait; the driver kicks for the next one after the last.

        A driver that goes on adding does not keep us here: we kick ourselves after a ring's worth.
        """
        for _ in range(self.size):
            chain = self.pop()
            if chain is None and self.arm():
                chain = self.pop()
            if chain is None:
                return
            yield chain
        if self.arm() and self._kick >= 0:
            os.eventfd_write(self._kick, 1)

    def arm(self) -> int:
        """Ask for a kick at the next chain; returns how many wait already."""
        waiting = self.ring.arm()
        self.check()
        return waiting

    def push(self, chain: Chain, written: int = 0) -> None:
        """Give a chain back with so many bytes written; the driver sees it after `publish`."""
        self.ring.chain_push(chain.head, written)

    def publish(self) -> bool:
        """Show what was pushed and notify the driver if it wants that; says whether."""
        return self.ring.publish()

    def done(self, chain: Chain, written: int = 0) -> None:
        """Push and publish one chain."""
        self.push(chain, written)
        self.publish()

    def check(self) -> None:
        """Report the queue if it is broken: for who walks `ring` without `pop`."""
        fault = self.ring.fault
        if fault is not None and self._failed is not None:
            failed, self._failed = self._failed, None
            failed(fault)

"""A queue as the driver describes it before it says that it is ready (virtio 1.2, 4.2.3.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..core.memory import GuestMemory
from ..queue.state import Fault, QueueState
from .queue import Queue


@dataclass(frozen=True, slots=True)
class TransportStatistics:
    """Counters of one transport."""

    writes: int = 0  # that came as exits
    refused: int = 0  # of these, against the rules
    resets: int = 0
    failures: int = 0  # DEVICE_NEEDS_RESET
    queues: tuple[tuple[int, int, int, int], ...] = ()  # kicks, chains, octets, calls of each


Counters = tuple[int, int, int]  # chains, octets, calls


class QueueSetup:
    """Size and addresses (guest physical) of one queue of at most `most` entries; `queue` once it
    is ready.  `kick` is borrowed."""

    def __init__(self, most: int, kick: int, past: Counters = (0, 0, 0)) -> None:
        self.most = most
        self.queue: Queue | None = None
        self.past = past  # of the queues that were there before
        self._kick = kick
        self._num = 0
        self._addr = {"desc": 0, "driver": 0, "device": 0}

    def set_num(self, value: int) -> bool:
        """Take the size that the driver chose; False if it cannot be."""
        if not 0 < value <= self.most or value & (value - 1):
            return False
        self._num = value
        return True

    def set_addr(self, value: int, name: str, shift: int) -> None:
        """Take the low (`shift` 0) or high (32) half of one of the three addresses."""
        self._addr[name] = self._addr[name] & ~(0xFFFFFFFF << shift) | value << shift

    def make_ready(
        self, memory: GuestMemory, features: int, call: int, failed: Callable[[Fault], None]
    ) -> Fault | None:
        """Put a fresh queue on the rings; returns what is wrong with them."""
        queue = Queue(failed, self._kick)
        queue.ring.set_call(call)
        addr = self._addr
        state = QueueState(self._num, addr["desc"], addr["driver"], addr["device"], features)
        fault = queue.attach(memory, state)
        if fault is None:
            self.queue = queue
        return fault

    @property
    def counters(self) -> Counters:
        """What its queues moved until now."""
        chains, octets, calls = self.past
        if self.queue is None:
            return self.past
        ring = self.queue.ring
        return chains + ring.chains, octets + ring.octets, calls + ring.calls

    def stop(self) -> None:
        """Take the queue off its rings for good: whoever has it can use it no more."""
        if self.queue is not None:
            self.past = self.counters
            self.queue.detach()
            self.queue = None

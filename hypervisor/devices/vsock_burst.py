"""What a guest sends to one end in a row, so that the end takes it at once.

A message to a socket costs as much as copying a packet; Linux sends 64 KiB at most in one.
"""

from __future__ import annotations

from collections.abc import Callable

from ..vsock.connection import Connection
from .queue import Chain, Queue

PACKETS = 32  # that wait for the next ones
PIECES = 512  # of guest memory in these; sendmsg(2) takes 1024


class Burst:
    """Payloads of one connection; `take` hands them to its end, then their chains go back."""

    def __init__(
        self, queue: Queue, take: Callable[[Connection, list[memoryview]], object]
    ) -> None:
        self._queue = queue
        self._take = take
        self._connection: Connection | None = None
        self._pieces: list[memoryview] = []
        self._chains: list[Chain] = []

    def add(self, chain: Chain, connection: Connection | None, data: list[memoryview]) -> None:
        """Add a packet's payload; one that is for nobody (None) only gives its chain back."""
        if connection is None:
            self._queue.push(chain)
            return
        full = len(self._chains) == PACKETS or len(self._pieces) + len(data) > PIECES
        if connection is not self._connection or full:
            self.deliver()
        self._connection = connection
        self._pieces += data
        self._chains.append(chain)

    def deliver(self) -> None:
        """Hand over what there is."""
        connection, self._connection = self._connection, None
        pieces, self._pieces = self._pieces, []
        chains, self._chains = self._chains, []
        if connection is not None:
            self._take(connection, pieces)
        for chain in chains:
            self._queue.push(chain)

"""Ephemeral ports (RFC 6056, algorithm 4): unpredictable from outside, increasing per destination.

A keyed hash of the destination gives where to begin, a small table of counters how far others like
it have come, so that a port is reused as late as possible without being guessable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

TABLE = 16
LOW, HIGH = 1024, 65535  # section 3.2: as large a range as possible
WELL_KNOWN = 49152  # IANA's dynamic range, for those who want no registered port


class Ports:
    """The chooser of one stack; `secret` is 16 to 32 random bytes."""

    __slots__ = ("_count", "_low", "_secret", "_table")

    def __init__(self, secret: bytes, low: int = LOW, high: int = HIGH) -> None:
        self._secret = secret
        self._low = low
        self._count = high - low + 1
        self._table = [
            int.from_bytes(self._digest(bytes((i,)), b"table"), "big") for i in range(TABLE)
        ]

    def _digest(self, text: bytes, person: bytes) -> bytes:
        return hashlib.blake2s(text, key=self._secret, digest_size=4, person=person).digest()

    def choose(self, ends: bytes, free: Callable[[int], bool]) -> int:
        """Return a port that `free` accepts, 0 when there is none.

        `ends` names local address, remote address and remote port, in any fixed encoding.
        """
        offset = int.from_bytes(self._digest(ends, b"offset"), "big")
        index = self._digest(ends, b"index")[0] % TABLE
        for _ in range(self._count):
            port = self._low + (offset + self._table[index]) % self._count
            self._table[index] += 1
            if free(port):
                return port
        return 0

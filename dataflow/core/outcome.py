"""What the pump and its twin say, in the numbers of p9.h."""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol

SLOW = 0.005  # seconds: a write that takes longer waits for more than memory
SLOW_TURNS = 256  # writes after such a one that go to threads


class Outcome(enum.IntEnum):
    """What `serve` and `flush` come to; p9.h says what each asks of the caller."""

    IDLE = 0
    MORE = 1
    MESSAGE = 2
    LARGE = 3
    FULL = 4
    END = 5
    BAD = 6


class May(enum.IntFlag):
    """What a fid is known to permit."""

    READ = 1
    WRITE = 2
    ATTR = 4
    CLUNK = 8


class Open(NamedTuple):
    """What the pump knows of a fid: a descriptor for data, one for attributes, and the qid."""

    may: int
    io: int
    path: int
    qid_type: int
    qid_path: int


class Counts(NamedTuple):
    """Requests that the pump answered by itself, and their octets."""

    requests: int
    octets_in: int
    octets_out: int


class PumpLike(Protocol):
    """What the C pump (`pump.py`) and its twin in Python (`pure.py`) do."""

    def limit(self, msize: int) -> None:
        """Set the largest message."""

    def learn(self, fid: int, what: Open) -> None:
        """Serve a fid until its next message that is no read, write or getattr."""

    def serve(self, sock: int, fast: bool, spin: int = 0) -> Outcome:
        """Read from a socket and answer; `spin` nanoseconds for the next request to come."""

    def clunked(self) -> list[int]:
        """Return the fids that the pump clunked in the latest `serve`."""

    def flush(self, sock: int) -> Outcome:
        """Send what waits."""

    def message(self) -> tuple[bytearray, int]:
        """Return room for the whole message, and how much of it came."""

    def size(self) -> int:
        """Return the size that the latest message claims."""

    def counts(self) -> Counts:
        """Return counters."""

    def close(self) -> None:
        """Release everything; then `serve` and `flush` say END."""

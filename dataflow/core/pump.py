"""The C pump of one connection (p9.h): it answers the hot messages and hands over the rest."""

from __future__ import annotations

from ._core import ffi, lib
from .outcome import SLOW, Counts, Open, Outcome

_OUTCOMES: tuple[Outcome, ...] = tuple(Outcome)
_CLUNKED: int = lib.PUMP_CLUNKED


class Pump:
    """The pump in C; `serve` runs without the interpreter's lock."""

    __slots__ = ("_clunked", "_pump")

    def __init__(self, msize: int, slow: float = SLOW) -> None:
        self._pump = lib.pump_new(msize, int(slow * 1e9))
        if self._pump == ffi.NULL:
            raise MemoryError("no memory for a connection")
        self._clunked = False

    def limit(self, msize: int) -> None:
        """Set the largest message."""
        lib.pump_limit(self._pump, msize)

    def learn(self, fid: int, what: Open) -> None:
        """Serve a fid until its next message that is no read, write or getattr."""
        lib.pump_learn(self._pump, fid, *what)

    def serve(self, sock: int, fast: bool, spin: int = 0) -> Outcome:
        """Read from a socket and answer; `spin` nanoseconds for the next request to come."""
        said: int = lib.pump_serve(self._pump, sock, fast, spin)
        self._clunked = bool(said & _CLUNKED)
        return _OUTCOMES[said & ~_CLUNKED]

    def clunked(self) -> list[int]:
        """Return the fids that the pump clunked in the latest `serve`."""
        if not self._clunked:
            return []
        self._clunked = False
        numbers = ffi.new("uint32_t[]", lib.PUMP_CLUNKED_MAX)
        return list(numbers[0 : lib.pump_clunked(self._pump, numbers)])

    def flush(self, sock: int) -> Outcome:
        """Send what waits."""
        said: int = lib.pump_flush(self._pump, sock)
        return _OUTCOMES[said]

    def message(self) -> tuple[bytearray, int]:
        """Return room for the whole message, and how much of it came."""
        said = lib.pump_message(self._pump)
        n: int = said.len
        if n == said.size:
            return bytearray(ffi.buffer(said.at, n)), n
        out = bytearray(said.size)
        ffi.memmove(out, said.at, n)
        return out, n

    def size(self) -> int:
        """Return the size that the latest message claims."""
        return int(lib.pump_message(self._pump).size)

    def counts(self) -> Counts:
        """Return counters."""
        c = lib.pump_count(self._pump)
        return Counts(c.requests, c.octets_in, c.octets_out)

    def close(self) -> None:
        """Release everything; then `serve` and `flush` say END."""
        pump, self._pump = self._pump, ffi.NULL
        lib.pump_free(pump)

    __del__ = close

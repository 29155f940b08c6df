"""Offloads in software: turns frames a link cannot take into frames that it can."""

from __future__ import annotations

from collections.abc import Iterator

from ..core._core import ffi, lib
from ..core.burst import Burst


class Softener:
    """Segments and completes checksums for one link; `dropped` counts frames that cannot be."""

    __slots__ = ("_cursor", "_scratch", "dropped")

    def __init__(self) -> None:
        self._scratch: Burst | None = None
        self._cursor = ffi.new("uint32_t *")
        self.dropped = 0

    def __call__(self, burst: Burst, offload: int) -> Iterator[Burst]:
        """Yield bursts that together are `burst`, in order, within what `offload` offers.

        Each burst yielded is valid until the next is asked for; its frames refer to the memory of
        `burst`.
        """
        if not lib.frame_needs(burst.array, burst.count, offload):
            yield burst
            return
        if self._scratch is None:
            self._scratch = Burst(burst.capacity)
        out = self._scratch
        out.clear()
        for f in burst:
            self._cursor[0] = 0
            while True:
                room = out.capacity - out.count
                made = lib.frame_soften(f, offload, self._cursor, out.array + out.count, room)
                out.count += made
                if made == 0:
                    self.dropped += 1
                    break
                if out.full:
                    yield out
                    out.clear()
                if self._cursor[0] == 0:
                    break
        if out.count:
            yield out
            out.clear()

"""Offloads in software: turns frames a link cannot take into frames that it can."""

from __future__ import annotations

from collections.abc import Iterator

from ..core._core import ffi, lib
from ..core.burst import Burst


class Softener:
    """Segments and completes checksums for one link; `dropped` counts frames that cannot be."""

    __slots__ = ("_dropped", "_scratch")

    def __init__(self) -> None:
        self._scratch: Burst | None = None
        self._dropped = ffi.new("uint32_t *")

    @property
    def dropped(self) -> int:
        """Frames that could not be sent."""
        return int(self._dropped[0])

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
        at = ffi.new("uint32_t[2]")  # the frame and how far into it
        while at[0] < burst.count:
            out.count = lib.frame_soften_burst(
                burst.array, burst.count, offload, at, at + 1, out.array, out.capacity,
                self._dropped,
            )  # fmt: skip
            if out.count:
                yield out
        out.clear()

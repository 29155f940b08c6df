"""What targets share: an input as a stream of decisions, fixed runs, the command line."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


class Stream:
    """Takes numbers from `data`, zeros behind its end: one changed byte changes one decision."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        """True until the input is used up."""
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        part = self._data[self._at : self._at + size]
        self._at += size
        return part.ljust(size, b"\0")

    def number(self, size: int = 1) -> int:
        """Return an unsigned number of `size` bytes."""
        return int.from_bytes(self.take(size), "little")

    def choice(self, options: Sequence[T]) -> T:
        """Return one of up to 256 options."""
        return options[self.number() % len(options)]


def seeded(
    target: Callable[[bytes], None], seed: int, count: int, sizes: Sequence[int] = (16,)
) -> None:
    """Run `target` on `count` random inputs from `seed`; what the kits log of them is noise."""
    rng = random.Random(seed)
    logs = [logging.getLogger(name) for name in ("hypervisor", "dataflow")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        for _ in range(count):
            target(rng.randbytes(rng.choice(sizes)))
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def main(target: Callable[[bytes], None], fuzz: Callable[[int, int], None]) -> None:
    """Fuzz under atheris, or, with a number on the command line, run `fuzz` so many times."""
    if sys.argv[1:2] and sys.argv[1].isdecimal():
        fuzz(random.randrange(1 << 30), int(sys.argv[1]))  # without atheris: asan.sh
        return
    import atheris

    logging.disable()
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()

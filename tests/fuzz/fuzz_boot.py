"""Damaged kernels and initrds: loaded inside RAM or refused with one line, and nothing written.

`TestOneInput` is an atheris target; run this file to fuzz, or `fuzz(seed, count)` for a fixed run.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "unit" / "hypervisor"))

import inputs
from guest_images import PVH_NOTE, Ram, bz_image, newc, vmlinux

from hypervisor.errors import UsageError
from hypervisor.pc import boot, layout

SIZE = 64 * layout.MIB
KERNELS = (bz_image(), vmlinux(b"code", PVH_NOTE), vmlinux())
INITRD = newc("init", "bin/sh")


def _damage(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randrange(6)):
        at = rng.randrange(min(len(out), 0x280))
        out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.getrandbits(8)))
    if rng.random() < 0.1:
        del out[rng.randrange(len(out)) :]
    return bytes(out)


def TestOneInput(data: bytes) -> None:
    """Load one kernel; `data` is the seed of what is wrong with it."""
    rng = random.Random(data)
    ram = Ram()
    kernel, initrd = _damage(rng, rng.choice(KERNELS)), _damage(rng, INITRD)
    try:
        boot.load(ram, kernel, rng.choice((None, initrd)), cpus=2, ram_size=SIZE)
    except UsageError as error:
        if "\n" in str(error) or ram.writes:
            raise AssertionError(f"refused, but not cleanly: {error!r}") from error
        return
    for gpa, piece in ram.writes.items():
        if gpa < 0 or gpa + len(piece) > SIZE:
            raise AssertionError(f"wrote {len(piece)} bytes at {gpa:#x}, outside RAM")


def fuzz(seed: int, count: int) -> None:
    """Run `count` inputs derived from `seed`."""
    for number in range(count):
        TestOneInput(f"{seed}/{number}".encode())


if __name__ == "__main__":
    inputs.main(TestOneInput, fuzz)

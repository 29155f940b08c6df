"""Boots a stock kernel on our monitor, pauses it, kills it, many times; a hang shows its stacks.

    soak.py [BOOTS [SEED]]

Where this host's KVM runs no kernels, it all happens in the nested machine (nested.py).
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from nested import Done, Nested  # noqa: E402

from hypervisor import ExitReason, Machine  # noqa: E402
from hypervisor.engine import host  # noqa: E402
from hypervisor.image.build import Image, Spec, build, load  # noqa: E402
from hypervisor.image.cache import Cache, default_directory  # noqa: E402

MARK = b"@@init"
INIT = b"#!/bin/sh\necho @@init >/dev/console\nexec poweroff -f\n"
BOOT = 120.0  # seconds


async def boot(image: Image, rng: random.Random) -> str:
    """Boot once and end in some way; returns what was done."""
    cpus = rng.choice((1, 1, 2, 4))
    async with Machine(image.kernel, image.initrd, engine="kvm", cpus=cpus) as machine:
        if rng.random() < 0.2:
            for _ in range(rng.randrange(4)):
                await machine.pause()
                await machine.resume()
            await machine.kill()
            return f"{cpus} vCPUs, killed"
        seen = b""
        while MARK not in seen:
            if rng.random() < 0.3:
                await machine.pause()
                await machine.resume()
            data = await machine.console.read()
            assert data, f"the console ended: {seen[-500:]!r}, {await machine.wait()}"
            seen += data
        assert (await machine.wait()).reason is ExitReason.POWER_OFF
        return f"{cpus} vCPUs, powered off"


async def soak(image: Image, boots: int, seed: int) -> None:
    """Boot that often; a boot that takes too long ends the process with all stacks."""
    rng = random.Random(seed)
    for number in range(boots):
        faulthandler.dump_traceback_later(1.5 * BOOT, exit=True)
        begin = time.monotonic()
        async with asyncio.timeout(BOOT):
            done = await boot(image, rng)
        print(f"{number} {time.monotonic() - begin:.1f} s {done}", flush=True)


def main() -> None:
    """Run here, or there."""
    chosen = [int(word) for word in sys.argv[1:3]]
    boots, seed = (*chosen, *(30, 5)[len(chosen) :])
    if sys.argv[3:]:  # in the nested machine, from its memory
        near = shutil.copytree(sys.argv[3], Path(tempfile.mkdtemp()) / "image")
        asyncio.run(soak(load(near), boots, seed))
        return
    image = build(Spec(init=INIT), Cache(default_directory(os.environ)))
    if host.kvm().good:
        asyncio.run(soak(image, boots, seed))
        return
    with Nested() as machine:
        argv = [machine.python, __file__, str(boots), str(seed), str(image.directory)]
        for part in machine.stream(argv, timeout=BOOT * (boots + 1)):
            print(part if isinstance(part, Done) else part.rstrip(), flush=True)


if __name__ == "__main__":
    main()

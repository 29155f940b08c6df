"""Start to the guest's init: the same kernel on our monitor and on QEMU's microvm, in turns."""

from __future__ import annotations

import asyncio
import sys
from statistics import median

from benchmarks.machines import BOOT, INIT_MARK, Group, Samples, until
from benchmarks.report import Cell, Report
from hypervisor import ExitReason, Machine
from hypervisor.image.build import Image

ENGINES = ("kvm", "qemu")


async def _measure(image: Image, quick: bool) -> Samples:
    samples: Samples = {name: [] for name in ENGINES}
    for _ in range(1 if quick else 3):
        for engine in ENGINES:
            samples[engine].append(await _boot(image, engine))
    return samples


async def _boot(image: Image, engine: str) -> float:
    """Boot once; the time counts from the call of `start` to init's first words."""
    loop = asyncio.get_running_loop()
    machine = Machine(image.kernel, image.initrd, engine=engine)
    async with asyncio.timeout(BOOT), machine:
        await until(machine, INIT_MARK)
        took = loop.time() - machine.started_at
        end = await machine.wait()
        if end.reason is not ExitReason.POWER_OFF:
            sys.exit(f"{engine}: ended by {end.reason.value}, expected a power-off")
    return took


def _add(report: Report, samples: Samples) -> None:
    ours, peer = samples["kvm"], samples["qemu"]
    pairs = tuple(q / k for k, q in zip(ours, peer, strict=True))
    peers = {"qemu microvm": median(peer)}
    report.add(Cell("start to init", median(ours), peers, better="lower", unit="s", pairs=pairs))


GROUPS = (Group("boot", True, _measure, _add),)

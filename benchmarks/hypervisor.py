"""Our monitor next to QEMU's microvm board on KVM: the same kernel, the same machine, in turns.

Where this host's KVM runs no kernels, both run in the nested machine of the kvm lane; what is
compared then is how much each adds, so only the ratios mean something.

    hypervisor.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/kvm")]

from nested import Nested  # noqa: E402

from benchmarks.report import Cell, Report  # noqa: E402
from hypervisor import ExitReason, Machine  # noqa: E402
from hypervisor.core.kvm import why_not  # noqa: E402
from hypervisor.engine import host  # noqa: E402
from hypervisor.engine.kvm import KvmEngine  # noqa: E402
from hypervisor.image.build import Image, Spec, build, load  # noqa: E402
from hypervisor.image.cache import Cache, default_directory  # noqa: E402

ENGINES = ("kvm", "qemu")
BOOT = 60.0
MARK = b"@@init"
INIT = b"#!/bin/sh\necho @@init >/dev/console\nexec poweroff -f\n"
OWN_GOAL = 0.020  # seconds from `start` to the guest's first instruction


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    rounds = 1 if options.quick else 3
    if options.inside:
        print(json.dumps(asyncio.run(_measure(_near(options.inside), rounds))))
        return
    report = Report("hypervisor")
    image = build(Spec(init=INIT), Cache(default_directory(os.environ)))
    _add(report, _samples(image, rounds, options.quick), image)
    report.print()
    if options.json:
        report.write(options.json)


def _samples(image: Image, rounds: int, quick: bool) -> dict[str, list[float]]:
    if host.kvm().good:
        return asyncio.run(_measure(image, rounds))
    with Nested() as machine:
        argv = [machine.python, __file__, "--inside", str(image.directory)]
        done = machine.run([*argv, *(["--quick"] if quick else [])], timeout=(rounds + 1) * BOOT)
    if done.code:
        sys.exit(f"in the nested machine: {done.output}")
    samples: dict[str, list[float]] = json.loads(done.output.splitlines()[-1])
    return samples


def _near(directory: Path) -> Image:
    """Copy an image into the memory of the nested machine, whose 9P share is not measured."""
    return load(shutil.copytree(directory, Path(tempfile.mkdtemp()) / "image"))


async def _measure(image: Image, rounds: int) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {name: [] for name in ENGINES}
    for _ in range(rounds):
        for engine in ENGINES:
            await _boot(image, engine, samples)
    return samples


async def _boot(image: Image, engine: str, samples: dict[str, list[float]]) -> None:
    """Boot once; the time counts from the call of `start` to init's first words."""
    loop = asyncio.get_running_loop()
    machine = Machine(image.kernel, image.initrd, engine=engine)
    async with asyncio.timeout(BOOT), machine:
        seen = b""
        while MARK not in seen:
            data = await machine.console.read()
            if not data:
                sys.exit(f"{engine}: the console ended: {seen[-500:]!r}")
            seen += data
        samples[engine].append(loop.time() - machine.started_at)
        end = await machine.wait()
        if end.reason is not ExitReason.POWER_OFF:
            sys.exit(f"{engine}: ended by {end.reason.value}, expected a power-off")


async def _own(image: Image) -> list[float]:
    """Return seconds from `start` to the guest's first instruction, on this host's own KVM."""
    samples = []
    for _ in range(10):
        async with Machine(image.kernel, image.initrd, engine="kvm") as machine:
            assert isinstance(machine.engine, KvmEngine)
            samples.append(machine.engine.statistics().first_instruction)
    return samples


def _add(report: Report, samples: dict[str, list[float]], image: Image) -> None:
    ours, peer = samples["kvm"], samples["qemu"]
    pairs = tuple(q / k for k, q in zip(ours, peer, strict=True))
    options: dict[str, Any] = {"better": "lower", "unit": "s"}
    report.add(Cell("start to init", median(ours), {"qemu": median(peer)}, pairs=pairs, **options))
    if why_not() is None:
        name = f"start to first instruction, {image.size >> 20} MiB to load"
        own = median(asyncio.run(_own(image)))
        report.add(Cell(name, own, {"goal": OWN_GOAL}, **options))


if __name__ == "__main__":
    main()

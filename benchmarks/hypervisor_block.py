"""Our virtio-blk next to QEMU's on its microvm board, on KVM: the same kernel, disk, jobs of fio.

Where this host's KVM runs no kernels, both run in the nested machine of the kvm lane, in turns, on
an image in its memory.  Only the ratios mean something there.

    hypervisor_block.py [--quick] [--json FILE]
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
from hypervisor.engine import host  # noqa: E402
from hypervisor.engine.kvm import KvmEngine  # noqa: E402
from hypervisor.image.build import Image, Spec, build, load  # noqa: E402
from hypervisor.image.cache import Cache, default_directory  # noqa: E402

ENGINES = ("kvm", "qemu")
BOOT = 300.0  # seconds
COPY = 120.0  # seconds for 140 MB of image over 9P, on a busy host
DISK = 192 << 20
GOAL = 0.9
SECONDS, QUICK_SECONDS = 4, 2
# Name, fio's options, and the field of its terse output (version 3) that counts: KiB/s or IOPS.
JOBS = (
    ("sequential read, 1 MiB", "--rw=read --bs=1M --iodepth=4", 6),
    ("sequential write, 1 MiB", "--rw=write --bs=1M --iodepth=4", 47),
    ("random read, 4 KiB", "--rw=randread --bs=4k --iodepth=1", 7),
    ("random write, 4 KiB", "--rw=randwrite --bs=4k --iodepth=1", 48),
    ("random read, 4 KiB, 16 at once", "--rw=randread --bs=4k --iodepth=16", 7),
    ("random write, 4 KiB, 16 at once", "--rw=randwrite --bs=4k --iodepth=16", 48),
)
COMMON = (
    "--filename=/dev/vda --direct=1 --ioengine=libaio --thread --time_based --minimal "
    "--gtod_reduce=1 --randrepeat=1"
)
EXITS = "exits for data"


def init(seconds: int) -> bytes:
    """Return the guest's init: every job in turn, between marks."""
    lines = ["#!/bin/sh", ". /lib/trikit/setup.sh", "exec >/dev/console 2>&1"]
    for number, (_, options, _) in enumerate(JOBS):
        lines.append(f"fio --name=j {COMMON} --runtime={seconds} {options} >/run/out")
        lines.append(f'echo "@@{number};$(cat /run/out)"')
    return "\n".join([*lines, "echo @@end", "poweroff -f", ""]).encode()


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
    seconds = QUICK_SECONDS if options.quick else SECONDS
    spec = Spec(packages=("fio", "zlib1g"), init=init(seconds))
    image = build(spec, Cache(default_directory(os.environ)))
    report = Report("hypervisor: block")
    _add(report, _samples(image, rounds, options.quick))
    report.print()
    if options.json:
        report.write(options.json)


def _samples(image: Image, rounds: int, quick: bool) -> dict[str, Any]:
    if host.kvm().good:
        return asyncio.run(_measure(image, rounds))
    with Nested() as machine:
        argv = [machine.python, __file__, "--inside", str(image.directory)]
        done = machine.run(
            [*argv, *(["--quick"] if quick else [])], timeout=COPY + 2 * rounds * BOOT
        )
    if done.code:
        sys.exit(f"in the nested machine: status {done.code}: {done.output}")
    samples: dict[str, Any] = json.loads(done.output.splitlines()[-1])
    return samples


def _near(directory: Path) -> Image:
    """Copy an image into the memory of the nested machine, whose 9P share is not measured."""
    return load(shutil.copytree(directory, Path(tempfile.mkdtemp()) / "image"))


async def _measure(image: Image, rounds: int) -> dict[str, Any]:
    """Return for each engine a list of rounds, each with the figures of the jobs."""
    samples: dict[str, Any] = {name: [] for name in ENGINES}
    samples[EXITS] = []
    with tempfile.TemporaryDirectory() as place:
        disk = Path(place) / "disk.img"
        disk.write_bytes(b"\xa5" * DISK)  # no holes: what is read is memory on both sides
        for _ in range(rounds):
            for engine in ENGINES:
                samples[engine].append(await _jobs(image, engine, disk, samples[EXITS]))
    return samples


async def _jobs(image: Image, engine: str, disk: Path, exits: list[float]) -> list[float]:
    """Run all jobs in one machine; notes our exits a MiB between the first and the last."""
    machine = Machine(image.kernel, image.initrd, engine=engine, memory="384M", disks=[disk])
    figures: list[float] = []
    counted: list[int] = []
    moved = 0.0
    async with asyncio.timeout(BOOT), machine:
        async for line in machine.console:
            text = line.strip()
            if isinstance(machine.engine, KvmEngine) and text.startswith("@@"):
                counted.append(machine.engine.statistics().user_exits)
            number, _, terse = text.removeprefix("@@").partition(";")
            if text.startswith("@@") and terse:
                fields = terse.split(";")
                if len(fields) < 50:
                    sys.exit(f"{engine}: fio said {terse!r}")
                figures.append(float(fields[JOBS[int(number)][2]]))
                moved += (float(fields[5]) + float(fields[46])) / 1024 if figures[1:] else 0
        end = await machine.wait()
    if end.reason is not ExitReason.POWER_OFF or len(figures) != len(JOBS):
        sys.exit(f"{engine}: {len(figures)} jobs, ended by {end.reason.value}: {end.message}")
    if counted:
        exits.append((counted[len(JOBS) - 1] - counted[0]) / moved)
    return figures


def _add(report: Report, samples: dict[str, Any]) -> None:
    for i, (name, _, field) in enumerate(JOBS):
        ours, peer = ([each[i] for each in samples[engine]] for engine in ENGINES)
        pairs = tuple(a / b for a, b in zip(ours, peer, strict=True))
        unit = "KiB/s" if field in (6, 47) else "IOPS"
        peers = {"qemu": median(peer)}
        report.add(Cell(name, median(ours), peers, GOAL, unit=unit, pairs=pairs))
    exits = max(samples[EXITS])
    bound = {"goal": 0.001}
    report.add(Cell("user-space exits for each MiB", exits, bound, better="lower"))


if __name__ == "__main__":
    main()

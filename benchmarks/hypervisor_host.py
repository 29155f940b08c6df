"""What a machine costs this process, on the host's own KVM: time to start, memory, wake-ups.

Memory is the proportional set size (PSS) of the process without its guests' own memory.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import re
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.machines import Group, Samples, halting_kernel, wakeups
from benchmarks.report import Cell, Report
from hypervisor import Machine
from hypervisor.image.build import Image
from vpnstack import Gateway

OWN_GOAL = 0.020  # seconds from `start` to the guest's first instruction
LAG_GOAL = 0.005  # seconds that the loop may stand still meanwhile
MEMORY_GOAL = 1024.0  # KiB for each further machine
WAKEUPS_GOAL = 1.0  # a second
COUNTS = (1, 10, 50)


async def _measure_own(image: Image, quick: bool) -> Samples:
    """Start the default image; the guest that it then is may run or not, it is killed."""
    rounds = 10 if quick else 30
    own = []
    for _ in range(rounds):
        async with Machine(image.kernel, image.initrd, engine="kvm") as machine:
            own.append(machine.statistics().boot.first_instruction)
    lags = [await _lag(image) for _ in range(rounds)]
    return {"own": own, "lag": lags, "mib": image.size >> 20}


async def _lag(image: Image) -> float:
    """Return the longest that the loop stood still during one start."""
    worst = 0.0

    async def probe() -> None:
        nonlocal worst
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.001)
            worst = max(worst, time.monotonic() - before - 0.001)

    probing = asyncio.create_task(probe())
    machine = Machine(image.kernel, image.initrd, engine="kvm")
    await machine.start()
    probing.cancel()
    await machine.kill()
    return worst


def _add_own(report: Report, samples: Samples) -> None:
    name = f"start to first instruction, {samples['mib']} MiB to load"
    own = median(samples["own"])
    report.add(Cell(name, own, {"goal": OWN_GOAL}, better="lower", unit="s"))
    lag = median(samples["lag"])
    report.add(Cell("loop held up by a start", lag, {"goal": LAG_GOAL}, better="lower", unit="s"))


async def _measure_memory(image: Image, quick: bool) -> Samples:
    """Start tiny machines with all devices, and look at what each count of them takes."""
    pss = []
    machines: list[Machine] = []
    with tempfile.TemporaryDirectory() as place:
        kernel = halting_kernel(Path(place))
        async with Gateway("192.168.127.1/24") as net:
            for count in COUNTS:
                new = [
                    Machine(kernel, memory="32M", nics=[net.port(f"vm{n}")], engine="kvm")
                    for n in range(len(machines), count)
                ]
                await asyncio.gather(*(machine.start() for machine in new))
                machines += new
                gc.collect()
                pss.append(_pss())
            idle = await wakeups(5 if quick else 20)
            await asyncio.gather(*(machine.kill() for machine in machines))
    return {"pss": pss, "wakeups": idle}


def _pss() -> float:
    """Return KiB of this process without guest memory."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    total = re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)
    assert total is not None
    guests, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = "memfd:guest" in line
        elif inside and line.startswith("Pss:"):
            guests += int(line.split()[1])
    return float(int(total[1]) - guests)


def _add_memory(report: Report, samples: Samples) -> None:
    pairs = list(zip(COUNTS, samples["pss"], strict=True))
    for (few, less), (many, more) in itertools.pairwise(pairs):
        each = (more - less) / (many - few)
        goal = {"goal": MEMORY_GOAL}
        name = f"memory of each further machine, {few} to {many}"
        report.add(Cell(name, each, goal, better="lower", unit="KiB"))
    add_wakeups(report, f"wake-ups by {COUNTS[-1]} halted guests", samples["wakeups"])


def add_wakeups(report: Report, name: str, found: float) -> None:
    """Add a cell of wake-ups; none at all counts as ten times better than the goal."""
    pairs = (WAKEUPS_GOAL / max(found, WAKEUPS_GOAL / 10),)
    goal = {"goal": WAKEUPS_GOAL}
    report.add(Cell(name, found, goal, better="lower", unit="/s", pairs=pairs))


GROUPS = (
    Group("own", False, _measure_own, _add_own),
    Group("memory", False, _measure_memory, _add_memory),
)

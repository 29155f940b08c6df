"""TCP: goodput under loss beside the kernel's, speed in process, memory of idle connections.

    python benchmarks/tcp.py [--quick] [--json FILE] [--only goodput|speed|memory]

Goodput needs root, for TAP devices, namespaces and a real-time priority; the full run takes eleven
minutes.  Its ratios are medians over seeds of ours to the kernel's at the same seed.  Cells without
a peer compare with the figure that is required of us.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import median

import click
from rich.console import Console
from rich.progress import Progress

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import inprocess, lossy
from benchmarks.report import Cell, Report
from vpnstack.link.port import Offload

GOODPUT_GOAL = 0.95
GBIT, SEGMENTS, OCTETS, HELD = 5.0, 100_000.0, 4096.0, 100_000
KERNEL = lossy.MODES[0]


def goodput(report: Report, progress: Progress, *, quick: bool) -> None:
    """Each condition in turns: kernel to kernel, ours to kernel, kernel to ours.

    What a few losses do to one flow is chance: each seed is a link of its own, and counts once.
    """
    lossy.allow_cubic()
    seconds, rounds = (2.0, 1) if quick else (8.0, 5)
    total = len(lossy.CONDITIONS) * rounds * len(lossy.MODES)
    task = progress.add_task("goodput", total=total)
    for condition in lossy.CONDITIONS:
        found: dict[str, list[float]] = {mode: [] for mode in lossy.MODES}
        for seed in range(rounds):
            for mode in lossy.MODES:
                found[mode].append(lossy.measure(condition, mode, seconds, seed))
                progress.advance(task)
        kernel = median(found[KERNEL])
        for mode in lossy.MODES[1:]:
            cell = f"{mode}, {condition}"
            peers = {KERNEL: kernel}
            pairs = tuple(a / b for a, b in zip(found[mode], found[KERNEL], strict=True))
            ours = median(found[mode])
            report.add(Cell(cell, ours, peers, GOODPUT_GOAL, unit="Mbit/s", pairs=pairs))


def speed(report: Report, progress: Progress, *, quick: bool) -> None:
    """Host to host in this process, on one core."""
    seconds = 2.0 if quick else 10.0
    task = progress.add_task("speed", total=2)
    whole = asyncio.run(inprocess.speed(seconds))
    report.add(Cell("in process, super-segments", whole.gbit, {"required": GBIT}, unit="Gbit/s"))
    progress.advance(task)
    cut = asyncio.run(inprocess.speed(seconds, Offload.NONE))
    name = "in process, MTU 1500"
    report.add(Cell(name, cut.segments, {"required": SEGMENTS}, unit="segments/s"))
    progress.advance(task)


def memory(report: Report, progress: Progress, *, quick: bool) -> None:
    """Idle connections, in a process of their own."""
    held = 5_000 if quick else HELD
    task = progress.add_task("memory", total=1)
    argv = [sys.executable, __file__, "--hold", str(held)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    result = json.loads(done.stdout)
    progress.advance(task)
    name = f"idle connection of {held:,} held"
    report.add(Cell(name, result["octets"], {"allowed": OCTETS}, better="lower", unit="bytes"))
    if not quick:
        report.add(Cell("connections held", float(held), {"required": HELD}))


LANES = {"goodput": goodput, "speed": speed, "memory": memory}


@click.command()
@click.option("--quick", is_flag=True, help="Under a minute, less exact.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures here.")
@click.option("--only", type=click.Choice(list(LANES)), multiple=True, help="Of these lanes.")
@click.option("--hold", type=int, hidden=True)
def main(quick: bool, path: Path | None, only: tuple[str, ...], hold: int | None) -> None:
    """Measure TCP and print a table."""
    if hold is not None:
        click.echo(json.dumps(asdict(asyncio.run(inprocess.memory(hold)))))
        return
    report = Report("TCP")
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for name in only or LANES:
            if name == "goodput" and os.geteuid() != 0:
                click.echo("goodput needs root: left out", err=True)
                continue
            LANES[name](report, progress, quick=quick)
    report.print()
    if path is not None:
        report.write(path)


if __name__ == "__main__":
    main()

"""How cost grows: flows at once, ports on the switch, and who suffers from a bad neighbour.

    python benchmarks/scale.py [--quick] [--cells flows] [--cells ports] [--cells bad] [--json FILE]

flows: aggregate throughput both ways, fairness as Jain's index, memory a flow, rate of opening,
beside slirp4netns.  ports: frames from port to port of a switch that has idle ones as well.  bad:
what eight good flows get while a neighbour misbehaves, against their fair share of what they get
alone.  Memory is what the process holds more than before, a connection.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import LOAD, BenchmarkError, Lab, load, need
from benchmarks.sheet import Report, finish, options, selected
from benchmarks.switch import ports_rate
from benchmarks.tools import PORT, Setup, start

MTU = 65520
FLOWS = (1, 10, 100, 1000, 10000)
QUICK_FLOWS = (1, 100, 1000)
PORTS = (2, 10, 100)
GOOD = 8  # flows that behave, beside those that do not
GOAL_SHARE = 0.8
TOOLS = ("slirp4netns", "ours")
BAD: dict[str, tuple[str, tuple[object, ...], int]] = {
    # what load.py is to do, and how many flows of it compete for the link
    "stopped host": ("stuck", (GOOD, "up"), 0),
    "zero window": ("stuck", (GOOD, "down"), 0),
    "one-byte segments": ("flows", (GOOD, 30, "up", "tiny"), GOOD),
    "half-open connects": ("half-open", (10000,), 0),
}


def jain(values: list[int]) -> float:
    """Return Jain's index of fairness: 1 where all are equal, 1/n where one has everything."""
    squares = sum(v * v for v in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 0.0


def gbit(got: dict[str, Any]) -> float:
    """Return the throughput of a run of `flows` of load.py."""
    return float(sum(got["octets"])) * 8 / 1e9 / float(got["seconds"])


@contextlib.contextmanager
def neighbour(setup: Setup, kind: str, *argv: object) -> Iterator[dict[str, Any]]:
    """Run a client of load.py beside the measurement; yields what it says once it is at work."""
    line = [sys.executable, "-S", str(LOAD), kind, setup.address, str(PORT), *map(str, argv)]
    process = subprocess.Popen(
        setup.guest.argv(*line), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        if kind == "flows":
            time.sleep(0.5)
            yield {}
        else:
            yield json.loads(process.stdout.readline() or b'{"opened": 0, "rate": 0}')
    finally:
        process.kill()
        process.communicate()


class Flows:
    """Rows for a number of flows."""

    def __init__(self, report: Report, seconds: float) -> None:
        self.report = report
        self.seconds = seconds

    def measure(self, setup: Setup, count: int) -> None:
        """Measure one tool: open and hold, then bulk both ways."""
        self._hold(setup, count)
        for way in ("up", "down"):
            got = load(setup.guest, "flows", setup.address, PORT, count, self.seconds, way)
            if got["opened"] < count:
                self.report.note(f"{setup.tool} {way}: {got['opened']} of {count} flows opened")
            self._add(f"flows_{way}/{count}", "Gbit/s", setup, gbit(got))
            self._add(f"flows_{way}_jain/{count}", "index", setup, jain(got["octets"] or [0]))
            time.sleep(0.2)

    def _hold(self, setup: Setup, count: int) -> None:
        assert setup.process is not None
        before = setup.process.memory("VmRSS")
        with neighbour(setup, "idle", count) as said:
            grown = setup.process.memory("VmRSS") - before
            if said["opened"]:
                self._add(f"flows_opened/{count}", "1/s", setup, said["rate"])
            if said["opened"] >= 100:
                octets = max(grown, 1) / said["opened"]
                self._add(f"flows_memory/{count}", "B/flow", setup, octets, better="lower")
            if said["opened"] < count:
                self.report.note(f"{setup.tool}: {said['opened']} of {count} connections opened")
        time.sleep(0.2 + count / 10000)

    def _add(
        self, name: str, unit: str, setup: Setup, value: float, better: str = "higher"
    ) -> None:
        self.report.cell(name, unit, better=better).add(setup.tool, value)


def bad_input(report: Report, setup: Setup, seconds: float, name: str) -> None:
    """Measure what good flows get beside a bad neighbour, as a part of their fair share."""
    kind, argv, competing = BAD[name]
    assert setup.process is not None
    before = setup.process.memory("VmRSS")
    alone = gbit(load(setup.guest, "flows", setup.address, PORT, GOOD, seconds, "up"))
    with neighbour(setup, kind, *argv):
        beside = gbit(load(setup.guest, "flows", setup.address, PORT, GOOD, seconds, "up"))
        grown = setup.process.memory("VmRSS") - before
    fair = alone * GOOD / (GOOD + competing)
    cell = report.cell(f"bad/{name}", "Gbit/s", goal=GOAL_SHARE)
    cell.add("ours", beside)
    cell.add("fair share", fair)
    report.cell(f"bad_memory/{name}", "MB", better="lower").add("ours", max(grown, 0) / 1e6)
    time.sleep(0.5)


def ports(report: Report, seconds: float) -> None:
    """Frames a second between two ports of a switch with more and more idle ones."""
    rates = {count: ports_rate(count, seconds) for count in PORTS}
    for count in PORTS[1:]:
        cell = report.cell(f"ports/{count}", "frames/s", goal=GOAL_SHARE)
        cell.add("ours", rates[count])
        cell.add("two ports", rates[PORTS[0]])


@click.command(help=__doc__)
@options
def main(quick: bool, json_path: Path | None, cells: tuple[str, ...]) -> None:
    """Measure, print, write."""
    need("ip", "nsenter", "iperf3")
    report = Report("how cost grows", ["slirp4netns", "fair share", "two ports", "ours"])
    seconds = 1.0 if quick else 4.0
    try:
        with Lab() as lab:
            setups = [start(lab, tool, MTU) for tool in TOOLS]
            flows = Flows(report, seconds)
            for count in QUICK_FLOWS if quick else FLOWS:
                for setup in setups:
                    if selected(f"flows/{count}", cells):
                        tried(report, flows.measure, setup, count)
            for name in BAD:
                if selected(f"bad/{name}", cells):
                    tried(report, bad_input, report, setups[-1], seconds, name)
            for setup in setups:
                assert setup.process is not None
                cell = report.cell("peak_memory", "MB", better="lower")
                cell.add(setup.tool, setup.process.memory() / 1e6)
        if selected("ports", cells):
            ports(report, seconds / 2)
    finally:
        report.show()
        report.write(json_path)


def tried(report: Report, measure: Any, *argv: Any) -> None:
    """Measure; a cell that cannot be is a note."""
    try:
        measure(*argv)
    except BenchmarkError as e:
        what = " ".join(str(getattr(a, "tool", a)) for a in argv if not isinstance(a, Report))
        report.note(f"{what}: {e}")


if __name__ == "__main__":
    finish(main)

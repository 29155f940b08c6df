"""Ours beside kernel veth, slirp4netns and pasta: guest namespace to host loopback.

    python benchmarks/peers.py [--quick] [--runs 3] [--cells tcp_up --cells '*/1500'] [--json FILE]

Every tool stands between namespaces of its own; all are up at once and each cell is measured in
turns.  Bulk and datagrams are iperf3's; a round trip is one byte and its echo over one connection,
a connect is a connection that is used for one byte each way.  loopback and veth are what the
kernel does without a tool in between: limits, not peers.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import BenchmarkError, Lab, load, need, output
from benchmarks.sheet import Report, finish, options, selected
from benchmarks.tools import IPERF, PORT, TOOLS, Setup, start

GOAL = 1.2
LIMITS = ("loopback", "veth")
MTUS = (1500, 65520)
SMALL = 64  # octets of a datagram


def iperf(setup: Setup, *argv: str, seconds: int) -> dict[str, dict[str, float]]:
    """Run an iperf3 client in the guest; return the `end` of its JSON."""
    line = ["iperf3", "-c", setup.address, "-p", str(IPERF), "-t", str(seconds), "-J", *argv]
    said = json.loads(output(setup.guest.argv(*line), timeout=seconds + 20))
    if "error" in said:
        raise BenchmarkError(f"iperf3: {said['error']}")
    end: dict[str, dict[str, float]] = said["end"]
    return end


class Bulk:
    """TCP throughput in Gbit/s, and the CPU seconds of the tool a gigabyte."""

    def __init__(self, *argv: str) -> None:
        self.argv = argv

    def __call__(self, setup: Setup, seconds: float) -> dict[str, float]:
        before = setup.process.cpu() if setup.process else 0.0
        got = iperf(setup, *self.argv, seconds=max(1, round(seconds)))["sum_received"]
        out = {"": got["bits_per_second"] / 1e9}
        if setup.process and got["bytes"]:
            out["cpu"] = (setup.process.cpu() - before) / (got["bytes"] / 1e9)
        return out


def datagrams(setup: Setup, seconds: float) -> dict[str, float]:
    """Datagrams of 64 octets that arrived at the host, a second."""
    got = iperf(setup, "-u", "-l", str(SMALL), "-b", "0", seconds=max(1, round(seconds)))
    return {"": got["sum_received"]["bytes"] / SMALL / got["sum_received"]["seconds"]}


def round_trip(setup: Setup, seconds: float) -> dict[str, float]:
    """Median and 99th percentile of a round trip in microseconds."""
    got = load(setup.guest, "rtt", setup.address, PORT, seconds)
    return {"p50": got["p50"], "p99": got["p99"]}


def connects(setup: Setup, seconds: float) -> dict[str, float]:
    """Connections a second, one after the other."""
    got = load(setup.guest, "connect", setup.address, PORT, seconds)
    return {"": got["rate"]}


Measure = Callable[[Setup, float], dict[str, float]]
ROWS: dict[str, tuple[str, str, Measure]] = {
    "tcp_up": ("Gbit/s", "higher", Bulk()),
    "tcp_down": ("Gbit/s", "higher", Bulk("-R")),
    "tcp_up_4": ("Gbit/s", "higher", Bulk("-P", "4")),
    "tcp_down_4": ("Gbit/s", "higher", Bulk("-P", "4", "-R")),
    "udp_64": ("1/s", "higher", datagrams),
    "round_trip": ("µs", "lower", round_trip),
    "connect": ("1/s", "higher", connects),
}
UNITS = {"cpu": ("s/GB", "lower"), "p50": ("µs", "lower"), "p99": ("µs", "lower")}


class Run:
    """One run of the benchmark: which cells, of which tools, and for how long."""

    def __init__(self, report: Report, cells: Sequence[str], quick: bool, seconds: float) -> None:
        self.report = report
        self.cells = cells
        self.quick = quick
        self.seconds = seconds

    def wanted(self, row: str, mtu: int) -> bool:
        """Tell whether a row is measured at this MTU."""
        if self.quick and not self.cells and row.endswith("_4") and mtu != MTUS[-1]:
            return False
        return selected(f"{row}/{mtu}", self.cells)

    def setups(self, lab: Lab, tools: Sequence[str]) -> list[Setup]:
        """Bring up every tool at every MTU that is asked for."""
        out = []
        for tool in tools:
            for mtu in MTUS:
                if tool == "loopback" and mtu != MTUS[-1]:
                    continue
                if not any(self.wanted(row, mtu) for row in ROWS):
                    continue
                try:
                    out.append(start(lab, tool, mtu))
                except BenchmarkError as e:
                    self.report.note(f"{tool} at MTU {mtu}: {e}")
        return out

    def measure(self, setups: Sequence[Setup]) -> None:
        """Measure every cell once, in turns."""
        for row in ROWS:
            for mtu in MTUS:
                if not self.wanted(row, mtu):
                    continue
                for setup in setups:
                    if setup.mtu == mtu or setup.tool == "loopback":
                        self._turn(row, mtu, setup)

    def _turn(self, row: str, mtu: int, setup: Setup) -> None:
        _, _, measure = ROWS[row]
        short = self.seconds / 3 if row in ("round_trip", "connect") else self.seconds
        try:
            got = measure(setup, short)
        except BenchmarkError as e:
            self.report.note(f"{setup.tool} {row}/{mtu}: {e}")
            got = {}
        for part, value in got.items():
            unit, better = UNITS.get(part, ROWS[row][:2])
            name = f"{row}{part and '_' + part}/{mtu}"
            goal = None if part == "cpu" else GOAL
            cell = self.report.cell(name, unit, better=better, goal=goal, limits=LIMITS)
            cell.add(setup.tool, value)

    def memory(self, setups: Sequence[Setup]) -> None:
        """Note peak memory, at the end of everything."""
        for setup in setups:
            if setup.process is not None:
                cell = self.report.cell(f"peak_memory/{setup.mtu}", "MB", better="lower")
                cell.add(setup.tool, setup.process.memory() / 1e6)

    def against_veth(self) -> None:
        """Add the second goal: half of kernel veth in bulk TCP."""
        for cell in list(self.report.cells.values()):
            if re.match(r"tcp_(up|down)/", cell.name) and "veth" in cell.samples:
                half = self.report.cell(f"{cell.name} : veth", cell.unit, goal=0.5)
                half.samples = {k: cell.samples[k] for k in ("ours", "veth") if k in cell.samples}


def versions(report: Report) -> None:
    """Note what was compared, and how the kernel was set."""
    control = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    report.note(f"Linux {os.uname().release}, {os.cpu_count()} CPUs, TCP {control} in namespaces")


@click.command(help=__doc__)
@options
@click.option("--runs", default=1, show_default=True, help="Take the median of so many.")
@click.option("--seconds", type=float, help="For a bulk cell.  [default: 3; quick: 1]")
@click.option("--tools", default=",".join(TOOLS), show_default=True, help="Which to measure.")
def main(
    quick: bool, json_path: Path | None, cells: tuple[str, ...], runs: int, seconds: float | None,
    tools: str,
) -> None:  # fmt: skip
    """Measure, print, write."""
    need("ip", "nsenter", "iperf3")
    names = [name for name in tools.split(",") if not (quick and name == "loopback")]
    report = Report("guest namespace to host loopback", names)
    versions(report)
    run = Run(report, cells, quick, seconds or (1 if quick else 3))
    with Lab() as lab:
        setups = run.setups(lab, names)
        for _ in range(runs):
            run.measure(setups)
        run.memory(setups)
    run.against_veth()
    report.show()
    report.write(json_path)


if __name__ == "__main__":
    finish(main)

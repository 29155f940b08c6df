"""9P: our server of a host directory next to diod, with the same clients, in turns.

Two clients: `diodcat`, diod's own, which asks for one piece at a time, and `p9wire.Wire`, a
blocking socket with as little Python as can be.  Both servers listen on TCP of the loopback and
serve one directory, in memory where the host has /dev/shm.

    dataflow_p9.py [--quick] [--json FILE] [--cells PATTERN]
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import click
import uvloop

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.harness import Lab, Process, wait_for  # noqa: E402
from benchmarks.p9wire import IO_HEADER, Wire  # noqa: E402
from benchmarks.report import Cell, Report  # noqa: E402
from benchmarks.sheet import finish, options, selected  # noqa: E402
from dataflow.aio.hostdir import host_directory  # noqa: E402
from dataflow.aio.server import Server  # noqa: E402

MSIZES = {"64 KiB": 1 << 16, "1 MiB": 1 << 20}
BIG = 64 << 20
SMALL = 4096
SEQUENTIAL, SMALL_OPS = 1.0, 0.5  # goals of the ratio to diod
HELD = 1000  # connections
Measure = Callable[["Target"], float]


class Target:
    """A server that is measured."""

    def __init__(self, name: str, port: int, aname: str, process: Process) -> None:
        self.name = name
        self.port = port
        self.aname = aname
        self.process = process

    def wire(self, msize: int) -> Wire:
        """Return a connection."""
        return Wire(("127.0.0.1", self.port), self.aname, msize)


def cells(where: Path, quick: bool) -> Iterator[Cell]:
    """Measure all; files are in memory, not in `where`, for disks are no matter here."""
    with Lab() as lab:
        yield from measured(lab, quick)


def measured(lab: Lab, quick: bool, wanted: Sequence[str] = ()) -> Iterator[Cell]:
    """Measure; yields a cell for each figure."""
    if shutil.which("diod") is None:
        return
    seconds, rounds = (0.3, 3) if quick else (1.0, 7)
    shm = "/dev/shm" if os.path.isdir("/dev/shm") else None
    where = Path(tempfile.mkdtemp(prefix="bench-p9-", dir=shm))
    lab.callback(shutil.rmtree, where, ignore_errors=True)
    (where / "big").write_bytes(os.urandom(BIG))
    (where / "small").write_bytes(bytes(SMALL))
    targets = [ours(lab, where), diod(lab, where)]
    for name, goal, unit, measure in _plan(seconds):
        if selected(name, wanted):
            yield _in_turns(name, goal, unit, measure, targets, rounds)
    if selected("9p: connections held", wanted):
        yield from held(lab, where)


def ours(lab: Lab, where: Path) -> Target:
    """Start our server in a process of its own."""
    port = _free_port()
    argv = [sys.executable, str(Path(__file__)), "--serve", str(where), "--port", str(port)]
    return _started(Target("ours", port, "/", lab.process(argv)))


def diod(lab: Lab, where: Path) -> Target:
    """Start diod as it comes."""
    port = _free_port()
    argv = ["diod", "-f", "-n", "-c", "/dev/null", "-e", str(where), "-l", f"127.0.0.1:{port}"]
    return _started(Target("diod", port, str(where), lab.process(argv)))


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _started(target: Target) -> Target:
    def answers() -> bool:
        with contextlib.suppress(OSError):
            target.wire(8192).close()
            return True
        return False

    wait_for(answers, target.name)
    return target


def _in_turns(
    name: str, goal: float, unit: str, measure: Measure, targets: list[Target], rounds: int
) -> Cell:
    found: dict[str, list[float]] = {target.name: [] for target in targets}
    for turn in range(rounds):
        for target in targets[:: -1 if turn % 2 else 1]:
            found[target.name].append(measure(target))
    pairs = tuple(a / b for a, b in zip(found["ours"], found["diod"], strict=True))
    peers = {"diod": median(found["diod"])}
    return Cell(name, median(found["ours"]), peers, goal, unit=unit, pairs=pairs)


def _plan(seconds: float) -> Iterator[tuple[str, float, str, Measure]]:
    for size, msize in MSIZES.items():
        yield f"9p: diodcat, msize {size}", SEQUENTIAL, "MiB/s", _diodcat(msize)
        yield f"9p: read, msize {size}", SEQUENTIAL, "MiB/s", _sequential(msize, seconds, _read)
        yield f"9p: write, msize {size}", SEQUENTIAL, "MiB/s", _sequential(msize, seconds, _write)
    for name, operation in (("getattr", _getattr), ("walk and clunk", _walk), ("read 4 KiB", _4k)):
        yield f"9p: {name}", SMALL_OPS, "ops/s", _small(seconds, operation)


def _diodcat(msize: int) -> Measure:
    def measure(target: Target) -> float:
        where = ["-s", f"127.0.0.1:{target.port}", "-a", target.aname]
        files = ["big"] * 4
        start = time.perf_counter()
        argv = ["diodcat", *where, "-m", str(msize), *files]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, timeout=60)
        return len(files) * BIG / (1 << 20) / (time.perf_counter() - start)

    return measure


def _sequential(
    msize: int, seconds: float, step: Callable[[Wire, int, memoryview], int]
) -> Measure:
    def measure(target: Target) -> float:
        wire = target.wire(msize)
        data = memoryview(bytes(wire.msize - IO_HEADER))
        wire.open(1, "big")
        wire.create(2, "written")
        done = offset = 0
        start = time.perf_counter()
        while (passed := time.perf_counter() - start) < seconds:
            done += (n := step(wire, offset, data))
            offset = offset + n if offset + n < BIG else 0
        wire.close()
        return done / (1 << 20) / passed

    return measure


def _read(wire: Wire, offset: int, data: memoryview) -> int:
    return wire.read(1, offset, len(data))


def _write(wire: Wire, offset: int, data: memoryview) -> int:
    return wire.write(2, offset, data)


def _small(seconds: float, operation: Callable[[Wire], object]) -> Measure:
    def measure(target: Target) -> float:
        wire = target.wire(1 << 16)
        wire.open(1, "small")
        count = 0
        start = time.perf_counter()
        while (passed := time.perf_counter() - start) < seconds:
            operation(wire)
            count += 1
        wire.close()
        return count / passed

    return measure


def _getattr(wire: Wire) -> None:
    wire.getattr(1)


def _walk(wire: Wire) -> None:
    wire.walk(3, "small")
    wire.clunk(3)


def _4k(wire: Wire) -> None:
    wire.read(1, 0, SMALL)


def held(lab: Lab, where: Path) -> Iterator[Cell]:
    """Hold connections that have a file open and have read from it; tell what each costs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    kib = {}
    for make in (ours, diod):
        target = make(lab, where)
        before = target.process.memory("VmRSS")
        wires = [target.wire(1 << 20) for _ in range(HELD)]
        for wire in wires:
            wire.open(1, "small")
        served = sum(wire.read(1, 0, SMALL) == SMALL for wire in wires)
        kib[target.name] = (target.process.memory("VmRSS") - before) / HELD / 1024
        for wire in wires:
            wire.close()
        if make is ours:
            yield Cell("9p: connections held", served, {"asked for": HELD}, unit="connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    peers = {"diod": kib["diod"]}
    yield Cell("9p: a connection", kib["ours"], peers, 0.0, better="lower", unit="KiB")


async def serve(where: str, port: int) -> None:
    """Serve a directory until killed."""
    async with Server(host_directory(where)) as server:
        await server.listen_tcp("127.0.0.1", port)
        await asyncio.Event().wait()


@click.command(help=__doc__)
@options
@click.option("--serve", "where", hidden=True)
@click.option("--port", type=int, hidden=True)
def main(
    json_path: Path | None, quick: bool, where: str, port: int, **chosen: Sequence[str]
) -> None:
    """Measure and print."""
    if where:
        uvloop.run(serve(where, port))
        return
    report = Report("dataflow: 9P")
    with Lab() as lab:
        for cell in measured(lab, quick, chosen["cells"]):
            report.add(cell)
    report.print()
    if json_path is not None:
        report.write(json_path)


if __name__ == "__main__":
    finish(main)

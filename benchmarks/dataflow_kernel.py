"""9P with the Linux kernel's client in an emulated guest: our server beside diod, in turns.

Both serve one directory from processes of their own on the host's loopback, and the guest reaches
both through the gateway.  The guest is emulated: only ratios mean something, and only small ones
of large differences in the servers reach it.  A group of `dataflow.py`: `--cells kernel`.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median

import uvloop

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "compat")]

import p9_guest  # noqa: E402

from benchmarks.harness import BenchmarkError  # noqa: E402
from benchmarks.report import Cell  # noqa: E402

MSIZE = 65536  # the most that diod takes by default
_SERVE = """
import asyncio, socket, sys, uvloop
from dataflow.aio.hostdir import host_directory
from dataflow.aio.server import Server
async def main():
    async with Server(host_directory(sys.argv[1])) as server:
        await server.listen_tcp("127.0.0.1", int(sys.argv[2]))
        await asyncio.Event().wait()
uvloop.run(main())
"""


def cells(where: Path, quick: bool) -> list[Cell]:
    """Measure in one guest: calls of stat(2) a second, and MiB/s of reads and writes."""
    if shutil.which("diod") is None:
        raise BenchmarkError("diod is not installed")
    return uvloop.run(_cells(where, 3 if quick else 9, 4 if quick else 16))


async def _cells(where: Path, rounds: int, mib: int) -> list[Cell]:
    top = where / "top"
    top.mkdir()
    p9_guest.probe(top)
    (top / "data").write_bytes(bytes(mib << 20))
    size = mib << 20
    probes = {
        "kernel stat (1/s)": "stats {d}/probe 1",
        "kernel read (MiB/s)": f"io {{d}}/data {size} 1048576 r",
        "kernel write (MiB/s)": f"io {{d}}/new {size} 1048576 w",
    }
    found: dict[str, dict[str, list[float]]] = {n: {"ours": [], "diod": []} for n in probes}
    image = await asyncio.to_thread(p9_guest.image)
    async with _servers(top) as ports, p9_guest.boot(image, where / "console") as guest:
        host = guest.host
        for name, port in ports.items():
            extra = {"aname": str(top), "msize": str(MSIZE), "access": "user", "uname": "root"}
            aname = extra if name == "diod" else extra | {"aname": "/"}
            await guest.mount(f"/m/{name}", port, host=host, **aname)
        await guest.sh("cp /m/ours/probe /tmp/probe")
        for _ in range(rounds):
            for cell, probe in probes.items():
                for name in ports:
                    said = await guest.sh(f"/tmp/probe {probe.format(d=f'/m/{name}')}")
                    found[cell][name].append(float(said))
    return [
        Cell(
            cell,
            median(by["ours"]),
            {"diod": median(by["diod"])},
            goal=0.5 if "stat" in cell else 1.0,
            pairs=tuple(a / b for a, b in zip(by["ours"], by["diod"], strict=True)),
        )
        for cell, by in found.items()
    ]


@contextlib.asynccontextmanager
async def _servers(top: Path) -> AsyncIterator[dict[str, int]]:
    """Serve `top` by both; yield their ports."""
    ports = {"ours": _free_port(), "diod": _free_port()}
    ours = [sys.executable, "-c", _SERVE, str(top), str(ports["ours"])]
    diod = ["diod", "-f", "-n", "-c", "/dev/null", "-e", str(top)]
    diod += ["-l", f"127.0.0.1:{ports['diod']}"]
    quiet = asyncio.subprocess.DEVNULL
    children = [
        await asyncio.create_subprocess_exec(*words, stderr=quiet) for words in (ours, diod)
    ]
    try:
        for port in ports.values():
            await _answers(port)
        yield ports
    finally:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


async def _answers(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return

"""vsock and shares between a guest and its host, ours next to QEMU's on its microvm board.

Both machines run side by side, and each job is done by one, then by the other.  For vsock the peer
is the kernel's vhost-vsock, where there is /dev/vhost-vsock; the host's ends are processes of their
own, ours at a unix socket.  For shares it is QEMU's virtio-9p on the same directory, which lies in
memory; the guest keeps no cache, so that each read(2) or write(2) is a request, and tells the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from statistics import median

from benchmarks.machines import PROMPT, SHELL, Group, Samples, command, until
from benchmarks.report import Cell, Report
from hypervisor import Machine, Vsock
from hypervisor.image.build import Image

MIB = 1 << 20
GOAL = 0.9
CID = 42  # of QEMU's guest, as the host's kernel knows it
VHOST = Path("/dev/vhost-vsock")
END = Path(__file__).with_name("vsock_end.py")
PATIENCE = 120.0  # seconds for one job
LISTENERS = (
    "socat -u -b 65536 VSOCK-LISTEN:1024,fork OPEN:/dev/null & "
    "socat -U -b 65536 VSOCK-LISTEN:1025,fork OPEN:/run/body,rdonly & :"
)
WAYS = {"to the guest": ("send", 1024), "from the guest": ("receive", 1025)}
MOUNT = "mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none src /mnt"
# Name: dd's words, and which part of the whole it moves.
JOBS = {
    "read, 500 KiB": ("if=/mnt/down of=/dev/null bs=500k", 1),
    "write, 500 KiB": ("if=/dev/zero of=/mnt/up bs=500k", 1),
    "read, 64 KiB": ("if=/mnt/down of=/dev/null bs=64k", 1),
    "read, 4 KiB": ("if=/mnt/down of=/dev/null bs=4k", 16),
    "write, 4 KiB": ("if=/dev/zero of=/mnt/up bs=4k", 16),
}

TIMED = "read a x </proc/uptime; {} && read b x </proc/uptime && echo took $a $b"

Job = Callable[[str, str], Awaitable[float]]  # an engine and a name: seconds


@contextlib.asynccontextmanager
async def _booted(machines: Mapping[str, Machine], line: str) -> AsyncIterator[None]:
    """Boot all and run a line in each."""
    async with contextlib.AsyncExitStack() as stack:
        for machine in machines.values():
            await stack.enter_async_context(machine)
            await until(machine, PROMPT)
            await command(machine, line)
        yield


async def _rounds(names: list[str], engines: list[str], job: Job, quick: bool) -> Samples:
    """Let the engines take turns; returns seconds by job and engine."""
    samples: Samples = {name: {engine: [] for engine in engines} for name in names}
    for number in range(3 if quick else 5):
        for name in names:
            for engine in engines[:: -1 if number % 2 else 1]:
                async with asyncio.timeout(PATIENCE):
                    samples[name][engine].append(await job(engine, name))
    return samples


def _size(quick: bool) -> int:
    return (16 if quick else 64) * MIB


def _vsock_machines(image: Image, vsock: Vsock) -> dict[str, Machine]:
    args = ("-device", f"vhost-vsock-device,guest-cid={CID}")
    ours = Machine(image.kernel, image.initrd, cmdline=SHELL, engine="kvm", vsock=vsock)
    if not VHOST.exists():
        return {"kvm": ours}
    peer = Machine(image.kernel, image.initrd, cmdline=SHELL, engine="qemu", engine_args=args)
    return {"kvm": ours, "qemu": peer}


async def _measure_vsock(image: Image, quick: bool) -> Samples:
    size = _size(quick)
    with tempfile.TemporaryDirectory() as place:
        door = Path(place) / "vsock"
        places = {"kvm": str(door), "qemu": str(CID)}
        machines = _vsock_machines(image, Vsock(firecracker=door))

        async def job(engine: str, name: str) -> float:
            way, port = WAYS[name]
            return await _end(way, size, port, places[engine])

        async with _booted(machines, f"head -c {size} /dev/zero >/run/body; {LISTENERS}"):
            seconds = await _rounds(list(WAYS), list(machines), job, quick)
        return {"size": size, "seconds": seconds}


async def _end(way: str, size: int, port: int, place: str) -> float:
    argv = [sys.executable, str(END), way, str(size), str(port), place]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    printed, _ = await process.communicate()
    if process.returncode:
        sys.exit(f"the end of a vsock connection at {place}: status {process.returncode}")
    return float(printed)


async def _measure_share(image: Image, quick: bool) -> Samples:
    size = _size(quick)
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "down").write_bytes(b"\xa5" * size)
        machines = {
            engine: Machine(
                image.kernel, image.initrd, cmdline=SHELL, engine=engine, shares={"src": place}
            )
            for engine in ("kvm", "qemu")
        }

        async def job(engine: str, name: str) -> float:
            words, part = JOBS[name]
            block = int(words.rpartition("bs=")[2].removesuffix("k")) << 10
            count = size // part // block
            said = await command(machines[engine], TIMED.format(f"dd {words} count={count}"))
            found = re.search(r"took ([0-9.]+) ([0-9.]+)", said)
            if found is None:
                sys.exit(f"{engine}: the guest said {said!r}")
            return (float(found[2]) - float(found[1])) * size / (count * block)

        async with _booted(machines, MOUNT):
            seconds = await _rounds(list(JOBS), list(machines), job, quick)
        return {"size": size, "seconds": seconds}


def _adder(title: str, peer: str) -> Callable[[Report, Samples], None]:
    def add(report: Report, samples: Samples) -> None:
        for name, found in samples["seconds"].items():
            ours, theirs = found["kvm"], found.get("qemu", [])
            speed = samples["size"] / MIB / median(ours)
            if not theirs:
                report.add(Cell(f"{title} {name}", speed, {f"no {peer} here": 0.0}, unit="MiB/s"))
                continue
            pairs = tuple(b / a for a, b in zip(ours, theirs, strict=True))
            peers = {peer: samples["size"] / MIB / median(theirs)}
            report.add(Cell(f"{title} {name}", speed, peers, GOAL, unit="MiB/s", pairs=pairs))

    return add


GROUPS = (
    Group("vsock", True, _measure_vsock, _adder("vsock", "vhost-vsock"), ("socat",)),
    Group("share", True, _measure_share, _adder("share", "qemu")),
)

"""A Linux guest at rest, and what its network costs in exits to user space."""

from __future__ import annotations

import asyncio
import hashlib

from benchmarks.hypervisor_host import add_wakeups
from benchmarks.machines import PROMPT, SHELL, Group, Samples, command, until, wakeups
from benchmarks.report import Cell, Report
from hypervisor import Machine
from hypervisor.image.build import Image
from vpnstack import Gateway

SETTLE = 3.0  # seconds for a guest's last words after its prompt
MIB = 1 << 20
GOAL = 1.0  # exits per MiB: none for data, some room for a timer's


async def _measure(image: Image, quick: bool) -> Samples:
    body = bytes(range(256)) * ((4 if quick else 16) * MIB // 256)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async with (
        Gateway("192.168.127.1/24") as net,
        await asyncio.start_server(serve, "127.0.0.1", 0) as server,
        Machine(
            image.kernel, image.initrd, cmdline=SHELL, engine="kvm", nics=[net.port("vm1")]
        ) as machine,
    ):
        await until(machine, PROMPT)
        port = server.sockets[0].getsockname()[1]
        before = _exits(machine)
        line = f"wget -q -O - http://host.internal:{port}/ | sha256sum"
        if hashlib.sha256(body).hexdigest() not in await command(machine, line):
            raise SystemExit("the guest did not get what was sent")
        down = (_exits(machine) - before) / (len(body) / MIB)
        up = await _upload(net, machine, len(body))
        await asyncio.sleep(SETTLE)
        idle = await wakeups(5 if quick else 20)
        queues = machine.statistics().devices
        return {"down": down, "up": up, "wakeups": idle, "devices": str(queues)}


async def _upload(net: Gateway, machine: Machine, size: int) -> float:
    await command(machine, f"yes trikit | head -c {size} > /run/body; httpd -h /run")
    published = await net.publish("tcp", host=("127.0.0.1", 0), guest=("vm1", 80))
    before = _exits(machine)
    reader, writer = await asyncio.open_connection(*published.address)
    writer.write(b"GET /body HTTP/1.0\r\n\r\n")
    got = len(await reader.read())
    writer.close()
    if got < size:
        raise SystemExit(f"{got} bytes came from the guest, expected {size}")
    return (_exits(machine) - before) / (size / MIB)


def _exits(machine: Machine) -> int:
    """Return the exits to user space that were not the console's, over which we type."""
    statistics = machine.statistics()
    return sum(statistics.exits.values()) - statistics.serial_exits


def _add(report: Report, samples: Samples) -> None:
    for name, key in (("to the guest", "down"), ("from the guest", "up")):
        found = samples[key]
        pairs = (GOAL / max(found, GOAL / 10),)  # none at all: ten times better than allowed
        cell = Cell(
            f"exits per MiB of network {name}",
            found,
            {"goal": GOAL},
            better="lower",
            unit="/MiB",
            pairs=pairs,
        )
        report.add(cell)
    add_wakeups(report, "wake-ups by an idle Linux guest", samples["wakeups"])


GROUPS = (Group("linux", True, _measure, _add),)

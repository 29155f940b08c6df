"""What the groups of benchmarks/hypervisor.py share: the guest, and how to watch it and ourselves.

A group is measured on the host's own /dev/kvm with a guest of a few instructions, or where KVM runs
whole kernels: on this host if it can, else in the nested machine of the kvm lane.
"""

from __future__ import annotations

import asyncio
import re
import struct
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import Report
from hypervisor import Machine
from hypervisor.image.build import Image

BOOT = 90.0  # seconds to a prompt, at most
INIT_MARK = b"@@init"
PROMPT = b"/ # "
INIT = b"""#!/bin/sh
echo @@init >/dev/console
mount -t proc proc /proc
grep -q bench=shell /proc/cmdline || exec poweroff -f
. /lib/trikit/setup.sh
for nic in /sys/class/net/eth*; do
    nic=${nic##*/}
    ip link set "$nic" up && udhcpc -i "$nic" -q -t 9 -T 1 -S >/dev/null 2>&1
done
setsid cttyhack sh
poweroff -f
"""
SHELL = "bench=shell"  # on the command line of a guest that stays

_HALT = bytes.fromhex("f4 ebfd")  # hlt; jmp to it
_PHDR = struct.Struct("<IIQQQQQQ")

Samples = dict[str, Any]  # what goes through JSON


@dataclass(frozen=True, slots=True)
class Group:
    """Cells that are measured together; `stock` ones need a KVM that runs stock kernels."""

    name: str
    stock: bool
    measure: Callable[[Image, bool], Awaitable[Samples]]  # quick or not
    add: Callable[[Report, Samples], None]
    packages: tuple[str, ...] = ()  # in the guest


def halting_kernel(directory: Path) -> Path:
    """Write the smallest kernel: it halts at once, with interrupts off."""
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head += struct.pack("<HHIQQQ", 2, 62, 1, 0x1000000, 64, 0)
    head += struct.pack("<IHHHHHH", 0, 64, _PHDR.size, 1, 0, 0, 0)
    load = _PHDR.pack(1, 5, 120, 0, 0x1000000, len(_HALT), 4096, 1)
    path = directory / "kernel"
    path.write_bytes(head + load + _HALT)
    return path


async def until(machine: Machine, mark: bytes) -> bytes:
    """Read the console up to `mark`; ends the program when it does not come."""
    seen = b""
    try:
        async with asyncio.timeout(BOOT):
            while mark not in seen:
                data = await machine.console.read()
                if not data:
                    sys.exit(f"the console ended, {await machine.wait()}: {seen[-500:]!r}")
                seen += data
    except TimeoutError:
        sys.exit(f"no {mark!r} on the console in {BOOT:.0f} s: {seen[-500:]!r}")
    return seen


async def command(machine: Machine, line: str) -> str:
    """Type a command at the guest's shell and return what it printed."""
    machine.console.write(b"echo '=''begin''='; " + line.encode() + b"; echo '=''end''='\n")
    printed = (await until(machine, b"=end=")).decode("utf-8", "replace").replace("\r", "")
    return printed.partition("=begin=\n")[2].partition("=end=")[0]


def switches() -> int:
    """Return how often this thread, the loop's, was switched to: each wake-up is one."""
    status = Path(f"/proc/self/task/{threading.get_native_id()}/status").read_text()
    return sum(map(int, re.findall(r"ctxt_switches:\s+(\d+)", status)))


async def wakeups(seconds: float) -> float:
    """Return how often a second something woke this thread while nobody asked for anything."""
    before = switches()
    await asyncio.sleep(seconds)
    return max(0, switches() - before - 1) / seconds  # the one is ours

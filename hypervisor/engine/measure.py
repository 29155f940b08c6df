"""What a machine uses: processor time of its threads, memory of the guest, traffic of its NICs."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path

from vpnstack.link.port import PortStatistics

_TICKS = os.sysconf("SC_CLK_TCK")
_BLOCK = 512  # bytes that st_blocks counts in
_UTIME, _STIME = 11, 12  # of /proc/PID/stat, counted from behind the command's name


@dataclass(frozen=True, slots=True)
class NicUsage:
    """One network interface, as the guest sees it; octets of Ethernet frames without FCS."""

    name: str
    rx_frames: int
    rx_octets: int
    tx_frames: int
    tx_octets: int


@dataclass(frozen=True, slots=True)
class Usage:
    """A machine's use of the host so far; `resident` is the guest's memory in use, in bytes."""

    vcpus: tuple[float, ...] = ()  # seconds of each virtual processor's thread
    resident: int = 0
    nics: tuple[NicUsage, ...] = ()


def nic(name: str, port: PortStatistics) -> NicUsage:
    """Turn a port's counters round: what the stack receives is what the guest sent."""
    return NicUsage(name, port.tx_frames, port.tx_octets, port.rx_frames, port.rx_octets)


def thread_ids(pid: int | str = "self") -> list[int]:
    """Return the ids of a process's threads, the oldest first."""
    try:
        return sorted(map(int, os.listdir(f"/proc/{pid}/task")))
    except OSError:
        return []


def vcpu_ids(others: Container[int]) -> list[int]:
    """Return the threads of our own virtual processors ("vcpu 0") that are none of `others`."""
    return [tid for tid in thread_ids() if tid not in others and _name(tid).startswith("vcpu ")]


def qemu_vcpu_ids(pid: int) -> list[int]:
    """Return the threads of QEMU's processors, in order: "CPU 0/KVM" or "CPU 0/TCG"."""
    found = []
    for tid in thread_ids(pid):
        if match := re.fullmatch(r"CPU (\d+)/.*", _name(tid, pid)):
            found.append((int(match[1]), tid))
    return [tid for _, tid in sorted(found)]


def _name(tid: int, pid: int | str = "self") -> str:
    try:
        return Path(f"/proc/{pid}/task/{tid}/comm").read_text().rstrip("\n")
    except OSError:  # it has ended
        return ""


def seconds(tids: Iterable[int], pid: int | str = "self") -> list[float]:
    """Return the processor time of threads; 0 for those that are gone."""
    return [_seconds(Path(f"/proc/{pid}/task/{tid}/stat")) for tid in tids]


def _seconds(path: Path) -> float:
    try:
        fields = path.read_text().rpartition(")")[2].split()
        return (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS
    except (OSError, IndexError):
        return 0.0


def file_resident(fd: int) -> int:
    """Return how much of a memory file there is."""
    return os.fstat(fd).st_blocks * _BLOCK


def process_shared(pid: int) -> int:
    """Return the resident shared memory of a process: of QEMU's it is the guest's."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssShmem:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0

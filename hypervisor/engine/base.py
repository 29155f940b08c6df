"""What every engine is: the configuration it gets, the life it reports, the Protocol it has.

A machine's life is one table, `TRANSITIONS`; engines report events and the end, `Machine` keeps
the state.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..aio.console import Console
from ..aio.vsock import Vsock
from ..devices.base import Device
from ..devices.disk import Disk
from ..errors import HypervisorError
from .measure import Usage
from .nic import Nic
from .statistics import Statistics


class EngineError(HypervisorError):
    """An engine could not start or steer a machine; the message says why."""


class State(enum.Enum):
    """Where a machine is in its life."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.CREATED: frozenset({State.STARTING}),
    State.STARTING: frozenset({State.RUNNING, State.ENDED}),
    State.RUNNING: frozenset({State.PAUSED, State.ENDED}),
    State.PAUSED: frozenset({State.RUNNING, State.ENDED}),
    State.ENDED: frozenset(),
}


class ExitReason(enum.Enum):
    """Why a machine ended."""

    POWER_OFF = "power-off"  # the guest turned itself off
    REBOOT = "reboot"  # the guest wants to start again; whoever runs it decides
    TRIPLE_FAULT = "triple fault"
    PANIC = "panic"  # the guest's kernel said so
    KILLED = "killed"  # by kill(), by a deadline, or from outside
    CRASHED = "crashed"  # the engine failed under a running guest
    FAILED = "failed"  # it never ran


# HyperKit's exit codes (hyperkit.1); everything else is 1.
EXIT_CODES = {ExitReason.POWER_OFF: 0, ExitReason.REBOOT: 2, ExitReason.TRIPLE_FAULT: 3}


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of a machine; `message` is one line."""

    reason: ExitReason
    message: str = ""

    @property
    def code(self) -> int:
        """The exit code that HyperKit gives for it."""
        return EXIT_CODES.get(self.reason, 1)


class EventKind(enum.Enum):
    """What can happen to a machine."""

    STARTED = "started"
    PAUSED = "paused"
    RESUMED = "resumed"
    POWER_BUTTON = "power button"
    NIC_CONNECTED = "nic connected"
    PANIC = "panic"
    WARNING = "warning"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a machine at `time` (the loop's clock, seconds)."""

    kind: EventKind
    time: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Config:
    """A machine to be; `memory` in bytes, `cmdline` complete."""

    name: str
    kernel: Path
    initrd: Path | None
    cmdline: str
    memory: int
    cpus: int
    nics: tuple[Nic, ...] = ()
    engine_args: tuple[str, ...] = field(default=())  # further arguments of the engine's own
    devices: tuple[Device, ...] = ()  # virtio devices of the user's own, for this machine alone
    disks: tuple[Disk, ...] = ()
    uuid: str = ""  # the machine's id, in its SMBIOS tables; QEMU gets it as -uuid
    acpi: bool = True  # else an MP table and `virtio_mmio.device=` on the command line
    terminal: Console | None = None  # of a virtio console beside the serial port
    shares: tuple[tuple[str, object], ...] = ()  # a tag and what it names: engine/shares.py
    vsock: Vsock | None = None  # opened and closed by the machine


Notify = Callable[[EventKind, str], None]


class Engine(Protocol):
    """Runs one machine; made by a factory, started once."""

    name: str
    ended: asyncio.Future[Exit]  # done once nothing of the machine runs any more

    async def start(self, config: Config, console: Console, notify: Notify) -> None:
        """Run the machine; raise `EngineError`, leaving nothing behind, when that fails."""

    def statistics(self) -> Statistics:
        """Return what the machine has cost so far; at any time, also after its end."""

    async def press_power_button(self) -> None:
        """Ask the guest to power off (ACPI)."""

    async def pause(self) -> None:
        """Stop the virtual processors."""

    async def resume(self) -> None:
        """Let the virtual processors run again."""

    def usage(self) -> Usage:
        """Return what the machine uses of the host; empty when it is gone."""

    def kill(self) -> None:
        """End the machine at once; `ended` follows."""

    async def close(self) -> None:
        """Kill what runs and give back descriptors, files and processes; may be called again."""

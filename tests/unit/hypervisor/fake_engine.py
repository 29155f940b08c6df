"""An engine made of nothing: what is typed comes back, the power button powers off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypervisor import EventKind, Exit, ExitReason
from hypervisor.aio.console import Console
from hypervisor.core.kvm import VcpuStatistics
from hypervisor.engine.base import Config, Notify
from hypervisor.engine.measure import NicUsage, Usage
from hypervisor.engine.statistics import Statistics

BANNER = b"Linux version 0.01\r\n"


class EchoEngine:
    """Prints a banner, echoes what is typed, and ends when asked to, unless `deaf`."""

    name = "echo"
    deaf = False

    def __init__(self) -> None:
        self.ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.typed = b""

    async def start(self, config: Config, console: Console, notify: Notify) -> None:
        self.config = config
        self._console, self._notify = console, notify
        console.connect(self._echo)
        console.receive(BANNER)

    def _echo(self, data: bytes) -> int:
        self.typed += data
        self._console.receive(data)
        return len(data)

    def end(self, reason: ExitReason) -> None:
        if not self.ended.done():
            self.ended.set_result(Exit(reason))

    async def press_power_button(self) -> None:
        self._notify(EventKind.POWER_BUTTON, "")
        if not self.deaf:
            self.end(ExitReason.POWER_OFF)

    async def pause(self) -> None:
        self._notify(EventKind.PAUSED, "")

    async def resume(self) -> None:
        self._notify(EventKind.RESUMED, "")

    def usage(self) -> Usage:
        return Usage((1.5,), 5 << 20, (NicUsage("n", 1, 60, 2, 120),))

    def statistics(self) -> Statistics:
        return Statistics(vcpus=(VcpuStatistics({2: 10}, python=10, serial=0, kicks=0),))

    def kill(self) -> None:
        self.end(ExitReason.KILLED)

    async def close(self) -> None:
        self._console.close()


_TURNS_MAX = 1_000_000


async def until(condition: Callable[[], object]) -> None:
    """Let the other tasks work until `condition` holds."""
    for _ in range(_TURNS_MAX):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came")

"""Signals as the buttons of machines: power, pause and resume, as HyperKit has them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Protocol, Self

from ..errors import HypervisorError

POWER = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Interrupt:
    """While in use, SIGTERM and its kind cancel the task that entered, until `Buttons` take them.

    So what was made before there are machines is given back; `asked` tells it from other ends.
    """

    def __init__(self) -> None:
        self.asked = False
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None

        def interrupt() -> None:
            self.asked = True
            task.cancel()

        for number in POWER:
            self._loop.add_signal_handler(number, interrupt)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number in POWER:
            self._loop.remove_signal_handler(number)


class Pressed(Protocol):
    """What of a machine the buttons need."""

    async def stop(self, timeout: float) -> object:
        """Power button, deadline, kill."""

    async def kill(self) -> object:
        """End it at once."""

    async def pause(self) -> None:
        """Stop the virtual processors."""

    async def resume(self) -> None:
        """Let them go on."""


class Buttons:
    """While in use, SIGTERM powers `machines` off, SIGUSR1 pauses and SIGUSR2 resumes them.

    `complain` gets one line where a machine cannot, being paused or gone.  `pressed` is set once
    the end was asked for.
    """

    def __init__(
        self, machines: Sequence[Pressed], stop_timeout: float, complain: Callable[[str], None]
    ) -> None:
        self._machines = machines
        self._stop_timeout = stop_timeout
        self._complain = complain
        self._loop = asyncio.get_running_loop()
        self.pressed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        for number in POWER:
            self._loop.add_signal_handler(number, self.power)
        self._loop.add_signal_handler(signal.SIGUSR1, self.pause)
        self._loop.add_signal_handler(signal.SIGUSR2, self.resume)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number in (*POWER, signal.SIGUSR1, signal.SIGUSR2):
            self._loop.remove_signal_handler(number)
        for task in self._tasks:
            task.cancel()

    def power(self) -> None:
        """Ask the machines to power off; at the second time, kill them."""
        for machine in self._machines:
            again = self.pressed.is_set()
            self._do(machine.kill if again else partial(machine.stop, self._stop_timeout))
        self.pressed.set()

    def pause(self) -> None:
        """Pause the machines."""
        for machine in self._machines:
            self._do(machine.pause)

    def resume(self) -> None:
        """Resume the machines."""
        for machine in self._machines:
            self._do(machine.resume)

    def _do(self, work: Callable[[], Awaitable[object]]) -> None:
        async def doing() -> None:
            try:
                await work()
            except HypervisorError as error:
                self._complain(str(error))

        task = self._loop.create_task(doing())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

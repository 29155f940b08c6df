"""Signals as the buttons of machines, and a terminal on a console."""

import asyncio
import io
import os
import signal

import pytest
from fake_engine import until

from hypervisor.aio.buttons import Buttons
from hypervisor.aio.console import Console
from hypervisor.aio.terminal import RawInput, Terminal
from hypervisor.errors import UsageError


class Noted:
    """A machine that notes what is done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    async def stop(self, timeout: float) -> None:
        self.done.append(f"stop {timeout}")

    async def kill(self) -> None:
        self.done.append("kill")

    async def pause(self) -> None:
        self.done.append("pause")

    async def resume(self) -> None:
        raise UsageError("machine web is ended, expected paused")


@pytest.mark.parametrize("power", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_signals(power: signal.Signals) -> None:
    machines = [Noted(), Noted()]
    said: list[str] = []
    before = signal.getsignal(signal.SIGUSR1)
    with Buttons(machines, 7.0, said.append):
        for number in (signal.SIGUSR1, power, power):
            count = len(machines[1].done)
            os.kill(os.getpid(), number)
            await until(lambda count=count: len(machines[1].done) > count)  # type: ignore[misc]
        os.kill(os.getpid(), signal.SIGUSR2)
        await until(lambda: len(said) == 2)
    assert [machine.done for machine in machines] == [["pause", "stop 7.0", "kill"]] * 2
    assert said == ["machine web is ended, expected paused"] * 2
    assert signal.getsignal(signal.SIGUSR1) == before


class Pipes:
    """A standard input and output whose other ends are ours."""

    def __init__(self) -> None:
        self.stdin_read, self.stdin_write = os.pipe()
        self.stdout_read, self.stdout_write = os.pipe()

    def file(self, fd: int) -> io.TextIOWrapper:
        return os.fdopen(os.dup(fd), "r" if fd == self.stdin_read else "w")

    def close(self) -> None:
        for fd in (self.stdin_read, self.stdin_write, self.stdout_read, self.stdout_write):
            os.close(fd)


async def test_terminal_both_ways_and_escape() -> None:
    pipes, typed, escaped = Pipes(), bytearray(), asyncio.Event()
    console = Console()
    console.connect(lambda data: typed.extend(data) or len(data))  # type: ignore[func-returns-value]
    with (
        pipes.file(pipes.stdin_read) as stdin,
        pipes.file(pipes.stdout_write) as stdout,
        Terminal(console, stdin, stdout, escaped.set) as terminal,
    ):
        os.write(pipes.stdin_write, b"ls\n\x1dnot typed")
        await asyncio.wait_for(escaped.wait(), 5)
        console.receive(b"bye\r\n")
        console.close()
        await terminal.finished()
    assert typed == b"ls\n"
    assert os.read(pipes.stdout_read, 100) == b"bye\r\n"
    pipes.close()


async def test_end_of_input_leaves_the_machine() -> None:
    pipes, seen = Pipes(), bytearray()
    with pipes.file(pipes.stdin_read) as stdin, RawInput(stdin, seen.extend, lambda: None):
        os.write(pipes.stdin_write, b"x")
        os.close(pipes.stdin_write)
        await until(lambda: seen == b"x")
        await asyncio.sleep(0)
    pipes.stdin_write = os.dup(pipes.stdin_read)
    pipes.close()


async def test_a_terminal_is_raw_meanwhile() -> None:
    master, slave = os.openpty()
    seen = bytearray()
    with os.fdopen(slave, "r") as stdin, RawInput(stdin, seen.extend, lambda: None):
        os.write(master, b"\x03")  # Ctrl-C is the guest's
        await until(lambda: seen == b"\x03")
    os.close(master)

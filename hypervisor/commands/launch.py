"""Runs the machines that were asked for, in this process, on one loop and one network."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, BinaryIO

from .. import control
from ..aio.buttons import Buttons, Interrupt
from ..aio.serial import PseudoTerminal, RingLog, open_device
from ..aio.terminal import Output, Terminal
from ..aio.window import Window
from ..control import place
from ..engine.base import Exit
from ..errors import UsageError
from ..machine import Machine, parse_memory
from . import network
from .base import say
from .devices import machine_arguments
from .hyperkit import parse_serial
from .network import Network
from .pidfile import pidfile
from .settings import Settings

DEFAULT_NAME = "vm"
_NAMES_MAX = 1000
_FAREWELL = 1.0  # seconds that a terminal has to take the rest, once the end was asked for


def memory(settings: Settings) -> int:
    """Return the bytes that the machine will have."""
    return parse_memory(settings.memory)


async def macs(machines: Sequence[Settings]) -> list[str]:
    """Return the MAC address of each machine on the network, with its name if they are several."""
    async with network.find()(*_addresses(machines)) as net:
        found = []
        for each in machines:
            name = each.name or DEFAULT_NAME
            mac = net.port(name, seed=each.uuid).mac.hex(":")
            found.append(mac if len(machines) == 1 else f"{mac} {name}")
        return found


async def run(machines: Sequence[Settings], sockets: Path | None, pid_path: Path | None) -> int:
    """Run machines to their ends and return the exit code, of several the worst.

    Their control sockets lie in `sockets`; None: there are none.
    """
    async with AsyncExitStack() as stack:
        interrupt = stack.enter_context(Interrupt())
        stack.enter_context(pidfile(pid_path))
        try:
            started = await _start(stack, machines, sockets)
        except asyncio.CancelledError:
            if not interrupt.asked:
                raise
            say("ended by a signal before the start was done")
            return 1
        return await _follow(stack, started)


async def _start(
    stack: AsyncExitStack, machines: Sequence[Settings], sockets: Path | None
) -> list[Running]:
    net: Network | None = None
    if any(each.networked for each in machines):
        net = await stack.enter_async_context(network.find()(*_addresses(machines)))
    return [await Running.start(stack, each, net, sockets) for each in machines]


def _addresses(machines: Sequence[Settings]) -> list[str]:
    found = {tuple(network.addresses(each.net)) for each in machines if each.net}
    if len(found) > 1:
        raise UsageError("the machines want different networks, expected one --net for all")
    return list(found.pop()) if found else []


async def _follow(stack: AsyncExitStack, started: Sequence[Running]) -> int:
    """Connect terminals and signals, and wait for the ends."""
    alone = len(started) == 1
    machines = [each.machine for each in started]
    timeout = max(each.settings.stop_timeout for each in started)
    buttons = stack.enter_context(Buttons(machines, timeout, say))
    lines = None if alone else Output(sys.stdout)
    outputs = [each.connect(stack, buttons, lines) for each in started]
    ends = [await each.wait() for each in machines]
    await _printed(outputs, buttons)
    for each, end in zip(started, ends, strict=True):
        if end.code or not alone:
            message = f": {end.message}" if end.message else ""
            say(f"{each.machine.name}: {end.reason.value}{message}")
    return worst(ends)


async def _printed(outputs: Sequence[asyncio.Future[None]], buttons: Buttons) -> None:
    """Wait until all is printed, but after SIGTERM not for a terminal that takes nothing."""
    printed = asyncio.gather(*outputs)
    pressed: asyncio.Future[Any] = asyncio.ensure_future(buttons.pressed.wait())
    try:
        await asyncio.wait([printed, pressed], return_when=asyncio.FIRST_COMPLETED)
        async with asyncio.timeout(_FAREWELL):
            await printed
    except TimeoutError:
        pass
    finally:
        printed.cancel()
        pressed.cancel()
        await asyncio.gather(printed, pressed, return_exceptions=True)


def worst(ends: Sequence[Exit]) -> int:
    """Return the exit code for several machines: an error before triple faults and reboots."""
    codes = [end.code for end in ends]
    return 1 if 1 in codes else max(codes)


class Running:
    """A machine that was started, and how it was asked for."""

    def __init__(self, settings: Settings, machine: Machine) -> None:
        self.settings = settings
        self.machine = machine
        self._serial = parse_serial(settings.serial)

    @classmethod
    async def start(
        cls, stack: AsyncExitStack, settings: Settings, net: Network | None, sockets: Path | None
    ) -> Running:
        """Start a machine with its network and its control socket, all closed by `stack`."""
        claim = None if sockets is None else _claim(sockets, settings.name)
        if claim is not None:
            stack.callback(claim.close)
        name = claim.name if claim is not None else settings.name or DEFAULT_NAME
        published = await _publish(settings, name, net)
        machine = Machine(**_arguments(stack, settings, name, net))
        await stack.enter_async_context(machine)
        if claim is not None:
            facts = {"published": published}
            await stack.enter_async_context(control.serve(machine, claim, facts))
        for each in published:
            say(f"{name}: {each['proto']} {each['host']} leads to port {each['port']}")
        return cls(settings, machine)

    def connect(
        self, stack: AsyncExitStack, buttons: Buttons, lines: Output | None
    ) -> asyncio.Future[None]:
        """Lead the serial port to where it shall; the future is done when all is printed.

        `lines` is where the lines of several machines go; None: the terminal is this one's.
        """
        console, serial = self.machine.console, self._serial
        directory = self.settings.directory("serial")
        if serial is not None and serial.log:
            ring = RingLog(directory / serial.log)
            ring.write(console.unread)
            console.taps.append(ring.write)
            stack.callback(ring.close)
        if serial is not None and serial.device:
            stack.callback(open_device(console, Path(serial.device)).close)
        if serial is not None and serial.pty is not None:
            line = PseudoTerminal(console)
            stack.callback(line.close)
            self._tell(line.name, directory / serial.pty if serial.pty else None)
        if not (self.settings.console if serial is None else serial.stdio):
            return asyncio.ensure_future(asyncio.sleep(0))
        if lines is not None:
            return asyncio.ensure_future(self._print_lines(lines))
        terminal = Terminal(console, sys.stdin, sys.stdout, buttons.power)
        stack.enter_context(terminal)
        stack.enter_context(Window(sys.stdout.fileno(), console))
        return asyncio.ensure_future(terminal.finished())

    def _tell(self, name: str, path: Path | None) -> None:
        if path is None:
            say(f"{self.machine.name}: com1 is {name}")
            return
        try:
            path.write_text(name)  # as text: that is what HyperKit does
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from None

    async def _print_lines(self, lines: Output) -> None:
        async for line in self.machine.console:
            await lines.write(f"{self.machine.name} | {line}\n".encode())


def _claim(sockets: Path, name: str) -> place.Claim:
    """Take the name, or the first that is free of vm, vm2, ..."""
    place.prepare(sockets, os.geteuid())
    if name:
        return place.claim(place.socket_path(sockets, name))
    for number in range(1, _NAMES_MAX):
        free = DEFAULT_NAME if number == 1 else f"{DEFAULT_NAME}{number}"
        try:
            return place.claim(place.socket_path(sockets, free))
        except place.NameInUseError:
            continue
    raise UsageError(f"{_NAMES_MAX} machines have no name: give one with --name")


async def _publish(settings: Settings, name: str, net: Network | None) -> list[dict[str, object]]:
    """Publish ports before the machine starts, so that one in use ends it here."""
    made: list[dict[str, object]] = []
    for text in settings.publish:
        assert net is not None
        wanted = network.parse_publish(text)
        net.port(name, seed=settings.uuid)
        published = await net.publish(wanted.proto, host=wanted.host, guest=(name, wanted.port))
        address, port = published.address
        host = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        made.append({"proto": wanted.proto, "host": host, "port": wanted.port})
    return made


def _arguments(
    stack: AsyncExitStack, settings: Settings, name: str, net: Network | None
) -> dict[str, Any]:
    """Return the arguments of `Machine`."""
    made: dict[str, Any] = {
        each: getattr(settings, each)
        for each in ("kernel", "initrd", "cmdline", "memory", "cpus", "engine", "uuid", "acpi")
    }
    made |= {"name": name, "engine_args": settings.engine_arg}
    made["console"] = "virtio" if settings.hvc else "serial"
    if settings.console_log is not None:
        made["console_log"] = stack.enter_context(_log(settings.console_log))
    if net is not None and settings.networked:
        made["nics"] = [net.port(name, seed=settings.uuid)]
    for key, value in machine_arguments(settings.devices, settings.directory).items():
        made[key] = [*made[key], *value] if isinstance(made.get(key), list) else value
    return made


def _log(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as error:
        raise UsageError(f"cannot write the log {path}: {error.strerror}") from None

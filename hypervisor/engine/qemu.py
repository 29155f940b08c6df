"""The engine `qemu`: a QEMU process steered over QMP, its NICs served by us over vhost-user.

QMP and the serial console are socket pairs whose far ends QEMU inherits: nothing in the file
system to find or to guard.  Only NICs need paths; they lie in a directory that is ours (0700).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qemu.qmp import EventListener, QMPClient, QMPError, Runstate

from ..aio.console import Console
from ..aio.process import Child
from ..devices.p9exchange import Server
from ..devices.vhost_serve import serve
from ..errors import UsageError
from ..vhost.port import listen
from . import confine, host, measure, panic, tsc
from .base import Config, EngineError, EventKind, Exit, ExitReason, Notify
from .check import check, check_files, line
from .disks import prepare_all
from .nics import Listen, Nics
from .qemu_args import FRONT_ENDS, Share, Wires, command_line
from .resetlog import ResetLog
from .shares import Shares, directory_of, keeps_setuid
from .statistics import Boot, Statistics

START_TIMEOUT = 30.0
COMMAND_TIMEOUT = 10.0
_GOODBYE_TIMEOUT = 2.0

# What QEMU's SHUTDOWN event gives as the reason (qapi/run-state.json, ShutdownCause).
_REASONS = {
    "guest-shutdown": ExitReason.POWER_OFF,
    "guest-reset": ExitReason.REBOOT,  # also a triple fault, which only QEMU's log tells apart
    "guest-panic": ExitReason.PANIC,
    "host-qmp-quit": ExitReason.KILLED,
    "host-signal": ExitReason.KILLED,
    "host-error": ExitReason.CRASHED,
}
_EVENTS = {
    "STOP": EventKind.PAUSED,
    "RESUME": EventKind.RESUMED,
    "POWERDOWN": EventKind.POWER_BUTTON,
    "GUEST_PANICKED": EventKind.PANIC,
}
_logger = logging.getLogger(__name__)


class QemuEngine:
    """One machine in one QEMU process; see `engine.base.Engine`."""

    name = "qemu"

    def __init__(self, *, qemu: str = host.QEMU, kvm: bool | None = None, ports: Listen = listen):
        self._qemu = qemu
        self.kvm = host.kvm().good if kvm is None else kvm
        self._ports = ports
        self.ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._undo = contextlib.ExitStack()
        self._qmp: QMPClient | None = None
        self._child: Child | None = None
        self._nics: Nics | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._shares = Shares()
        self._shutdown: str | None = None  # the reason that QEMU gave
        self._console: Console | None = None
        self._log: ResetLog | None = None  # under emulation
        self._killing = False
        self._boot = Boot()

    async def start(self, config: Config, console: Console, notify: Notify) -> None:
        """Run the machine; raise `EngineError` when QEMU does not start."""
        strange = [d.device_id for d in config.devices if d.device_id not in FRONT_ENDS]
        if strange:
            raise EngineError(f"QEMU has no place for virtio device {strange[0]}: take engine kvm")
        self._boot = Boot(started=time.time())
        program = shutil.which(self._qemu)
        if program is None:
            raise EngineError(f"{self._qemu} is not here: run apt-get install qemu-system-x86")
        try:
            await self._shares.open(config.shares)
            check(config)
            check_files(config)
            await prepare_all(config.disks, lambda why: notify(EventKind.WARNING, why))
            self._spawn(program, config, console, notify)
            await self._connect(notify)
        except BaseException as error:
            await self.close()
            if isinstance(error, UsageError | OSError):
                raise EngineError(line(error)) from error
            raise

    def _spawn(self, program: str, config: Config, console: Console, notify: Notify) -> None:
        shares = [_share(tag, server) for tag, server in self._shares.servers]
        place = self._undo.enter_context(tempfile.TemporaryDirectory(prefix="trikit-"))
        nics = self._nics = Nics(
            config.nics,
            config.name,
            Path(place),
            self._ports,
            lambda name: notify(EventKind.NIC_CONNECTED, name),
        )
        self._undo.callback(nics.close)
        devices = self._serve(config, Path(place))
        self._ours, qmp = socket.socketpair()
        self._console = console
        with contextlib.ExitStack() as theirs:
            theirs.enter_context(qmp)
            inherited = [qmp.fileno(), self._line(console, theirs)]
            if config.terminal is not None:
                inherited.append(self._line(config.terminal, theirs))
            terminal = inherited[-1] if config.terminal is not None else -1
            log: list[str] = []
            if not self.kvm:
                self._log = ResetLog()
                self._undo.callback(self._log.close)
                theirs.callback(self._log.started)
                inherited.append(self._log.fd)
                log = self._log.args
            wires = Wires(inherited[0], inherited[1], nics.wires, log, terminal, shares, devices)
            khz = 0 if self.kvm else tsc.frequency_khz()
            command = command_line(config, wires, qemu=program, kvm=self.kvm, tsc_khz=khz)
            if _confined(shares):
                command = confine.command(command)
            _logger.debug("starting %s", command)
            self._child = Child(command, [*inherited, *nics.fds])
            nics.inherited()

    def _line(self, console: Console, theirs: contextlib.ExitStack) -> int:
        """Put `console` on a socket pair; returns QEMU's end, which `theirs` closes."""
        ours, far = socket.socketpair()
        theirs.enter_context(far)
        self._undo.callback(console.close)
        console.attach(ours)
        return far.fileno()

    def _serve(self, config: Config, place: Path) -> list[tuple[int, str]]:
        """Serve devices of ours over vhost-user; returns their numbers and sockets."""
        devices = [*config.devices, *([] if config.vsock is None else [config.vsock.device])]
        wires = []
        for number, device in enumerate(devices):
            path = str(place / f"device{number}")
            self._undo.callback(serve(device, path).close)
            wires.append((device.device_id, path))
        return wires

    async def _connect(self, notify: Notify) -> None:
        assert self._child is not None
        self._ours.setblocking(False)
        self._qmp = QMPClient()
        self._qmp.logger = _quiet()
        listener = EventListener()
        self._qmp.register_listener(listener)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await self._qmp.connect(self._ours)
        except (QMPError, TimeoutError) as error:
            self._child.kill()
            code = await asyncio.shield(self._child.returncode)
            raise EngineError(self._obituary(code) or f"QEMU does not answer: {error}") from None
        self._tasks = [
            asyncio.create_task(self._follow(listener, notify)),
            asyncio.create_task(self._bury(self._child, self._qmp)),
        ]

    async def _follow(self, listener: EventListener, notify: Notify) -> None:
        async for message in listener:
            self._on_event(message, notify)

    def _on_event(self, message: Mapping[str, Any], notify: Notify) -> None:
        name, data = message["event"], message.get("data", {})
        if name == "SHUTDOWN":
            self._shutdown = data.get("reason", "")
        elif name in _EVENTS:
            notify(_EVENTS[name], data.get("action", ""))

    async def _bury(self, child: Child, qmp: QMPClient) -> None:
        """Wait for the process, hear QMP out, and say how it ended."""
        code = await child.returncode
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_TIMEOUT):
                while qmp.runstate == Runstate.RUNNING:
                    await qmp.runstate_changed()
        await asyncio.sleep(0)  # the follower takes the last event before we judge
        self.ended.set_result(self._judge(code))

    def _judge(self, code: int) -> Exit:
        if self._killing or code in {-signal.SIGKILL, -signal.SIGTERM}:
            return Exit(ExitReason.KILLED, "killed by us" if self._killing else "QEMU was killed")
        if code == 0 and self._shutdown is not None:
            return self._judge_shutdown(self._shutdown)
        return Exit(ExitReason.CRASHED, self._obituary(code))

    def _judge_shutdown(self, cause: str) -> Exit:
        reason = _REASONS.get(cause, ExitReason.CRASHED)
        why = panic.reason(self._console.tail) if self._console is not None else None
        if reason is ExitReason.PANIC:
            return Exit(reason, f"guest-panicked: {why or 'the console does not say why'}")
        if reason is ExitReason.REBOOT and why is not None:
            return Exit(ExitReason.PANIC, f"{cause}, and its console says: {why}")
        if reason is ExitReason.REBOOT and self._log is not None and self._log.triple_fault():
            return Exit(ExitReason.TRIPLE_FAULT, f"{cause}, by a triple fault")
        return Exit(reason, cause)

    def _obituary(self, code: int) -> str:
        how = f"with status {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
        words = self._child.last_words if self._child is not None else ""
        return f"QEMU exited {how}: {words or 'it said nothing'}"

    def statistics(self) -> Statistics:
        """Return when it was started; QEMU keeps its exits and queues to itself."""
        return Statistics(self._boot)

    async def press_power_button(self) -> None:
        """Press the ACPI power button."""
        await self._execute("system_powerdown")

    async def pause(self) -> None:
        """Stop the virtual processors."""
        await self._execute("stop")

    async def resume(self) -> None:
        """Let the virtual processors run again."""
        await self._execute("cont")

    async def _execute(self, command: str) -> object:
        if self._qmp is None:
            raise EngineError(f"cannot {command}: the machine does not run")
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT):
                return await self._qmp.execute(command)
        except (QMPError, TimeoutError) as error:
            raise EngineError(f"QEMU did not {command}: {error}") from None

    def usage(self) -> measure.Usage:
        """Return what QEMU uses of the host."""
        if self._child is None or self._child.returncode.done():
            return measure.Usage()
        pid = self._child.pid
        times = measure.seconds(measure.qemu_vcpu_ids(pid), pid)
        ports = self._nics.ports if self._nics is not None else {}
        return measure.Usage(
            tuple(times),
            measure.process_shared(pid),
            tuple(measure.nic(name, port.statistics()) for name, port in ports.items()),
        )

    def kill(self) -> None:
        """Send SIGKILL to QEMU."""
        self._killing = True
        if self._child is not None:
            self._child.kill()

    async def close(self) -> None:
        """Kill what runs, and leave no process, task, descriptor or file."""
        self.kill()
        if self._child is not None:
            await asyncio.shield(self._child.returncode)
        if self._tasks:
            await asyncio.wait(self._tasks[1:])
            self._tasks[0].cancel()
            await asyncio.wait(self._tasks)
        if self._qmp is not None:
            with contextlib.suppress(QMPError, EOFError, OSError):
                await self._qmp.disconnect()
            self._qmp = None
        self._undo.close()
        await self._shares.close()


def _share(tag: str, server: Server) -> Share:
    """QEMU shares directories by itself and has no way to attach another 9P server."""
    found = directory_of(server)
    if found is None:
        raise EngineError(
            f"share {tag} is no directory, which is all that QEMU shares: use the engine kvm, or "
            "serve it at the gateway (net.start_server(server.handle, 564)), mounted by trans=tcp"
        )
    return Share(tag, *found, keeps_setuid(server))


def _confined(shares: Sequence[Share]) -> bool:
    """Tell whether set-ID bits are refused; QEMU is one process, with one rule for all shares."""
    writable = [each for each in shares if not each.read_only]
    kept = [each.tag for each in writable if each.keep_setuid]
    if kept and len(kept) < len(writable):
        raise EngineError(
            f"share {kept[0]} is setuid: and others are not, which QEMU cannot tell apart: use the "
            "engine kvm, or make the others read-only (ro:)"
        )
    return bool(writable) and not kept


def _quiet() -> logging.Logger:
    """Return a logger that keeps QMP's account of every disconnect out of the user's terminal."""
    logger = logging.getLogger(f"{__name__}.qmp")
    logger.setLevel(logging.CRITICAL)
    return logger

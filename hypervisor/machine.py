"""`Machine`: one lightweight virtual machine with its devices and its life.

    async with Machine(kernel=image.kernel, initrd=image.initrd, nics=[net.port("vm1")]) as vm:
        async for line in vm.console:
            ...
        print((await vm.wait()).reason)

Many may run in one process on one loop.  Leaving the block kills what still runs; `stop` is the
graceful way.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self
from uuid import UUID, uuid4

from .aio.console import Console
from .aio.vsock import Vsock
from .devices.base import Device
from .devices.disk import Disk, disk
from .devices.p9 import check_tag
from .engine.base import (
    TRANSITIONS,
    Config,
    Engine,
    EngineError,
    Event,
    EventKind,
    Exit,
    ExitReason,
    State,
)
from .engine.choice import choose
from .engine.kvm import KvmEngine
from .engine.nic import Nic
from .engine.qemu import QemuEngine
from .engine.statistics import Statistics
from .errors import UsageError

ENGINES: dict[str, Callable[[], Engine]] = {
    "auto": lambda: KvmEngine() if choose() == "kvm" else QemuEngine(),
    "kvm": KvmEngine,
    "qemu": QemuEngine,
}
CONSOLES = ("serial", "virtio")
HVC = "console=hvc0"  # after the serial port: what is named last is /dev/console
CPUS_MAX = 16
_UNITS = {"": 1 << 20, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_MEMORY_MIN = 32 << 20
_EVENTS_MAX = 256
_PRESS_AGAIN = 2.0
_END = None


def parse_memory(value: str | int) -> int:
    """Return bytes for "256M", "1G" or a number, which counts MiB as HyperKit's `-m` does."""
    match = re.fullmatch(r"(\d+)([KMGT]?)(i?B)?", str(value).strip(), re.IGNORECASE)
    if match is None:
        raise UsageError(f"memory is {value!r}, expected a size such as 256M or 1G")
    size = int(match[1]) * _UNITS[match[2].upper()]
    if size < _MEMORY_MIN or size % (1 << 20):
        raise UsageError(f"memory is {value!r}, expected whole MiB and at least 32M")
    return size


def parse_uuid(value: str) -> str:
    """Return the id in its 36 characters; a random one for none."""
    try:
        return str(UUID(value) if value else uuid4())
    except ValueError:
        raise UsageError(f"the UUID {value!r}, expected 32 hexadecimal digits") from None


class Machine:
    """A virtual machine; see the module's docstring for its use."""

    def __init__(
        self,
        kernel: Path | str,
        initrd: Path | str | None = None,
        *,
        cmdline: str = "",
        memory: str | int = "256M",
        cpus: int = 1,
        nics: Sequence[Nic] = (),
        devices: Sequence[Device] = (),
        disks: Sequence[Disk | Path | str] = (),
        shares: Mapping[str, object] | None = None,
        vsock: Vsock | None = None,
        name: str = "vm",
        engine: str = "auto",
        engine_args: Sequence[str] = (),
        console_log: BinaryIO | None = None,
        uuid: str = "",
        acpi: bool = True,
        console: str = "serial",
    ) -> None:
        """Describe a machine; raise `UsageError` for what can never run.

        `nics` are jacks, such as `Gateway.port` gives, `Tap` or `VhostUser` descriptions.
        `cmdline` follows the defaults that every guest needs, so it has the last word.
        `engine` "auto" is "kvm" where KVM runs unmodified kernels, else "qemu"; `engine_args`,
        which go to QEMU as they are, make it "qemu" too.  `console_log` gets everything the guest
        prints.  `devices` are virtio devices of your own (see `devices.base`); "qemu" has
        a place for entropy alone.  `vsock` is for this machine alone.  `disks` (or paths of
        images) are /dev/vda and so on.
        `shares` maps tags, which the guest mounts (`mount -t 9p -o trans=virtio TAG DIR`), to
        directories, repositories, 9P servers and addresses of such (see `engine.shares`); on
        "qemu" to directories alone.
        `console` "virtio" makes the guest's console a virtio one (hvc0), which is faster and
        follows `console.resize` on "kvm"; what the kernel says goes to the serial port as well.
        `uuid` is the machine's id, one is made up without it.
        Without `acpi`, the guest gets an MP table and its devices on the command line (which the
        kernel must be configured for, VIRTIO_MMIO_CMDLINE_DEVICES), and has no power button.
        """
        if engine not in ENGINES:
            raise UsageError(f"engine is {engine!r}, expected one of {', '.join(ENGINES)}")
        if console not in CONSOLES:
            raise UsageError(f"console is {console!r}, expected one of {', '.join(CONSOLES)}")
        if not 1 <= cpus <= CPUS_MAX:
            raise UsageError(f"cpus is {cpus}, expected 1 to {CPUS_MAX}")
        self.config = Config(
            name=name,
            kernel=_readable(kernel, "kernel"),
            initrd=None if initrd is None else _readable(initrd, "initrd"),
            cmdline=cmdline,
            memory=parse_memory(memory),
            cpus=cpus,
            nics=tuple(nics),
            devices=tuple(devices),
            disks=tuple(map(disk, disks)),
            shares=tuple((check_tag(tag), what) for tag, what in (shares or {}).items()),
            vsock=vsock,
            engine_args=tuple(engine_args),
            uuid=parse_uuid(uuid),
            acpi=acpi,
        )
        self.name = name
        self.state = State.CREATED
        self.started_at = self.ended_at = 0.0  # on the loop's clock
        self._engine_name = engine
        self._console_log = console_log
        self._console: Console | None = None
        self._serial: Console | None = None
        self._console_kind = console
        self._engine: Engine | None = None
        self._exit: Exit | None = None
        self._vsock: Vsock | None = None  # once it is open
        self._keeper: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()
        self._killed = False  # by us
        self._listeners: set[asyncio.Queue[Event | None]] = set()

    @property
    def console(self) -> Console:
        """The guest's console; there once the machine was started."""
        if self._console is None:
            raise UsageError(f"machine {self.name} was not started")
        return self._console

    @property
    def serial(self) -> Console:
        """The serial port: the console itself, unless that is a virtio one."""
        if self._serial is None:
            raise UsageError(f"machine {self.name} was not started")
        return self._serial

    @property
    def vsock(self) -> Vsock:
        """The vsock device that the machine was given."""
        if self.config.vsock is None:
            raise UsageError(f"machine {self.name} has no vsock: give it Vsock()")
        return self.config.vsock

    @property
    def engine(self) -> Engine:
        """What runs the machine; there once it was started."""
        if self._engine is None:
            raise UsageError(f"machine {self.name} was not started")
        return self._engine

    async def start(self) -> None:
        """Run the machine; raise `EngineError` with the reason when it does not start."""
        self._move(State.STARTING)
        loop = asyncio.get_running_loop()
        self.started_at = loop.time()
        self._console = self._serial = Console(log=self._console_log)
        config = self.config
        if self._console_kind == "virtio":
            self._serial = Console()
            words = f"{HVC} {config.cmdline}".rstrip()
            config = replace(config, terminal=self._console, cmdline=words)
        engine_name = self._engine_name
        if engine_name == "auto" and self.config.engine_args:  # which are QEMU's
            engine_name = "qemu"
        self._engine = ENGINES[engine_name]()
        try:
            if self.config.vsock is not None:
                self.config.vsock.open()
                self._vsock = self.config.vsock
            await self._engine.start(config, self._serial, self._notify)
        except BaseException as error:
            reason = ExitReason.KILLED if self._killed else ExitReason.FAILED
            self._finish(Exit(reason, str(error)))
            raise
        self._move(State.RUNNING)
        self._notify(EventKind.STARTED, self._engine.name)
        self._keeper = loop.create_task(self._keep(self._engine))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.kill()

    async def wait(self) -> Exit:
        """Wait for the end and return how it came."""
        if self.state is State.CREATED:
            raise UsageError(f"machine {self.name} was not started")
        await self._gone.wait()
        assert self._exit is not None
        return self._exit

    async def stop(self, timeout: float = 10.0) -> Exit:
        """Press the power button, wait up to `timeout` seconds for the guest, then kill.

        It is pressed again every two seconds, for a guest that boots.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._power_off()
        return await self.kill()

    async def _power_off(self) -> None:
        """Press the button until the machine ends: a guest that boots does not hear it yet."""
        if self.state is State.PAUSED:
            with contextlib.suppress(EngineError):
                await self.resume()
        while self.state in {State.RUNNING, State.PAUSED}:
            with contextlib.suppress(EngineError):  # of one that is ending; its end tells how
                await self.engine.press_power_button()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PRESS_AGAIN):
                    await self._gone.wait()

    async def kill(self) -> Exit:
        """End the machine at once; return how it ended, which may have been earlier."""
        if self.state is not State.ENDED:
            self._killed = True
            self.engine.kill()
        return await self.wait()

    async def pause(self) -> None:
        """Stop the virtual processors; a paused machine stays as it is."""
        if self.state is not State.PAUSED:
            self._must_be(State.RUNNING)
            await self.engine.pause()
            self._move(State.PAUSED)
            if self._vsock is not None:
                self._vsock.pause()

    async def resume(self) -> None:
        """Let a paused machine go on; a running one does."""
        if self.state is not State.RUNNING:
            self._must_be(State.PAUSED)
            await self.engine.resume()
            self._move(State.RUNNING)
            if self._vsock is not None:
                self._vsock.resume()

    def statistics(self) -> Statistics:
        """Return when the boot reached what, exits by reason, and each queue's counters.

        A snapshot, also of a machine that has ended; `engine.statistics` names the fields.
        """
        return self.engine.statistics()

    def status(self) -> State:
        """Return where the machine is in its life."""
        return self.state

    async def events(self) -> AsyncIterator[Event]:
        """Yield what happens from now to the end; a slow reader loses the oldest."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(_EVENTS_MAX)
        if self.state is State.ENDED:
            return
        self._listeners.add(queue)
        try:
            while (event := await queue.get()) is not _END:
                yield event
        finally:
            self._listeners.discard(queue)

    async def _keep(self, engine: Engine) -> None:
        exit_ = await engine.ended
        await engine.close()
        self._finish(exit_)

    def _finish(self, exit_: Exit) -> None:
        self._exit = exit_
        self.ended_at = asyncio.get_running_loop().time()
        for console in (self._console, self._serial):
            if console is not None:
                console.close()
        if self._vsock is not None:
            self._vsock.close()
        self._move(State.ENDED)
        self._notify(EventKind.ENDED, exit_.reason.value)
        for queue in self._listeners:
            _offer(queue, _END)
        self._gone.set()

    def _notify(self, kind: EventKind, detail: str) -> None:
        event = Event(kind, asyncio.get_running_loop().time(), detail)
        for queue in self._listeners:
            _offer(queue, event)

    def _move(self, state: State) -> None:
        if state not in TRANSITIONS[self.state]:
            raise UsageError(f"machine {self.name} is {self.state.value}, cannot be {state.value}")
        self.state = state

    def _must_be(self, state: State) -> None:
        if self.state is not state:
            raise UsageError(f"machine {self.name} is {self.state.value}, expected {state.value}")


def _offer(queue: asyncio.Queue[Event | None], item: Event | None) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(item)


def _readable(path: Path | str, what: str) -> Path:
    try:
        if Path(path).exists() and not Path(path).is_file():  # a pipe would have us wait
            raise UsageError(f"cannot read the {what} {path}: not a regular file")
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise UsageError(f"cannot read the {what} {path}: {error.strerror}") from None
    return Path(path).absolute()

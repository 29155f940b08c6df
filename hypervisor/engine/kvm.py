"""The engine `kvm`: our own monitor, in this process.

Virtual processors are threads that stay in C; what they cannot answer there is answered here, on
the loop.  Nothing waits for anything while a guest runs, so one loop carries many machines.

Time: a paused guest's clocks run on, as a sleeping computer's do, so they are right at once when it
is resumed.  KVM's clock stands still while the *host* sleeps: `resume` moves it on by what
CLOCK_BOOTTIME has more.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from ..aio.console import Console
from ..aio.work import Work, end
from ..core import kvm
from ..devices.balloon import Balloon
from ..devices.base import Device
from ..devices.console import VirtioConsole
from ..devices.net import Net
from ..devices.p9 import P9
from ..devices.pvpanic import Panic
from ..devices.rng import Rng
from ..errors import HypervisorError
from ..pc import cpu, cpuid
from . import measure, panic
from .base import Config, EngineError, EventKind, Exit, ExitReason, Notify
from .board import Board
from .check import check, line
from .disks import open_blocks
from .links import Links
from .loader import Loader
from .shares import Shares
from .statistics import Boot, Statistics

_CLOCK_TOLERANCE = 10_000_000  # nanoseconds: less than this is not worth a jump

_AT_ONCE = 2  # machines that start
_gates: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

# KVM_SYSTEM_EVENT_* (linux/kvm.h)
_SYSTEM_EVENTS = {1: ExitReason.POWER_OFF, 2: ExitReason.REBOOT, 3: ExitReason.PANIC}


class KvmEngine:
    """One machine on KVM in this process; see `engine.base.Engine`."""

    name = "kvm"

    def __init__(self, *, device: str = kvm.KVM) -> None:
        self._device = device
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Exit] = self._loop.create_future()
        self._vm: kvm.Vm | None = None  # a thread's, too, until it runs
        self._running_vm: kvm.Vm | None = None
        self._works: list[Work[Any]] = []  # of `start`
        self._board: Board | None = None
        self._console: Console | None = None
        self._links: Links | None = None
        self._shares = Shares()
        self._devices: list[Device] = []  # until a board has them
        self._notify: Notify = lambda kind, detail: None
        self._threads: list[int] = []  # of the processors, in order
        self._paused_at = (0, 0)  # the guest's clock and the host's, in nanoseconds
        self._begin = 0.0  # on the monotonic clock: a loop's may stand still for a turn
        self._boot = Boot()
        self._vcpus: tuple[kvm.VcpuStatistics, ...] = ()  # as they were at the end

    async def start(self, config: Config, console: Console, notify: Notify) -> None:
        """Run the machine; raise `EngineError` when it cannot be made.

        Files are loaded beside the making of the machine, both away from the loop.
        """
        self._begin = time.monotonic()
        self._boot = Boot(started=time.time())
        self._notify = notify
        try:
            devices = await self._prepare(config, console)
            async with _gate(self._loop):
                await self._start(config, console, devices)
        except BaseException as error:
            try:
                await self.close()
            finally:
                console.close()
            if isinstance(error, HypervisorError | OSError):
                raise EngineError(line(error)) from error
            raise

    async def _prepare(self, config: Config, console: Console) -> tuple[Device, ...]:
        """Make the devices; some have to find somebody first, unless the machine is killed."""
        if config.engine_args:
            raise EngineError(f"{config.engine_args[0]} is for QEMU: choose the engine qemu")
        await self._shares.open(config.shares)
        check(config)
        self._console = console
        self._links = Links(config.nics, config.name, self._notify)
        warn = partial(self._notify, EventKind.WARNING)
        blocks = await open_blocks(config.disks, config.cpus, warn)
        shares = (P9(tag, server) for tag, server in self._shares.servers)
        self._devices = [*_devices(config, self._links, blocks), *shares]
        preparing = self._loop.create_task(self._prepare_devices())
        try:
            await asyncio.wait((preparing, self.ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            preparing.cancel()
            await asyncio.wait((preparing,))
        if not self.ended.done():
            preparing.result()
        return tuple(self._devices)

    async def _prepare_devices(self) -> None:
        warn = partial(self._notify, EventKind.WARNING)
        for device in self._devices:
            device.warn = warn
            await device.prepare()

    async def _start(self, config: Config, console: Console, devices: Sequence[Device]) -> None:
        if self.ended.done():
            raise EngineError("killed before it ran")
        board = self._board = Board(
            config.memory, devices, self._power_off, self._reset, self._panicked
        )
        loader = Loader(board.ram, config, len(devices))
        loading = Work(loader.run, loader.stop)
        self._works.append(loading)
        vm = self._vm = kvm.Vm(self._device)
        wiring = Work(board.wire(vm).connect)
        self._works.append(wiring)
        board.attach(console)
        self._devices.clear()  # the board closes them from now on
        await wiring
        self._boot = replace(self._boot, wired=self._since())
        await self._make_processors(vm, config.cpus)
        entry = await loading
        self._boot = replace(self._boot, loaded=self._since())
        self._works.clear()
        if self.ended.done():
            raise EngineError("killed before it ran")
        if self._links is not None:
            self._links.plug()
        first = vm.vcpus[0]  # the others wait for its INIT and SIPI
        first.set(kvm.State.SREGS, cpu.sregs(entry))
        first.set(kvm.State.REGS, cpu.regs(entry))
        self._run(vm)

    async def _make_processors(self, vm: kvm.Vm, count: int) -> None:
        supported = vm.supported_cpuid()
        for index in range(count):
            await asyncio.sleep(0)  # one takes half a millisecond
            others = set(measure.thread_ids())
            vcpu = vm.vcpu(cpuid.masked(supported, index, count))
            self._threads += measure.vcpu_ids(others)
            vcpu.set(kvm.State.FPU, cpu.fpu())
            vcpu.set_msrs(_msrs(cpu.msrs()))

    def _run(self, vm: kvm.Vm) -> None:
        self._loop.add_reader(vm.exit_fd, self._on_exits)
        self._running_vm = vm
        vm.resume()
        self._boot = replace(self._boot, first_instruction=self._since())

    def _since(self) -> float:
        return time.monotonic() - self._begin

    def _on_exits(self) -> None:
        vm, board = self._vm, self._board
        assert vm is not None
        assert board is not None
        for exit_ in vm.exits():
            if self.ended.done():
                return
            if exit_.kind.final:
                self._end(_judge(exit_))
            elif not exit_.write:
                vm.answer(exit_, board.read(exit_))
            elif (later := board.write(exit_)) is not None:
                later.add_done_callback(partial(self._answer, exit_))
            else:
                vm.answer(exit_)

    def _answer(self, exit_: kvm.Exit, _: asyncio.Future[None]) -> None:
        if self._vm is not None and not self._vm.closed:
            self._vm.answer(exit_)

    def _power_off(self) -> None:
        self._end(Exit(ExitReason.POWER_OFF, "guest-shutdown"))

    def _reset(self) -> None:
        # Without the panic device's driver a panic resets too; then its words are all there is.
        if (why := self._last_words()) is not None:
            self._notify(EventKind.PANIC, why)
            self._end(Exit(ExitReason.PANIC, f"guest-reset, and its console says: {why}"))
        else:
            self._end(Exit(ExitReason.REBOOT, "guest-reset"))

    def _panicked(self, event: Panic) -> None:
        if event is Panic.CRASH_LOADED:
            self._notify(EventKind.PANIC, "crash-loaded")
            return
        why = self._last_words() or "the console does not say why"
        self._notify(EventKind.PANIC, why)
        self._end(Exit(ExitReason.PANIC, f"guest-panicked: {why}"))

    def _last_words(self) -> str | None:
        if self._board is None or self._console is None:
            return None
        self._board.drain()
        return panic.reason(self._console.tail)

    def _end(self, exit_: Exit) -> None:
        """Stop the processors for good and say how it came to that."""
        if self.ended.done():
            return
        if self._running_vm is not None:  # else a thread may be at work on it
            self._loop.remove_reader(self._running_vm.exit_fd)
            self._running_vm.stop()  # `close` waits for it
        self.ended.set_result(exit_)

    async def press_power_button(self) -> None:
        """Press the ACPI power button."""
        self._running("press the power button").press_power_button()
        self._notify(EventKind.POWER_BUTTON, "")

    async def pause(self) -> None:
        """Stop the virtual processors; the loop goes on until they have."""
        vm = self._running("pause").vm
        await asyncio.to_thread(vm.pause)
        self._running("pause")  # it may have ended meanwhile
        self._paused_at = vm.clock, time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._notify(EventKind.PAUSED, "")

    async def resume(self) -> None:
        """Let the virtual processors run again, with the time of now."""
        vm = self._running("resume").vm
        clock, then = self._paused_at
        expected = clock + time.clock_gettime_ns(time.CLOCK_BOOTTIME) - then
        if expected - vm.clock > _CLOCK_TOLERANCE:
            vm.clock = expected
        vm.resume()
        self._notify(EventKind.RESUMED, "")

    def _running(self, verb: str) -> Board:
        if self._board is None or self._running_vm is None or self.ended.done():
            raise EngineError(f"cannot {verb}: the machine does not run")
        return self._board

    def statistics(self) -> Statistics:
        """Return counters; after the end, those of the end."""
        if self._running_vm is not None and not self._running_vm.closed:
            self._vcpus = tuple(vcpu.statistics() for vcpu in self._running_vm.vcpus)
        if self._board is None:
            return Statistics(self._boot)
        boot, printed = self._boot, self._board.first_output
        if printed:
            boot = replace(boot, first_output=printed - self._begin)
        return Statistics(boot, self._vcpus, self._board.statistics())

    def usage(self) -> measure.Usage:
        """Return what the machine uses of the host."""
        if self._board is None or self._running_vm is None or self._running_vm.closed:
            return measure.Usage()
        nics = [device for device in self._board.devices if isinstance(device, Net)]
        return measure.Usage(
            tuple(measure.seconds(self._threads)),
            measure.file_resident(self._board.ram.fd),
            tuple(measure.nic(each.port.name, each.port.statistics()) for each in nics),
        )

    def kill(self) -> None:
        """Stop the processors."""
        self._end(Exit(ExitReason.KILLED, "killed by us"))

    async def close(self) -> None:
        """Leave no thread, descriptor or mapping."""
        self.kill()
        self.statistics()  # the last of them
        try:
            await end(self._works)
        finally:
            if self._links is not None:
                self._links.close()
            if self._board is not None:
                await self._board.close()
            if self._vm is not None:  # also when the board was not wired
                self._vm.close()
            while self._devices:  # those that no board had
                await self._devices.pop().close()
            await self._shares.close()


def _gate(loop: asyncio.AbstractEventLoop) -> asyncio.Semaphore:
    """Return what lets a few machines start at once: the loop has work of a millisecond for each,
    which would come in one piece for all that begin together."""
    return _gates.setdefault(loop, asyncio.Semaphore(_AT_ONCE))


def _devices(config: Config, links: Links, blocks: Sequence[Device]) -> list[Device]:
    """Return the machine's devices; a balloon gives back what the guest reports as free."""
    return [
        Rng(),
        Balloon(),
        *links.devices,
        *blocks,
        *([] if config.terminal is None else [_terminal(config.terminal)]),
        *([] if config.vsock is None else [config.vsock.device]),
        *config.devices,
    ]


def _terminal(console: Console) -> VirtioConsole:
    cols, rows = console.size
    device = VirtioConsole(console.receive, console.flush, cols=cols, rows=rows)
    console.connect(device.write, device.resize)
    return device


def _msrs(packed: bytes) -> dict[int, int]:
    """Read struct kvm_msrs."""
    return {index: value for index, _, value in struct.iter_unpack("<IIQ", packed[8:])}


def _judge(exit_: kvm.Exit) -> Exit:
    if exit_.kind is kvm.ExitKind.SHUTDOWN:
        return Exit(ExitReason.TRIPLE_FAULT, str(exit_))
    if exit_.kind is kvm.ExitKind.SYSTEM_EVENT:
        return Exit(_SYSTEM_EVENTS.get(exit_.address, ExitReason.CRASHED), str(exit_))
    return Exit(ExitReason.CRASHED, str(exit_))

"""The engine `kvm`: our own monitor, in this process.

Virtual processors are threads that stay in C; what they cannot answer there is answered here, on
the loop.  Nothing waits for anything while a guest runs, so one loop carries many machines.

Time: a paused guest's clocks run on, as a sleeping computer's do, so they are right at once when it
is resumed.  KVM's clock stands still while the *host* sleeps: `resume` moves it on by what
CLOCK_BOOTTIME has more.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vpnstack.link.port import Jack

from ..aio.console import Console
from ..core import kvm
from ..devices.balloon import Balloon
from ..devices.base import Device
from ..devices.net import Net
from ..devices.rng import Rng
from ..errors import HypervisorError
from ..pc import boot, cmdline, cpu, cpuid
from . import measure
from .base import Config, EngineError, EventKind, Exit, ExitReason, Notify
from .board import Board

_MAPPED = 16 << 20  # bytes of a file from which on it is not read into memory of ours
_CLOCK_TOLERANCE = 10_000_000  # nanoseconds: less than this is not worth a jump

# KVM_SYSTEM_EVENT_* (linux/kvm.h)
_SYSTEM_EVENTS = {1: ExitReason.POWER_OFF, 2: ExitReason.REBOOT, 3: ExitReason.PANIC}


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a machine has cost so far."""

    vcpus: tuple[kvm.VcpuStatistics, ...]
    first_instruction: float  # seconds from `start` to the guest's first instruction

    @property
    def user_exits(self) -> int:
        """Exits that Python answered."""
        return sum(vcpu.python for vcpu in self.vcpus)


class KvmEngine:
    """One machine on KVM in this process; see `engine.base.Engine`."""

    name = "kvm"

    def __init__(self, *, device: str = kvm.KVM) -> None:
        self._device = device
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Exit] = self._loop.create_future()
        self._vm: kvm.Vm | None = None
        self._board: Board | None = None
        self._jacks: list[Jack] = []  # in which a port of ours is plugged
        self._notify: Notify = lambda kind, detail: None
        self._threads: list[int] = []  # of the processors, in order
        self._paused_at = (0, 0)  # the guest's clock and the host's, in nanoseconds
        self._first_instruction = 0.0

    async def start(self, config: Config, console: Console, notify: Notify) -> None:
        """Run the machine; raise `EngineError` when it cannot be made."""
        begin = time.monotonic()
        self._notify = notify
        try:
            vm = self._make(config, console)
            self._loop.add_reader(vm.exit_fd, self._on_exits)
            vm.resume()
        except BaseException as error:
            await self.close()
            console.close()
            if isinstance(error, HypervisorError | OSError):
                raise EngineError(str(error)) from error
            raise
        self._first_instruction = time.monotonic() - begin

    def _make(self, config: Config, console: Console) -> kvm.Vm:
        if config.engine_args:
            raise EngineError(f"{config.engine_args[0]} is for QEMU: choose the engine qemu")
        vm = self._vm = kvm.Vm(self._device)
        board = self._board = Board(vm, config.memory, self._power_off, self._reset)
        board.map_memory()
        board.connect(console)
        for device in _devices(config):
            board.add(device)
        self._plug(config)
        entry = boot.load(
            board.ram,
            _read(config.kernel),
            None if config.initrd is None else _read(config.initrd),
            cmdline.default_cmdline(config.cmdline, acpi=config.acpi, devices=len(board.devices)),
            cpus=config.cpus,
            ram_size=config.memory,
            devices=len(board.devices),
            acpi=config.acpi,
        )
        others = set(measure.thread_ids())
        self._make_processors(vm, config.cpus, entry)
        self._threads = [tid for tid in measure.thread_ids() if tid not in others]
        return vm

    @staticmethod
    def _make_processors(vm: kvm.Vm, count: int, entry: cpu.Entry) -> None:
        supported = vm.supported_cpuid()
        for index in range(count):
            vcpu = vm.vcpu(cpuid.masked(supported, index, count))
            vcpu.set(kvm.State.FPU, cpu.fpu())
            vcpu.set_msrs(_msrs(cpu.msrs()))
        first = vm.vcpus[0]  # the others wait for its INIT and SIPI
        first.set(kvm.State.SREGS, cpu.sregs(entry))
        first.set(kvm.State.REGS, cpu.regs(entry))

    def _plug(self, config: Config) -> None:
        assert self._board is not None
        nics = [device for device in self._board.devices if isinstance(device, Net)]
        for jack, device in zip(config.nics, nics, strict=False):  # further ones are the user's
            self._jacks.append(jack)
            jack.plug(device.port)
            self._notify(EventKind.NIC_CONNECTED, jack.name)

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
        self._end(Exit(ExitReason.REBOOT, "guest-reset"))

    def _end(self, exit_: Exit) -> None:
        """Stop the processors for good and say how it came to that."""
        if self.ended.done():
            return
        if self._vm is not None and not self._vm.closed:
            self._loop.remove_reader(self._vm.exit_fd)
            self._vm.pause()
        self.ended.set_result(exit_)

    async def press_power_button(self) -> None:
        """Press the ACPI power button."""
        self._running("press the power button").press_power_button()
        self._notify(EventKind.POWER_BUTTON, "")

    async def pause(self) -> None:
        """Stop the virtual processors."""
        vm = self._running("pause").vm
        vm.pause()
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
        if self._board is None or self.ended.done():
            raise EngineError(f"cannot {verb}: the machine does not run")
        return self._board

    def statistics(self) -> Statistics:
        """Return counters; only while the machine is there."""
        vcpus: Sequence[kvm.Vcpu] = () if self._vm is None or self._vm.closed else self._vm.vcpus
        return Statistics(tuple(vcpu.statistics() for vcpu in vcpus), self._first_instruction)

    def usage(self) -> measure.Usage:
        """Return what the machine uses of the host."""
        if self._board is None or self._vm is None or self._vm.closed:
            return measure.Usage()
        vcpus = [vcpu.statistics() for vcpu in self._vm.vcpus]
        counts = [sum(vcpu.exits.values()) for vcpu in vcpus]
        times = measure.seconds(self._threads)
        nics = [device for device in self._board.devices if isinstance(device, Net)]
        return measure.Usage(
            tuple(map(measure.VcpuUsage, times, counts)),
            measure.file_resident(self._board.ram.fd),
            tuple(measure.nic(each.port.name, each.port.statistics()) for each in nics),
            measure.exits_of([vcpu.exits for vcpu in vcpus]),
        )

    def kill(self) -> None:
        """Stop the processors."""
        self._end(Exit(ExitReason.KILLED, "killed by us"))

    async def close(self) -> None:
        """Leave no thread, descriptor or mapping."""
        self.kill()
        while self._jacks:
            self._jacks.pop().unplug()
        if self._board is not None:
            await self._board.close()
        if self._vm is not None:  # also when there is no board yet
            self._vm.close()


def _devices(config: Config) -> list[Device]:
    """Return the machine's devices; a balloon gives back what the guest reports as free."""
    return [
        Rng(),
        Balloon(),
        *(Net(jack.mac, jack.mtu, name=jack.name) for jack in config.nics),
        *config.devices,
    ]


def _msrs(packed: bytes) -> dict[int, int]:
    """Read struct kvm_msrs."""
    return {index: value for index, _, value in struct.iter_unpack("<IIQ", packed[8:])}


def _read(path: Path) -> bytes | memoryview:
    """Return the file's contents; what is large is mapped, for the kernel to copy."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size < _MAPPED:
                return file.read()
            return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
    except OSError as error:
        raise EngineError(f"cannot read {path}: {error.strerror}") from None


def _judge(exit_: kvm.Exit) -> Exit:
    if exit_.kind is kvm.ExitKind.SHUTDOWN:
        return Exit(ExitReason.TRIPLE_FAULT, str(exit_))
    if exit_.kind is kvm.ExitKind.SYSTEM_EVENT:
        return Exit(_SYSTEM_EVENTS.get(exit_.address, ExitReason.CRASHED), str(exit_))
    return Exit(ExitReason.CRASHED, str(exit_))

"""The engine kvm on the host's own KVM, with kernels of a few instructions."""

import asyncio
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from guest_images import vmlinux

from hypervisor import EngineError, EventKind, ExitReason, Machine, State, UsageError, Vsock
from hypervisor.aio.console import Console
from hypervisor.core.kvm import why_not
from hypervisor.devices.base import Device
from hypervisor.engine.kvm import KvmEngine

REASON = why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"no KVM machine here: {REASON}")

DEADLINE = 20.0  # seconds; only a test that fails comes near it
OFF = bytes.fromhex("ba00060000 b034 ee f4")  # sleep control: S5
RESET = bytes.fromhex("b001 ba02060000 ee f4")
KEYBOARD_RESET = bytes.fromhex("b0fe e664 f4")
PANIC = bytes.fromhex("b001 ba05050000 ee f4")
FAULT = bytes.fromhex("0f0b")  # ud2 without an interrupt table
IDLE = bytes.fromhex("f4 ebfd")
# Wait for input, echo it, again.
ECHO = bytes.fromhex("bafd030000 ec a801 74fb baf8030000 ec ee ebed")
BUTTON = bytes.fromhex("ba04060000 ed a801 74fb")  # wait for the event's bit
PRINT = bytes.fromhex("baf8030000 ee")
MAGIC = bytes.fromhex("bb000000d0 8b03") + PRINT  # the first byte of device 0's registers
OWN_ID = bytes.fromhex("bb082000d0 8b03") + PRINT  # device 2's identifier
NOWHERE = bytes.fromhex("bb000000e0 8a03 8803 ba00080000 ec") + PRINT  # MMIO, then port 0x800


async def ended(vm: Machine) -> ExitReason:
    async with asyncio.timeout(DEADLINE):
        return (await vm.wait()).reason


async def read(vm: Machine, size: int) -> bytes:
    data = b""
    async with asyncio.timeout(DEADLINE):
        while len(data) < size:
            data += await vm.console.read()
    return data


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (OFF, ExitReason.POWER_OFF),
        (RESET, ExitReason.REBOOT),
        (KEYBOARD_RESET, ExitReason.REBOOT),
        (PANIC, ExitReason.PANIC),
        (FAULT, ExitReason.TRIPLE_FAULT),
    ],
    ids=["S5", "ACPI reset", "keyboard reset", "panic", "triple fault"],
)
async def test_how_a_machine_ends(
    machine: Callable[..., Machine], code: bytes, reason: ExitReason
) -> None:
    async with machine(code, cpus=2) as vm:
        assert await ended(vm) is reason


async def test_console_both_ways(machine: Callable[..., Machine]) -> None:
    async with machine(ECHO) as vm:
        vm.console.write(b"hello")
        assert await read(vm, 5) == b"hello"
        await vm.kill()
        assert await vm.console.read() == b""


async def test_power_button(machine: Callable[..., Machine]) -> None:
    async with machine(BUTTON + OFF) as vm:
        assert (await vm.stop(DEADLINE)).reason is ExitReason.POWER_OFF


async def test_a_paused_machine_does_nothing(machine: Callable[..., Machine]) -> None:
    async with machine(ECHO) as vm:
        engine = vm.engine
        assert isinstance(engine, KvmEngine)
        await vm.pause()
        assert vm.status() is State.PAUSED
        before = engine.statistics()
        vm.console.write(b"x")
        assert engine.statistics() == before
        await vm.resume()
        assert await read(vm, 1) == b"x"
        assert (await vm.kill()).reason is ExitReason.KILLED


async def test_registers_of_a_device_and_empty_space(machine: Callable[..., Machine]) -> None:
    async with machine(MAGIC + NOWHERE + OFF) as vm:
        assert await read(vm, 2) == b"v\xff"
        assert await ended(vm) is ExitReason.POWER_OFF


class Own(Device):
    """A device with a number that no standard has."""

    device_id = 77
    closed = False

    async def close(self) -> None:
        self.closed = True


async def test_a_device_of_the_users_own(machine: Callable[..., Machine]) -> None:
    device = Own()
    async with machine(OWN_ID + OFF, devices=[device]) as vm:
        assert await read(vm, 1) == bytes([77])
        assert await ended(vm) is ExitReason.POWER_OFF
    assert device.closed


async def test_vsock_belongs_to_one_machine(
    machine: Callable[..., Machine], tmp_path: Path
) -> None:
    path = tmp_path / "fc"
    vsock = Vsock(firecracker=path)
    async with machine(OWN_ID + IDLE, vsock=vsock) as vm:
        assert await read(vm, 1) == bytes([19])
        assert vm.vsock is vsock
        second = machine(OWN_ID + IDLE, vsock=vsock)
        with pytest.raises(UsageError, match="another machine"):
            await second.start()
        assert path.is_socket()
        await vm.pause()
        await vm.resume()
    assert not path.exists()
    with pytest.raises(UsageError, match="has no vsock"):
        _ = machine(OFF).vsock


async def test_qemu_takes_no_device_that_it_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(b"k")
    with pytest.raises(EngineError, match="no place for virtio device 77"):
        await Machine(path, engine="qemu", devices=[Own()]).start()


async def test_many_machines_on_one_loop(machine: Callable[..., Machine]) -> None:
    machines = [machine(ECHO, name=f"vm{n}") for n in range(8)]
    for vm in machines:
        await vm.start()
    for n, vm in enumerate(machines):
        vm.console.write(b"%d" % n)
    assert [await read(vm, 1) for vm in machines] == [b"%d" % n for n in range(8)]
    for vm in machines:
        assert (await vm.kill()).reason is ExitReason.KILLED


async def test_fifty_machines_start_at_once(machine: Callable[..., Machine]) -> None:
    machines = [machine(PRINT + IDLE, name=f"vm{n}") for n in range(50)]
    await asyncio.gather(*(vm.start() for vm in machines))
    for vm in machines:
        await read(vm, 1)
    await asyncio.gather(*(vm.kill() for vm in machines))


@pytest.mark.parametrize("turns", range(1, 9))
async def test_a_cancelled_start_leaves_nothing(
    machine: Callable[..., Machine], turns: int
) -> None:
    threads = threading.active_count()
    vm = machine(ECHO, cpus=4)
    starting = asyncio.create_task(vm.start())
    for _ in range(turns):
        await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert (await vm.wait()).reason is ExitReason.FAILED
    assert threading.active_count() == threads


async def test_killed_while_it_starts(machine: Callable[..., Machine]) -> None:
    vm = machine(ECHO)
    starting = asyncio.create_task(vm.start())
    await asyncio.sleep(0)
    assert (await vm.kill()).reason is ExitReason.KILLED
    with pytest.raises(EngineError, match="killed"):
        await starting


async def test_statistics_count_what_python_answered(machine: Callable[..., Machine]) -> None:
    async with machine(IDLE, cpus=2) as vm:
        engine = vm.engine
        assert isinstance(engine, KvmEngine)
        statistics = engine.statistics()
        assert len(statistics.vcpus) == 2
        assert statistics.user_exits == 0
        boot = statistics.boot
        assert abs(boot.started - time.time()) < DEADLINE
        assert 0 < boot.wired <= boot.first_instruction
        assert 0 < boot.loaded <= boot.first_instruction
        assert boot.first_output == 0


async def test_exits_by_reason_are_known_after_the_end(machine: Callable[..., Machine]) -> None:
    async with machine(NOWHERE + OFF) as vm:
        assert await ended(vm) is ExitReason.POWER_OFF
    statistics = vm.statistics()
    assert statistics.exits == {"mmio": 2, "io": 3}
    assert (statistics.user_exits, statistics.serial_exits) == (4, 1)
    assert statistics.boot.first_output > statistics.boot.first_instruction
    assert [each.name for each in statistics.devices] == ["rng", "balloon"]
    assert [len(each.queues) for each in statistics.devices] == [1, 5]


async def test_events(machine: Callable[..., Machine]) -> None:
    vm = machine(BUTTON + OFF)
    kinds: list[EventKind] = []

    async def collect() -> None:
        async for event in vm.events():
            kinds.append(event.kind)

    collecting = asyncio.create_task(collect())
    await asyncio.sleep(0)
    async with vm:
        await vm.pause()
        await vm.stop(DEADLINE)
    await collecting
    assert kinds == [
        EventKind.STARTED,
        EventKind.PAUSED,
        EventKind.RESUMED,
        EventKind.POWER_BUTTON,
        EventKind.ENDED,
    ]


@pytest.mark.parametrize(
    ("kernel", "options", "message"),
    [
        (b"no kernel", {}, "kernel"),
        (vmlinux(memsz=64 << 20), {}, "too large"),
        (vmlinux(), {"cmdline": "x" * 3000}, "command line"),
        (vmlinux(), {"initrd": b"070701truncated"}, "the initrd's entry at byte 0 is damaged"),
        (vmlinux(), {"initrd": b""}, "the initrd is empty"),
        (vmlinux(), {"engine_args": ["-S"]}, "-S is for QEMU"),
    ],
    ids=[
        "no kernel",
        "too large",
        "command line",
        "cut initrd",
        "empty initrd",
        "QEMU's arguments",
    ],
)
async def test_what_cannot_start_leaves_nothing(
    tmp_path: Path, kernel: bytes, options: dict[str, object], message: str
) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(kernel)
    if "initrd" in options:
        (tmp_path / "initrd").write_bytes(options["initrd"])  # type: ignore[arg-type]
        options = options | {"initrd": tmp_path / "initrd"}
    vm = Machine(path, engine="kvm", memory="32M", **options)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=re.escape(message)) as caught:
        await vm.start()
    assert "\n" not in str(caught.value)
    assert (await vm.wait()).reason is ExitReason.FAILED
    with pytest.raises(UsageError, match="closed"):
        vm.console.write(b"x")


async def test_no_device(tmp_path: Path) -> None:
    """The reason is one line that names the device."""
    path = tmp_path / "kernel"
    path.write_bytes(vmlinux())
    vm = Machine(path, memory="32M")
    engine = KvmEngine(device="/dev/no-kvm")
    with pytest.raises(EngineError, match="/dev/no-kvm"):
        await engine.start(vm.config, Console(), lambda kind, detail: None)

"""What machines on the host's own KVM use, and machines without ACPI; guests of a few bytes."""

import asyncio
from pathlib import Path

import pytest
from guest_images import vmlinux

from hypervisor import Machine
from hypervisor.core.kvm import why_not
from hypervisor.engine.kvm import KvmEngine
from hypervisor.engine.measure import Usage
from hypervisor.pc import layout

REASON = why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"no KVM machine here: {REASON}")

SPIN = bytes.fromhex("ebfe")
IDLE = bytes.fromhex("f4 ebfd")


def machine(tmp_path: Path, code: bytes, **options: object) -> Machine:
    path = tmp_path / f"kernel-{len(list(tmp_path.iterdir()))}"
    path.write_bytes(vmlinux(bytes(0x40) + code))
    return Machine(path, engine="kvm", memory="32M", **options)  # type: ignore[arg-type]


async def used(vm: Machine) -> float:
    """Return the processor time of the machine's only processor."""
    (seconds,) = vm.engine.usage().vcpus
    return seconds


async def test_time_is_each_machines_own(tmp_path: Path) -> None:
    async with machine(tmp_path, SPIN) as busy, machine(tmp_path, IDLE) as idle:
        async with asyncio.timeout(20):
            while await used(busy) < 0.2:  # noqa: ASYNC110 (a processor works meanwhile)
                await asyncio.sleep(0.01)
        assert await used(idle) < 0.1
        assert isinstance(busy.engine, KvmEngine)
        assert len({*busy.engine._threads, *idle.engine._threads}) == 2


async def test_memory_in_use_is_the_guests(tmp_path: Path) -> None:
    async with machine(tmp_path, IDLE) as vm:
        resident = vm.engine.usage().resident
        assert 0 < resident < 4 << 20  # the kernel, tables and pages around them
    assert vm.engine.usage() == Usage()


def memory(vm: Machine, address: int, size: int) -> bytes:
    """Read what the guest has at `address`."""
    assert isinstance(vm.engine, KvmEngine)
    assert vm.engine._board is not None
    return vm.engine._board.ram.read(address, size)


async def test_without_acpi_there_is_an_mp_table_and_devices_are_named(tmp_path: Path) -> None:
    async with machine(tmp_path, IDLE, acpi=False) as vm:
        assert memory(vm, layout.MP_TABLE, 4) == b"_MP_"
        assert memory(vm, layout.RSDP, 8) != b"RSD PTR "
        words = memory(vm, layout.CMDLINE, layout.CMDLINE_SIZE).partition(b"\0")[0].split()
        assert b"acpi=off" in words
        devices = [word for word in words if word.startswith(b"virtio_mmio.device=4K@0x")]
        assert len(devices) == 2  # entropy and balloon


async def test_with_acpi_there_are_tables(tmp_path: Path) -> None:
    async with machine(tmp_path, IDLE) as vm:
        assert memory(vm, layout.RSDP, 8) == b"RSD PTR "
        assert b"virtio_mmio" not in memory(vm, layout.CMDLINE, layout.CMDLINE_SIZE)

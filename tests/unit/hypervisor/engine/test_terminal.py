"""A machine's virtio console, with a guest of a few instructions on the host's own KVM."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

import pytest
from hostile import DEADLINE, OFF, PAGES, RING, rings, setup, stores

from hypervisor import ExitReason, Machine, UsageError
from hypervisor.core.kvm import why_not
from hypervisor.devices.console import TRANSMIT
from hypervisor.devices.registers import Register

REASON = why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"no KVM machine here: {REASON}")

PAGE = 2  # after entropy and balloon
TEXT = RING + 0x3000


def wait_for_columns(columns: int) -> bytes:
    """Spin until the device's configuration has as many: cmp word [rbx], columns; jne"""
    place = struct.pack("<I", PAGES + PAGE * 0x1000 + Register.CONFIG)
    return b"\xbb" + place + b"\x66\x81\x3b" + struct.pack("<H", columns) + b"\x75\xf9"


async def test_the_size_reaches_the_guest(machine: Callable[..., Machine]) -> None:
    async with machine(wait_for_columns(132) + OFF, console="virtio") as vm:
        vm.console.resize(132, 50)
        async with asyncio.timeout(DEADLINE):
            assert (await vm.wait()).reason is ExitReason.POWER_OFF


async def test_what_is_printed_comes_to_the_console(machine: Callable[..., Machine]) -> None:
    text = int.from_bytes(b"hvc0", "little")
    code = stores([(TEXT, text)]) + rings(RING, [(TEXT, 4, 0, 0)], 1)
    code += stores([*setup(PAGE, TRANSMIT, RING), (PAGES + PAGE * 0x1000 + 0x50, TRANSMIT)])
    code += bytes.fromhex("baf8030000 b073 ee ebfe")  # "s" to the serial port
    async with machine(code, console="virtio") as vm:
        async with asyncio.timeout(DEADLINE):
            assert await vm.console.read() == b"hvc0"
            assert await vm.serial.read() == b"s"
        await vm.kill()
        assert vm.console.closed
        assert vm.serial.closed


async def test_the_serial_port_is_the_console_otherwise(machine: Callable[..., Machine]) -> None:
    vm = machine(OFF)
    with pytest.raises(UsageError, match="not started"):
        _ = vm.serial
    async with vm:
        assert vm.serial is vm.console


def test_a_console_of_no_kind(machine: Callable[..., Machine]) -> None:
    with pytest.raises(UsageError, match="console is 'vga', expected one of serial, virtio"):
        machine(OFF, console="vga")

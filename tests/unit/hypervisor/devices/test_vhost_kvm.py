"""A guest on the host's own KVM that rings its doorbell: the back-end hears it, we do not.

The guest is a few instructions that set up virtio-net and send one frame, often."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable
from pathlib import Path

import pytest
from guest_images import vmlinux
from vhost_peer import MAC, Peer

from hypervisor import EventKind, ExitReason, Machine, VhostUser
from hypervisor.core.kvm import why_not
from hypervisor.devices.registers import Register, Status
from hypervisor.engine.kvm import KvmEngine

REASON = why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"no KVM machine here: {REASON}")

DEADLINE = 20.0  # seconds; only a test that fails comes near it
DEVICE = 0xD0002000  # behind the entropy device and the balloon
DESC, AVAIL, USED, BUFFER = 0x1800000, 0x1801000, 0x1802000, 0x1803000
FRAME = bytes(range(60))
TX = 1
TIMES = 100
AGREED = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK
OFF = bytes.fromhex("ba00060000 b034 ee f4")  # sleep control: S5
READY = bytes.fromhex("baf8030000 b053 ee")  # print S
WAIT = bytes.fromhex("bafd030000 ec a801 74fb baf8030000 ec")  # take a byte from the console


def register(number: int, value: int) -> bytes:
    """Code that writes a register of the device."""
    return b"\xc7\x83" + struct.pack("<II", number, value)  # mov dword [rbx + number], value


def memory(address: int, data: bytes) -> bytes:
    """Code that puts data, in whole words, into memory."""
    words = struct.unpack(f"<{len(data) // 4}I", data)
    at = enumerate(words)
    return b"".join(b"\xc7\x04\x25" + struct.pack("<II", address + 4 * i, w) for i, w in at)


def setup() -> Iterable[bytes]:
    """Code of a driver, from reset to DRIVER_OK with a transmit queue of 8."""
    yield b"\xbb" + struct.pack("<I", DEVICE)  # mov ebx, DEVICE
    for status in (0, 1, 3):
        yield register(Register.STATUS, status)
    for sel, features in ((1, 1), (0, 0)):  # virtio 1 alone
        yield register(Register.DRIVER_FEATURES_SEL, sel)
        yield register(Register.DRIVER_FEATURES, features)
    yield register(Register.STATUS, AGREED)
    yield register(Register.QUEUE_SEL, TX)
    yield register(Register.QUEUE_NUM, 8)
    for low, address in (
        (Register.QUEUE_DESC_LOW, DESC),
        (Register.QUEUE_DRIVER_LOW, AVAIL),
        (Register.QUEUE_DEVICE_LOW, USED),
    ):
        yield register(low, address)
        yield register(low + 4, 0)
    yield register(Register.QUEUE_READY, 1)
    yield register(Register.STATUS, AGREED | Status.DRIVER_OK)
    yield memory(BUFFER, bytes(12) + FRAME)
    yield memory(DESC, struct.pack("<QIHH", BUFFER, 12 + len(FRAME), 0, 0))


def send(times: int) -> bytes:
    """Code that makes descriptor 0 available, rings, and waits until it is used; so often."""
    avail, used = struct.pack("<I", AVAIL + 2), struct.pack("<I", USED + 2)
    ring = b"\x66\xff\x04\x25" + avail + register(Register.QUEUE_NOTIFY, TX)
    look = b"\x66\x8b\x04\x25" + used + b"\x66\x3b\x04\x25" + avail  # ax = used; cmp with avail
    wait = look + bytes((0x75, 0x100 - len(look) - 2))
    body = ring + wait + b"\xff\xcd"  # dec ebp
    return b"\xbd" + struct.pack("<I", times) + body + bytes((0x75, 0x100 - len(body) - 2))


async def letter(vm: Machine) -> None:
    """Wait for the guest to say that it has come so far."""
    async with asyncio.timeout(DEADLINE):
        assert await vm.console.read() == b"S"


async def until(peer: Peer, count: int) -> None:
    async with asyncio.timeout(DEADLINE):
        while len(peer.frames) < count:
            peer.news.clear()
            await peer.news.wait()


def make(tmp_path: Path, code: bytes) -> Machine:
    (tmp_path / "kernel").write_bytes(vmlinux(bytes(0x40) + code))
    nics = [VhostUser(tmp_path / "sock", mac=MAC)]
    return Machine(tmp_path / "kernel", engine="kvm", memory="32M", nics=nics)


async def test_doorbells_reach_the_back_end_and_nobody_else(tmp_path: Path) -> None:
    peer = Peer(asyncio.get_running_loop(), tmp_path / "sock")
    code = b"".join(setup()) + READY + WAIT + send(TIMES) + READY + WAIT + OFF
    async with make(tmp_path, code) as vm:
        await letter(vm)
        assert isinstance(vm.engine, KvmEngine)
        before = vm.engine.statistics().user_exits
        vm.console.write(b"x")
        await letter(vm)
        assert vm.engine.statistics().user_exits == before
        assert peer.frames == [FRAME] * TIMES
        vm.console.write(b"x")
        async with asyncio.timeout(DEADLINE):
            assert (await vm.wait()).reason is ExitReason.POWER_OFF
    peer.close()


async def test_the_machine_outlives_its_back_end(tmp_path: Path) -> None:
    """Doorbells that nobody hears wait for the next back-end, which gets every frame once."""
    loop = asyncio.get_running_loop()
    peer = Peer(loop, tmp_path / "sock")
    code = b"".join(setup()) + send(3) + READY + WAIT + send(3) + READY + WAIT + OFF
    vm = make(tmp_path, code)
    events = vm.events()
    kinds: list[EventKind] = []

    async def listen() -> None:
        async for event in events:
            kinds.append(event.kind)

    listening = loop.create_task(listen())
    await asyncio.sleep(0)
    async with vm:
        await letter(vm)
        peer.close()
        vm.console.write(b"x")
        async with asyncio.timeout(DEADLINE):
            while EventKind.WARNING not in kinds:  # noqa: ASYNC110 - events have no condition
                await asyncio.sleep(0)
        back = Peer(loop, tmp_path / "sock")
        await until(back, 3)
        await letter(vm)
        assert back.frames == [FRAME] * 3
        await vm.kill()
    await listening
    assert kinds.count(EventKind.NIC_CONNECTED) == 2
    back.close()


async def test_a_machine_that_ends_lets_its_back_end_go(tmp_path: Path) -> None:
    peer = Peer(asyncio.get_running_loop(), tmp_path / "sock")
    async with make(tmp_path, b"".join(setup()) + READY + b"\xf4\xeb\xfd") as vm:
        await letter(vm)
        await until(peer, 0)
    async with asyncio.timeout(DEADLINE):
        while peer.ports:
            peer.news.clear()
            await peer.news.wait()
    peer.close()

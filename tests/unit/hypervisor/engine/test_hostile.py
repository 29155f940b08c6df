"""Guests that do their worst, on the host's own KVM: the machine or its device stops, a second
machine of the same process counts on, and memory stays bounded."""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile import (
    DEADLINE,
    FOR_EVER,
    OFF,
    STORES,
    WITNESS,
    Witness,
    endless,
    loads,
    ports,
    stores,
)

from hypervisor import ExitReason, Machine
from hypervisor.core.kvm import why_not
from hypervisor.devices.balloon import Balloon
from hypervisor.devices.mmio import Transport
from hypervisor.devices.registers import Register, Status
from hypervisor.engine.kvm import KvmEngine
from hypervisor.queue import layout as ring

REASON = why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"no KVM machine here: {REASON}")

BEATS = 5
PAGES = 0xD0000000  # of devices: an rng, a balloon, then nothing
GROWTH = 32 << 20  # bytes of memory of our own that a hostile guest may cost, with a wide margin
EVERYWHERE = range(0, 0x1000, 7)


def own_memory() -> int:
    """Return bytes of anonymous memory of this process: no guest's, no file's."""
    match = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) << 10


async def contest(
    machine: Callable[..., Machine], code: bytes, *, ends: ExitReason | None, cpus: int = 1
) -> Machine:
    """Run hostile `code` beside a witness, to its end or for a few beats; returns the machine."""
    before = own_memory()
    async with machine(WITNESS) as good:
        witness = Witness(good)
        await witness.beat()
        async with machine(code, cpus=cpus) as bad:
            if ends is not None:
                async with asyncio.timeout(DEADLINE):
                    while not bad.engine.ended.done():
                        await witness.beat()
                    assert (await bad.wait()).reason is ends
            for _ in range(BEATS):
                await witness.beat()
            assert own_memory() - before < GROWTH
        for _ in range(BEATS):
            await witness.beat()
    return bad


def transports(vm: Machine) -> list[Transport]:
    """Return what stands before the devices of a machine of ours that runs."""
    assert isinstance(vm.engine, KvmEngine)
    assert vm.engine._board is not None
    return vm.engine._board._transports


async def test_doorbells_to_nothing(machine: Callable[..., Machine]) -> None:
    bells = [(PAGES + page * 0x1000 + 0x50, queue) for page in range(20) for queue in range(70)]
    bells += [(PAGES + 0x50, value) for value in (0xFFFF, 0x10000, 0xFFFFFFFF)]
    await contest(machine, stores(bells) + OFF, ends=ExitReason.POWER_OFF)


@pytest.mark.parametrize("size", STORES)
async def test_any_access_to_any_place_of_a_devices_page(
    machine: Callable[..., Machine], size: int
) -> None:
    """Odd sizes, misaligned, across the end of a page, into the next device's and into none."""
    places = [PAGES + page * 0x1000 + at for page in (0, 1, 2) for at in EVERYWHERE]
    places += [PAGES + page * 0x1000 + 0xFFF for page in range(4)]
    writes = [(place, 0xFFFFFFFF * (index % 3 == 0)) for index, place in enumerate(places)]
    code = loads(places, size) + stores(writes, size) + loads(places, size) + OFF
    await contest(machine, code, ends=ExitReason.POWER_OFF)


async def test_every_port(machine: Callable[..., Machine]) -> None:
    """All of the first 4096, among them those of the board's devices, and the last."""
    code = ports(0, 0xFFF) + ports(0xFF00, 0xFFFF) + OFF
    await contest(machine, code, ends=ExitReason.POWER_OFF)


async def test_wide_access_to_the_boards_ports(machine: Callable[..., Machine]) -> None:
    wide = "ed 66ed 31c0 ef 66ef"  # in eax, in ax, xor eax eax, out eax, out ax
    places = (0x60, 0x64, 0x70, 0x71, 0x3F8, 0x3FF, 0x505, 0x600, 0x601, 0x602, 0x604, 0x60F)
    code = b"".join(b"\xba" + struct.pack("<I", port) + bytes.fromhex(wide) for port in places)
    await contest(machine, code + OFF, ends=ExitReason.POWER_OFF)


@pytest.mark.parametrize("size", STORES)
async def test_memory_that_is_not_there(machine: Callable[..., Machine], size: int) -> None:
    holes = (0x2000000, 0x7FFFFFFF, 0xCFFFFFFD, 0xE0000001, 0xFEB00000, 0xFFFFFFF0)
    code = stores([(hole, 0) for hole in holes], size) + loads(holes, size) + OFF
    await contest(machine, code, ends=ExitReason.POWER_OFF)


async def test_triple_fault(machine: Callable[..., Machine]) -> None:
    await contest(machine, b"\x0f\x0b", ends=ExitReason.TRIPLE_FAULT)


@pytest.mark.parametrize(
    "code",
    [
        b"\xfa\xf4",  # cli; hlt
        FOR_EVER,
        endless(b"\xba\xf8\x03\0\0\xee"),  # prints without an end
        endless(b"\xba\xf9\x03\0\0\xb0\x0f\xee\xb0\0\xee"),  # the serial port's interrupts
        endless(stores([(PAGES + 0x70, 0), (PAGES + 0x50, 0), (PAGES + 0x64, 1)])),
        endless(loads([PAGES + 0x100000])),
        endless(b"\xba\0\x06\0\0\xee"),
    ],
    ids=["halted", "busy", "serial", "interrupts", "doorbells", "empty space", "a port"],
)
async def test_what_never_ends(machine: Callable[..., Machine], code: bytes) -> None:
    bad = await contest(machine, code, ends=None)
    assert (await bad.wait()).reason is ExitReason.KILLED
    assert len(await bad.console.read(1 << 30)) <= bad.console.capacity


async def test_a_storm_of_interrupts_between_processors(machine: Callable[..., Machine]) -> None:
    """INIT, SIPI, NMI and fixed interrupts from one processor to the other, without an end."""
    icr = [(0xFEE00310, 1 << 24)]
    icr += [(0xFEE00300, kind) for kind in (0x4500, 0x4601, 0x4601, 0x4400, 0x40F0, 0xC4500)]
    await contest(machine, endless(stores(icr)), ends=None, cpus=2)


async def test_code_in_a_devices_page(machine: Callable[..., Machine]) -> None:
    """What KVM makes of it is its own: a fault, an emulation that gives up, or an endless loop."""
    bad = await contest(machine, bytes.fromhex("b8000000d0 ffe0"), ends=None)
    assert (await bad.wait()).reason in {
        ExitReason.TRIPLE_FAULT,
        ExitReason.CRASHED,
        ExitReason.KILLED,
    }


def setup(page: int, queue: int, at: int, size: int = 8) -> list[tuple[int, int]]:
    """Return what a driver writes to have one queue at `at`, and a live device."""
    base = PAGES + page * 0x1000
    live = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK
    rows = [
        (Register.STATUS, 0),
        (Register.STATUS, Status.ACKNOWLEDGE),
        (Register.STATUS, Status.ACKNOWLEDGE | Status.DRIVER),
        (Register.DRIVER_FEATURES_SEL, 1),
        (Register.DRIVER_FEATURES, 1),  # VERSION_1
        (Register.STATUS, live),
        (Register.QUEUE_SEL, queue),
        (Register.QUEUE_NUM, size),
        (Register.QUEUE_DESC_LOW, at),
        (Register.QUEUE_DRIVER_LOW, at + 0x1000),
        (Register.QUEUE_DEVICE_LOW, at + 0x2000),
        (Register.QUEUE_READY, 1),
        (Register.STATUS, live | Status.DRIVER_OK),
    ]
    return [(base + register, int(value)) for register, value in rows]


def rings(at: int, descriptors: list[tuple[int, int, int, int]], avail: int) -> bytes:
    """Return the code that puts descriptors and an available index there."""
    table = b"".join(ring.DESC.pack(*each) for each in descriptors)
    words = struct.unpack(f"<{len(table) // 4}I", table)
    writes = [(at + 4 * index, word) for index, word in enumerate(words)]
    return stores([*writes, (at + 0x1000, avail << 16), (at + 0x2000, 0)])


RING = 0x1100000
LOOP = [(RING, 64, ring.DESC_WRITE | ring.DESC_NEXT, 0)]
OUTSIDE = [(1 << 40, 64, ring.DESC_WRITE, 0)]
TABLE_OUTSIDE = [(0xD0000000, 64, ring.DESC_INDIRECT, 0)]
GOOD = [(RING + 0x3000, 64, ring.DESC_WRITE, 0)]


@pytest.mark.parametrize(
    ("descriptors", "avail"),
    [(LOOP, 1), (OUTSIDE, 1), (TABLE_OUTSIDE, 1), (GOOD, 0x1234)],
    ids=["a loop", "outside", "table outside", "index out of range"],
)
@pytest.mark.parametrize("page", [0, 1], ids=["rng", "balloon"])
async def test_a_broken_queue_stops_its_device_alone(
    machine: Callable[..., Machine],
    descriptors: list[tuple[int, int, int, int]],
    avail: int,
    page: int,
) -> None:
    bell = [(PAGES + page * 0x1000 + 0x50, 0)]
    status = PAGES + page * 0x1000 + Register.STATUS
    # Rings, then the driver; wait for DEVICE_NEEDS_RESET, reset, and off.
    wait = bytes.fromhex("bb") + struct.pack("<I", status) + bytes.fromhex("8b03 a840 74fa")
    code = rings(RING, descriptors, avail) + stores(setup(page, 0, RING) + bell) + wait
    await contest(machine, code + stores([(status, 0)]) + OFF, ends=ExitReason.POWER_OFF)


async def test_resets_in_the_middle_of_requests(machine: Callable[..., Machine]) -> None:
    """Kick and reset at once, again and again; then the device still serves."""
    rounds = [(PAGES + 0x50, 0), (PAGES + Register.STATUS, 0)]
    code = rings(RING, GOOD, 1)
    code += b"".join(stores(setup(0, 0, RING) + rounds) for _ in range(50))
    used = (
        bytes.fromhex("bb")
        + struct.pack("<I", RING + 0x2000)
        + bytes.fromhex("668b4302 6685c0 74f7")
    )
    code += rings(RING, GOOD, 1) + stores([*setup(0, 0, RING), (PAGES + 0x50, 0)]) + used
    await contest(machine, code + OFF, ends=ExitReason.POWER_OFF)


async def test_a_balloon_over_everything(machine: Callable[..., Machine]) -> None:
    """Pages of the guest's own code, and pages that are nowhere, as a request of the largest size:
    those outside are refused, and the machine ends by its own doing."""
    pages = [(RING + 0x4000, 4096, 0, 0)]
    numbers = [(RING + 0x4000 + 4 * n, (0, 0x1000, 0x2000, 0xFFFFFFFF)[n % 4]) for n in range(1024)]
    code = stores(numbers) + rings(RING, pages, 1)
    code += stores([*setup(1, 0, RING), (PAGES + 0x1050, 0)]) + FOR_EVER
    async with machine(WITNESS) as good, machine(code) as bad:
        witness = Witness(good)
        (balloon,) = [t.device for t in transports(bad) if isinstance(t.device, Balloon)]
        async with asyncio.timeout(DEADLINE):
            while not balloon.statistics().refused and not bad.engine.ended.done():
                await witness.beat()
        await witness.beat()
        assert balloon.statistics().refused >= 512

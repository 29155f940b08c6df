"""Entropy, console and balloon under a driver."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from mmio_driver import ALL, LIVE, NO_EVENT_IDX, Bench
from vhost_driver import GPA, Buffer

from hypervisor.aio.console import Console
from hypervisor.devices import console
from hypervisor.devices.balloon import ACTUAL, INFLATE, STATS, Balloon, Feature, Stat
from hypervisor.devices.base import Device
from hypervisor.devices.console import EMERG_WR, RECEIVE, TRANSMIT, VirtioConsole
from hypervisor.devices.registers import INTERRUPT_CONFIG, Register
from hypervisor.devices.rng import BYTES_A_CHAIN, Rng
from hypervisor.errors import UsageError

MakeBench = Callable[..., Bench]
PAGE = 4096


@pytest.mark.parametrize("features", [ALL, NO_EVENT_IDX])
def test_rng_fills_buffers(bench: MakeBench, features: int) -> None:
    rng = bench(Rng()).start(features)
    buffers = [rng.writable(16), rng.writable(2 * BYTES_A_CHAIN)]
    heads = [rng.rings[0].add(each) for each in buffers]
    rng.kick(0)
    assert rng.rings[0].used_elements() == [(heads[0], 16), (heads[1], BYTES_A_CHAIN)]
    assert rng.octets(buffers[0]) != bytes(16)
    assert rng.interrupts() == 1
    rng.rings[0].add(rng.readable(b"nothing to fill"))
    rng.kick(0)
    assert [written for _, written in rng.rings[0].used_elements()] == [0]


def test_the_example_serves_a_driver(bench: MakeBench) -> None:
    path = Path(__file__).parents[4] / "examples" / "virtio_device.py"
    spec = importlib.util.spec_from_file_location("virtio_device", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    device = module.Dice(7)
    assert isinstance(device, Device)
    dice = bench(device).start()
    out = dice.writable(32)
    dice.rings[0].add(out)
    dice.kick(0)
    assert dice.octets(out) == random.Random(7).randbytes(32)
    assert len(path.read_text().splitlines()) <= 60


class Printed:
    """A console's host side."""

    def __init__(self) -> None:
        self.text = b""
        self.drained = 0
        self.device = VirtioConsole(self.take, self.drain)

    def take(self, data: bytes) -> None:
        self.text += data

    def drain(self) -> None:
        self.drained += 1


def test_console_prints(bench: MakeBench) -> None:
    printed = Printed()
    guest = bench(printed.device).start()
    guest.rings[TRANSMIT].add(guest.readable(b"hello, "), guest.readable(b"world\n"))
    guest.rings[TRANSMIT].add_indirect(guest.readable(b"$ "))
    guest.kick(TRANSMIT)
    assert printed.text == b"hello, world\n$ "
    assert len(guest.rings[TRANSMIT].used_elements()) == 2


def test_console_output_is_bounded(bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "OUTPUT_MAX", 4)
    printed = Printed()
    guest = bench(printed.device).start()
    guest.rings[TRANSMIT].add(guest.readable(b"123"), guest.readable(b"456"))
    guest.kick(TRANSMIT)
    assert printed.text == b"1234"
    assert printed.device.truncated == 2


def test_console_input_waits_for_buffers(bench: MakeBench) -> None:
    printed = Printed()
    device = printed.device
    assert device.write(b"typed early") == 11
    guest = bench(device).start()
    assert device.waiting == 11
    first, second = guest.writable(5), guest.writable(50)
    guest.rings[RECEIVE].add(first)
    guest.kick(RECEIVE)
    assert guest.octets(first) == b"typed"
    assert printed.drained == 0
    guest.rings[RECEIVE].add(second)
    guest.kick(RECEIVE)
    assert guest.octets(second)[:6] == b" early"
    assert printed.drained == 1
    assert [n for _, n in guest.rings[RECEIVE].used_elements()] == [5, 6]
    third = guest.writable(4)
    guest.rings[RECEIVE].add(third)
    guest.kick(RECEIVE)  # nothing to give: the buffer waits
    device.write(b"now")
    assert guest.octets(third)[:3] == b"now"
    assert printed.drained == 1  # whoever writes counts what was taken, and then there is room


def test_what_is_typed_comes_once(bench: MakeBench) -> None:
    async def make() -> Console:
        return Console()

    line = asyncio.run(make())
    device = VirtioConsole(line.receive, line.flush)
    line.connect(device.write, device.resize)
    guest = bench(device).start()
    buffers = [guest.writable(8) for _ in range(3)]
    for each in buffers:
        guest.rings[RECEIVE].add(each)
    guest.kick(RECEIVE)
    line.write(b"date\n")
    assert [guest.octets(each)[:5] for each in buffers] == [b"date\n", bytes(5), bytes(5)]


def test_console_input_is_bounded() -> None:
    device = Printed().device
    assert device.write(bytes(console.INPUT_MAX + 1)) == console.INPUT_MAX
    assert device.write(b"x") == 0


def test_console_resize_and_emergency_write(bench: MakeBench) -> None:
    printed = Printed()
    guest = bench(printed.device)
    guest.write(Register.CONFIG + EMERG_WR, ord("!"))
    assert printed.text == b"!"
    guest.start()
    assert guest.interrupts() == 1  # for the size at the start
    printed.device.resize(132, 50)
    assert guest.read(Register.CONFIG) == 132 | 50 << 16
    assert guest.interrupts() == 1
    assert guest.read(Register.INTERRUPT_STATUS) & INTERRUPT_CONFIG


# The balloon.


def resident(guest: Bench) -> set[int]:
    """Return the offsets of pages that the guest's file holds."""
    out, at = set(), 0
    while True:
        try:
            start = os.lseek(guest.guest.fd, at, os.SEEK_DATA)
        except OSError:
            return out
        at = os.lseek(guest.guest.fd, start, os.SEEK_HOLE)
        out.update(range(start // PAGE * PAGE, at, PAGE))


def filled(guest: Bench, at: int, pages: int) -> int:
    """Write to pages from offset `at` on; returns the first one's number."""
    guest.guest.map[at : at + pages * PAGE] = b"x" * (pages * PAGE)
    assert resident(guest) >= set(range(at, at + pages * PAGE, PAGE))
    return (GPA + at) // PAGE


def pfns(guest: Bench, *numbers: int) -> Buffer:
    return guest.readable(struct.pack(f"<{len(numbers)}I", *numbers))


@pytest.mark.parametrize("down", [False, True])
def test_balloon_inflates(bench: MakeBench, down: bool) -> None:
    device = Balloon()
    guest = bench(device).start()
    at = 512 << 10
    first = filled(guest, at, 8)
    numbers = [first, first + 1, first + 2, first + 5]
    guest.rings[INFLATE].add(pfns(guest, *(reversed(numbers) if down else numbers)))
    guest.kick(INFLATE)
    assert resident(guest) & set(range(at, at + 8 * PAGE, PAGE)) == {
        at + i * PAGE for i in (3, 4, 6, 7)
    }
    assert device.statistics().inflated == 4 * PAGE
    assert len(guest.rings[INFLATE].used_elements()) == 1
    assert guest.guest.map[at] == 0


def test_balloon_refuses_what_is_not_memory(bench: MakeBench) -> None:
    device = Balloon()
    guest = bench(device).start()
    first = filled(guest, 512 << 10, 2)
    guest.rings[INFLATE].add(pfns(guest, 0, first, 0xFFFFFFFF, 0xFFFFFFFE, first + 1))
    guest.kick(INFLATE)
    assert device.statistics().inflated == 2 * PAGE
    assert device.statistics().refused == 3
    assert not guest.needs_reset


def test_balloon_takes_so_many_pages_a_chain(bench: MakeBench) -> None:
    device = Balloon()
    guest = bench(device).start()
    guest.rings[INFLATE].add(pfns(guest, *[0] * 1000), pfns(guest, *[0] * 1000))
    guest.kick(INFLATE)
    assert device.statistics().refused == 2000


@pytest.mark.parametrize(
    ("features", "queues", "index"),
    [
        (ALL, (0, 1, 2, 4), 4),  # as the specification numbers them
        (ALL, (0, 1, 2, 3), 3),  # as Linux does
        (ALL & ~int(Feature.STATS_VQ), (0, 1, 2), 2),
    ],
)
def test_balloon_reports_free_pages(
    bench: MakeBench, features: int, queues: tuple[int, ...], index: int
) -> None:
    device = Balloon()
    guest = bench(device).start(features, queues)
    at = 512 << 10
    filled(guest, at, 4)
    guest.rings[index].add(
        Buffer(GPA + at, PAGE, writable=True), Buffer(GPA + at + 2 * PAGE, PAGE, writable=True)
    )
    guest.kick(index)
    left = resident(guest) & set(range(at, at + 4 * PAGE, PAGE))
    assert left == {at + PAGE, at + 3 * PAGE}
    assert device.statistics().reported == 2 * PAGE
    assert len(guest.rings[index].used_elements()) == 1


def test_balloon_target_and_actual(bench: MakeBench) -> None:
    device = Balloon()
    guest = bench(device).start()
    device.set_target(3 * PAGE)
    assert guest.read(Register.CONFIG) == 3
    assert guest.interrupts() == 1
    guest.write(Register.CONFIG + ACTUAL, 2)
    assert device.actual == 2 * PAGE
    assert guest.read(Register.CONFIG + ACTUAL) == 2
    with pytest.raises(UsageError, match="-1 bytes, expected 0 to"):
        device.set_target(-1)


def test_balloon_statistics(bench: MakeBench) -> None:
    device = Balloon()
    guest = bench(device).start()
    with pytest.raises(UsageError, match="no statistics"):
        device.ask()
    guest.rings[STATS].add(guest.readable(bytes(10)))
    guest.kick(STATS)
    assert guest.rings[STATS].used_elements() == []
    news, too = device.ask(), device.ask()
    assert len(guest.rings[STATS].used_elements()) == 1
    data = struct.pack("<HQHQ", Stat.MEMFREE, 1 << 30, 99, 5)
    guest.rings[STATS].add(guest.readable(data + b"cut"))
    guest.kick(STATS)
    assert news.result() == too.result() == {Stat.MEMFREE: 1 << 30, 99: 5}
    last = device.ask()
    guest.write(Register.STATUS, 0)
    assert last.cancelled()
    assert guest.start().status == LIVE

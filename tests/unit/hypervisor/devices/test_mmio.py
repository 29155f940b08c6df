"""The register page and its state machine, driven as Linux's virtio_mmio does, and worse."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from mmio_driver import LIVE, Bench

from hypervisor.devices.base import Device, Line
from hypervisor.devices.mmio import Transport
from hypervisor.devices.queue import Chain
from hypervisor.devices.registers import (
    INTERRUPT_CONFIG,
    INTERRUPT_USED,
    MAGIC,
    NO_REGION,
    RING_INDIRECT_DESC,
    VERSION_1,
    Register,
    Status,
)
from hypervisor.errors import PeerError

MakeBench = Callable[..., Bench]
AGREED = LIVE & ~Status.DRIVER_OK
KNOWN = Status.ACKNOWLEDGE | Status.DRIVER


class Echo(Device):
    """Writes what it reads; keeps chains back while `hold` is set."""

    device_id = 42
    features = 1 << 3
    queue_sizes = (16, 4)

    def __init__(self) -> None:
        super().__init__()
        self.space = bytearray(b"config!\0" * 2)
        self.calls: list[str] = []
        self.line: Line | None = None
        self.hold = False
        self.held: list[Chain] = []
        self.busy: asyncio.Future[None] | None = None
        self.fail: Exception | None = None

    def config(self) -> bytes:
        return bytes(self.space)

    def config_written(self, offset: int, data: bytes) -> None:
        self.space[offset : offset + len(data)] = data

    def activate(self, line: Line) -> None:
        self.calls.append("activate")
        self.line = line
        if self.fail:
            raise self.fail

    def notified(self, index: int) -> None:
        assert self.line is not None
        self.calls.append(f"notified {index}")
        queue = self.line.queues[index]
        for chain in queue.chains():
            if self.hold:
                self.held.append(chain)
                continue
            queue.push(chain, chain.write(chain.read(1 << 16)))
        queue.publish()

    def stopped(self, index: int) -> None:
        self.calls.append(f"stopped {index}")

    def reset(self) -> asyncio.Future[None] | None:
        self.calls.append("reset")
        return self.busy


@pytest.fixture
def echo(bench: MakeBench) -> Bench:
    return bench(Echo())


def device_of(bench: Bench) -> Echo:
    assert isinstance(bench.device, Echo)
    return bench.device


def test_identity(echo: Bench) -> None:
    assert echo.read(Register.MAGIC_VALUE) == MAGIC
    assert echo.read(Register.VERSION) == 2
    assert echo.read(Register.DEVICE_ID) == 42
    assert echo.read(Register.INTERRUPT_STATUS) == INTERRUPT_USED
    assert echo.read(Register.SHM_LEN_LOW) == echo.read(Register.SHM_LEN_HIGH) == NO_REGION
    assert echo.transport.read(Register.CONFIG, 8) == int.from_bytes(b"config!\0", "little")


def test_features_by_halves(echo: Bench) -> None:
    assert echo.offered() & VERSION_1
    assert echo.offered() & 1 << 3
    echo.write(Register.DEVICE_FEATURES_SEL, 2)
    assert echo.read(Register.DEVICE_FEATURES) == 0


def test_queue_registers_follow_the_selection(echo: Bench) -> None:
    for index, most in ((0, 16), (1, 4), (2, 0), (0xFFFFFFFF, 0)):
        echo.write(Register.QUEUE_SEL, index)
        assert echo.read(Register.QUEUE_NUM_MAX) == most
        assert echo.read(Register.QUEUE_READY) == 0


def test_a_driver_starts_and_a_request_is_served(echo: Bench) -> None:
    echo.start()
    assert echo.status == LIVE
    assert echo.refused == 0
    line = device_of(echo).line
    assert line is not None
    assert line.features == echo.offered()
    out = echo.writable(10)
    head = echo.rings[0].add(echo.readable(b"hello "), echo.readable(b"world"), out)
    echo.kick(0)
    assert echo.octets(out) == b"hello worl"
    assert echo.rings[0].used_elements() == [(head, 10)]
    assert echo.interrupts() == 1
    echo.write(Register.INTERRUPT_ACK, INTERRUPT_USED)
    assert echo.read(Register.INTERRUPT_STATUS) == INTERRUPT_USED
    assert echo.refused == 0


def test_an_indirect_request_is_served(echo: Bench) -> None:
    echo.start()
    out = echo.writable(3)
    echo.rings[1].add_indirect(echo.readable(b"abc"), out)
    echo.kick(1)
    assert echo.octets(out) == b"abc"


def test_counters_of_queues_outlive_a_reset(echo: Bench) -> None:
    for _ in range(2):
        echo.start()
        echo.rings[0].add(echo.readable(b"hello"), echo.writable(5))
        echo.kick(0)
    found = echo.transport.statistics()
    assert found.queues == ((2, 2, 20, 2), (0, 0, 0, 0))  # kicks, chains, octets, calls
    echo.write(Register.STATUS, 0)
    assert echo.transport.statistics().queues == found.queues


def test_kicks_by_register_and_early_ones(echo: Bench) -> None:
    echo.start()
    echo.write(Register.QUEUE_NOTIFY, 1)
    echo.turn()
    assert device_of(echo).calls == ["activate", "notified 1"]
    echo.write(Register.QUEUE_NOTIFY, 2)
    assert echo.refused == 1


def test_a_kick_from_before_a_reset_wakes_nobody(echo: Bench) -> None:
    echo.start()
    echo.write(Register.QUEUE_NOTIFY, 0)
    echo.start()
    echo.turn()
    assert device_of(echo).calls == ["activate", "reset", "activate"]


@pytest.mark.parametrize(
    ("before", "value"),
    [
        ((), Status.DRIVER),
        ((), LIVE),
        ((1,), LIVE),
        ((1, 3), KNOWN | Status.DRIVER_OK),
        ((1, 3), Status.ACKNOWLEDGE),  # no bit is cleared
        ((1, 3), KNOWN | 16),
        ((1, 3, 11, 15), AGREED),
        ((1,), 1 << 8 | KNOWN),
    ],
)
def test_a_status_out_of_order_is_refused(echo: Bench, before: tuple[int, ...], value: int) -> None:
    echo.write(Register.DRIVER_FEATURES_SEL, 1)
    for status in before:
        if status == AGREED:
            echo.write(Register.DRIVER_FEATURES, VERSION_1 >> 32)
        echo.write(Register.STATUS, status)
    was = echo.status
    assert was == (before[-1] if before else 0)
    echo.write(Register.STATUS, value)
    assert echo.status == was
    assert echo.refused == 1


@pytest.mark.parametrize("features", [0, VERSION_1 | 1 << 50, VERSION_1 | 1 << 4])
def test_features_that_do_not_fit_are_not_ok(echo: Bench, features: int) -> None:
    for status in (1, 3):
        echo.write(Register.STATUS, status)
    for sel in (0, 1):
        echo.write(Register.DRIVER_FEATURES_SEL, sel)
        echo.write(Register.DRIVER_FEATURES, features >> 32 * sel & 0xFFFFFFFF)
    echo.write(Register.STATUS, AGREED)
    assert echo.status == KNOWN


def test_features_are_fixed_once_agreed(echo: Bench) -> None:
    chosen = echo.negotiate()
    echo.write(Register.DRIVER_FEATURES, 0)
    assert echo.transport.features == chosen
    assert echo.refused == 1


def test_failed_stays_until_a_reset(echo: Bench) -> None:
    echo.start()
    echo.write(Register.STATUS, LIVE | Status.FAILED)
    echo.write(Register.STATUS, LIVE)
    assert echo.status & Status.FAILED
    echo.kick(0)
    assert device_of(echo).calls == ["activate", "reset"]
    echo.write(Register.STATUS, 0)
    assert echo.status == 0
    assert device_of(echo).calls == ["activate", "reset"]


@pytest.mark.parametrize("num", [0, 3, 32, 0xFFFFFFFF])
def test_a_queue_size_that_cannot_be_needs_a_reset(echo: Bench, num: int) -> None:
    echo.start(queues=())
    echo.negotiate()
    echo.setup_queue(0, echo.rings[0], num=num)
    assert echo.refused >= 1
    assert echo.read(Register.QUEUE_READY) == 0
    assert echo.needs_reset


@pytest.mark.parametrize("shift", [1, 1 << 40, (1 << 64) - (1 << 20)])
def test_rings_outside_memory_need_a_reset(echo: Bench, shift: int) -> None:
    echo.start(queues=())
    echo.negotiate()
    echo.rings[0].desc = (echo.rings[0].desc + shift) % (1 << 64)
    echo.setup_queue(0, echo.rings[0])
    assert echo.needs_reset
    assert echo.interrupts() == 0  # 2.1.2: only a driver that is ready is told
    assert echo.start().status == LIVE


def test_a_ready_queue_is_not_moved(echo: Bench) -> None:
    echo.start()
    echo.write(Register.QUEUE_SEL, 0)
    for register in (Register.QUEUE_NUM, Register.QUEUE_DESC_LOW, Register.QUEUE_DEVICE_HIGH):
        echo.write(register, 0)
    echo.write(Register.QUEUE_READY, 1)
    assert echo.refused == 4
    out = echo.writable(1)
    echo.rings[0].add(echo.readable(b"x"), out)
    echo.kick(0)
    assert echo.octets(out) == b"x"


def test_queues_before_features_are_refused(echo: Bench) -> None:
    echo.write(Register.STATUS, KNOWN)
    echo.write(Register.QUEUE_NUM, 8)
    echo.write(Register.QUEUE_READY, 1)
    assert echo.refused == 2


def test_a_stopped_queue_is_let_go(echo: Bench) -> None:
    echo.start()
    echo.write(Register.QUEUE_SEL, 1)
    assert echo.read(Register.QUEUE_READY) == 1
    echo.write(Register.QUEUE_READY, 0)
    assert echo.read(Register.QUEUE_READY) == 0
    assert device_of(echo).calls == ["activate", "stopped 1"]
    echo.rings[1].add(echo.readable(b"x"), echo.writable(1))
    echo.kick(1)
    assert echo.rings[1].used_elements() == []


@pytest.mark.parametrize(
    ("register", "size", "value"),
    [
        (Register.MAGIC_VALUE, 4, 0),
        (Register.STATUS, 1, 0),
        (Register.STATUS + 1, 4, 0),
        (Register.STATUS, 8, 0),
        (Register.QUEUE_RESET, 4, 1),
        (0xFC, 4, 1),
        (Register.INTERRUPT_ACK, 4, 4),
        (Register.CONFIG + 13, 4, 0),
        (Register.CONFIG + 16, 1, 0),
        (Register.CONFIG, 3, 0),
        (4095, 8, 0),
        (1 << 40, 4, 0),
    ],
)
def test_a_hostile_write_is_counted_and_ignored(
    echo: Bench, register: int, size: int, value: int
) -> None:
    echo.start()
    before = bytes(echo.page)
    echo.write(register, value, size)
    assert echo.refused == 1
    assert bytes(echo.page) == before


def test_configuration_written_and_changed(echo: Bench) -> None:
    echo.start()
    generation = echo.read(Register.CONFIG_GENERATION)
    echo.write(Register.CONFIG + 2, 0x4241, size=2)
    assert device_of(echo).space[:4] == b"coAB"
    assert echo.page[Register.CONFIG : Register.CONFIG + 4] == b"coAB"
    assert echo.interrupts() == 0  # the driver knows
    device_of(echo).space[0:1] = b"X"
    device_of(echo).config_changed()
    assert echo.read(Register.CONFIG_GENERATION) != generation
    assert echo.interrupts() == 1
    assert echo.read(Register.INTERRUPT_STATUS) == INTERRUPT_USED | INTERRUPT_CONFIG
    echo.write(Register.INTERRUPT_ACK, INTERRUPT_CONFIG)
    assert echo.read(Register.INTERRUPT_STATUS) == INTERRUPT_USED
    device_of(echo).config_changed()  # nothing changed
    assert echo.interrupts() == 0


def test_configuration_changes_before_a_driver_interrupt_nobody(echo: Bench) -> None:
    device_of(echo).space[:] = b"new"
    device_of(echo).config_changed()
    assert echo.page[Register.CONFIG : Register.CONFIG + 8] == b"new\0\0\0\0\0"
    assert echo.interrupts() == 0


def test_a_broken_chain_needs_a_reset(echo: Bench) -> None:
    echo.start()
    ring = echo.rings[0]
    ring.add(echo.writable(8), echo.readable(b"after"))  # 2.7.4.2: readable ones come first
    echo.kick(0)
    assert echo.needs_reset
    assert echo.interrupts() == 1
    assert echo.read(Register.INTERRUPT_STATUS) & INTERRUPT_CONFIG
    assert echo.transport.statistics().failures == 1
    echo.kick(1)
    assert device_of(echo).calls == ["activate", "notified 0"]
    echo.write(Register.STATUS, 0)
    assert echo.status == 0
    assert echo.read(Register.INTERRUPT_STATUS) == INTERRUPT_USED
    assert echo.start().status == LIVE


@pytest.mark.parametrize(
    ("addr", "size", "flags", "after"),
    [
        (0, 8, 0, 0),
        (0x10_0000, 0, 0, 0),
        (0x10_0000, 8, 1, 99),
        (0x10_0000, 8, 1, 0),
        (0x10_0000, 8, 4, 0),
        (0x10_0000, 16, 5, 0),
        (0xFFFF_FFFF_FFFF_FFF0, 0xFFFFFFFF, 2, 0),
    ],
)
def test_a_broken_descriptor_needs_a_reset(
    echo: Bench, addr: int, size: int, flags: int, after: int
) -> None:
    echo.start()
    echo.rings[0].set_desc(0, addr, size, flags, after)
    echo.rings[0].post(0)
    echo.kick(0)
    assert echo.needs_reset


def test_a_head_made_available_twice_is_found(echo: Bench) -> None:
    device_of(echo).hold = True
    echo.start()
    ring = echo.rings[0]
    ring.add(echo.readable(b"x"))
    for _ in range(ring.size):
        ring.post(0)
        echo.kick(0)
    assert echo.needs_reset
    assert len(device_of(echo).held) == ring.size


def test_indirect_without_the_feature(echo: Bench) -> None:
    echo.start(features=~RING_INDIRECT_DESC)
    echo.rings[0].add_indirect(echo.readable(b"x"))
    echo.kick(0)
    assert echo.needs_reset


def test_a_reset_in_mid_request(echo: Bench) -> None:
    device_of(echo).hold = True
    echo.start()
    out = echo.writable(4)
    old = echo.rings[0]
    old.add(echo.readable(b"late"), out)
    echo.kick(0)
    line, (chain,) = device_of(echo).line, device_of(echo).held
    assert line is not None
    echo.write(Register.STATUS, 0)
    echo.start()
    line.queues[0].done(chain, 4)  # of the line before
    assert old.used_elements() == echo.rings[0].used_elements() == []
    assert echo.interrupts() == 0


def test_a_reset_waits_for_the_device(echo: Bench) -> None:
    echo.start()
    busy = device_of(echo).busy = echo.loop.create_future()
    assert echo.write(Register.STATUS, 0) is busy
    assert echo.status == LIVE
    assert echo.write(Register.STATUS, Status.ACKNOWLEDGE) is busy
    busy.set_result(None)
    echo.turn()
    assert echo.status == 0
    device_of(echo).busy = None
    assert echo.start().status == LIVE


def test_a_reset_after_failed_waits_for_the_device(echo: Bench) -> None:
    echo.start()
    busy = device_of(echo).busy = echo.loop.create_future()
    echo.write(Register.STATUS, LIVE | Status.FAILED)
    assert echo.write(Register.STATUS, 0) is busy
    busy.set_result(None)
    echo.turn()
    assert echo.status == 0


def test_a_line_of_before_fails_nobody(echo: Bench) -> None:
    echo.start()
    line = device_of(echo).line
    assert line is not None
    echo.start()
    line.failed("late")
    assert not echo.needs_reset
    now = device_of(echo).line
    assert now is not None
    now.failed("now")
    assert echo.needs_reset


def test_a_closed_transport_touches_nothing(echo: Bench) -> None:
    echo.start()
    device = device_of(echo)
    busy = device.busy = echo.loop.create_future()
    echo.write(Register.STATUS, 0)
    echo.transport.close()
    before = bytes(echo.page)
    busy.set_result(None)
    echo.turn()
    device.space[:] = b"late"
    device.config_changed()
    assert device.line is not None
    device.line.config_changed()
    device.line.failed("late")
    assert bytes(echo.page) == before
    assert echo.interrupts() == 0


@pytest.mark.parametrize("error", [PeerError("no"), OSError(5, "no")])
def test_a_device_that_cannot_begin_needs_a_reset(echo: Bench, error: Exception) -> None:
    device_of(echo).fail = error
    echo.start()
    assert echo.status == LIVE | Status.DEVICE_NEEDS_RESET
    assert echo.interrupts() == 1
    device_of(echo).fail = None
    assert echo.start().status == LIVE


def test_more_than_a_ring_in_one_turn_is_kicked_again(echo: Bench) -> None:
    echo.start(size=4)
    line = device_of(echo).line
    assert line is not None
    ring, taken = echo.rings[1], 0
    ring.add(echo.readable(b"x"))
    for chain in line.queues[1].chains():
        taken += 1
        line.queues[1].done(chain)
        ring.post(0)
    assert taken == 4
    echo.turn()
    assert device_of(echo).calls == ["activate", "notified 1"]


def test_kicks_must_match_the_queues(echo: Bench) -> None:
    with pytest.raises(ValueError, match="1 kicks, expected 2"):
        Transport(Echo(), echo.memory, echo.loop, echo.view, echo.kicks[:1], echo.call)
    with pytest.raises(ValueError, match="page of 4095 bytes, expected 4096"):
        Transport(Echo(), echo.memory, echo.loop, echo.view[1:], echo.kicks, echo.call)

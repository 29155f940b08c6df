"""A driver that breaks every rule on a network interface's queues: that device stops and says so,
another on the same loop goes on, and a reset makes it as new."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from mmio_driver import LIVE, Bench
from test_net import FRAME, MAC, RX, TX, port_of, receive, transmit, wakes
from vhost_driver import GPA, DriverRing

from hypervisor.devices.net import Net
from hypervisor.devices.registers import INTERRUPT_CONFIG, Register
from hypervisor.queue.layout import DESC, DESC_INDIRECT, DESC_NEXT, DESC_WRITE
from vpnstack.core.burst import Burst

MakeBench = Callable[..., Bench]
Act = Callable[[DriverRing], None]
SIZE = 16
END = GPA + (1 << 20)  # of guest memory
TOP = 2**64 - 1


def chain(addr: int, size: int, flags: int = 0, after: int = 0) -> Act:
    """Post one descriptor at 0."""

    def act(ring: DriverRing) -> None:
        ring.set_desc(0, addr, size, flags, after)
        ring.post(0)

    return act


def table(*descriptors: tuple[int, int, int, int]) -> Act:
    """Post an indirect table of these."""

    def act(ring: DriverRing) -> None:
        at = ring.guest.alloc(16 * len(descriptors))
        ring.guest.write(at, b"".join(DESC.pack(*each) for each in descriptors))
        ring.set_desc(0, at, 16 * len(descriptors), DESC_INDIRECT)
        ring.post(0)

    return act


def circle(ring: DriverRing) -> None:
    for i in range(SIZE):
        ring.set_desc(i, GPA, 64, DESC_NEXT, (i + 1) % SIZE)
    ring.post(0)


def runaway(ring: DriverRing) -> None:
    ring.guest.set16(ring.avail + 2, SIZE + 1)


def backwards(ring: DriverRing) -> None:
    ring.guest.set16(ring.avail + 2, 0xFFFF)


ANY: dict[str, Act] = {
    "a chain that bites its tail": chain(GPA, 64, DESC_NEXT, 0),
    "a circle": circle,
    "next out of range": chain(GPA, 64, DESC_NEXT, SIZE),
    "head out of range": lambda ring: ring.post(SIZE),
    "available index too far": runaway,
    "available index behind": backwards,
    "no bytes": chain(GPA, 0),
    "behind memory": chain(END, 64),
    "across the end of memory": chain(END - 8, 64),
    "across the end of addresses": chain(TOP - 8, 64),
    "an enormous length": chain(GPA, 0xFFFFFFFF),
    "a table outside memory": chain(END, 64, DESC_INDIRECT),
    "a table across the end": chain(TOP - 15, 64, DESC_INDIRECT),
    "a table of no descriptors": chain(GPA, 0, DESC_INDIRECT),
    "a table of parts": chain(GPA, 17, DESC_INDIRECT),
    "a table with more behind it": chain(GPA, 64, DESC_INDIRECT | DESC_NEXT, 1),
    "a table in a table": table((GPA, 64, DESC_INDIRECT, 0)),
    "next out of a table": table((GPA, 64, DESC_NEXT, 1)),
    "a circle in a table": table((GPA, 64, DESC_NEXT, 0)),
}
ONLY = {
    TX: {"written to by the device": chain(GPA, 64, DESC_WRITE)},
    RX: {"read by the device": chain(GPA, 64)},
}
CASES = [
    pytest.param(queue, act, id=f"{'rx' if queue == RX else 'tx'}: {name}")
    for queue in (RX, TX)
    for name, act in (ANY | ONLY[queue]).items()
]


@pytest.fixture
def net(bench: MakeBench) -> Bench:
    return bench(Net(MAC)).start(size=SIZE)


@pytest.fixture
def other(bench: MakeBench) -> Bench:
    return bench(Net(MAC)).start(size=SIZE)


def writable_too(act: Act, queue: int) -> Act:
    """On the receive queue the same with buffers that the device may write."""
    if queue == TX:
        return act

    def changed(ring: DriverRing) -> None:
        act(ring)
        for i in range(SIZE):
            addr, size, flags, after = DESC.unpack(ring.guest.read(ring.desc + 16 * i, 16))
            if size and not flags & DESC_INDIRECT:
                ring.set_desc(i, addr, size, flags | DESC_WRITE, after)

    return changed


def serves(bench: Bench) -> None:
    """Check that frames go both ways."""
    os.eventfd_write(bench.kicks[TX], 1)
    bench.rings[TX].send(FRAME)
    assert FRAME in receive(port_of(bench))
    buffer = bench.rings[RX].receive_buffer(100)
    transmit(port_of(bench), FRAME)
    assert bench.octets(buffer)[12:72] == FRAME


@pytest.mark.parametrize(("queue", "act"), CASES)
def test_a_broken_rule(net: Bench, other: Bench, queue: int, act: Act) -> None:
    breaks = act if act in ONLY[queue].values() else writable_too(act, queue)
    breaks(net.rings[queue])
    os.eventfd_write(net.kicks[queue], 1)
    if queue == TX:
        assert receive(port_of(net)) == []
    else:
        transmit(port_of(net), FRAME)
    assert net.needs_reset
    assert net.interrupts()
    assert net.read(Register.INTERRUPT_STATUS) & INTERRUPT_CONFIG
    transmit(port_of(net), FRAME)  # which goes nowhere
    assert other.status == LIVE
    serves(other)
    net.guest.clear()
    assert net.start(size=SIZE).status == LIVE
    serves(net)


@pytest.mark.parametrize("at", ["desc", "avail", "used"])
@pytest.mark.parametrize("where", [END, END - 16, TOP - 15, TOP & ~0xFFF], ids=hex)
def test_rings_outside_memory(net: Bench, other: Bench, at: str, where: int) -> None:
    net.negotiate()
    ring = DriverRing(net.guest, SIZE)
    setattr(ring, at, where)
    net.setup_queue(TX, ring)
    assert net.needs_reset
    assert net.read(Register.QUEUE_READY) == 0
    serves(other)
    net.guest.clear()
    serves(net.start(size=SIZE))


def test_doorbells_of_queues_that_are_not_ready(bench: MakeBench) -> None:
    net = bench(Net(MAC)).start(size=SIZE, queues=(RX,))
    port = port_of(net)
    for _ in range(3):
        os.eventfd_write(net.kicks[TX], 1)
        assert receive(port) == []
    before = net.refused
    for value in (2, 0xFFFF, 0xFFFFFFFF):
        net.write(Register.QUEUE_NOTIFY, value)
    assert net.refused == before + 3
    buffer = net.rings[RX].receive_buffer(100)
    transmit(port, FRAME)
    assert net.octets(buffer)[12:72] == FRAME
    net.write(Register.STATUS, 0)
    os.eventfd_write(net.kicks[RX], 1)
    assert receive(port) == []
    assert not wakes(port)
    assert net.status == 0


def test_rules_broken_while_the_stack_has_a_burst(net: Bench) -> None:
    """The frames stay what they are until they are given back, to nobody by then."""
    port, ring = port_of(net), net.rings[TX]
    ring.send(FRAME)
    burst = Burst()
    port.rx_burst(burst)
    runaway(ring)
    net.write(Register.STATUS, 0)
    net.write(Register.STATUS, 0)
    assert burst.octets(0) == FRAME
    net.start(size=SIZE)
    port.rx_done(burst)
    assert net.rings[TX].used_elements() == []
    serves(net)


def test_a_driver_that_only_breaks_rules(net: Bench, other: Bench) -> None:
    """A thousand times over: each costs a reset, and leaves nothing."""
    fds = len(os.listdir("/proc/self/fd"))
    for _ in range(1000):
        net.rings[TX].post(SIZE)
        os.eventfd_write(net.kicks[TX], 1)
        receive(port_of(net))
        assert net.needs_reset
        net.guest.clear()
        net.start(size=SIZE)
    assert len(os.listdir("/proc/self/fd")) <= fds
    serves(net)
    serves(other)

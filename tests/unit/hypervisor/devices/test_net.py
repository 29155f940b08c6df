"""virtio-net as a port: frames both ways, stalls, faults, resets and the cable."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable

import pytest
from mmio_driver import ALL, LIVE, Bench
from vhost_driver import called

from hypervisor.devices.net import CONFIG, Net, Status
from hypervisor.devices.registers import INTERRUPT_CONFIG, Register
from hypervisor.errors import UsageError
from hypervisor.queue.layout import Feature
from vpnstack import Host
from vpnstack.core.burst import Burst
from vpnstack.link.port import Offload, Port, PortClosed

MakeBench = Callable[..., Bench]
MAC = bytes.fromhex("02a1b2c3d4e5")
FRAME = bytes(range(60))
RX, TX = 0, 1


@pytest.fixture
def net(bench: MakeBench) -> Bench:
    return bench(Net(MAC, 1450)).start(size=16)


def port_of(bench: Bench) -> Port:
    assert isinstance(bench.device, Net)
    return bench.device.port


def wakes(port: Port) -> bool:
    return bool(select.select([port], [], [], 0)[0])


def receive(port: Port) -> list[bytes]:
    burst = Burst()
    port.rx_burst(burst)
    frames = [burst.octets(i) for i in range(burst.count)]
    port.rx_done(burst)
    return frames


def transmit(port: Port, *frames: bytes) -> None:
    burst = Burst()
    for frame in frames:
        burst.append(frame, bytes(12))
    port.tx_burst(burst)


def config(bench: Bench) -> tuple[bytes, int, int, int]:
    mac, status, pairs, mtu = CONFIG.unpack_from(bench.page, Register.CONFIG)
    return mac, status, pairs, mtu


def test_what_the_driver_reads(net: Bench) -> None:
    assert config(net) == (MAC, Status.LINK_UP, 1, 1450)
    assert net.offered() & Feature.NET_MRG_RXBUF
    assert isinstance(port_of(net), Port)
    assert port_of(net).mtu == 1450


def test_frames_both_ways(net: Bench) -> None:
    port = port_of(net)
    rx, tx = net.rings
    head = tx.send(FRAME)
    os.eventfd_write(net.kicks[TX], 1)
    assert wakes(port)
    assert receive(port) == [FRAME]
    assert not wakes(port)
    assert tx.used_elements() == [(head, 0)]
    assert net.interrupts() == 1
    buffer = rx.receive_buffer(100)
    transmit(port, FRAME)
    assert rx.guest.read(buffer.gpa + 12, 60) == FRAME
    assert net.interrupts() == 1
    stats = port.statistics()
    assert (stats.rx_frames, stats.rx_octets, stats.tx_frames, stats.tx_octets) == (1, 60, 1, 60)
    counters = ((0, 1, 60, 1), (1, 1, 60, 1))  # kicks, chains, octets, calls
    assert net.transport.statistics().queues == counters
    net.write(Register.STATUS, 0)
    assert net.transport.statistics().queues == counters


def test_a_host_answers_the_guest(net: Bench) -> None:
    """The whole way: a guest's ARP request through port, driver and stack, and back."""
    rx, tx = net.rings
    buffers = [rx.receive_buffer(512) for _ in range(8)]  # the host has more to say
    words = bytes.fromhex("0001080006040001")  # Ethernet, IPv4, request
    ask = words + MAC + bytes((10, 0, 0, 2)) + bytes(6) + bytes((10, 0, 0, 1))
    reply = MAC + b"\2\0\0\0\0\1\x08\x06" + words[:7] + b"\2\2\0\0\0\0\1\x0a\0\0\1"

    async def answer() -> None:
        answered = asyncio.Event()

        def heard() -> None:
            called(net.call)
            for ring in net.rings:
                ring.set_used_event(net.guest.u16(ring.used + 2))
            if any(net.guest.read(each.gpa + 12, len(reply)) == reply for each in buffers):
                answered.set()

        net.loop.add_reader(net.call, heard)
        port = port_of(net)
        async with asyncio.timeout(20), Host(port, ["10.0.0.1/24"], mac="02:00:00:00:00:01"):
            tx.send(b"\xff" * 6 + MAC + b"\x08\x06" + ask)
            os.eventfd_write(net.kicks[TX], 1)
            await answered.wait()
        net.loop.remove_reader(net.call)

    net.loop.run_until_complete(answer())
    assert not net.needs_reset


def test_the_loop_leaves_kicks_to_the_port(net: Bench) -> None:
    net.kick(TX)
    assert wakes(port_of(net))


def test_offload_follows_the_driver(bench: MakeBench) -> None:
    device = Net(MAC)
    net = bench(device)
    assert device.port.offload is Offload.NONE
    net.start()
    assert device.port.offload == Offload.CSUM | Offload.TSO4 | Offload.TSO6 | Offload.USO
    net.start(features=ALL & ~int(Feature.NET_GUEST_TSO6 | Feature.NET_GUEST_USO4))
    assert device.port.offload == Offload.CSUM | Offload.TSO4
    net.write(Register.STATUS, 0)
    assert device.port.offload is Offload.NONE


def test_a_stall_ends_with_a_kick_in_order(net: Bench) -> None:
    port, rx = port_of(net), net.rings[RX]
    frames = [bytes([i]) * 60 for i in range(5)]
    first = rx.receive_buffer(100)
    transmit(port, *frames)
    assert port.stalled
    rest = [rx.receive_buffer(100) for _ in range(4)]
    os.eventfd_write(net.kicks[RX], 1)
    assert wakes(port)
    receive(port)
    assert not port.stalled
    assert [rx.guest.read(b.gpa + 12, 60) for b in (first, *rest)] == frames


def test_a_broken_queue_needs_a_reset(net: Bench) -> None:
    port = port_of(net)
    net.rings[TX].post(99)
    os.eventfd_write(net.kicks[TX], 1)
    assert receive(port) == []
    assert net.needs_reset
    assert net.read(Register.INTERRUPT_STATUS) & INTERRUPT_CONFIG
    transmit(port, FRAME)
    assert port.statistics().tx_dropped == 1
    net.start(size=16)
    net.rings[TX].send(FRAME)
    os.eventfd_write(net.kicks[TX], 1)
    assert receive(port) == [FRAME]


def test_a_broken_receive_queue_needs_a_reset(net: Bench) -> None:
    net.rings[RX].add(net.readable(b"not to be written"))
    transmit(port_of(net), FRAME)
    assert net.needs_reset


def test_a_reset_while_the_stack_has_a_burst(net: Bench) -> None:
    port, tx = port_of(net), net.rings[TX]
    tx.send(FRAME)
    burst = Burst()
    port.rx_burst(burst)
    net.write(Register.STATUS, 0)
    assert burst.octets(0) == FRAME  # the machine's memory is still there
    net.start(size=16)
    port.rx_done(burst)
    assert tx.used_elements() == net.rings[TX].used_elements() == []
    assert net.interrupts() == 0


def test_a_reset_drops_the_backlog(net: Bench) -> None:
    port = port_of(net)
    transmit(port, FRAME, FRAME)
    assert port.stalled
    net.write(Register.STATUS, 0)
    assert not port.stalled
    assert port.statistics().tx_dropped == 2
    transmit(port, FRAME)
    assert port.statistics().tx_dropped == 3


def test_a_busy_port_survives_a_reset(bench: MakeBench) -> None:
    net = bench(Net(MAC)).start(size=128)
    port = port_of(net)
    for _ in range(80):
        net.rings[TX].send(FRAME)
    os.eventfd_write(net.kicks[TX], 1)
    assert len(receive(port)) == 64
    net.write(Register.STATUS, 0)
    while wakes(port):
        assert receive(port) == []
    assert net.start(size=16).status == LIVE


def test_a_queue_that_the_driver_takes_back(net: Bench) -> None:
    port = port_of(net)
    net.write(Register.QUEUE_SEL, TX)
    net.write(Register.QUEUE_READY, 0)
    net.rings[TX].send(FRAME)
    os.eventfd_write(net.kicks[TX], 1)
    assert receive(port) == []
    buffer = net.rings[RX].receive_buffer(100)
    transmit(port, FRAME)
    assert net.guest.read(buffer.gpa + 12, 60) == FRAME


def test_closing_the_port_takes_the_carrier_away(net: Bench) -> None:
    port = port_of(net)
    port.close()
    assert config(net)[1] == Status.DOWN
    assert net.read(Register.INTERRUPT_STATUS) & INTERRUPT_CONFIG
    with pytest.raises(PortClosed):
        receive(port)
    assert net.start(size=16).status == LIVE


def test_nothing_is_left_behind(bench: MakeBench) -> None:
    before = len(os.listdir("/proc/self/fd"))
    net = Bench(Net(MAC)).start()
    for _ in range(3):
        net.start()
    net.close()
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize(
    ("mac", "mtu", "message"),
    [(b"\2\0", 1500, "expected 6 bytes"), (b"\1" * 6, 1500, "group"), (MAC, 67, "68 to 65535")],
)
def test_a_bad_configuration(mac: bytes, mtu: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Net(mac, mtu)

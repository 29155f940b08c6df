"""Devices served over vhost-user, to front-ends in QEMU's and cloud-hypervisor's order."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vhost_driver import Buffer, DriverRing, FrontEnd, Guest, called

from hypervisor.devices.base import Device, Line
from hypervisor.devices.console import CONFIG, EMERG_WR, RECEIVE, TRANSMIT, VirtioConsole
from hypervisor.devices.net import Net
from hypervisor.devices.vhost_serve import Server, serve
from hypervisor.errors import UsageError
from hypervisor.queue.layout import Feature
from hypervisor.vhost import messages as wire
from hypervisor.vhost.messages import ConfigSpace, Protocol, Request

FEATURES = (
    Feature.VERSION_1
    | Feature.RING_INDIRECT_DESC
    | Feature.RING_EVENT_IDX
    | Feature.VHOST_PROTOCOL_FEATURES
)
PROTOCOL = Protocol.MQ | Protocol.REPLY_ACK | Protocol.CONFIG


class Bench:
    """A served device, its loop, and a front-end with a driver behind it."""

    def __init__(self, device: Device, path: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.path = path
        self.server = self.loop.run_until_complete(self._serve(device))
        self.guest = Guest()
        self.front = self.connect()
        self.front.rings = [DriverRing(self.guest, 8, int(FEATURES)) for _ in range(2)]

    async def _serve(self, device: Device) -> Server:
        return serve(device, self.path)

    def connect(self) -> FrontEnd:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.path)
        sock.settimeout(0)
        return FrontEnd(sock, self.guest)

    def start(self, qemu: bool = True) -> Bench:
        front = self.front
        (front.start_qemu if qemu else front.start_cloud_hypervisor)(int(FEATURES))
        front.u64(Request.SET_PROTOCOL_FEATURES, PROTOCOL)
        self.turn()
        return self

    def turn(self, times: int = 4) -> None:
        for _ in range(times):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def add(self, index: int, data: bytes = b"", room: int = 0) -> Buffer:
        """Post a buffer with `data`, or with `room` for ours, and kick."""
        buffer = Buffer(self.guest.alloc(room or len(data), 1), room or len(data), bool(room))
        self.guest.write(buffer.gpa, data)
        self.front.rings[index].add(buffer)
        os.eventfd_write(self.front.kick[index], 1)
        self.turn()
        return buffer

    def stop(self) -> list[int]:
        """Stop both rings as QEMU does when it is paused; returns where they go on."""
        bases = []
        self.front.enable(0)
        for index in range(2):
            self.front.state(Request.GET_VRING_BASE, index, 0)
            self.turn()
            _, payload = self.front.reply()
            bases.append(int.from_bytes(payload[4:], "little"))
        return bases

    def resume(self, bases: list[int]) -> None:
        """Start them again."""
        front = self.front
        for index, base in enumerate(bases):
            front.state(Request.SET_VRING_NUM, index, front.rings[index].size)
            front.state(Request.SET_VRING_BASE, index, base)
            front.addr(index)
            front.u64(Request.SET_VRING_KICK, index, front.kick[index])
        front.enable()
        self.turn()

    def close(self) -> None:
        self.server.close()
        self.turn()
        self.loop.close()
        self.front.close()
        self.guest.close()


class Terminal(VirtioConsole):
    """A console that notes what becomes of it."""

    def __init__(self) -> None:
        super().__init__(self.print)
        self.printed = b""
        self.life: list[str] = []

    def print(self, data: bytes) -> None:
        self.printed += data

    def activate(self, line: Line) -> None:
        self.life.append("on")
        super().activate(line)

    def suspend(self) -> asyncio.Future[None] | None:
        self.life.append("off")
        super().reset()
        return None

    def reset(self) -> None:
        self.life.append("reset")
        super().reset()


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


@pytest.fixture
def bench(terminal: Terminal, tmp_path: Path) -> Iterator[Bench]:
    before = len(os.listdir("/proc/self/fd"))
    made = Bench(terminal, str(tmp_path / "s"))
    yield made
    made.close()
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("qemu", [True, False])
def test_a_device_works(bench: Bench, terminal: Terminal, qemu: bool) -> None:
    bench.start(qemu)
    assert terminal.life[-1] == "on"
    bench.add(TRANSMIT, b"hello")
    assert terminal.printed == b"hello"
    assert called(bench.front.call[TRANSMIT])
    buffer = bench.add(RECEIVE, room=16)
    terminal.write(b"typed")
    assert bench.guest.read(buffer.gpa, 5) == b"typed"


def test_what_waited_before_the_kick_was_watched(bench: Bench, terminal: Terminal) -> None:
    gpa = bench.guest.alloc(5)
    bench.guest.write(gpa, b"early")
    bench.front.rings[TRANSMIT].add(Buffer(gpa, 5))
    bench.start()
    assert terminal.printed == b"early"


def test_configuration_space(bench: Bench, terminal: Terminal) -> None:
    front = bench.start().front
    front.send(Request.GET_CONFIG, wire.emit_config(ConfigSpace(0, 0, bytes(CONFIG.size))))
    bench.turn()
    number, payload = front.reply()
    header = wire.Header(Request.GET_CONFIG, 0, len(payload))
    assert number == Request.GET_CONFIG
    assert wire.parse_config(header, payload).data == terminal.config()
    front.send(Request.SET_CONFIG, wire.emit_config(ConfigSpace(EMERG_WR, 0, b"!\0\0\0")))
    bench.turn()
    assert terminal.printed == b"!"
    front.send(Request.GET_CONFIG, wire.emit_config(ConfigSpace(100, 0, bytes(8))))
    bench.turn()
    assert front.reply()[1][12:] == bytes(8)


@pytest.mark.parametrize(
    "payload", [b"", b"x" * 11, wire.emit_config(ConfigSpace(250, 0, bytes(8))), bytes(13)]
)
def test_configuration_space_that_is_not_there(bench: Bench, payload: bytes) -> None:
    front = bench.start().front
    front.send(Request.GET_CONFIG, payload)
    bench.turn()
    assert front.sock.recv(1) == b""


def test_a_pause_suspends_and_takes_held_buffers_again(bench: Bench, terminal: Terminal) -> None:
    bench.start()
    bench.add(TRANSMIT, b"before")
    terminal.life.clear()
    line = terminal._line
    assert line is not None
    bench.add(RECEIVE, room=16)
    held = line.queues[RECEIVE].pop()
    assert held is not None
    bases = bench.stop()
    assert bases == [0, 1]
    assert terminal.life == ["off"]
    bench.resume(bases)
    assert terminal.life == ["off", "on"]
    bench.add(TRANSMIT, b" after")
    terminal.write(b"typed")
    assert terminal.printed == b"before after"
    assert [written for _, written in bench.front.rings[RECEIVE].used_elements()] == [5]


def test_a_new_driver_resets(bench: Bench, terminal: Terminal) -> None:
    bench.start()
    bench.add(TRANSMIT, b"old")
    bench.stop()
    terminal.life.clear()
    bench.front.rings = [DriverRing(bench.guest, 8, int(FEATURES)) for _ in range(2)]
    bench.resume([0, 0])
    assert terminal.life == ["reset", "on"]
    bench.add(TRANSMIT, b"new")
    assert terminal.printed == b"oldnew"


def test_a_broken_ring_is_told_and_can_start_again(
    bench: Bench, terminal: Terminal, caplog: pytest.LogCaptureFixture
) -> None:
    bench.start()
    ring = bench.front.rings[TRANSMIT]
    ring.post(1000)
    os.eventfd_write(bench.front.kick[TRANSMIT], 1)
    bench.turn()
    assert called(bench.front.err[TRANSMIT])
    assert "head 1000" in caplog.text
    assert terminal.life[-1] == "off"
    bench.stop()
    bench.front.rings = [DriverRing(bench.guest, 8, int(FEATURES)) for _ in range(2)]
    bench.resume([0, 0])
    bench.add(TRANSMIT, b"again")
    assert terminal.printed == b"again"


def test_one_front_end_at_a_time(bench: Bench, terminal: Terminal) -> None:
    bench.start()
    second = bench.connect()
    bench.turn()
    assert second.sock.recv(1) == b""
    second.close()
    bench.front.sock.close()
    bench.turn()
    assert terminal.life[-1] == "reset"
    fresh = FrontEnd(socket.socket(), bench.guest)
    bench.front, old = bench.connect(), bench.front
    for each in (fresh, old):
        each.close()
    bench.front.rings = [DriverRing(bench.guest, 8, int(FEATURES)) for _ in range(2)]
    bench.start()
    bench.add(TRANSMIT, b"next")
    assert terminal.printed == b"next"


def test_what_breaks_the_protocol_ends_the_connection(bench: Bench, terminal: Terminal) -> None:
    bench.start()
    bench.front.u64(Request.SET_VRING_KICK, 9, bench.front.kick[0])
    bench.turn()
    assert bench.front.sock.recv(1) == b""
    assert terminal.life[-1] == "reset"


class Slow(Device):
    """A device whose work in guest memory takes time to end."""

    device_id = 4
    queue_sizes = (8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.ending: asyncio.Future[None] | None = None

    def activate(self, line: Line) -> None:
        self.ending = line.loop.create_future()

    def reset(self) -> asyncio.Future[None] | None:
        return self.ending


def test_a_stop_is_answered_when_the_device_let_go(tmp_path: Path) -> None:
    device = Slow()
    bench = Bench(device, str(tmp_path / "s"))
    bench.start()
    assert device.ending is not None
    bench.front.state(Request.GET_VRING_BASE, 0, 0)
    bench.front.state(Request.GET_VRING_BASE, 1, 0)
    bench.turn()
    with pytest.raises(BlockingIOError):
        bench.front.sock.recv(1)
    device.ending.set_result(None)
    bench.turn()
    assert [bench.front.reply()[0] for _ in range(2)] == [Request.GET_VRING_BASE] * 2
    bench.close()


def test_devices_with_ports_of_their_own_are_refused(tmp_path: Path) -> None:
    async def go(make: Callable[[], Device]) -> None:
        with pytest.raises(UsageError, match="port of its own"):
            serve(make(), str(tmp_path / "s"))

    device = Net(bytes(6))
    asyncio.run(go(lambda: device))
    asyncio.run(device.close())

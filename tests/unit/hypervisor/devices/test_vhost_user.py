"""The vhost-user front-end as a device, with a back-end that comes, goes and misbehaves."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mmio_driver import LIVE, Bench
from vhost_peer import MAC, Peer, Rig

from hypervisor.devices.net import CONFIG, Status
from hypervisor.devices.registers import Register
from hypervisor.devices.vhost_net import VhostUserNet
from hypervisor.devices.vhost_user import VhostUserDevice
from hypervisor.errors import UsageError
from hypervisor.queue.layout import Feature
from hypervisor.vhost import messages as wire
from hypervisor.vhost.frontend import Known
from hypervisor.vhost.messages import Request
from hypervisor.vhost.port import connect

FRAME = bytes(range(60))
RX, TX, CONTROL = 0, 1, 4
MakeRig = Callable[..., Rig]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[MakeRig]:
    made: list[Rig] = []

    def make(device: Callable[[Path], VhostUserDevice] | None = None) -> Rig:
        made.append(Rig(tmp_path / f"sock{len(made)}", device))
        return made[-1]

    yield make
    for each in made:
        each.close()


def peer_of(rig: Rig) -> Peer:
    assert rig.peer is not None
    return rig.peer


def transmit(bench: Bench, *frames: bytes) -> None:
    for frame in frames:
        bench.rings[TX].send(frame)
    os.eventfd_write(bench.kicks[TX], 1)


def link(bench: Bench) -> int:
    return int(CONFIG.unpack_from(bench.page, Register.CONFIG)[1])


def test_frames_both_ways(rig: MakeRig) -> None:
    made = rig()
    bench, peer = made.start(), peer_of(made)
    transmit(bench, FRAME)
    made.until(lambda: peer.frames)
    assert peer.frames == [FRAME]
    assert bench.interrupts() >= 1
    buffer = bench.rings[RX].receive_buffer(100)
    peer.transmit(FRAME)
    assert bench.octets(buffer)[12:72] == FRAME
    assert bench.interrupts() == 1
    assert made.warnings == []


def test_what_the_driver_reads(rig: MakeRig) -> None:
    made = rig()
    offered = made.bench.offered()
    assert CONFIG.unpack_from(made.bench.page, Register.CONFIG) == (MAC, Status.LINK_UP, 1, 1450)
    assert offered & Feature.NET_MAC
    assert offered & Feature.NET_HOST_TSO4
    assert not offered & (Feature.NET_MQ | Feature.NET_CTRL_VQ | Feature.VHOST_PROTOCOL_FEATURES)


def test_the_back_end_is_told_the_mtu(rig: MakeRig) -> None:
    made = rig()
    made.start()
    assert peer_of(made).port.mtu == 1450


def test_a_back_end_that_restarts(rig: MakeRig) -> None:
    """Frames sent while it is away are there when it is back, and none comes twice."""
    made = rig()
    bench = made.start(size=16)
    first = [bytes([n]) * 60 for n in range(5)]
    transmit(bench, *first)
    made.until(lambda: len(peer_of(made).frames) == 5)
    assert peer_of(made).frames == first
    made.leave()
    made.until(lambda: link(bench) == Status.DOWN)
    assert bench.status == LIVE
    assert len(made.warnings) == 1
    later = [bytes([n]) * 60 for n in range(5, 9)]
    transmit(bench, *later)
    back = made.come_back()
    made.until(lambda: len(back.frames) == 4)
    assert back.frames == later
    assert link(bench) == Status.LINK_UP
    buffer = bench.rings[RX].receive_buffer(100)
    back.transmit(FRAME)
    assert bench.octets(buffer)[12:72] == FRAME


def test_a_back_end_that_never_comes(tmp_path: Path) -> None:
    device = VhostUserNet(tmp_path / "sock", MAC, wait=0.0)
    with pytest.raises(UsageError, match="No such file"):
        asyncio.run(device.prepare())
    with pytest.raises(UsageError, match="nobody connected"):
        asyncio.run(VhostUserNet(tmp_path / "sock", MAC, wait=0.0, listen=True).prepare())
    assert list(tmp_path.iterdir()) == []


def test_listening_for_the_back_end(tmp_path: Path) -> None:
    async def go() -> None:
        loop = asyncio.get_running_loop()
        device = VhostUserNet(tmp_path / "sock", MAC, listen=True)
        preparing = loop.create_task(device.prepare())
        await asyncio.sleep(0)
        peer = Peer(loop, tmp_path / "other")
        port = connect(str(tmp_path / "sock"), mtu=1500)
        peer.ports.append(port)
        loop.add_reader(port.fileno(), peer.receive, port)
        await preparing
        assert device.online
        await device.close()
        peer.close()

    asyncio.run(go())
    assert list(tmp_path.iterdir()) == []


def test_a_broken_ring_needs_a_reset(rig: MakeRig) -> None:
    made = rig()
    bench = made.start()
    bench.rings[TX].post(99)
    os.eventfd_write(bench.kicks[TX], 1)
    made.until(lambda: bench.needs_reset)
    bench = made.start()
    transmit(bench, FRAME)
    made.until(lambda: peer_of(made).frames)


def test_a_reset_takes_the_rings_back(rig: MakeRig) -> None:
    made = rig()
    bench = made.start()
    waiting = bench.write(Register.STATUS, 0)
    assert waiting is not None
    assert bench.status == LIVE
    made.until(lambda: bench.status == 0)
    assert not peer_of(made).port.ready
    made.start()
    transmit(bench, FRAME)
    made.until(lambda: peer_of(made).frames)


def test_a_back_end_that_leaves_during_a_reset(rig: MakeRig) -> None:
    made = rig()
    bench = made.start()
    waiting = bench.write(Register.STATUS, 0)
    assert waiting is not None
    made.leave()
    made.until(lambda: bench.status == 0)


def test_a_queue_that_the_driver_takes_back(rig: MakeRig) -> None:
    made = rig()
    bench = made.start()
    bench.write(Register.QUEUE_SEL, TX)
    bench.write(Register.QUEUE_READY, 0)
    made.until(lambda: not peer_of(made).port._device.tx)
    assert bench.status == LIVE
    waiting = bench.write(Register.STATUS, 0)
    made.until(lambda: waiting is None or waiting.done())


def test_queue_pairs(rig: MakeRig) -> None:
    made = rig(lambda path: VhostUserNet(path, MAC, pairs=2))
    bench = made.start(size=16)
    device = peer_of(made).port._device
    made.until(lambda: len(device.rx) == 1)

    def ask(pairs: int) -> bytes:
        answer = bench.writable(1)
        bench.rings[CONTROL].add(bench.readable(bytes((4, 0, pairs, 0))), answer)
        bench.kick(CONTROL)
        return bench.octets(answer)

    assert ask(2) == b"\0"
    made.until(lambda: len(device.rx) == 2)
    assert ask(1) == b"\0"
    made.until(lambda: len(device.rx) == 1)
    assert ask(3) == ask(0) == b"\1"


def test_control_commands_that_are_none(rig: MakeRig) -> None:
    made = rig(lambda path: VhostUserNet(path, MAC, pairs=2))
    bench = made.start()
    control = bench.rings[CONTROL]
    for data in (b"", b"\4\0", b"\4\1\2\0", b"\0\0\1\0", bytes(5000)):
        answer = bench.writable(1)
        control.add(*([bench.readable(data)] if data else []), answer)
        bench.kick(CONTROL)
        assert bench.octets(answer) == b"\1", data[:8]
    control.add(bench.readable(b"\4\0\2\0"))  # no room for the answer
    bench.kick(CONTROL)
    assert bench.status == LIVE


def test_too_few_queue_pairs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="9 queue pairs, expected 1 to 8"):
        VhostUserNet(tmp_path / "sock", MAC, pairs=9)
    device = VhostUserNet(tmp_path / "sock", MAC, pairs=4)
    assert "has 2 queue pairs, expected 4" in device.check(Known(Feature.VERSION_1, 2, b""))


GARBAGE = {
    "no header": b"\xff" * 12,
    "a request": wire.emit(Request.GET_FEATURES),
    "an answer to nothing": wire.emit(Request.GET_QUEUE_NUM, bytes(8), wire.REPLY),
    "too large": wire.HEADER.pack(Request.GET_FEATURES, 5, 1 << 20),
    "too short": wire.emit(Request.GET_FEATURES, bytes(4), wire.REPLY),
    "no virtio 1": wire.emit(Request.GET_FEATURES, bytes(8), wire.REPLY),
}


@pytest.mark.parametrize("said", GARBAGE.values(), ids=GARBAGE.keys())
def test_rubbish_from_the_back_end(rig: MakeRig, tmp_path: Path, said: bytes) -> None:
    """It is dropped with one line, the guest sees no carrier; the next back-end works."""
    made = rig()
    bench = made.start()
    made.leave()
    made.until(lambda: link(bench) == Status.DOWN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(made.path))
        server.listen()
        server.setblocking(False)
        bad: list[socket.socket] = []

        def accept() -> None:
            bad.append(server.accept()[0])
            bad[-1].send(said)

        made.loop.add_reader(server.fileno(), accept)
        made.until(lambda: len(made.warnings) >= 2)
        made.loop.remove_reader(server.fileno())
    for each in bad:
        each.close()
    made.path.unlink()
    assert bench.status == LIVE
    back = made.come_back()
    transmit(bench, FRAME)
    made.until(lambda: back.frames)


def test_a_device_that_does_not_survive(rig: MakeRig) -> None:
    made = rig(lambda path: VhostUserDevice(path, device_id=1, queue_sizes=(16, 16)))
    bench = made.start()
    made.leave()
    made.until(lambda: bench.needs_reset)
    made.come_back()
    bench = made.start()
    transmit(bench, FRAME)
    made.until(lambda: peer_of(made).frames)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    made = Rig(tmp_path / "sock")
    made.start()
    made.leave()
    made.until(lambda: made.warnings)
    made.come_back()
    made.until(lambda: made.starts == 2)
    made.close()
    assert len(os.listdir("/proc/self/fd")) <= before
    assert list(tmp_path.iterdir()) == []

"""The vhost-user port over a socket pair, with a front-end and driver in the test."""

from __future__ import annotations

import gc
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from vhost_driver import (
    FEATURES,
    FrontEnd,
    Guest,
    Made,
    called,
    receive,
    settle,
    started,
    transmit,
    wakes,
)

from hypervisor.errors import UsageError
from hypervisor.queue.layout import Feature
from hypervisor.vhost import messages as wire
from hypervisor.vhost.lane import BACKLOG_OCTETS
from hypervisor.vhost.messages import Request
from hypervisor.vhost.port import VhostUserPort, connect, listen, offload_of
from vpnstack.core.burst import Burst
from vpnstack.link.backlog import FRAME_COST
from vpnstack.link.port import Listener, Offload, Port, PortClosed

FRAME = bytes(range(60))


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def mappings() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:guest")


def test_is_a_port(make: Callable[..., Made]) -> None:
    assert isinstance(make()[0], Port)


@pytest.mark.parametrize("order", ["start_qemu", "start_cloud_hypervisor"])
def test_frames_both_ways(make: Callable[..., Made], order: str) -> None:
    port, front = make()
    getattr(front, order)()
    settle(port)
    rx, tx = front.rings
    head = tx.send(FRAME)
    os.eventfd_write(front.kick[1], 1)
    assert wakes(port)
    assert receive(port) == [FRAME]
    assert tx.used_elements() == [(head, 0)]
    buffer = rx.receive_buffer(100)
    transmit(port, FRAME)
    assert rx.guest.read(buffer.gpa + 12, 60) == FRAME
    assert called(front.call[0]) == 1
    stats = port.statistics()
    assert (stats.rx_frames, stats.rx_octets, stats.tx_frames, stats.tx_octets) == (1, 60, 1, 60)


def test_frames_before_negotiation_are_dropped(make: Callable[..., Made]) -> None:
    port, _ = make()
    transmit(port, FRAME, FRAME)
    assert port.statistics().tx_dropped == 2
    assert not port.stalled


def test_offload_follows_the_driver(make: Callable[..., Made]) -> None:
    port, _ = make()
    assert port.offload is Offload.NONE
    port, _ = started(make)
    assert port.offload == Offload.CSUM | Offload.TSO4
    assert offload_of(Feature.NET_GUEST_TSO4) is Offload.NONE  # 5.1.3.1: needs GUEST_CSUM
    both = Feature.NET_GUEST_CSUM | Feature.NET_GUEST_TSO4 | Feature.NET_GUEST_TSO6
    assert offload_of(both) == Offload.CSUM | Offload.TSO4 | Offload.TSO6
    one = Feature.NET_GUEST_CSUM | Feature.NET_GUEST_USO4
    assert offload_of(one) == Offload.CSUM
    assert offload_of(one | Feature.NET_GUEST_USO6) == Offload.CSUM | Offload.USO


def test_frame_beyond_the_offload_goes_through_software(
    make: Callable[..., Made], guest: Guest
) -> None:
    ours, theirs = socket.socketpair()
    seen: list[Offload] = []

    def soften(burst: Burst, offload: Offload) -> list[Burst]:
        seen.append(offload)
        plain = Burst()
        plain.append(FRAME)
        return [plain, plain]

    port, front = VhostUserPort(ours, soften=soften), FrontEnd(theirs, guest)
    front.start_qemu(FEATURES & ~Feature.NET_GUEST_CSUM)
    settle(port)
    for _ in range(3):
        front.rings[0].receive_buffer(100)
    transmit(port, FRAME)
    assert not seen
    transmit(port, FRAME, vnet=b"\1" + bytes(11))
    assert seen == [Offload.NONE]
    assert len(front.rings[0].used_elements()) == 3
    front.close()
    port.close()


def test_stall_keeps_order_and_ends_with_a_kick(make: Callable[..., Made]) -> None:
    port, front = started(make)
    rx = front.rings[0]
    frames = [bytes([i]) * 60 for i in range(5)]
    first = rx.receive_buffer(100)
    transmit(port, *frames[:3])
    assert port.stalled
    transmit(port, *frames[3:])
    assert rx.avail_event() == 1  # kicked for the next buffer
    rest = [rx.receive_buffer(100) for _ in range(4)]
    assert not wakes(port)
    os.eventfd_write(front.kick[0], 1)
    settle(port)
    assert not port.stalled
    assert [rx.guest.read(b.gpa + 12, 60) for b in (first, *rest)] == frames


def test_backlog_is_bounded(make: Callable[..., Made]) -> None:
    port, _ = started(make)
    fits = BACKLOG_OCTETS // (len(FRAME) + FRAME_COST)
    for _ in range(fits // 64 + 2):
        transmit(port, *[FRAME] * 64)
    assert port.statistics().tx_dropped == 64 * (fits // 64 + 2) - fits


def test_busy_port_stays_readable_without_kicks(make: Callable[..., Made]) -> None:
    port, front = started(make, size=128)
    for _ in range(80):
        front.rings[1].send(FRAME)
    os.eventfd_write(front.kick[1], 1)
    assert len(receive(port)) == 64
    assert wakes(port)
    assert len(receive(port)) == 16
    assert not wakes(port)
    assert front.rings[1].avail_event() == 80  # a kick is asked for again


def test_used_ring_is_published_once_a_burst(make: Callable[..., Made]) -> None:
    port, front = started(make)
    for _ in range(8):
        front.rings[1].send(FRAME)
    burst = Burst()
    os.eventfd_write(front.kick[1], 1)
    assert port.rx_burst(burst) == 8
    assert front.rings[1].used_elements() == []
    port.rx_done(burst)
    assert len(front.rings[1].used_elements()) == 8
    assert called(front.call[1]) == 1


def test_get_vring_base_answers_with_the_index(make: Callable[..., Made]) -> None:
    port, front = started(make)
    front.rings[1].send(FRAME)
    front.state(Request.GET_VRING_BASE, 1, 0)
    receive(port)  # the message comes first: nothing is popped behind the stop
    request, payload = front.reply()
    assert request == Request.GET_VRING_BASE
    assert payload == wire.emit_state(wire.VringState(1, 0))
    front.u64(Request.SET_VRING_KICK, 1, front.kick[1])
    assert receive(port) == [FRAME]


def test_disabled_rings_discard(make: Callable[..., Made]) -> None:
    port, front = started(make)
    front.enable(0)
    front.rings[1].send(FRAME)
    settle(port)
    assert len(front.rings[1].used_elements()) == 1
    assert not port.ready
    assert port.statistics().rx_dropped == 1


def test_new_memory_table_keeps_rings_running(make: Callable[..., Made]) -> None:
    port, front = started(make)
    front.rings[1].send(FRAME)
    os.eventfd_write(front.kick[1], 1)
    assert receive(port) == [FRAME]
    front.table()
    front.rings[1].send(FRAME[::-1])
    assert receive(port) == [FRAME[::-1]]
    assert mappings() == 2  # ours and the test's


def test_broken_queue_stops_alone(
    make: Callable[..., Made], caplog: pytest.LogCaptureFixture
) -> None:
    port, front = started(make)
    rx, tx = front.rings
    tx.post(99)
    os.eventfd_write(front.kick[1], 1)
    assert receive(port) == []
    assert "queue 1 stopped: head 99, expected below 16" in caplog.text
    assert len(caplog.records) == 1
    assert called(front.err[1]) == 1
    rx.receive_buffer(100)
    transmit(port, FRAME)
    assert len(rx.used_elements()) == 1
    settle(port)


def test_broken_receive_queue_stops(make: Callable[..., Made]) -> None:
    port, front = started(make)
    front.rings[0].send(FRAME)  # a buffer that we may not write
    transmit(port, FRAME)
    assert not port.ready
    assert called(front.err[0]) == 1
    assert port.statistics().tx_dropped == 1


@pytest.mark.parametrize(
    "data",
    [
        wire.emit(99),
        wire.emit(Request.GET_FEATURES, bytes(8)),
        wire.emit(Request.SET_FEATURES, b""),
        wire.HEADER.pack(1, 2, 0),
        wire.HEADER.pack(5, 1, 0xFFFFFFFF),
        wire.emit(Request.SET_VRING_NUM, bytes(8)),
    ],
)
def test_malformed_message_closes_with_one_line(
    make: Callable[..., Made], caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    port, front = started(make)
    front.sock.send(data)
    with pytest.raises(PortClosed):
        receive(port)
    assert len(caplog.records) == 1
    assert mappings() == 1
    with pytest.raises(PortClosed):
        receive(port)
    transmit(port, FRAME)
    assert front.sock.recv(1) == b""


def test_message_in_pieces(make: Callable[..., Made]) -> None:
    port, front = make()
    for byte in wire.emit(Request.GET_QUEUE_NUM):
        front.sock.send(bytes([byte]))
        receive(port)
    assert front.reply() == (Request.GET_QUEUE_NUM, wire.emit_u64(8))


def test_death_in_mid_transfer_unmaps_after_the_burst(make: Callable[..., Made]) -> None:
    port, front = started(make)
    front.rings[1].send(FRAME)
    os.eventfd_write(front.kick[1], 1)
    burst = Burst()
    assert port.rx_burst(burst) == 1
    front.sock.shutdown(socket.SHUT_RDWR)
    port.close()
    assert burst.octets(0) == FRAME  # still readable
    port.rx_done(burst)
    assert mappings() == 1


def test_truncated_guest_memory_closes(make: Callable[..., Made], guest: Guest) -> None:
    port, front = started(make)
    front.rings[1].send(FRAME)
    os.ftruncate(guest.fd, 0)
    os.eventfd_write(front.kick[1], 1)
    with pytest.raises(PortClosed, match="truncated"):
        settle(port)
    os.ftruncate(guest.fd, guest.size)


def test_nothing_leaks(make: Callable[..., Made], guest: Guest) -> None:
    make()  # whatever is opened once
    gc.collect()
    before = open_fds()
    for end in (wire.emit(99), b"", wire.emit(Request.SET_MEM_TABLE, bytes(8))):
        ours, theirs = socket.socketpair()
        port, front = VhostUserPort(ours), FrontEnd(theirs, guest)
        front.start_qemu()
        settle(port)
        front.u64(Request.SET_VRING_ERR, 1, front.err[0])
        front.sock.send(end)
        if end:
            front.send(Request.SET_OWNER, b"", (guest.fd, guest.fd))
        front.sock.shutdown(socket.SHUT_WR)
        with pytest.raises(PortClosed):
            settle(port)
        port.close()
        front.close()
        assert open_fds() <= before
        guest._free = 0
    assert mappings() == 1


def test_too_many_descriptors(make: Callable[..., Made], guest: Guest) -> None:
    port, front = make()
    before = open_fds()
    front.send(Request.SET_OWNER, b"", (guest.fd,) * 20)
    with pytest.raises(PortClosed, match="at most 8"):
        receive(port)
    assert open_fds() < before


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_kick_that_is_no_eventfd(make: Callable[..., Made], guest: Guest, kind: str) -> None:
    port, front = started(make)
    reader, writer = os.pipe()
    os.close(writer)
    front.u64(Request.SET_VRING_KICK, 1, guest.fd if kind == "file" else reader)
    with pytest.raises(PortClosed, match="kick of ring 1"):
        settle(port)
    os.close(reader)


def test_kick_that_cannot_be_used_at_all(make: Callable[..., Made], tmp_path: Path) -> None:
    port, front = started(make)
    handle = os.open(tmp_path, os.O_PATH)
    front.u64(Request.SET_VRING_KICK, 1, handle)
    with pytest.raises(PortClosed, match="ring 1"):
        settle(port)
    os.close(handle)


# Listening and connecting.


def test_listener(tmp_path: Path, guest: Guest) -> None:
    path = str(tmp_path / "s")
    listener = listen(path, mtu=1400)
    assert isinstance(listener, Listener)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert listener.accept() == []
    socks = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for sock in socks:
        sock.connect(path)
    ports = listener.accept()
    assert len({port.name for port in ports}) == 3
    assert {port.mtu for port in ports} == {1400}
    listener.close()
    listener.close()
    assert not os.path.exists(path)
    for closing in (*ports, *socks):
        closing.close()


def test_listener_replaces_a_stale_socket_only(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(path)
    stale.close()
    listener = listen(path, mtu=1500)
    with pytest.raises(UsageError, match="serves this socket already"):
        listen(path, mtu=1500)
    listener.close()
    Path(path).write_text("data")
    with pytest.raises(UsageError, match="no socket"):
        listen(path, mtu=1500)
    assert Path(path).read_text() == "data"
    with pytest.raises(UsageError, match="at most 107 bytes"):
        listen(str(tmp_path / ("x" * 108)), mtu=1500)
    with pytest.raises(UsageError):
        listen(str(tmp_path / "none" / "s"), mtu=1500)


def test_connect(tmp_path: Path, guest: Guest) -> None:
    path = str(tmp_path / "s")
    with pytest.raises(UsageError):
        connect(path, mtu=1500)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    port = connect(path, mtu=1500)
    front = FrontEnd(server.accept()[0], guest)
    front.start_qemu()
    settle(port)
    assert port.ready
    for closing in (port, front, server):
        closing.close()

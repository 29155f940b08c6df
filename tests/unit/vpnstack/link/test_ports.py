"""Ports, their backlogs and listeners over socket pairs."""

from __future__ import annotations

import gc
import os
import select
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from vpnstack.core._core import ffi, lib

from vpnstack.core.burst import Burst
from vpnstack.errors import UsageError
from vpnstack.link import framed, pair
from vpnstack.link.backlog import FRAME_COST, Backlog
from vpnstack.link.framed import FramedPort
from vpnstack.link.port import Port, PortClosed
from vpnstack.link.tap import TapPort


def burst_of(*frames: bytes) -> Burst:
    made = Burst(max(len(frames), 1))
    for one in frames:
        made.append(one)
    return made


def numbered(n: int, size: int = 1000) -> bytes:
    return n.to_bytes(4, "big") * (size // 4)


@pytest.fixture
def ends() -> Iterator[tuple[FramedPort, socket.socket]]:
    a, b = socket.socketpair()
    a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    b.setblocking(False)
    port = FramedPort(a)
    with b:
        yield port, b
        port.close()


def drain(port: Port, peer: socket.socket) -> bytes:
    got = b""
    while True:
        try:
            part = peer.recv(777)
        except BlockingIOError:
            if not port.stalled:
                return got
            part = b""
        got += part
        port.flush()


# Backlog


def test_backlog_keeps_order_and_counts_what_does_not_fit() -> None:
    backlog = Backlog(3 * (1000 + FRAME_COST))
    assert backlog.push(burst_of(*(numbered(i) for i in range(5))), 1) == 1
    out = Burst(2)
    backlog.fill(out)
    assert [out.octets(i) for i in range(2)] == [numbered(1), numbered(2)]
    backlog.drop_first(2)
    assert (len(backlog), backlog.octets) == (1, 1000 + FRAME_COST)
    out.clear()
    backlog.fill(out)
    assert [out.octets(i) for i in range(out.count)] == [numbered(3)]


def test_backlog_over_many_chunks_is_filled_taken_and_dropped_in_order() -> None:
    backlog, want = Backlog(), []
    for start in range(0, 60, 5):  # 100 kB a push: more than a chunk
        frames = [numbered(n, 20000) for n in range(start, start + 5)]
        assert backlog.push(burst_of(*frames)) == 0
        want += frames
    got, sent, taken = [], Burst(7), Burst(4)
    while len(backlog) > 20:
        backlog.fill(sent)
        got += [sent.octets(i) for i in range(3)]
        sent.clear()
        backlog.drop_first(3)
        backlog.push(burst_of(numbered(len(want), 20000)))  # into memory that was let go of
        want.append(numbered(len(want), 20000))
    while backlog:
        backlog.take(taken)
        got += [taken.octets(i) for i in range(taken.count)]
        taken.clear()
    assert got == want
    assert (len(backlog), backlog.octets) == (0, 0)


def test_backlog_refuses_what_follows_a_frame_that_does_not_fit() -> None:
    backlog = Backlog(2 * (1000 + FRAME_COST))
    assert backlog.push(burst_of(numbered(0), numbered(1, 5000), numbered(2))) == 2
    assert len(backlog) == 1


def test_backlog_counts_the_octets_that_there_are() -> None:
    burst = burst_of(numbered(0))
    burst[0].len = 3000
    backlog = Backlog()
    backlog.push(burst)
    assert backlog.octets == 1000 + FRAME_COST
    backlog.drop_first(1)
    assert backlog.octets == 0


def test_backlog_gives_frames_that_outlive_it() -> None:
    backlog, burst = Backlog(), Burst()
    backlog.push(burst_of(numbered(1)))
    backlog.take(burst)
    backlog.push(burst_of(numbered(2)))
    backlog.clear()
    assert burst.octets(0) == numbered(1)


def test_backlog_bounds_frames_without_bytes() -> None:
    backlog = Backlog(10 * FRAME_COST)
    assert backlog.push(burst_of(*[b""] * 64)) == 54


# FramedPort


def test_framed_resumes_in_the_middle_of_a_frame(ends: tuple[FramedPort, socket.socket]) -> None:
    port, peer = ends
    want = b""
    for start in range(0, 60, 20):
        frames = [numbered(n, 1500) for n in range(start, start + 20)]
        port.tx_burst(burst_of(*frames))
        want += b"".join(len(one).to_bytes(4, "big") + one for one in frames)
    assert port.stalled
    assert (len(want) - len(port._backlog)) % 1504  # the first send ended inside a frame
    assert drain(port, peer) == want
    assert not port.stalled
    assert (port.statistics().tx_frames, port.statistics().tx_dropped) == (60, 0)


def test_framed_backlog_is_bounded_and_drops_whole_frames(
    ends: tuple[FramedPort, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, peer = ends
    monkeypatch.setattr(framed, "BACKLOG_OCTETS", 20000)
    for n in range(100):
        port.tx_burst(burst_of(numbered(n, 1500)))
    assert len(port._backlog) <= 20000
    stats, stream = port.statistics(), drain(port, peer)
    assert len(stream) == 1504 * stats.tx_frames
    assert stats.tx_frames + stats.tx_dropped == 100
    assert stats.tx_dropped > 50
    assert stream[:1504] == (1500).to_bytes(4, "big") + numbered(0, 1500)


@pytest.mark.parametrize("taken", [1, 3, 4, 5, 10, 64, 65, 67, 68, 100, 127, 128])
def test_framed_rest_of_a_stream_from_any_byte(taken: int) -> None:
    burst = burst_of(numbered(1, 60), numbered(2, 60))
    whole = b"".join((60).to_bytes(4, "big") + numbered(n, 60) for n in (1, 2))
    out, tally = ffi.new("uint8_t[]", 128), ffi.new("uint64_t[3]")
    n = lib.framed_rest(burst.array, 2, taken, out, 0, 128, tally)
    begun = -(-taken // 64) * 64
    assert bytes(ffi.buffer(out, n)) == whole[taken:begun]  # no room, but for what was begun
    assert list(tally) == [begun // 64, 60 * (begun // 64), 2 - begun // 64]
    n = lib.framed_rest(burst.array, 2, taken, out, 128, 128, tally)
    assert bytes(ffi.buffer(out, n)) == whole[taken:]


def test_framed_sends_nothing_for_a_frame_without_bytes(
    ends: tuple[FramedPort, socket.socket],
) -> None:
    port, peer = ends
    port.tx_burst(burst_of(b"", numbered(1, 60), b""))
    assert peer.recv(999) == (60).to_bytes(4, "big") + numbered(1, 60)
    assert (port.statistics().tx_frames, port.statistics().tx_dropped) == (1, 2)


def test_framed_closed_by_the_peer(ends: tuple[FramedPort, socket.socket]) -> None:
    port, peer = ends
    peer.send((60).to_bytes(4, "big") + numbered(1, 60))
    peer.close()
    burst = Burst()
    assert port.rx_burst(burst) == 1
    port.rx_done(burst)
    port.tx_burst(burst_of(numbered(1, 60)))
    assert (port.statistics().tx_frames, port.statistics().tx_dropped) == (0, 1)
    with pytest.raises(PortClosed, match="qemu: the peer closed the stream"):
        port.rx_burst(burst)


def test_framed_full_bursts_leave_frames_in_the_buffer(
    ends: tuple[FramedPort, socket.socket],
) -> None:
    port, peer = ends
    peer.sendall(b"".join(b"\0\0\0\x14" + numbered(n, 20) for n in range(10)))
    burst, got = Burst(4), []
    while port.rx_burst(burst):
        got += [burst.octets(i) for i in range(burst.count)]
        port.rx_done(burst)
    assert got == [numbered(n, 20) for n in range(10)]
    assert port.statistics().rx_octets == 200


# TapPort, over a datagram socket: a frame a message, as with the device


def test_tap_backlog_flushes_in_order() -> None:
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    b.setblocking(False)
    port = TapPort(a.detach())
    sent = 0
    while not port.stalled and sent < 5000:
        port.tx_burst(burst_of(*(numbered(n) for n in range(sent, sent + 50)), b""))
        sent += 50
    port.tx_burst(burst_of(numbered(sent)))  # behind the backlog, not past it
    got = []
    with b:
        while port.stalled or select.select([b], [], [], 0)[0]:
            while select.select([b], [], [], 0)[0]:
                got.append(b.recv(2000)[12:])
            port.flush()
    assert got == [numbered(n) for n in range(sent + 1)]
    assert (port.statistics().tx_frames, port.statistics().tx_dropped) == (sent + 1, sent // 50)
    port.close()
    port.close()
    with pytest.raises(PortClosed, match="tap0: reading the TAP device failed"):
        port.rx_burst(Burst())


# PairPort


def readable(port: Port) -> bool:
    return bool(select.select([port], [], [], 0)[0])


def test_pair_stalls_and_wakes_its_sender_once_there_is_room() -> None:
    a, b = pair.pair()
    frames = [bytes(65000)] * 70
    a.tx_burst(burst_of(*frames))
    assert a.stalled
    assert not readable(a)
    assert not select.select([], [a], [], 0)[1]  # who waits to flush it does not spin
    burst, taken = Burst(2), 0
    while a.stalled:
        taken += b.rx_burst(burst)
    assert taken < 70
    assert readable(a)
    assert a.rx_burst(burst) == 0
    assert not readable(a)


def test_pair_drops_beyond_twice_its_bound() -> None:
    a, _ = pair.pair()
    for _ in range(3):
        a.tx_burst(burst_of(*[bytes(65000)] * 64))
    stats = a.statistics()
    assert stats.tx_frames == 2 * pair.QUEUE_OCTETS // (65000 + FRAME_COST)
    assert stats.tx_frames + stats.tx_dropped == 192


def test_pair_closed_after_what_is_queued() -> None:
    a, b = pair.pair("a", "b")
    a.tx_burst(burst_of(b"x" * 60))
    a.close()
    a.close()
    burst = Burst()
    assert b.rx_burst(burst) == 1
    assert readable(b)
    with pytest.raises(PortClosed, match="b: the other end was closed"):
        b.rx_burst(burst)
    b.tx_burst(burst_of(b"y" * 60))
    assert b.statistics().tx_dropped == 1
    with pytest.raises(PortClosed, match="a: the port was closed"):
        a.rx_burst(burst)


# Listener


def test_pair_that_nobody_closed_holds_no_descriptor() -> None:
    left, right = pair.pair()
    held = [left.fileno(), left._event, right.fileno(), right._event]
    del left, right
    gc.collect()
    for fd in held:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_listener_accepts_and_removes_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "q"
    listener = framed.listen(str(path), mtu=1400)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
        (port,) = listener.accept()
        assert (port.name, port.mtu, listener.accept()) == ("qemu1", 1400, [])
        port.close()
    listener.close()
    listener.close()
    assert not path.exists()


def test_listener_replaces_a_stale_socket_and_refuses_a_live_one(tmp_path: Path) -> None:
    path = str(tmp_path / "q")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    first = framed.listen(path, mtu=1500)
    with pytest.raises(UsageError, match=r"cannot listen on .*/q: Address already in use"):
        framed.listen(path, mtu=1500)
    first.close()


def test_listener_with_a_full_queue_is_live(tmp_path: Path) -> None:
    path = str(tmp_path / "q")
    with socket.socket(socket.AF_UNIX) as live, socket.socket(socket.AF_UNIX) as one:
        live.bind(path)
        live.listen(0)
        one.connect(path)
        with pytest.raises(UsageError, match="Address already in use"):
            framed.listen(path, mtu=1500)


@pytest.mark.parametrize("name", ["file", "x" * 200, "no/such"])
def test_listener_says_what_is_wrong(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UsageError, match=r"cannot listen on \S+: (?!None)\w+"):
        framed.listen(str(tmp_path / name), mtu=1500)
    assert (tmp_path / "file").read_text() == "kept"

"""virtio-vsock under a driver: queues, buffers, turns, and packets that no driver should send."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from mmio_driver import ALL, NO_EVENT_IDX, Bench
from vsock_guest import BUFFER, CID, WINDOW, VsockGuest

from hypervisor.devices import vsock_burst
from hypervisor.devices.queue import cut
from hypervisor.devices.registers import Register
from hypervisor.devices.vsock import EVENT, HEADER_LEN, RECEIVE, TRANSMIT, VsockDevice
from hypervisor.errors import UsageError
from hypervisor.vsock import wire
from hypervisor.vsock.connection import Connection
from hypervisor.vsock.table import RESETS_MAX
from hypervisor.vsock.wire import Op, Shutdown

MakeBench = Callable[..., Bench]


class Mouth:
    """An end that takes all, and has what is put into `words`."""

    source = -1

    def __init__(self, host: Host, connection: Connection) -> None:
        self.host = host
        self.connection = connection
        self.heard = b""
        self.mouthfuls: list[bytes] = []
        self.words = b""
        self.asked = 0
        self.shutdowns: list[int] = []
        self.why: list[str] = []
        self.begun = 0
        self.swallow = True
        connection.user = self

    def established(self) -> None:
        self.begun += 1

    def take(self, pieces: list[memoryview]) -> None:
        self.mouthfuls.append(b"".join(pieces))
        self.heard += self.mouthfuls[-1]
        if self.swallow:
            self.host.device.consumed(self.connection, sum(map(len, pieces)))

    def received(self, result: int) -> int:
        raise AssertionError("there is no source")

    def fill(self, pieces: list[memoryview]) -> int:
        self.asked += 1
        before = len(self.words)
        for piece in pieces:
            part, self.words = self.words[: len(piece)], self.words[len(piece) :]
            piece[: len(part)] = part
        return before - len(self.words)

    def peer_shutdown(self) -> None:
        self.shutdowns.append(self.connection.peer_shutdown)

    def closed(self, why: str, clean: bool) -> None:
        self.why.append(why)

    def say(self, data: bytes) -> None:
        self.words += data
        self.host.device.wake(self.connection)


class Host:
    """A device that accepts what goes to ports below 1000."""

    def __init__(self, **options: int) -> None:
        self.device = VsockDevice(CID, self.offered, **options)
        self.mouths: list[Mouth] = []

    def offered(self, connection: Connection) -> None:
        if connection.host_port >= 1000:
            self.device.abort(connection)
            return
        self.mouths.append(Mouth(self, connection))
        self.device.accept(connection)


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def guest(bench: MakeBench, host: Host) -> VsockGuest:
    return VsockGuest(bench(host.device).start())


def connected(guest: VsockGuest, host: Host, **fields: int) -> Mouth:
    guest.give()
    guest.send(Op.REQUEST, **fields)
    assert guest.ops() == [Op.RESPONSE]
    return host.mouths[-1]


def test_the_configuration_is_the_cid(bench: MakeBench, host: Host) -> None:
    started = bench(host.device).start()
    assert started.read(Register.CONFIG, 8) == CID
    assert [queue.attached for queue in host.device._line.queues] == [True] * 3  # type: ignore[union-attr]


@pytest.mark.parametrize("cid", [0, 2, 2**32 - 1])
def test_a_cid_that_no_guest_may_have(cid: int) -> None:
    with pytest.raises(UsageError, match="cid is"):
        VsockDevice(cid, lambda connection: None)


@pytest.mark.parametrize("features", [ALL, NO_EVENT_IDX])
def test_bytes_both_ways(bench: MakeBench, host: Host, features: int) -> None:
    guest = VsockGuest(bench(host.device).start(features))
    mouth = connected(guest, host)
    guest.send(Op.RW, b"to the host")
    assert mouth.heard == b"to the host"
    guest.give(2)
    mouth.say(b"x" * (BUFFER + 3))
    packets = guest.packets()
    assert [(p.op, p.len, len(data)) for p, data in packets] == [
        (Op.RW, BUFFER, BUFFER),
        (Op.RW, 3, 3),
    ]
    assert packets[0][0].fwd_cnt == 11
    assert (packets[0][0].src_port, packets[0][0].dst_port) == (80, 1024)


def test_a_packet_in_pieces(guest: VsockGuest, host: Host) -> None:
    mouth = connected(guest, host)
    header = _header(guest, b"abcdef")
    guest.raw(header[:20], header[20:] + b"abc", b"def", b"and more than it says")
    assert mouth.heard == b"abcdef"


def test_packets_in_a_row_are_taken_at_once(
    guest: VsockGuest, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their order, all of them before what follows, whoever else sends in between."""
    mouth, other = connected(guest, host), connected(guest, host, src_port=1025)
    monkeypatch.setattr(vsock_burst, "PACKETS", 2)
    at_the_end: list[bytes] = []
    mouth.peer_shutdown = lambda: at_the_end.append(mouth.heard)  # type: ignore[method-assign]
    bench, common = guest.bench, {"src_cid": CID, "dst_cid": 2, "dst_port": 80}
    for port, op, data in (
        (1024, Op.RW, b"one "),
        (1024, Op.CREDIT_UPDATE, b""),
        (1024, Op.RW, b"two "),
        (1025, Op.RW, b"else"),
        *((1024, Op.RW, b"%d " % i) for i in range(3)),
        (1024, Op.SHUTDOWN, b""),
    ):
        header = wire.Repr(
            **common, src_port=port, op=op, len=len(data), buf_alloc=WINDOW,
            flags=Shutdown.SEND if op is Op.SHUTDOWN else 0,
        )  # fmt: skip
        bench.rings[TRANSMIT].add(bench.readable(wire.emit(header) + data))
    bench.kick(TRANSMIT)
    rest = [b"%d " % i for i in range(3)]
    assert mouth.mouthfuls == [b"one two ", b"".join(rest[:2]), rest[2]]
    assert other.mouthfuls == [b"else"]
    assert at_the_end == [mouth.heard]
    assert len(bench.rings[TRANSMIT].used_elements()) == 8


def _header(guest: VsockGuest, payload: bytes) -> bytes:
    return wire.emit(wire.Repr(CID, 2, 1024, 80, len(payload), op=Op.RW, buf_alloc=WINDOW))


def test_no_buffers_no_work(guest: VsockGuest, host: Host) -> None:
    """An end whose guest gives no buffers is not asked, and is when there are some."""
    mouth = connected(guest, host)
    mouth.say(b"waiting")
    guest.bench.turn()
    assert mouth.asked == 0
    guest.give(2)
    assert [data for _, data in guest.packets()] == [b"waiting"]
    guest.bench.turn()
    assert mouth.asked == 2  # the second had nothing


def test_no_credit_no_work(guest: VsockGuest, host: Host) -> None:
    mouth = connected(guest, host, buf_alloc=5)
    guest.give(4)
    mouth.say(b"123456789")
    (first, data), (second, _) = guest.packets()
    assert (first.op, data) == (Op.RW, b"12345")
    assert second.op == Op.CREDIT_REQUEST
    guest.bench.turn()
    assert mouth.asked == 1
    guest.send(Op.CREDIT_UPDATE, buf_alloc=5, fwd_cnt=5)
    assert [data for _, data in guest.packets()] == [b"6789"]


def test_spare_buffers_are_used_in_order(guest: VsockGuest, host: Host) -> None:
    mouth = connected(guest, host)
    guest.give(3)
    for word in (b"one", b"two", b"three"):
        mouth.say(word)
    assert [data for _, data in guest.packets()] == [b"one", b"two", b"three"]


def test_two_ends_take_turns(guest: VsockGuest, host: Host) -> None:
    loud = connected(guest, host)
    quiet = connected(guest, host, src_port=1025)
    loud.words = b"L" * (64 * BUFFER)
    loud.host.device.wake(loud.connection)
    quiet.say(b"quiet")
    order = b""
    for _ in range(20):
        guest.give(4)
        order += b"".join(data[:1] for _, data in guest.packets())
    assert order.index(b"q") <= 4
    assert order.count(b"L") == 64


def test_credit_is_returned_as_the_end_takes(guest: VsockGuest, host: Host) -> None:
    mouth = connected(guest, host)
    mouth.swallow = False
    block = bytes(16384)
    for _ in range(16):
        guest.send(Op.RW, block)
    guest.give(4)
    assert guest.ops() == []
    host.device.consumed(mouth.connection, 1 << 17)
    ((update, _),) = guest.packets()
    assert (update.op, update.fwd_cnt) == (Op.CREDIT_UPDATE, 1 << 17)
    assert not mouth.why


def test_more_than_the_credit_ends_the_connection(guest: VsockGuest, host: Host) -> None:
    mouth = connected(guest, host)
    mouth.swallow = False
    for _ in range(17):
        guest.send(Op.RW, bytes(16384))
    guest.give()
    assert guest.ops() == [Op.RST]
    assert "credit" in mouth.why[0]
    assert len(mouth.heard) == 1 << 18


def test_refused_and_unknown(guest: VsockGuest, host: Host) -> None:
    guest.give(3)
    guest.send(Op.REQUEST, dst_port=1000)
    guest.send(Op.RW, b"?")
    guest.send(Op.RST)
    assert guest.ops() == [Op.RST, Op.RST]
    assert host.device.table.statistics().unknown == 2


@pytest.mark.parametrize("parts", [(b"",), (b"x" * 43,), (b"x" * 20, b"y" * 20)])
def test_chains_without_a_header(guest: VsockGuest, host: Host, parts: tuple[bytes, ...]) -> None:
    if parts == (b"",):
        guest.bench.rings[TRANSMIT].add(guest.bench.writable(64))
        guest.bench.kick(TRANSMIT)
    else:
        assert guest.raw(*parts) == 1
    assert host.device.malformed == 1
    assert not guest.bench.needs_reset


def test_receive_buffers_without_room(guest: VsockGuest, host: Host) -> None:
    mouth = connected(guest, host)
    mouth.say(b"data")
    guest.give(2, size=0)
    used = guest.bench.rings[RECEIVE].used_elements()
    assert [written for _, written in used] == [0, 0]
    guest._given.clear()
    assert host.device.malformed == 2
    guest.give()
    assert guest.packets()[0][1] == b"data"


def test_a_flood_of_unknown_packets_waits_for_buffers(guest: VsockGuest, host: Host) -> None:
    """Answers are bounded: past that, packets stay in the transmit queue until some are gone."""
    for port in range(RESETS_MAX):
        assert guest.send(Op.RW, src_port=port) == 1
    assert guest.send(Op.RW, src_port=5000) == 0
    guest.give()
    assert guest.ops() == [Op.RST]
    assert guest.bench.rings[TRANSMIT].used_elements()


def test_a_flood_in_one_kick_goes_on_without_another(guest: VsockGuest, host: Host) -> None:
    for port in range(RESETS_MAX - 1):
        guest.send(Op.RW, src_port=port)
    ring = guest.bench.rings[TRANSMIT]
    for port in (5000, 5001, 5002):
        packet = wire.Repr(CID, 2, port, 80, op=Op.RW)
        ring.add(guest.bench.readable(wire.emit(packet)))
    guest.bench.kick(TRANSMIT)
    assert len(ring.used_elements()) == 1
    guest.give()
    assert len(ring.used_elements()) == 1
    guest.give()
    assert len(ring.used_elements()) == 1


def test_shutdown_reaches_the_end_and_close_answers(guest: VsockGuest, host: Host) -> None:
    mouth = connected(guest, host)
    guest.send(Op.SHUTDOWN, flags=2)
    guest.send(Op.SHUTDOWN, flags=1)
    assert mouth.shutdowns == [Shutdown.SEND, Shutdown.BOTH]
    guest.give()
    host.device.end(mouth.connection)
    assert guest.ops() == [Op.RST]


def test_a_reset_ends_connections(guest: VsockGuest, host: Host) -> None:
    mouth = connected(guest, host)
    mouth.say(b"lost")
    guest.bench.start()
    assert mouth.why == ["the guest's driver was reset"]
    again = VsockGuest(guest.bench)
    assert connected(again, host) is not mouth


def test_a_request_waits_for_a_driver(bench: MakeBench, host: Host) -> None:
    device = bench(host.device)
    host.device.bind(device.loop)
    connection = host.device.table.connect(1024, device.loop.time() + 60)
    assert connection is not None
    mouth = Mouth(host, connection)
    host.device.pump()
    guest = VsockGuest(device.start())
    guest.give()
    assert guest.ops() == [Op.REQUEST]
    guest.send(Op.RESPONSE, src_port=1024, dst_port=connection.host_port)
    assert mouth.begun == 1


def test_transport_reset(guest: VsockGuest, host: Host) -> None:
    mouth = connected(guest, host)
    event = guest.bench.writable(4)
    guest.bench.guest.write(event.gpa, b"\xff" * 4)
    guest.bench.rings[EVENT].add(event)
    host.device.transport_reset()
    assert guest.bench.octets(event) == bytes(4)
    assert mouth.why
    assert connected(guest, host)


def test_no_time_passes_in_a_pause(guest: VsockGuest, host: Host) -> None:
    device, loop = host.device, guest.bench.loop
    at = loop.time()
    loop.time = lambda: at  # type: ignore[method-assign]
    connection = device.table.connect(1024, device.now + 5)
    assert connection is not None
    mouth = Mouth(host, connection)
    guest.give(2)
    assert guest.ops() == [Op.REQUEST]
    device.pause()
    at += 100
    guest.bench.turn()
    device.resume()
    at += 4
    guest.bench.turn()
    assert not mouth.why
    at += 2
    guest.bench.turn()
    assert mouth.why == ["the guest does not answer"]
    assert guest.ops() == [Op.RST]


def test_suspended_connections_live_on(guest: VsockGuest, host: Host) -> None:
    mouth = connected(guest, host)
    line = host.device._line
    assert line is not None
    host.device.suspend()
    mouth.say(b"kept")
    host.device.activate(line)
    guest.give()
    assert [data for _, data in guest.packets()] == [b"kept"]


def test_cut() -> None:
    pieces = [memoryview(b"abc"), memoryview(b""), memoryview(b"defg")]
    assert [bytes(part) for part in cut(pieces, 2, 3)] == [b"c", b"de"]
    assert cut(pieces, 0, 0) == []
    assert cut(pieces, 9, 5) == []
    assert b"".join(cut(pieces, 3, 99)) == b"defg"


def test_header_length() -> None:
    assert HEADER_LEN == 44

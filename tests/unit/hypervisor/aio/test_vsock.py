"""Streams and unix sockets of a Vsock, whose guest is a driver's hands on a bench."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "devices"))

from mmio_driver import Bench
from vsock_guest import CID, VsockGuest

from hypervisor.aio.vsock import TIMEOUT, Vsock
from hypervisor.aio.vsock_doors import firecracker, hyperkit
from hypervisor.aio.vsock_socket import SocketEnd
from hypervisor.devices.vsock import HEADER_LEN, RECEIVE
from hypervisor.errors import UsageError
from hypervisor.vsock.wire import Op, Repr

GUEST_PORT, HOST_PORT = 1024, 80
WINDOW = 1 << 18


class Rig:
    """A Vsock on a bench; the loop turns when told."""

    def __init__(self, vsock: Vsock) -> None:
        self.vsock = vsock
        self.bench = Bench(vsock.device, 1 << 21)
        self.loop = self.bench.loop
        self.run(self._open)
        self.bench.start(size=64)
        self.guest = VsockGuest(self.bench)
        self.guest.give(16)

    async def _open(self) -> None:
        self.vsock.open()

    def run(self, go: Callable[[], object]) -> None:
        self.loop.run_until_complete(go())  # type: ignore[arg-type]

    def turn(self, times: int = 3) -> None:
        for _ in range(times):
            self.bench.turn()

    def requested(self) -> Repr:
        """Return the request that came to the guest."""
        self.turn()
        ((packet, _),) = self.guest.packets()
        assert (packet.op, packet.dst_port) == (Op.REQUEST, GUEST_PORT)
        return packet

    def respond(
        self, request: Repr, op: Op = Op.RESPONSE, payload: bytes = b"", **more: int
    ) -> None:
        ports = {"src_port": request.dst_port, "dst_port": request.src_port}
        self.guest.send(op, payload, **ports, **more)
        self.turn()

    def heard(self) -> bytes:
        """Return the payload that came to the guest, which gives the buffers back."""
        self.turn()
        packets = self.guest.packets()
        self.guest.give(len(packets))
        return b"".join(data for _, data in packets)

    def ops(self) -> list[Op]:
        self.turn()
        ops = self.guest.ops()
        self.guest.give(len(ops))
        return ops

    def close(self) -> None:
        self.vsock.close()
        self.turn()
        self.bench.close()


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []
    before = len(os.listdir("/proc/self/fd"))

    def make(*args: object, **options: object) -> Rig:
        made.append(Rig(Vsock(CID, *args, **options)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()
    assert len(os.listdir("/proc/self/fd")) <= before


Make = Callable[..., Rig]


def connected(rig: Rig) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Repr]:
    task = rig.loop.create_task(rig.vsock.connect(GUEST_PORT))
    request = rig.requested()
    rig.respond(request)
    return *task.result(), request


def ask(path: Path, request: bytes = b"") -> socket.socket:
    """Connect to a socket of the host's as a program would."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    sock.sendall(request)
    sock.settimeout(0)
    return sock


def ended(sock: socket.socket) -> bool:
    with sock:
        try:
            return sock.recv(1) == b""
        except ConnectionResetError:  # with bytes that nobody read
            return True


def test_streams_both_ways(rig: Make) -> None:
    world = rig()
    reader, writer, request = connected(world)
    assert writer.get_extra_info("peername") == (CID, GUEST_PORT)
    writer.write(b"ping ")
    writer.writelines([b"a", b"b"])
    assert world.heard() == b"ping ab"
    world.respond(request, Op.RW, b"pong")
    world.respond(request, Op.SHUTDOWN, flags=2)
    assert world.loop.run_until_complete(reader.read()) == b"pong"
    writer.write(b"last")
    writer.write_eof()
    assert world.heard() == b"last"
    writer.close()
    world.turn()
    world.respond(request, Op.RST)
    world.run(writer.wait_closed)
    assert len(world.vsock.device.table) == 0


def test_drain_waits_for_the_guests_credit(rig: Make) -> None:
    world = rig()
    task = world.loop.create_task(world.vsock.connect(GUEST_PORT))
    request = world.requested()
    world.respond(request, buf_alloc=8192)
    _, writer = task.result()
    writer.write(bytes(100_000))
    drained = world.loop.create_task(writer.drain())
    total = len(world.heard())
    assert total == 8192
    assert not drained.done()
    for _ in range(20):
        world.respond(request, Op.CREDIT_UPDATE, buf_alloc=8192, fwd_cnt=total)
        total += len(world.heard())
    assert total == 100_000
    assert drained.done()


def test_a_full_reader_holds_the_guest_back(rig: Make) -> None:
    world = rig()
    reader, writer, request = connected(world)
    block = bytes(32768)
    for _ in range(8):
        world.respond(request, Op.RW, block)
    assert Op.CREDIT_UPDATE in world.ops()
    (connection,) = world.vsock.device.table._connections.values()
    held = connection.held
    assert held == 3 * 32768, "StreamReader pauses above twice its limit of 64 KiB"
    assert len(world.loop.run_until_complete(reader.readexactly(5 * 32768))) == 5 * 32768
    world.turn()
    assert connection.held == 0
    writer.close()


def test_a_guest_that_refuses_or_says_nothing(rig: Make) -> None:
    world = rig()
    task = world.loop.create_task(world.vsock.connect(GUEST_PORT))
    world.respond(world.requested(), Op.RST)
    assert isinstance(task.exception(), ConnectionRefusedError)
    task = world.loop.create_task(world.vsock.connect(GUEST_PORT))
    world.requested()
    at = world.loop.time() + TIMEOUT
    world.loop.time = lambda: at  # type: ignore[method-assign]
    world.turn()
    assert isinstance(task.exception(), TimeoutError)
    assert world.ops() == [Op.RST]


def test_a_cancelled_connect_resets(rig: Make) -> None:
    world = rig()
    task = world.loop.create_task(world.vsock.connect(GUEST_PORT))
    world.requested()
    task.cancel()
    assert world.ops() == [Op.RST]
    assert task.cancelled()


def test_a_server_and_a_reset(rig: Make) -> None:
    world = rig()
    got: list[bytes | type[Exception]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readexactly(5))
        try:
            await reader.read()
        except ConnectionResetError as error:
            got.append(type(error))
        writer.close()

    async def start() -> None:
        server = await world.vsock.start_server(serve, HOST_PORT)
        with pytest.raises(UsageError, match="has a server"):
            await world.vsock.start_server(serve, HOST_PORT)
        servers.append(server)

    servers: list[object] = []
    world.run(start)
    world.guest.send(Op.REQUEST)
    assert world.ops() == [Op.RESPONSE]
    world.guest.send(Op.RW, b"hello")
    world.guest.send(Op.RST)
    world.turn()
    assert got == [b"hello", ConnectionResetError]
    servers[0].close()  # type: ignore[attr-defined]
    world.guest.send(Op.REQUEST)
    assert world.ops() == [Op.RST]


def test_a_guest_that_closes_is_answered_after_its_data(rig: Make) -> None:
    world = rig()
    reader, writer, request = connected(world)
    world.respond(request, Op.RW, b"all")
    world.respond(request, Op.SHUTDOWN, flags=3)
    assert world.ops() == [Op.RST]
    assert world.loop.run_until_complete(reader.read()) == b"all"
    writer.write(b"nobody")
    with pytest.raises(ConnectionResetError):
        world.run(writer.drain)


def test_the_end_of_the_machine_wakes_everybody(rig: Make) -> None:
    world = rig()
    reader, _, _ = connected(world)
    waiting = world.loop.create_task(reader.read())
    late = world.loop.create_task(world.vsock.connect(9))
    world.turn()
    world.vsock.close()
    world.turn()
    assert isinstance(waiting.exception(), ConnectionResetError)
    assert isinstance(late.exception(), OSError)


def test_hyperkits_names(rig: Make, tmp_path: Path) -> None:
    world = rig(tmp_path, forwards=(GUEST_PORT,))
    for name in ("connect", "00000003.00000400"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    for path, request in (
        (tmp_path / "connect", b"00000003.00000400\nearly"),
        (tmp_path / "guest.00000400", b"early"),
    ):
        with ask(path, request) as sock:
            world.respond(world.requested())
            assert world.heard() == b"early"
            sock.sendall(b"late")
            assert world.heard() == b"late"
        assert world.ops() == [Op.SHUTDOWN]
    world.vsock.close()
    assert list(tmp_path.iterdir()) == []


def test_firecrackers_name(rig: Make, tmp_path: Path) -> None:
    world = rig(None, tmp_path / "fc")
    with ask(tmp_path / "fc", b"CONNECT 1024\nearly") as sock:
        request = world.requested()
        world.respond(request)
        assert sock.recv(99) == b"OK %d\n" % request.src_port
        assert world.heard() == b"early"
        world.respond(request, Op.RW, b"back")
        assert sock.recv(99) == b"back"


@pytest.mark.parametrize("batched", [True, False])
def test_a_socket_fills_buffers_of_any_shape(
    rig: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batched: bool
) -> None:
    """By one call of C for many, or one by one in Python: the same packets."""
    if not batched:
        monkeypatch.setattr(SocketEnd, "source", -1)
    world = rig(None, tmp_path / "fc")
    with ask(tmp_path / "fc", b"CONNECT 1024\n") as sock:
        request = world.requested()
        world.respond(request, buf_alloc=70_001)
        assert sock.recv(99)
        for size in (1, 100, 65536):
            world.guest.give(1, size=size)
        data = random.Random(1).randbytes(200_000)
        sock.sendall(data)
        world.turn()
        packets = world.guest.packets()
        sizes = [len(payload) for _, payload in packets if payload]
        assert sizes == [4096] * 15 + [1, 100, 70_001 - 15 * 4096 - 101]
        assert b"".join(payload for _, payload in packets) == data[:70_001]
        headers = {str(replace(packet, len=0)) for packet, payload in packets if payload}
        assert headers == {str(replace(packets[0][0], len=0))}
        assert all(packet.len == len(payload) for packet, payload in packets if payload)
        assert world.vsock.statistics().octets_out == 70_001
        world.guest.give(30)
        world.respond(request, Op.CREDIT_UPDATE, fwd_cnt=70_001, buf_alloc=70_001)
        assert world.heard() == data[70_001:140_002]


@pytest.mark.parametrize("batched", [True, False])
def test_odd_buffers(
    rig: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batched: bool
) -> None:
    """Without room for data, with something to read in front of the room, of very many pieces."""
    if not batched:
        monkeypatch.setattr(SocketEnd, "source", -1)
    world = rig(None, tmp_path / "fc")
    bench = world.guest.bench
    with ask(tmp_path / "fc", b"CONNECT 1024\n") as sock:
        world.respond(world.requested())
        sock.sendall(bytes(15 * 4096))
        world.turn()
        assert sum(len(data) for _, data in world.guest.packets()) == 15 * 4096
        empty = bench.rings[RECEIVE].add(bench.writable(HEADER_LEN))
        mixed = bench.rings[RECEIVE].add(bench.readable(b"x"), bench.writable(HEADER_LEN + 9))
        bench.kick(RECEIVE)
        sock.sendall(b"something")
        world.turn()
        assert bench.rings[RECEIVE].used_elements() == [(empty, 0), (mixed, HEADER_LEN + 9)]
        pieces = [bench.writable(10) for _ in range(300)]
        many = bench.rings[RECEIVE].add_indirect(*pieces)
        bench.kick(RECEIVE)
        sock.sendall(b"else")
        world.turn()
        assert bench.rings[RECEIVE].used_elements() == [(many, HEADER_LEN + 4)]
        got = b"".join(map(bench.octets, pieces))
        assert got[HEADER_LEN : HEADER_LEN + 4] == b"else"


@pytest.mark.parametrize("at", [1, 8, 17])
def test_requests_in_pieces(rig: Make, tmp_path: Path, at: int) -> None:
    world = rig(tmp_path)
    request = b"00000003.00000400\n"
    with ask(tmp_path / "connect", request[:at]) as sock:
        world.turn()
        sock.sendall(request[at:] + b"x")
        world.respond(world.requested())
        assert world.heard() == b"x"


def test_what_is_no_request_is_closed(rig: Make, tmp_path: Path) -> None:
    world = rig(tmp_path, tmp_path / "fc")
    asked = [
        ask(tmp_path / "connect", b"00000004.00000400\n"),
        ask(tmp_path / "connect", b"0000000300000400xx"),
        ask(tmp_path / "fc", b"CONNECT 99999999999\n"),
        ask(tmp_path / "fc", b"GET / HTTP/1.1\r\n\r\n"),
        ask(tmp_path / "fc", b"x" * 19),
    ]
    world.turn(8)
    assert all(map(ended, asked))
    assert world.ops() == []
    silent = ask(tmp_path / "fc", b"CONN")
    silent.close()
    world.turn()


@pytest.mark.parametrize("kind", ["hyperkit", "firecracker"])
def test_the_guest_reaches_sockets_of_the_host(rig: Make, tmp_path: Path, kind: str) -> None:
    world = rig(tmp_path, tmp_path / "fc")
    name = "00000002.00000050" if kind == "hyperkit" else "fc_80"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / name))
        listener.listen()
        world.guest.send(Op.REQUEST)
        assert world.ops() == [Op.RESPONSE]
        sock = listener.accept()[0]
        with sock:
            world.guest.send(Op.RW, b"to a socket")
            assert sock.recv(99) == b"to a socket"
            world.guest.send(Op.SHUTDOWN, flags=2)
            assert sock.recv(99) == b""
            sock.sendall(b"answer")
            sock.shutdown(socket.SHUT_WR)
            world.turn()
            packets = world.guest.packets()
            assert [Op(p.op) for p, _ in packets] == [Op.RW, Op.SHUTDOWN]
            assert packets[0][1] == b"answer"
            assert packets[1][0].flags == 3
    world.guest.send(Op.RST)
    (tmp_path / name).unlink()
    world.guest.send(Op.REQUEST)
    assert world.ops() == [Op.RST]


def test_a_slow_socket_holds_the_guest_back_and_gets_all(rig: Make, tmp_path: Path) -> None:
    world = rig(None, tmp_path / "fc")
    with ask(tmp_path / "fc", b"CONNECT 1024\n") as sock:
        request = world.requested()
        world.respond(request)
        sock.recv(99)
        (connection,) = world.vsock.device.table._connections.values()
        sent = 0
        while connection.held < WINDOW - 60_000:
            world.respond(request, Op.RW, b"%c" % (sent % 251) * 60_000)
            sent += 1
        assert not connection.want
        world.respond(request, Op.RST)  # what it sent is still delivered
        got = b""
        while True:
            world.turn()
            try:
                part = sock.recv(1 << 20)
            except BlockingIOError:
                continue
            if not part:
                break
            got += part
        assert got == b"".join(b"%c" % (i % 251) * 60_000 for i in range(sent))


def test_what_waits_for_slow_programs_is_bounded(rig: Make, tmp_path: Path) -> None:
    """A guest that sends, resets and connects again fills no more than `limit` buffers."""
    world = rig(None, tmp_path / "fc", limit=2)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "fc_80"))
        listener.listen()
        for _ in range(2):
            world.guest.send(Op.REQUEST)
            assert Op.RESPONSE in world.ops()
            for _ in range(4):
                world.guest.send(Op.RW, bytes(60_000))
            world.guest.send(Op.RST)
        world.ops()
        world.guest.send(Op.REQUEST)
        assert world.ops() == [Op.RST]
        sock = listener.accept()[0]
        sock.settimeout(0)
        got = 0
        while got < 240_000:
            got += len(sock.recv(1 << 20))
            world.turn()
        sock.close()
        world.guest.send(Op.REQUEST)
        assert Op.RESPONSE in world.ops()


def test_a_program_that_goes_away_ends_the_connection(rig: Make, tmp_path: Path) -> None:
    world = rig(None, tmp_path / "fc")
    sock = ask(tmp_path / "fc", b"CONNECT 1024\n")
    request = world.requested()
    world.respond(request)
    sock.close()
    world.turn()
    ((packet, _),) = world.guest.packets()
    assert (packet.op, packet.flags) == (Op.SHUTDOWN, 3)


def test_a_full_backlog_is_asked_again(rig: Make, tmp_path: Path) -> None:
    world = rig(None, tmp_path / "fc")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(tmp_path / "fc_80"))
        listener.listen(0)
        first.connect(str(tmp_path / "fc_80"))
        world.guest.send(Op.REQUEST)
        assert world.ops() == []
        listener.accept()[0].close()
        at = world.loop.time() + 1
        world.loop.time = lambda: at  # type: ignore[method-assign]
        assert world.ops() == [Op.RESPONSE]
        listener.accept()[0].close()


def test_a_reader_is_not_watched_while_the_guest_has_no_room(rig: Make, tmp_path: Path) -> None:
    world = rig(None, tmp_path / "fc")
    with ask(tmp_path / "fc", b"CONNECT 1024\n") as sock:
        request = world.requested()
        world.respond(request, buf_alloc=4)
        sock.sendall(b"123456")
        assert world.heard() == b"1234"
        fd = next(iter(world.vsock._ends))._fd  # type: ignore[union-attr]
        assert not world.loop.remove_reader(fd)  # it would be ready for ever
        world.respond(request, Op.CREDIT_UPDATE, buf_alloc=4, fwd_cnt=4)
        assert world.heard() == b"56"


def test_sockets_that_cannot_be_had(rig: Make, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "fc"))
    rig(None, tmp_path / "fc")  # nobody listens: replaced
    loop = asyncio.new_event_loop()

    async def refused(vsock: Vsock, match: str) -> None:
        with pytest.raises(UsageError, match=match):
            vsock.open()

    (tmp_path / "file").touch()
    cases = (
        (Vsock(CID, firecracker=tmp_path / "fc"), "serves this socket already"),
        (Vsock(CID, tmp_path / "file"), "vsock directory"),
        (Vsock(CID, firecracker=tmp_path / "file"), "is no socket"),
        (Vsock(CID, firecracker="/" + "x" * 200), "at most 107"),
    )
    for vsock, match in cases:
        loop.run_until_complete(refused(vsock, match))
    loop.close()
    with pytest.raises(UsageError, match="need a directory"):
        Vsock(CID, forwards=(1,))
    with pytest.raises(UsageError, match="port is -1"):
        Vsock(CID, tmp_path, forwards=(-1,))


def test_parsers() -> None:
    parse = hyperkit(3)
    assert parse(b"00000003.0000") is None
    assert parse(b"00000003.0000FFff\n") == 0xFFFF
    assert firecracker(b"CONNECT 5") is None
    assert firecracker(b"connect 5\r\n") == 5
    with pytest.raises(ValueError, match="expected CONNECT"):
        firecracker(b"CONNECT -5\n")

"""Flows of a gateway on the express lane: lent while all goes well, and right whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from gatewaypair import HOST, LOOPBACK, GuestNode, network, until
from vpnstack.core._core import lib

from vpnstack.aio.lane import REASONS
from vpnstack.core.burst import Burst
from vpnstack.gateway import Gateway
from vpnstack.link.impair import Impaired, Impairment
from vpnstack.link.pair import pair
from vpnstack.stack import headers
from vpnstack.wire import ip
from vpnstack.wire.icmp import Kind

VERSIONS = pytest.mark.parametrize("version", [4, 6])
LINGER = b"\1\0\0\0\0\0\0\0"


class Talk:
    """A flow that is lent: the guest's streams, the host's socket, the bridge between them."""

    def __init__(self, gateway: Gateway, guest: GuestNode) -> None:
        self.gateway, self.guest = gateway, guest
        self.loop = asyncio.get_running_loop()
        assert gateway.driver.lane is not None
        self.lane = gateway.driver.lane

    async def open(self, version: int) -> None:
        server = socket.create_server(
            (LOOPBACK[version], 0), family=socket.AF_INET6 if version == 6 else socket.AF_INET
        )
        server.setblocking(False)
        port = server.getsockname()[1]
        self.reader, self.writer = await self.guest.open(HOST[version], port)
        self.sock, _ = await self.loop.sock_accept(server)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server.close()
        [self.bridge] = self.gateway.tcp.bridges
        for _ in range(5):
            await self.exchange(b"hello", b"world")
        await self.settled()

    async def settled(self) -> None:
        """Wait until the flow is lent and nothing is under way."""
        lease = self.bridge.flow
        await until(lambda: lease.lease is not None and lease.lease.snd_una == lease.lease.snd_nxt)

    async def exchange(self, up: bytes, down: bytes) -> None:
        """Carry a request and its answer."""
        self.writer.write(up)
        assert await self.take(len(up)) == up
        await self.loop.sock_sendall(self.sock, down)
        assert await self.reader.readexactly(len(down)) == down

    async def take(self, n: int) -> bytes:
        got = bytearray()
        while len(got) < n:
            data = await self.loop.sock_recv(self.sock, n - len(got))
            if not data:
                break
            got += data
        return bytes(got)

    async def gone(self) -> None:
        """Wait until nothing is left of it."""
        await until(lambda: not self.gateway.tcp.bridges)
        assert len(self.lane) == 0
        assert self.lane.deadline() is None
        assert self.bridge.flow.lease is None
        assert self.bridge.flow.fd == -1
        assert len(self.gateway.driver.poller) == 0


@contextlib.asynccontextmanager
async def talk(version: int = 4, **options: Any) -> AsyncIterator[Talk]:
    """A network with a flow that is lent."""
    async with network(**options) as (gateway, guest):
        t = Talk(gateway, guest)
        await t.open(version)
        yield t
        t.writer.close()
        t.sock.close()


@VERSIONS
async def test_requests_are_lent(version: int) -> None:
    async with talk(version) as t:
        lent, segments = t.lane.lent, t.bridge.flow.conn.n_segs_in
        for i in range(1, 100):
            await t.exchange(b"q" * i, b"a" * (3 * i))
        assert t.lane.lent == lent
        assert t.bridge.flow.conn.n_segs_in == segments
        assert t.bridge.bytes_out == 25 + 99 * 50
        assert t.bridge.bytes_in == 25 + 3 * 99 * 50


@VERSIONS
@pytest.mark.parametrize("slow", [False, True])
async def test_bulk_both_ways(version: int, slow: bool) -> None:
    """At once, in few leases, and then the flow is lent as before; a slow host takes sips."""
    size = 4 << 20 if slow else 16 << 20
    up, down = (random.Random(i).randbytes(size) for i in (1, 2))
    async with talk(version) as t:
        if slow:
            t.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        t.writer.write(up)
        send = asyncio.create_task(t.loop.sock_sendall(t.sock, down))
        back = asyncio.create_task(t.reader.readexactly(len(down)))
        got = hashlib.sha256()
        for left in range(len(up), 0, -65536):
            if slow:
                await asyncio.sleep(0)
            got.update(await t.take(min(left, 65536)))
        assert got.digest() == hashlib.sha256(up).digest()
        await send
        assert hashlib.sha256(await back).digest() == hashlib.sha256(down).digest()
        await t.settled()
        assert t.lane.lent < 200
        assert t.bridge.bytes_out == 25 + len(up)
        assert t.bridge.bytes_in == 25 + len(down)


async def test_counters() -> None:
    """Statistics do not tell what was lent from what was not."""
    async with talk() as t:
        stack = t.gateway.stack
        jack = t.gateway.port("guest")
        for _ in range(20):
            await t.exchange(b"x" * 3000, b"y" * 100)
        await until(lambda: t.lane.deadline() is None)
        before = stack.tcp.counters.segments_in
        port, seen = jack._port.statistics(), stack.statistics()  # type: ignore[union-attr]
        assert (seen.frames_in, seen.frames_out) == (port.rx_frames, port.tx_frames)
        t.bridge.flow.recall()
        info = t.bridge.flow.conn.statistics()
        assert info.tcpi_bytes_received == 25 + 20 * 3000
        assert info.tcpi_bytes_sent == 25 + 20 * 100
        assert before == stack.tcp.counters.segments_in


async def test_guest_ends_first() -> None:
    async with talk() as t:
        t.writer.write(b"last")
        t.writer.write_eof()
        assert await t.take(100) == b"last"
        t.sock.sendall(b"and more")
        t.sock.shutdown(socket.SHUT_WR)
        assert await t.reader.read() == b"and more"
        await t.gone()


async def test_host_ends_first() -> None:
    async with talk() as t:
        t.sock.sendall(b"last")
        t.sock.shutdown(socket.SHUT_WR)
        assert await t.reader.read() == b"last"
        t.writer.write(b"and more")
        t.writer.write_eof()
        assert await t.take(100) == b"and more"
        await t.gone()


async def test_host_ends_with_much_left() -> None:
    """The end comes with the data in one edge, which is all that there will be."""
    blob = random.Random(3).randbytes(3 << 20)
    async with talk() as t:
        t.sock.setblocking(True)
        send = t.loop.run_in_executor(None, t.sock.sendall, blob)
        got = asyncio.create_task(t.reader.read())
        await send
        t.sock.shutdown(socket.SHUT_WR)
        assert await got == blob
        t.writer.close()
        await t.gone()


async def test_guest_resets() -> None:
    async with talk() as t:
        t.writer.transport.abort()
        with pytest.raises(ConnectionResetError):
            await t.loop.sock_recv(t.sock, 1)
        await t.gone()
        assert not t.gateway.stack.tcp.flows


@pytest.mark.parametrize("writing", [False, True])
async def test_host_resets(writing: bool) -> None:
    """Found by the edge, or by the guest's data that comes in the same moment."""
    async with talk() as t:
        t.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
        t.sock.close()
        if writing:
            t.writer.write(b"x" * 100)
        with pytest.raises(ConnectionResetError):
            await t.reader.read()
        await t.gone()


async def test_port_detached() -> None:
    """The guest is gone for good, and so is its flow on the host's side."""
    async with talk() as t:
        t.gateway.port("guest").unplug()
        with pytest.raises(ConnectionResetError):
            await t.loop.sock_recv(t.sock, 1)
        await t.gone()
        assert not t.gateway.stack.tcp.flows


async def test_gateway_closed() -> None:
    async with talk() as t:
        t.writer.write(b"x")
        await t.take(1)  # an acknowledgement is owed
        await t.gateway.__aexit__()
        with pytest.raises(ConnectionResetError):
            await t.loop.sock_recv(t.sock, 1)
        assert len(t.lane) == 0


async def test_driver_closed() -> None:
    """Without a word to anybody: the lane is empty all the same."""
    async with talk() as t:
        t.gateway.driver.close()
        assert len(t.lane) == 0
        assert t.bridge.flow.lease is None
        t.bridge.close()


@pytest.mark.parametrize("kind", [Kind.HOST_UNREACHABLE, Kind.PORT_UNREACHABLE])
async def test_icmp_error(kind: Kind) -> None:
    """RFC 5927: no error ends an established connection, lent or not."""
    async with talk() as t:
        flow = t.bridge.flow
        seq = flow.lease.snd_una.to_bytes(4, "big")
        ports = flow.local[1].to_bytes(2, "big") + flow.remote[1].to_bytes(2, "big")
        quote = ip.emit(
            ip.Repr(flow.local[0], flow.remote[0], headers.TCP), ports + seq + bytes(12)
        )
        lent = t.lane.lent
        t.guest.stack.icmp.report_packet(quote, kind, t.guest.driver.now())
        t.guest.driver.wake()
        await until(lambda: t.lane.lent > lent)
        await t.exchange(b"still", b"here")


async def test_station_moves() -> None:
    """What the host says goes to the port where the guest was seen last."""
    async with talk() as t:
        near, far = pair()
        t.gateway.attach(far)
        hello, got = Burst(), Burst()
        mac = t.gateway.port("guest").mac
        hello.append(b"\xff" * 6 + mac + b"\x08\x06" + bytes(28))
        near.tx_burst(hello)
        await until(lambda: t.gateway.switch.port_of(mac) is far)
        got.clear()
        near.rx_burst(got)  # what was flooded
        await t.loop.sock_sendall(t.sock, b"where are you")
        await until(lambda: near.rx_burst(got))
        assert any(got.octets(i).endswith(b"where are you") for i in range(got.count))
        assert t.lane.lent == 1 or t.bridge.flow.lease is None
        near.close()
        await until(lambda: far not in t.gateway.switch.ports)


async def test_link_address_changes() -> None:
    """A neighbour's new address is asked for before the host's next octets leave."""
    async with talk() as t:
        flow, lent = t.bridge.flow, t.lane.lent
        t.gateway.stack.interface.neighbours.generation += 1
        await t.exchange(b"", b"where are you")
        assert flow.resolved_by == t.gateway.stack.interface.neighbours.generation
        await t.settled()
        assert t.lane.lent > lent


async def test_urgent_data_of_the_host_hides_nothing() -> None:
    """A read stops at the mark; what is behind it must not wait for another edge."""
    async with talk() as t:
        t.sock.sendall(b"abc")
        t.sock.send(b"!", socket.MSG_OOB)
        t.sock.sendall(b"def")
        assert await t.reader.readexactly(6) == b"abcdef"
        await t.exchange(b"go", b"on")


async def test_full_host_closes_the_window() -> None:
    """Nothing is read for a while: the lease goes on, keeps a window's worth, and no more."""
    blob = random.Random(4).randbytes(8 << 20)
    async with talk() as t:
        t.writer.write(blob)
        await until(lambda: t.bridge._writing)
        e = t.bridge.flow.lease
        assert e is not None
        assert e.full
        assert 0 < e.kept_n <= e.rcv_max
        assert t.bridge.bytes_out < 25 + e.bytes_in
        got = await t.take(len(blob))
        assert hashlib.sha256(got).digest() == hashlib.sha256(blob).digest()
        await t.settled()
        assert not t.bridge._writing


@pytest.mark.parametrize("end", ["FIN", "RST", "unplugged", "gateway", "host"])
async def test_ends_while_the_host_is_full(end: str) -> None:
    """What was acknowledged gets to the host before a FIN; nothing stays after the others."""
    blob = random.Random(4).randbytes(8 << 20)
    async with talk() as t:
        t.writer.write(blob)
        await until(lambda: t.bridge._writing and t.bridge.flow.lease is not None)
        if end == "FIN":
            t.writer.write_eof()
            got = await t.take(len(blob) + 1)
            assert hashlib.sha256(got).digest() == hashlib.sha256(blob).digest()
            t.sock.close()
        elif end == "RST":
            t.writer.transport.abort()
        elif end == "unplugged":
            t.gateway.port("guest").unplug()
        elif end == "gateway":
            await t.gateway.__aexit__()
        else:
            t.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
            t.sock.close()
        await t.gone()
        assert lib.lane_octets(t.lane._lane) == 0


async def test_reset_of_the_host_behind_much_data() -> None:
    """The guest hears of a reset, not of an end of the stream, whoever reads the socket."""
    async with talk() as t:
        t.sock.setblocking(True)
        await t.loop.run_in_executor(None, t.sock.sendall, bytes(2 << 20))
        t.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
        t.sock.close()
        with pytest.raises(ConnectionResetError):
            await t.reader.read()
        await t.gone()


async def test_reset_found_in_a_turn() -> None:
    """The error is told to the lane's read, in `resume`, and to no other."""
    async with talk() as t:
        flow = t.bridge.flow
        lib.lane_wait(t.lane._lane, flow.lease)
        t.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
        t.sock.close()
        t.lane.resume(t.loop.time())
        assert t.lane.reasons[REASONS.index("host_dead")] == 1
        t.gateway.driver.wake()
        with pytest.raises(ConnectionResetError):
            await t.reader.read()
        await t.gone()


async def test_end_behind_more_than_fits() -> None:
    """The end is told while much waits; whoever reads the rest must not wait for an edge."""
    blob = random.Random(3).randbytes(3 << 20)
    async with talk() as t:
        for at in range(0, 16 << 20, 1 << 20):  # until the windows are large
            send = asyncio.create_task(t.loop.sock_sendall(t.sock, bytes(1 << 20)))
            await t.reader.readexactly(1 << 20)
            await send
            assert at < 16 << 20
        await t.settled()
        t.sock.setblocking(True)
        send2 = t.loop.run_in_executor(None, t.sock.sendall, blob)
        got = asyncio.create_task(t.reader.read())
        await send2
        t.sock.shutdown(socket.SHUT_WR)
        assert await got == blob
        t.writer.close()
        await t.gone()


async def test_what_the_lane_gives_back_in_a_burst_is_flushed() -> None:
    """All frames were taken, a lease came back: its acknowledgement must not wait for others."""
    async with talk() as t:
        driver, flow = t.gateway.driver, t.bridge.flow
        t.gateway.switch.moved += 1
        flow.lease.port = 4000  # as if the station had moved
        await t.exchange(b"q", b"a")
        assert t.lane.reasons[0] >= 1
        await t.settled()
        assert not driver.stack.tcp.pending


async def test_twenty_flows() -> None:
    """Slow and fast hosts, both ways at once, through one gateway; all octets arrive."""
    total = 1 << 20

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        slow = (await reader.readexactly(1)) == b"s"
        sums = hashlib.sha256()
        writer.write(BLOB[:total])
        for left in range(total, 0, -16384):
            if slow:
                await asyncio.sleep(0)
            sums.update(await reader.readexactly(min(16384, left)))
        writer.write(sums.digest())
        writer.close()

    async def one(guest: GuestNode, port: int, i: int) -> None:
        reader, writer = await guest.open(HOST[4 if i & 2 else 6], port)
        writer.write(b"sf"[i % 2 : i % 2 + 1] + BLOB[i : i + total])
        assert await reader.readexactly(total) == BLOB[:total]
        assert await reader.read() == hashlib.sha256(BLOB[i : i + total]).digest()
        writer.close()

    async with network() as (gateway, guest):
        servers = [await asyncio.start_server(peer, LOOPBACK[4], 0)]
        port = servers[0].sockets[0].getsockname()[1]
        servers.append(await asyncio.start_server(peer, LOOPBACK[6], port))
        async with asyncio.timeout(60):
            await asyncio.gather(*[one(guest, port, i) for i in range(20)])
            await until(lambda: not gateway.tcp.bridges)
        lane = gateway.driver.lane
        assert lane is not None
        assert lane.lent >= 20
        assert lib.lane_octets(lane._lane) == lib.lane_waiting(lane._lane) == len(lane) == 0
        for server in servers:
            server.close()


async def test_a_flow_that_is_dropped_leaves_no_lease() -> None:
    async with talk() as t:
        t.bridge.flow.drop()
        assert len(t.lane) == 0
        t.bridge.close()


async def test_silent_guest() -> None:
    """No acknowledgement comes: the lease ends, and the connection probes by itself."""
    links: list[Impaired] = []

    def wrap(port: Any) -> Any:
        links.append(Impaired(port, asyncio.get_running_loop()))
        return links[0]

    async with talk(wrap=wrap) as t:
        links[0].sever()
        await t.loop.sock_sendall(t.sock, b"anybody")
        conn = t.bridge.flow.conn
        await until(lambda: conn.n_retrans)
        assert t.bridge.flow.lease is None
        links[0].heal()
        assert await t.reader.readexactly(7) == b"anybody"


BLOB = random.Random(5).randbytes(2 << 20)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer requests: of how much, for how much, and whence; with the request's digest."""
    with contextlib.suppress(asyncio.IncompleteReadError):
        while True:
            up, down, at = struct.unpack("!III", await reader.readexactly(12))
            digest = hashlib.sha256(await reader.readexactly(up)).digest()
            writer.write(digest + BLOB[at : at + down])
            await writer.drain()
    writer.close()


async def ask(guest: GuestNode, version: int, port: int, count: int, seed: int) -> None:
    """Exchange `count` times, mostly little, up to 1 MiB."""
    rng = random.Random(seed)
    reader, writer = await guest.open(HOST[version], port)
    for _ in range(count):
        up, down = (int(2 ** rng.uniform(0, 20.01 if rng.random() < 0.1 else 12)) for _ in "ab")
        at = rng.randrange(1 << 20)
        body = BLOB[at : at + up]
        head = struct.pack("!III", len(body), down, at)
        if rng.random() < 0.3:  # in two parts
            writer.write(head)
            await asyncio.sleep(0)
            writer.write(body)
        else:
            writer.write(head + body)
        assert await reader.readexactly(32) == hashlib.sha256(body).digest()
        assert await reader.readexactly(down) == BLOB[at : at + down]
    writer.close()


LINKS = {
    "clean": Impairment(),
    "loss": Impairment(loss=0.01),
    "reordered": Impairment(reorder=0.05, reorder_delay=0.002),
    "doubled": Impairment(duplicate=0.05),
    "all": Impairment(latency=0.001, loss=0.005, reorder=0.02, reorder_delay=0.002, duplicate=0.02),
}


@VERSIONS
@pytest.mark.parametrize("how", LINKS)
async def test_integrity(version: int, how: str) -> None:
    """Hundreds of exchanges on a few flows arrive as they were, while leases begin and end."""

    def wrap(port: Any) -> Any:
        if how == "clean":
            return port
        loop = asyncio.get_running_loop()
        return Impaired(port, loop, tx=LINKS[how], rx=LINKS[how], rng=random.Random(6))

    async with network(wrap=wrap) as (gateway, guest):
        async with await asyncio.start_server(serve, LOOPBACK[version], 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with asyncio.timeout(60):
                await asyncio.gather(*[ask(guest, version, port, 60, seed) for seed in range(4)])
            lane = gateway.driver.lane
            assert lane is not None
            assert lane.lent >= 4
            await until(lambda: not gateway.tcp.bridges)
        assert len(lane) == 0
        assert sum(lane.reasons) == lane.lent
        assert lane.deadline() is None
        assert gateway.stack.statistics().dropped == {}


def test_names_of_reasons() -> None:
    assert [getattr(lib, f"LEASE_{name.upper()}") for name in REASONS] == list(range(len(REASONS)))

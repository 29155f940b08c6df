"""Bulk on the express lane: full hosts, much in flight, many flows, links that lose."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
import struct
from typing import Any

import pytest
from gatewaypair import HOST, LOOPBACK, GuestNode, network, until
from lanetalk import BLOB, LINGER, VERSIONS, talk
from vpnstack.core._core import lib

from vpnstack.aio.lane import REASONS
from vpnstack.aio.poller import HUP
from vpnstack.link.impair import Impaired, Impairment


@VERSIONS
@pytest.mark.parametrize("slow", [False, True])
async def test_bulk_both_ways(version: int, slow: bool) -> None:
    """At once, in few leases, and then the flow is lent as before; a slow host takes sips."""
    size = 4 << 20 if slow else 16 << 20
    up, down = (random.Random(i).randbytes(size) for i in (1, 2))
    async with talk(version) as t:
        if slow:
            t.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 131072)
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


async def test_a_socket_that_has_ended_is_not_lent() -> None:
    """Its last edge is over: whoever reads less than there is would wait for ever."""
    async with talk() as t:
        lent = t.lane.lent
        t.bridge._ready(HUP)
        assert t.bridge.flow.lease is None
        await t.exchange(b"still", b"here")
        assert t.bridge.flow.lease is None
        assert t.lane.lent == lent


async def test_carrying_tells_of_a_reset() -> None:
    """The socket's error is told once: to the lane, which passes it on."""
    async with talk() as t:
        t.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
        t.sock.close()
        assert t.bridge.flow.carry(t.loop.time()) < 0
        t.bridge.flow.recall()
        t.bridge._host_died()
        t.gateway.driver.wake()
        with pytest.raises(ConnectionResetError):
            await t.reader.read()
        await t.gone()


async def test_a_flow_given_back_by_a_burst_that_was_all_taken_is_flushed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with talk() as t:
        called: list[int] = []

        def receive(port: Any, burst: Any, now: float) -> int:
            monkeypatch.undo()
            t.bridge.flow.recall()
            called.append(1)
            return 0

        monkeypatch.setattr(t.lane, "receive", receive)
        t.writer.write(b"x")
        await until(lambda: called)
        assert not t.gateway.driver.stack.tcp.pending
        assert await t.take(1) == b"x"

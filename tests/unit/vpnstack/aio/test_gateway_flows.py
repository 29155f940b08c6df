"""A guest's flows through the gateway to sockets of the host's loopback, and published ports."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket

import pytest
from gatewaypair import HOST, LOOPBACK, OURS, closed_port, listening, network, until

from vpnstack.errors import UsageError
from vpnstack.gateway import Gateway
from vpnstack.proto.tcp.state import State
from vpnstack.wire import ip
from vpnstack.wire.icmp import Kind

VERSIONS = pytest.mark.parametrize("version", [4, 6])


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes; a half-close ends the other half."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
    writer.close()


@VERSIONS
async def test_echo_and_half_close(version: int) -> None:
    blob = random.Random(1).randbytes(3 << 20)
    async with network() as (gateway, guest), listening(echo, version) as port:
        reader, writer = await guest.open(HOST[version], port)
        task = asyncio.create_task(reader.read())
        writer.write(blob)
        writer.write_eof()
        assert hashlib.sha256(await task).digest() == hashlib.sha256(blob).digest()
        writer.close()
        await until(lambda: not gateway.tcp.bridges)


@VERSIONS
async def test_mss_clamp_holds_both_ways(version: int) -> None:
    blob = bytes(100_000)
    async with network(mss=900) as (gateway, guest), listening(echo, version) as port:
        reader, writer = await guest.open(HOST[version], port)
        writer.write(blob)
        assert await reader.readexactly(len(blob)) == blob
        (theirs,) = guest.stack.tcp.flows.values()
        (ours,) = gateway.stack.tcp.flows.values()
        assert theirs.conn.snd_mss == ours.conn.snd_mss == 900
        writer.close()


@pytest.mark.parametrize("mss", [-1, 100, 1501])
def test_mss_clamp_that_makes_no_sense(mss: int) -> None:
    with pytest.raises(UsageError, match="MSS"):
        Gateway(mss=mss)


@VERSIONS
async def test_refused(version: int) -> None:
    async with network() as (gateway, guest):
        with pytest.raises(ConnectionRefusedError):
            await guest.open(HOST[version], closed_port(version))
        assert gateway.tcp.counters.refused == 1
        assert not gateway.stack.tcp.flows


async def test_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host has no route there: so says the ICMP error that the guest gets."""

    def no_route(sock: socket.socket, to: object) -> int:
        return 101  # ENETUNREACH

    monkeypatch.setattr("socket.socket.connect_ex", no_route)
    async with network() as (gateway, guest):
        with pytest.raises(OSError, match="cannot be reached"):
            await guest.open("198.51.100.1", 80)
        assert gateway.tcp.counters.unreachable == 1
        assert not gateway.stack.tcp.flows


async def test_syn_waits_for_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full backlog leaves the host's connect under way, and the guest's SYN unanswered."""
    with socket.socket() as server, socket.socket() as filler:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        filler.connect(server.getsockname())
        async with network() as (gateway, guest):
            task = asyncio.create_task(guest.open(HOST[4], server.getsockname()[1]))
            await until(lambda: gateway.tcp._connecting)
            await asyncio.sleep(0.05)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


@pytest.mark.parametrize("who", ["guest", "host"])
async def test_reset_passes(who: str) -> None:
    writers: list[asyncio.StreamWriter] = []
    failed: list[BaseException] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            await reader.read()
        except ConnectionResetError as e:
            failed.append(e)
        writer.close()

    async with network() as (gateway, guest), listening(connected) as port:
        reader, writer = await guest.open(HOST[4], port)
        writer.write(b"hello")
        await until(lambda: writers)
        if who == "guest":
            writer.transport.abort()
            await until(lambda: failed)
        else:
            sock = writers[0].get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writers[0].transport.abort()
            with pytest.raises(ConnectionResetError):
                await reader.read()
        await until(lambda: not gateway.tcp.bridges)
        assert not gateway.stack.tcp.flows


async def test_slow_host_reader_stops_the_guest() -> None:
    """What nobody takes stays within the buffers, and is all there afterwards."""
    go = asyncio.Event()
    got: list[bytes] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await go.wait()
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        got.append(await reader.read())
        writer.close()

    async with network() as (gateway, guest), listening(connected) as port:
        _, writer = await guest.open(HOST[4], port)
        blob = random.Random(1).randbytes(16 << 20)
        writer.write(blob)
        writer.write_eof()
        await until(lambda: gateway.tcp.bridges)
        [bridge] = gateway.tcp.bridges
        conn = bridge.flow.conn
        await until(lambda: conn.rcv_queued > conn.rcv_buf - 65536)  # it grows with the reading
        await asyncio.sleep(0.05)
        assert conn.rcv_queued <= conn.config.rcv_buf
        assert bridge.bytes_out < len(blob)
        go.set()
        await until(lambda: got)
        assert hashlib.sha256(got[0]).digest() == hashlib.sha256(blob).digest()
        writer.close()


async def test_slow_guest_reader_stops_the_host() -> None:
    """The host's socket is not read while the connection has no send space."""
    blob = random.Random(1).randbytes(16 << 20)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(blob)
        writer.close()

    async with network() as (gateway, guest), listening(connected) as port:
        reader, writer = await guest.open(HOST[4], port)
        writer.transport.pause_reading()
        await until(lambda: gateway.tcp.bridges)
        [bridge] = gateway.tcp.bridges
        conn = bridge.flow.conn
        await until(lambda: bridge._paused)
        assert bridge.bytes_in <= 4 << 20
        assert len(conn.snd_buf) <= conn.config.snd_buf
        writer.transport.resume_reading()
        assert hashlib.sha256(await reader.read()).digest() == hashlib.sha256(blob).digest()
        writer.close()


async def test_data_behind_both_ends_reaches_a_slow_host() -> None:
    """The host closes its half and still reads: the flow's end must not cost what waits."""
    go = asyncio.Event()
    got: list[bytes] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await go.wait()
        writer.write_eof()
        await asyncio.sleep(0.1)
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        got.append(await reader.read())
        writer.close()

    async with network() as (gateway, guest), listening(connected) as port:
        reader, writer = await guest.open(HOST[4], port)
        await until(lambda: gateway.tcp.bridges)
        [bridge] = gateway.tcp.bridges
        bridge._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        bridge.flow.conn.rcv_buf = 1 << 20  # as it would be after a while of reading
        chunks = [os.urandom(1 << 16) for _ in range(14)]
        for chunk in chunks:
            writer.write(chunk)
        writer.write_eof()
        conn = bridge.flow.conn
        await until(lambda: conn.state is State.CLOSE_WAIT)  # the guest's FIN is here
        assert conn.rcv_queued > 128 << 10
        go.set()
        assert await reader.read() == b""
        writer.close()
        await until(lambda: got)
        assert got[0] == b"".join(chunks)
        await until(lambda: not gateway.tcp.bridges)


POLICY = {
    "own network": "192.168.127.77",
    "cloud metadata": "169.254.169.254",
    "loopback": "127.0.0.1",
    "group": "224.0.0.1",
    "broadcast": "255.255.255.255",
}


@pytest.mark.parametrize("target", POLICY.values(), ids=POLICY.keys())
async def test_policy_refuses(target: str) -> None:
    async with network() as (gateway, _):
        assert gateway.policy.destination(ip.parse_address(target)) is None


@VERSIONS
async def test_host_loopback_off(version: int) -> None:
    """`host.internal` is nobody then, and loopback is not reached by another name either."""
    async with network(host_loopback=False) as (gateway, guest), listening(echo, version) as port:
        for target in (HOST[version], LOOPBACK[version], OURS[version]):
            assert gateway.policy.destination(ip.parse_address(target)) is None
        with pytest.raises(ConnectionRefusedError):
            await guest.open(OURS[version], port)
        assert gateway.tcp.counters.opened == 0


async def test_spoofed_source() -> None:
    """Not of the link: dropped before a host socket is made."""
    async with network() as (gateway, guest), listening(echo) as port:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(guest.open(HOST[4], port, source="10.1.2.3"), 0.1)
        guest.send(4000, (HOST[4], port), b"x", source="10.1.2.3")
        await until(lambda: gateway.udp.counters.spoofed)
        assert gateway.tcp.counters.opened == 0
        assert len(gateway.udp) == 0
        assert not gateway.stack.tcp.flows


# UDP.


@VERSIONS
@pytest.mark.parametrize("size", [0, 100, 8192])
async def test_udp_echo(version: int, size: int) -> None:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    loop = asyncio.get_running_loop()
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        server.bind((LOOPBACK[version], 0))
        server.setblocking(False)
        port = server.getsockname()[1]
        async with network() as (_, guest):
            mine = guest.bind(4000)
            data = bytes(i % 251 for i in range(size))
            guest.send(4000, (HOST[version], port), data)
            got, peer = await loop.sock_recvfrom(server, 65535)
            assert got == data
            await loop.sock_sendto(server, data, peer)
            assert await mine.got.get() == (HOST[version], port, data)


@VERSIONS
async def test_udp_closed_ports(version: int) -> None:
    """On the host's loopback and on the gateway itself; and the next datagram is not lost."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    loop = asyncio.get_running_loop()
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        server.bind((LOOPBACK[version], 0))
        server.setblocking(False)
        async with network() as (_, guest):
            mine = guest.bind(4000)
            for target in (HOST[version], OURS[version]):
                guest.send(4000, (target, closed_port(version)), b"anyone?")
                assert (await mine.errors.get()).kind is Kind.PORT_UNREACHABLE
            guest.send(4000, (HOST[version], closed_port(version)), b"anyone?")
            guest.send(4000, (HOST[version], server.getsockname()[1]), b"you")
            assert await loop.sock_recv(server, 100) == b"you"


# Published ports.


@VERSIONS
async def test_publish_tcp(version: int) -> None:
    seen: list[tuple[str, int]] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peername"))
        await echo(reader, writer)

    async with network() as (gateway, guest):
        guest.serve(connected, 80)
        address = {4: "192.168.127.2", 6: "fd00:127::2"}[version]
        made = await gateway.publish("tcp", host=(LOOPBACK[version], 0), guest=(address, 80))
        reader, writer = await asyncio.open_connection(*made.address)
        mine = writer.get_extra_info("sockname")[1]
        writer.write(b"through")
        writer.write_eof()
        assert await reader.read() == b"through"
        assert seen == [(HOST[version], mine)]
        writer.close()
        made.close()


async def test_publish_to_nobody() -> None:
    async with network() as (gateway, _):
        made = await gateway.publish("tcp", host=("127.0.0.1", 0), guest=("192.168.127.2", 81))
        reader, writer = await asyncio.open_connection(*made.address)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_publish_udp() -> None:
    loop = asyncio.get_running_loop()
    async with network() as (gateway, guest):
        inside = guest.bind(53)
        made = await gateway.publish("udp", host=("127.0.0.1", 0), guest=("192.168.127.2", 53))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect(made.address)
            client.send(b"question")
            source, port, data = await inside.got.get()
            assert (source, data) == (HOST[4], b"question")
            guest.send(53, (source, port), b"answer")
            assert await loop.sock_recv(client, 100) == b"answer"


async def test_publish_misuse() -> None:
    async with network() as (gateway, _):
        with pytest.raises(UsageError, match="expected tcp or udp"):
            await gateway.publish("sctp", host=("127.0.0.1", 0), guest=("guest", 1))
        with pytest.raises(UsageError, match="no guest 'nobody'"):
            await gateway.publish("tcp", host=("127.0.0.1", 0), guest=("nobody", 1))
        with (
            socket.create_server(("127.0.0.1", 0)) as taken,
            pytest.raises(UsageError, match="cannot publish"),
        ):
            await gateway.publish("tcp", host=taken.getsockname(), guest=("guest", 1))

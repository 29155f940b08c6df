"""What the gateway itself answers: DHCP, router advertisements, DNS, streams; and its own life."""

from __future__ import annotations

import asyncio
import gc
import os

import dns.message
import pytest
from gatewaypair import OURS, GuestNode, network, until

from vpnstack.core.access import parse_burst
from vpnstack.core.burst import Burst
from vpnstack.errors import UsageError
from vpnstack.gateway import Gateway
from vpnstack.link.pair import PairPort, pair
from vpnstack.stack.udp import packet
from vpnstack.wire import dhcp, ip, ndp

MAC = b"\x02\0\0\0\0\x09"
VERSIONS = pytest.mark.parametrize("version", [4, 6])


def received(port: PairPort) -> list[bytes]:
    burst = Burst()
    out: list[bytes] = []
    while port.rx_burst(burst):
        parse_burst(burst)
        out += [burst.octets(i) for i in range(burst.count)]
    return out


def sent(port: PairPort, *frames: bytes) -> None:
    burst = Burst()
    for frame in frames:
        burst.append(frame)
    port.tx_burst(burst)


async def answer(port: PairPort, wanted: object) -> bytes:
    found: list[bytes] = []
    await until(lambda: found.extend(f for f in received(port) if wanted(f)) or found)  # type: ignore[operator]
    return found[0]


async def test_dhcp_through_the_stack() -> None:
    discover = dhcp.Repr(1, 77, MAC, ((53, b"\x01"), (55, bytes([1, 3, 6, 26]))))
    octets = packet((bytes(4), 68), (b"\xff" * 4, 67), dhcp.emit(discover))
    async with Gateway(seed=1, resolv_conf="") as gateway:
        near, far = pair()
        gateway.attach(far)
        sent(near, b"\xff" * 6 + MAC + b"\x08\x00" + octets)
        frame = await answer(
            near, lambda f: f[12:14] == b"\x08\x00" and f[34:38] == b"\0\x43\0\x44"
        )
        offer = dhcp.parse(ip.parse(frame[14:])[1][8:])
        options = dict(offer.options)
        assert (offer.xid, options[53]) == (77, b"\x02")
        assert options[3] == options[6] == ip.parse_address(OURS[4])
        assert options[26] == (1500).to_bytes(2)
        gateway.detach(far)
        near.close()


async def test_router_advertisement_through_the_stack() -> None:
    source = ip.eui64(MAC)
    body = ndp.emit(ndp.RouterSolicitation(MAC), source, ip.ALL_ROUTERS)
    octets = ip.emit(ip.Repr(source, ip.ALL_ROUTERS, ip.ICMPV6, ttl=255), body)
    async with Gateway(seed=1, resolv_conf="") as gateway:
        near, far = pair()
        gateway.attach(far)
        sent(near, ip.multicast_mac(ip.ALL_ROUTERS) + MAC + b"\x86\xdd" + octets)
        frame = await answer(near, lambda f: f[12:14] == b"\x86\xdd" and f[54] == 134)
        header, body = ip.parse(frame[14:])
        said = ndp.parse(body, header.src, header.dst, header.ttl)
        assert isinstance(said, ndp.RouterAdvertisement)
        assert [p.prefix for p in said.prefixes] == [ip.parse_address("fd00:127::")]
        assert said.rdnss[0].servers == (ip.parse_address(OURS[6]),)
        gateway.detach(far)
        near.close()


@VERSIONS
@pytest.mark.parametrize("over", ["udp", "tcp"])
async def test_dns(version: int, over: str) -> None:
    question = dns.message.make_query("host.internal", "A").to_wire()
    async with network() as (_, guest):
        if over == "udp":
            mine = guest.bind(4000)
            guest.send(4000, (OURS[version], 53), question)
            data = (await mine.got.get())[2]
        else:
            reader, writer = await guest.open(OURS[version], 53)
            writer.write(len(question).to_bytes(2) + question)
            data = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
            writer.close()
        assert "192.168.127.254" in dns.message.from_wire(data).answer[0].to_text()


# Streams inside the network.


@VERSIONS
async def test_start_server(version: int) -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        writer.close()

    async with network() as (gateway, guest):
        server = await gateway.start_server(shout, 7000)
        with pytest.raises(UsageError, match="in use"):
            await gateway.start_server(shout, 7000)
        reader, writer = await guest.open(OURS[version], 7000)
        writer.write(b"x" * 300_000)
        await writer.drain()
        writer.write_eof()
        assert await reader.read() == b"X" * 300_000
        writer.close()
        server.close()
        with pytest.raises(ConnectionRefusedError):
            await guest.open(OURS[version], 7000)


async def test_open_connection() -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        writer.close()

    async with network() as (gateway, guest):
        guest.serve(shout, 80)
        reader, writer = await gateway.open_connection("192.168.127.2", 80)
        assert writer.get_extra_info("peername") == ("192.168.127.2", 80)
        writer.write(b"hello\n")
        assert await reader.read() == b"HELLO\n"
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await gateway.open_connection("192.168.127.2", 81)


class Recorder(asyncio.Protocol):
    """Notes the calls of a transport."""

    def __init__(self, keep: bool = False) -> None:
        self.calls: list[str] = []
        self.data = b""
        self.error: Exception | None = None
        self.keep = keep

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        if self.calls[-1] != "data":
            self.calls.append("data")
        self.data += data

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self.keep

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")
        self.error = exc


async def test_transport_order_of_calls() -> None:
    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async with network() as (gateway, guest):
        await gateway.start_server(hello, 7000)
        recorder = Recorder()
        transport = await guest.connect(recorder, OURS[4], 7000)
        await until(lambda: "lost" in recorder.calls)
        assert recorder.calls == ["made", "data", "eof", "lost"]
        assert (recorder.data, recorder.error) == (b"hello", None)
        assert transport.is_closing()


async def test_transport_pauses_writing_and_closes_behind_its_data() -> None:
    got: list[bytes] = []
    go = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await go.wait()
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        got.append(await reader.read())
        writer.close()

    async with network() as (gateway, guest):
        await gateway.start_server(slow, 7000)
        recorder = Recorder()
        transport = await guest.connect(recorder, OURS[4], 7000)
        transport.write(bytes(4 << 20))
        assert recorder.calls == ["made", "pause"]
        assert transport.get_write_buffer_size() > 0
        transport.close()
        transport.write(b"too late")
        await asyncio.sleep(0.05)
        assert "lost" not in recorder.calls
        go.set()
        await until(lambda: got)
        assert got == [bytes(4 << 20)]
        await until(lambda: "lost" in recorder.calls)
        assert recorder.calls.count("lost") == 1


async def test_transport_abort_and_peer_reset() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.transport.abort()

    async with network() as (gateway, guest):
        await gateway.start_server(reset, 7000)
        recorder = Recorder()
        transport = await guest.connect(recorder, OURS[4], 7000)
        transport.write(b"now\n")
        await until(lambda: "lost" in recorder.calls)
        assert isinstance(recorder.error, ConnectionResetError)
        assert not gateway.stack.tcp.flows


async def test_failing_protocol_ends_its_connection_only() -> None:
    class Failing(Recorder):
        def data_received(self, data: bytes) -> None:
            raise ValueError("a fault of the user's")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 100_000)
        with pytest.raises(ConnectionResetError):
            await reader.read()

    contexts: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: contexts.append(context))
    async with network() as (gateway, guest):
        await gateway.start_server(talk, 7000)
        recorder = Failing()
        await guest.connect(recorder, OURS[4], 7000)
        await until(lambda: "lost" in recorder.calls)
        assert [str(c["exception"]) for c in contexts] == ["a fault of the user's"]
        mine = guest.bind(4000)
        guest.send(4000, (OURS[4], 53), dns.message.make_query("host.internal", "A").to_wire())
        assert (await mine.got.get())[1] == 53


async def test_paused_reader_keeps_what_came_before_the_end() -> None:
    """The connection is over, and the protocol still gets all of it when it reads again."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.write(b"last words")
        writer.close()

    async with network() as (gateway, guest):
        await gateway.start_server(talk, 7000)
        recorder = Recorder()
        transport = await guest.connect(recorder, OURS[4], 7000)
        transport.pause_reading()
        assert not transport.is_reading()
        transport.write_eof()
        flow = transport.get_extra_info("flow")
        await until(lambda: flow.conn.rcv_queued)
        assert recorder.data == b""
        transport.resume_reading()
        await until(lambda: "lost" in recorder.calls)
        assert recorder.data == b"last words"


async def test_cancelled_open_connection_leaves_no_flow() -> None:
    async with network() as (gateway, _):
        task = asyncio.create_task(gateway.open_connection("192.168.127.99", 80))
        await until(lambda: gateway.stack.tcp.flows)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not gateway.stack.tcp.flows)


# Life.


async def test_nothing_is_left_behind() -> None:
    """No descriptor, task or timer after the gateway has gone, with flows under way."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        except ConnectionResetError:
            pass
        writer.close()

    loop = asyncio.get_running_loop()

    def held() -> tuple[int, ...]:
        timers = [h for h in loop._scheduled if not h.cancelled()]  # type: ignore[attr-defined]
        watched = loop._selector.get_map()  # type: ignore[attr-defined]
        descriptors = os.listdir("/proc/self/fd")
        return len(descriptors), len(asyncio.all_tasks()), len(timers), len(watched)

    def settled() -> bool:
        return all(now <= then for now, then in zip(held(), before, strict=True))

    before: tuple[int, ...] = ()
    for _ in range(2):
        async with network() as (gateway, guest):
            server = await asyncio.start_server(talk, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            await gateway.publish("udp", host=("127.0.0.1", 0), guest=("guest", 53))
            await gateway.publish("tcp", host=("127.0.0.1", 0), guest=("guest", 80))
            await gateway.start_server(talk, 7000)
            writers = [(await guest.open(gateway_host, port))[1] for gateway_host in
                       ("192.168.127.254", "192.168.127.254")]  # fmt: skip
            writers.append((await guest.open(OURS[6], 7000))[1])
            guest.send(4000, ("192.168.127.254", port), b"mapping")
            await until(lambda gateway=gateway: len(gateway.udp))
        for writer in writers:
            writer.transport.abort()
        server.close()
        del gateway, guest
        gc.collect()
        if before:
            await until(settled)
        else:
            await asyncio.sleep(0.05)
            before = held()


async def test_port_that_dies_takes_its_flows_along() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()

    async with network() as (gateway, guest):
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        _, writer = await guest.open("192.168.127.254", server.sockets[0].getsockname()[1])
        await until(lambda: gateway.tcp.bridges)
        guest.driver.close()
        await until(lambda: not gateway.tcp.bridges)
        assert not gateway.stack.tcp.flows
        assert not gateway.switch.ports
        writer.transport.abort()
        again = GuestNode(gateway, ["192.168.127.2/24", "fd00:127::2/64"], 1500)
        mine = again.bind(4000)
        again.send(4000, (OURS[4], 53), dns.message.make_query("host.internal", "A").to_wire())
        await mine.got.get()
        again.driver.close()
        server.close()

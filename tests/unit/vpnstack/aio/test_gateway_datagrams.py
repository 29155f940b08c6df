"""Datagrams of guests on the express lane, through a gateway and sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from gatewaypair import HOST, LOOPBACK, OURS, Datagrams, GuestNode, closed_port, network, until

from vpnstack.aio.udplane import FLOOD, SETTLED
from vpnstack.core.burst import Burst
from vpnstack.core.puresend import emit_udp
from vpnstack.gateway import Gateway
from vpnstack.host.udp import Mapping
from vpnstack.link.capture import INBOUND, OUTBOUND, Tracer
from vpnstack.link.pair import PairPort, pair
from vpnstack.link.port import Port
from vpnstack.stack import headers
from vpnstack.wire import ip
from vpnstack.wire.icmp import Kind

VERSIONS = pytest.mark.parametrize("version", [4, 6])
GUEST = {4: "192.168.127.2", 6: "fd00:127::2"}
GSO_UDP_L4, UDP_SEGMENT = 5, 103


class Net:
    """A gateway, a guest that is bound to port 4000, and a server on the host's loopback."""

    def __init__(self, gateway: Gateway, guest: GuestNode, version: int) -> None:
        self.gateway, self.guest, self.version = gateway, guest, version
        self.loop = asyncio.get_running_loop()
        self.mine: Datagrams = guest.bind(4000)
        self.server = self.socket()
        self.port = self.server.getsockname()[1]
        self.peer: Any = None

    def socket(self) -> socket.socket:
        family = socket.AF_INET if self.version == 4 else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind((LOOPBACK[self.version], 0))
        return sock

    @property
    def mapping(self) -> Mapping:
        return self.gateway.udp._mappings[ip.parse_address(GUEST[self.version]), 4000]

    @property
    def lane(self) -> tuple[int, int]:
        """Datagrams that the lane carried up, and down."""
        return self.mapping.carried.state.questions, self.mapping.carried.state.answers

    def send(self, data: bytes, port: int = 0) -> None:
        self.guest.send(4000, (HOST[self.version], port or self.port), data)

    async def ask(self, data: bytes) -> bytes:
        """Send a datagram; return what the server got."""
        self.send(data)
        got, self.peer = await self.loop.sock_recvfrom(self.server, 65535)
        return got

    async def answer(self, data: bytes, by: socket.socket | None = None) -> tuple[str, int, bytes]:
        """Have the server, or another socket, send to the guest; return what it got."""
        await self.loop.sock_sendto(by or self.server, data, self.peer)
        return await self.mine.got.get()

    async def settle(self) -> None:
        """Exchange datagrams until both directions are the lane's."""
        for _ in range(SETTLED):
            await self.ask(b"question")
            await self.answer(b"answer")
        before = self.lane
        await self.ask(b"carried?")
        await self.answer(b"carried!")
        assert self.lane == (before[0] + 1, before[1] + 1)


@contextlib.asynccontextmanager
async def settled(version: int = 4, **options: Any) -> AsyncIterator[Net]:
    async with network(**options) as (gateway, guest):
        net = Net(gateway, guest, version)
        try:
            await net.settle()
            yield net
        finally:
            net.server.close()


@VERSIONS
async def test_datagrams_both_ways(version: int) -> None:
    """Contents, ends and counters are what they were without the lane."""
    async with settled(version) as net:
        udp, stack = net.gateway.udp.counters, net.gateway.stack.udp.counters
        before = (udp.sent, udp.received, stack.datagrams_in, stack.datagrams_out)
        lane = net.lane
        for size in (0, 1, 64, 1400):
            data = bytes(i % 251 for i in range(size))
            assert await net.ask(data) == data
            assert await net.answer(data) == (HOST[version], net.port, data)
        assert net.lane == (lane[0] + 4, lane[1] + 4)
        after = (udp.sent, udp.received, stack.datagrams_in, stack.datagrams_out)
        assert after == tuple(n + 4 for n in before)


async def test_datagrams_question_and_answer_have_no_route() -> None:
    async with network() as (gateway, guest):
        net = Net(gateway, guest, 4)
        await net.ask(b"question")
        await net.answer(b"answer")
        assert net.mapping.carried.state.routes == 0
        assert net.mapping.expired(net.loop.time() + 10)
        net.server.close()


async def test_datagrams_carried_keep_a_mapping() -> None:
    async with settled() as net:
        mapping = net.mapping
        mapping.used = 0.0
        await net.ask(b"still here")
        assert not mapping.expired(net.loop.time() + 50)
        assert mapping.expired(net.loop.time() + 61)


@VERSIONS
async def test_datagrams_too_long_for_the_path(version: int) -> None:
    """Fragments in both directions are Python's, on a mapping that has routes."""
    async with settled(version) as net:
        lane = net.lane
        data = bytes(i % 251 for i in range(9000))
        assert await net.ask(data) == data
        assert await net.answer(data) == (HOST[version], net.port, data)
        assert net.lane == lane


@VERSIONS
async def test_datagrams_of_a_stranger(version: int) -> None:
    """RFC 4787 REQ-8, endpoint-independent filtering: anybody may answer, and then has a route."""
    async with settled(version) as net:
        with net.socket() as other:
            lane = net.lane
            name = (HOST[version], other.getsockname()[1], b"hello")
            assert await net.answer(b"hello", other) == name
            assert net.lane == lane
            assert await net.answer(b"hello", other) == name
            assert net.lane == (lane[0], lane[1] + 1)


@VERSIONS
async def test_datagrams_errors_reach_the_guest(version: int) -> None:
    """A server that goes away after routes were made: port unreachable, as before."""
    async with settled(version) as net:
        net.server.close()
        for _ in range(3):
            net.send(b"anyone?")
            assert (await net.mine.errors.get()).kind is Kind.PORT_UNREACHABLE


async def test_datagrams_error_loses_no_other() -> None:
    async with settled() as net:
        for _ in range(SETTLED):
            net.send(b"anyone?", closed_port())
            assert (await net.mine.errors.get()).kind is Kind.PORT_UNREACHABLE
            assert await net.ask(b"you") == b"you"


async def test_datagrams_evicted_mapping() -> None:
    """Over the bound goes who was idle longest: what the lane carried counts as use."""
    async with settled() as net:
        net.gateway.udp.mappings_max = 2
        net.guest.bind(4001)
        net.guest.send(4001, (HOST[4], net.port), b"other")
        await net.loop.sock_recvfrom(net.server, 100)
        await net.ask(b"by the lane, later")
        net.guest.send(4002, (HOST[4], net.port), b"third")
        await net.loop.sock_recvfrom(net.server, 100)
        assert sorted(port for _, port in net.gateway.udp._mappings) == [4000, 4002]
        net.gateway.udp._end(net.mapping)
        assert await net.ask(b"anew") == b"anew"
        assert net.lane == (0, 0)


async def test_datagrams_to_a_port_that_is_taken_later() -> None:
    async with settled() as net:
        owner = Datagrams()
        net.gateway.stack.udp.ports[ip.parse_address(HOST[4]), net.port] = owner
        net.send(b"for the new one")
        assert (await owner.got.get())[2] == b"for the new one"


async def test_datagrams_never_reach_the_gateway_itself() -> None:
    async with settled() as net:
        net.guest.send(4000, (OURS[4], net.port), b"x")
        assert (await net.mine.errors.get()).kind is Kind.PORT_UNREACHABLE


async def test_datagrams_detached_port() -> None:
    async with settled() as net:
        mapping = net.mapping
        net.gateway.port("guest").unplug()
        await net.loop.sock_sendto(net.server, b"gone", net.peer)
        await until(lambda: not mapping.carried.state.routes)


# A scripted guest on a second port.


class Script:
    """Frames by hand: who changes its link address, or says more than one datagram at once."""

    def __init__(
        self, gateway: Gateway, mac: bytes, wrap: Callable[[Port], Port] = lambda port: port
    ) -> None:
        self.port, far = pair()
        gateway.attach(wrap(far))
        self.far: PairPort = far
        self.gateway_mac = gateway.switch.mac
        self.mac, self.source = mac, "192.168.127.9"

    def frame(self, data: bytes, port: int, gso: int = 0) -> None:
        ends = (ip.parse_address(self.source), 4000, ip.parse_address(HOST[4]), port)
        made = emit_udp(headers.template(self.gateway_mac, self.mac, ends, headers.UDP), data)
        vnet = bytearray(made.vnet)
        if gso:
            vnet[1], vnet[4:6] = GSO_UDP_L4, gso.to_bytes(2, "little")
        burst = Burst()
        burst.append(made.octets, bytes(vnet))
        self.port.tx_burst(burst)

    def arp(self) -> None:
        """Ask for the gateway, which then knows us."""
        ends = ip.parse_address(self.source), ip.parse_address(OURS[4])
        body = bytes.fromhex("0001080006040001") + self.mac + ends[0] + bytes(6) + ends[1]
        burst = Burst()
        burst.append(b"\xff" * 6 + self.mac + b"\x08\x06" + body)
        self.port.tx_burst(burst)

    def frames(self) -> list[bytes]:
        burst, out = Burst(), []
        while self.port.rx_burst(burst):
            out += [burst.octets(i) for i in range(burst.count)]
        return [f for f in out if f[12:14] == b"\x08\x00"]


@contextlib.asynccontextmanager
async def scripted() -> AsyncIterator[tuple[Net, Script, Mapping]]:
    async with network() as (gateway, guest):
        net = Net(gateway, guest, 4)
        script = Script(gateway, b"\x02\0\0\0\0\x09")
        script.arp()
        for _ in range(SETTLED + 1):
            script.frame(b"x", net.port)
            _, net.peer = await net.loop.sock_recvfrom(net.server, 100)
        mapping = gateway.udp._mappings[ip.parse_address(script.source), 4000]
        assert mapping.carried.state.questions == 1
        try:
            yield net, script, mapping
        finally:
            net.server.close()


async def answers(net: Net, script: Script, data: bytes) -> bytes:
    """Have the server answer; return the frame that reaches the scripted guest."""
    script.frames()
    await net.loop.sock_sendto(net.server, data, net.peer)
    got: list[bytes] = []
    await until(lambda: got.extend(script.frames()) or got)
    return got[0]


async def test_guest_changes_its_link_address() -> None:
    """Frames from another address are Python's, and answers follow what ARP says."""
    async with scripted() as (net, script, mapping):
        for _ in range(2):
            assert (await answers(net, script, b"y"))[:6] == script.mac
        state = mapping.carried.state
        assert state.answers == 1
        script.mac = b"\x02\0\0\0\0\x0a"
        script.frame(b"who is this", net.port)
        assert await net.loop.sock_recv(net.server, 100) == b"who is this"
        assert (state.questions, bytes(state.mac)) == (1, b"\x02\0\0\0\0\x09")
        script.arp()
        script.frame(b"me", net.port)
        script.frame(b"still me", net.port)
        assert await net.loop.sock_recv(net.server, 100) == b"me"
        assert await net.loop.sock_recv(net.server, 100) == b"still me"
        assert bytes(state.mac) == script.mac
        assert (await answers(net, script, b"z"))[:6] == script.mac


async def test_guest_moves_to_another_port() -> None:
    async with scripted() as (net, script, mapping):
        other = Script(net.gateway, script.mac)
        other.frame(b"from here now", net.port)
        assert await net.loop.sock_recv(net.server, 100) == b"from here now"
        assert mapping.carried.state.questions == 1
        for _ in range(2):
            assert (await answers(net, other, b"y"))[:6] == script.mac
        assert not script.frames()
        assert mapping.carried.state.answers == 1


async def test_guest_is_spoofed_from_another_port() -> None:
    """Another station's frames with this guest's addresses are not taken for its own."""
    async with scripted() as (net, script, mapping):
        other = Script(net.gateway, b"\x02\0\0\0\0\x0b")
        other.frame(b"not me", net.port)
        assert await net.loop.sock_recv(net.server, 100) == b"not me"
        assert mapping.carried.state.questions == 1
        assert (await answers(net, script, b"y"))[:6] == script.mac


@pytest.mark.parametrize("routes", [True, False])
async def test_guest_sends_a_super_datagram(routes: bool) -> None:
    """It reaches the host as separate datagrams, over the lane and past it."""
    async with scripted() as (net, script, mapping):
        if not routes:
            net.gateway.udp._end(mapping)
        before = net.gateway.udp.counters.sent
        script.frame(b"a" * 100 + b"b" * 100 + b"c" * 10, net.port, gso=100)
        for want in (b"a" * 100, b"b" * 100, b"c" * 10):
            assert await net.loop.sock_recv(net.server, 1000) == want
        assert net.gateway.udp.counters.sent == before + 3


@pytest.mark.parametrize("routes", [True, False])
async def test_server_sends_a_super_datagram(routes: bool) -> None:
    """It reaches the guest as separate datagrams, or as one frame that says what it is."""
    async with scripted() as (net, script, mapping):
        if routes:
            await answers(net, script, b"y")
        size = [(socket.IPPROTO_UDP, UDP_SEGMENT, (100).to_bytes(2, "little"))]
        got: list[bytes] = []
        net.server.sendmsg([b"x" * 250], size, 0, net.peer)
        await until(lambda: got.extend(script.frames()) or got)
        await until(lambda: got.extend(script.frames()) or sum(len(f) - 42 for f in got) >= 250)
        assert [len(f) - 42 for f in got] == ([250] if routes else [100, 100, 50])
        assert mapping.carried.state.answers == (3 if routes else 0)


async def test_guest_that_reads_nothing() -> None:
    """A stalled port is Python's business; when it is read again, the lane goes on."""
    async with scripted() as (net, script, mapping):
        for _ in range(2):
            await answers(net, script, b"y")
        state, counters = mapping.carried.state, net.gateway.udp.counters

        async def serve(data: bytes, count: int = 1) -> None:
            want = counters.received + count
            for _ in range(count):
                await net.loop.sock_sendto(net.server, data, net.peer)
            await until(lambda: counters.received >= want)

        for _ in range(1000):
            if script.far.stalled:
                break
            await serve(b"z" * 1400, 16)
        assert script.far.stalled
        carried = state.answers
        await serve(b"not now")
        assert state.answers == carried
        frames = script.frames()
        assert len(frames) > 1000
        await until(lambda: frames.extend(script.frames()) or frames[-1].endswith(b"not now"))
        assert not script.far.stalled
        assert (await answers(net, script, b"again")).endswith(b"again")
        assert state.answers == carried + 1


async def test_guest_floods() -> None:
    """After some full bursts there is a pause; nothing of what waited meanwhile is lost."""
    async with scripted() as (net, script, mapping):
        net.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        for i in range(300):
            script.frame(i.to_bytes(2, "big"), net.port)
        got = [await net.loop.sock_recv(net.server, 100) for _ in range(300)]
        assert got == [i.to_bytes(2, "big") for i in range(300)]
        assert mapping.carried.state.questions == 301


async def test_guest_floods_and_is_gone() -> None:
    """A port that is detached during its pause is not read afterwards."""
    async with scripted() as (net, script, mapping):
        net.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        for _ in range(64 * FLOOD):
            script.frame(b"x", net.port)
        await until(lambda: mapping.carried.state.questions == 64 * FLOOD + 1)
        net.gateway.detach(script.far)
        while await net.loop.sock_recv(net.server, 100) == b"x":
            if net.server not in select.select([net.server], [], [], 0)[0]:
                break
        assert await net.ask(b"others go on") == b"others go on"
        assert script.far.fileno() == -1


class Sink:
    """What a capture showed."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, bytes]] = []

    def interface(self, name: str) -> int:
        return 0

    def frame(
        self, interface: int, direction: int, octets: bytes, now: float, comment: str = ""
    ) -> None:
        if octets[12:14] == b"\x08\x00":
            self.shown.append((direction, octets[42:]))


async def test_datagrams_are_in_a_capture() -> None:
    async with network() as (gateway, guest):
        sink, net = Sink(), Net(gateway, guest, 4)
        mac = b"\x02\0\0\0\0\x09"
        script = Script(gateway, mac, lambda port: Tracer(port, sink, gateway.driver.now))
        script.arp()
        for i in range(SETTLED + 2):
            script.frame(b"%d" % i, net.port)
            _, net.peer = await net.loop.sock_recvfrom(net.server, 100)
            await answers(net, script, b"%d" % i)
        state = gateway.udp._mappings[ip.parse_address(script.source), 4000].carried.state
        assert state.questions
        assert state.answers
        want = [(d, b"%d" % i) for i in range(SETTLED + 2) for d in (INBOUND, OUTBOUND)]
        assert [(d, data[: len(b"0")]) for d, data in sink.shown] == want
        net.server.close()

"""Pings through the gateway, packets without a hop left, and addresses that go nowhere."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from gatewaypair import HOST, OURS, GuestNode, network, until

from vpnstack.core import access
from vpnstack.gateway import Gateway
from vpnstack.host import ping
from vpnstack.host.policy import Policy
from vpnstack.stack.udp import packet
from vpnstack.wire import icmp, ip
from vpnstack.wire.icmp import Kind

VERSIONS = pytest.mark.parametrize("version", [4, 6])
GUEST = {4: "192.168.127.2", 6: "fd00:127::2"}
OUTSIDE = {4: "198.51.100.7", 6: "2001:db8::7"}
ROUTER = {4: "203.0.113.1", 6: "2001:db8:ffff::1"}


class Kernel:
    """The host's ICMP sockets: keeps what is sent, and answers by hand."""

    made: list[Kernel]

    def __init__(self, family: int, kind: int, proto: int) -> None:
        self.near, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.near.setblocking(False)
        self.sent: list[tuple[bytes, str]] = []
        self.options: dict[tuple[int, int], int] = {}
        self.answers: list[tuple[bytes, tuple[str, int]]] = []
        self.errors: list[tuple[bytes, list[Any], int, tuple[str, int]]] = []
        self.made.append(self)

    def fileno(self) -> int:
        return self.near.fileno()

    def setsockopt(self, level: int, name: int, value: int) -> None:
        self.options[level, name] = value

    def sendto(self, data: bytes, to: tuple[str, int]) -> None:
        self.sent.append((data, to[0]))

    def answer(self, data: bytes, peer: str) -> None:
        self.answers.append((data, (peer, 0)))
        self._far.send(b"!")

    def fail(self, data: bytes, control: list[Any], peer: str) -> None:
        self.errors.append((data, control, 0, (peer, 0)))
        self._far.send(b"!")

    def recvfrom(self, size: int) -> tuple[bytes, tuple[str, int]]:
        if not self.answers:
            self.near.recv(1)
            raise BlockingIOError
        return self.answers.pop(0)

    def recvmsg(self, *args: int) -> tuple[bytes, list[Any], int, tuple[str, int]]:
        if not self.errors:
            raise BlockingIOError
        return self.errors.pop(0)

    def close(self) -> None:
        self.near.close()
        self._far.close()


class Sockets:
    """The module `socket`, with `Kernel` for its sockets."""

    def __getattr__(self, name: str) -> Any:
        return Kernel if name == "socket" else getattr(socket, name)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[Kernel]:
    made: list[Kernel] = []
    monkeypatch.setattr(Kernel, "made", made, raising=False)

    monkeypatch.setattr(ping, "socket", Sockets())
    return made


class Pinger:
    """The guest's side: sends requests, keeps what comes back."""

    def __init__(self, guest: GuestNode, version: int) -> None:
        self.guest, self.version = guest, version
        self.got: list[tuple[bytes, icmp.Repr]] = []
        layer = guest.stack.icmp
        take = layer.receive

        def receive(f: Any, now: float) -> icmp.Error | None:
            self.got.append((access.source(f), parsed(f)))
            return take(f, now)

        layer.receive = receive  # type: ignore[method-assign]

    def send(self, to: str, ident: int = 77, seq: int = 1, ttl: int = 64, src: str = "") -> None:
        source = ip.parse_address(src or GUEST[self.version])
        dst = ip.parse_address(to)
        body = icmp.emit(icmp.Echo(False, ident, seq, b"data"), source, dst)
        proto = ip.ICMP if self.version == 4 else ip.ICMPV6
        out = ip.emit(ip.Repr(source, dst, proto, ttl=ttl), body)
        self.guest.interface.send_packet(out, self.guest.driver.now())
        self.guest.driver.wake()


def parsed(f: Any) -> icmp.Repr:
    body = access.octets(f, f.l4, f.data + f.data_len - f.l4)
    return icmp.parse(body, access.source(f), access.destination(f))


def reply(version: int, seq: int, data: bytes = b"data") -> bytes:
    """What the kernel hands over: its own identifier, and no checksum to trust."""
    kind = 0 if version == 4 else 129
    return bytes([kind, 0, 0, 0, 0xBE, 0xEF]) + seq.to_bytes(2) + data


@VERSIONS
async def test_echo_goes_outside_and_back(kernel: list[Kernel], version: int) -> None:
    async with network() as (gateway, guest):
        pinger = Pinger(guest, version)
        pinger.send(OUTSIDE[version], seq=5, ttl=9)
        await until(lambda: kernel and kernel[0].sent)
        message, to = kernel[0].sent[0]
        assert to == OUTSIDE[version]
        assert message[0] == (8 if version == 4 else 128)
        assert message[6:] == b"\0\5data"
        assert kernel[0].options[ping.HOPS[version]] == 8  # one hop was ours
        kernel[0].answer(reply(version, 5), OUTSIDE[version])
        await until(lambda: pinger.got)
        source = ip.parse_address(OUTSIDE[version])
        assert pinger.got == [(source, icmp.Echo(True, 77, 5, b"data"))]
        assert (gateway.ping.counters.sent, gateway.ping.counters.received) == (1, 1)


async def test_two_identifiers_are_not_confused(kernel: list[Kernel]) -> None:
    async with network() as (gateway, guest):
        pinger = Pinger(guest, 4)
        for ident in (1, 2, 1):
            pinger.send(OUTSIDE[4], ident=ident)
        await until(lambda: gateway.ping.counters.sent == 3)
        assert len(gateway.ping) == len(kernel) == 2
        kernel[1].answer(reply(4, 1), OUTSIDE[4])
        kernel[0].answer(reply(4, 1), OUTSIDE[4])
        await until(lambda: len(pinger.got) == 2)
        assert sorted(m.ident for _, m in pinger.got if isinstance(m, icmp.Echo)) == [1, 2]


@VERSIONS
async def test_errors_of_routers_come_with_their_address(
    kernel: list[Kernel], version: int
) -> None:
    async with network() as (gateway, guest):
        pinger = Pinger(guest, version)
        pinger.send(OUTSIDE[version], seq=3, ttl=2)
        await until(lambda: kernel and kernel[0].sent)
        kind = 11 if version == 4 else 3
        origin = 2 if version == 4 else 3
        offender = ip.parse_address(ROUTER[version])
        sockaddr = bytes(4) + offender if version == 4 else bytes(8) + offender
        told = ping.EXTENDED.pack(113, origin, kind, 0, 0, 0, 0) + sockaddr + bytes(8)
        control = [(*ping.RECVERR[version], told)]
        request = bytes([8 if version == 4 else 128, 0, 0, 0, 9, 9, 0, 3]) + b"data"
        kernel[0].fail(request, control, OUTSIDE[version])
        await until(lambda: pinger.got)
        source, error = pinger.got[0]
        assert isinstance(error, icmp.Error)
        assert (source, error.kind) == (offender, Kind.TTL_EXCEEDED)
        about = icmp.quoted(error)
        assert about is not None
        assert (about.src, about.dst, about.sport) == (
            ip.parse_address(GUEST[version]), ip.parse_address(OUTSIDE[version]), 77,
        )  # fmt: skip
        assert gateway.ping.counters.errors == 1


@VERSIONS
async def test_no_icmp_sockets_then_silence(monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    def refuse(self: object, *args: object) -> None:
        raise PermissionError

    async with network() as (gateway, guest):
        monkeypatch.setattr(Kernel, "__init__", refuse)

        monkeypatch.setattr(ping, "socket", Sockets())
        pinger = Pinger(guest, version)
        pinger.send(OUTSIDE[version])
        await until(lambda: gateway.ping.counters.unavailable)
        pinger.send(OURS[version], seq=2)
        pinger.send(HOST[version], seq=3)  # host.internal: we answer ourselves
        await until(lambda: len(pinger.got) == 2)
        assert {m.seq for _, m in pinger.got if isinstance(m, icmp.Echo)} == {2, 3}


async def test_mappings_are_bounded_and_end(kernel: list[Kernel]) -> None:
    async with network() as (gateway, guest):
        gateway.ping.mappings_max = 3
        pinger = Pinger(guest, 4)
        for ident in range(5):
            pinger.send(OUTSIDE[4], ident=ident)
        await until(lambda: gateway.ping.counters.sent == 5)
        assert (len(gateway.ping), gateway.ping.counters.evicted) == (3, 2)
        for mapping in gateway.ping._mappings.values():
            mapping.used -= 61
        gateway.ping._sweep()
        assert len(gateway.ping) == 0


async def test_row16_metadata_and_spoofed_sources_are_not_pinged(kernel: list[Kernel]) -> None:
    async with network() as (gateway, guest):
        pinger = Pinger(guest, 4)
        pinger.send("169.254.169.254")
        await until(lambda: pinger.got)
        error = pinger.got[0][1]
        assert isinstance(error, icmp.Error)
        assert error.kind is Kind.PROHIBITED
        pinger.send(OUTSIDE[4], src="10.99.0.1")
        await until(lambda: gateway.ping.counters.spoofed)
        assert kernel == []


@VERSIONS
async def test_reply_without_request_goes_nowhere(kernel: list[Kernel], version: int) -> None:
    """Row 8: a guest's echo reply, and errors about nothing, do not open a socket."""
    async with network() as (gateway, guest):
        source, dst = (ip.parse_address(a) for a in (GUEST[version], OUTSIDE[version]))
        body = icmp.emit(icmp.Echo(True, 1, 1, b"x"), source, dst)
        proto = ip.ICMP if version == 4 else ip.ICMPV6
        out = ip.emit(ip.Repr(source, dst, proto), body)
        guest.interface.send_packet(out, guest.driver.now())
        pinger = Pinger(guest, version)
        pinger.send(OURS[version])
        await until(lambda: pinger.got)
        assert kernel == []
        assert len(gateway.ping) == 0


# Hops and sources.


@VERSIONS
@pytest.mark.parametrize("proto", ["udp", "icmp"])
async def test_rfc1812_5_3_1_no_hop_left(kernel: list[Kernel], version: int, proto: str) -> None:
    async with network() as (gateway, guest):
        pinger = Pinger(guest, version)
        if proto == "icmp":
            pinger.send(OUTSIDE[version], ttl=1)
        else:
            ends = ((ip.parse_address(GUEST[version]), 4000),
                    (ip.parse_address(OUTSIDE[version]), 33434))  # fmt: skip
            guest.interface.send_packet(packet(*ends, b"trace", 1), guest.driver.now())
            guest.driver.wake()
        await until(lambda: pinger.got)
        source, error = pinger.got[0]
        assert isinstance(error, icmp.Error)
        assert (source, error.kind) == (ip.parse_address(OURS[version]), Kind.TTL_EXCEEDED)
        assert gateway.statistics().ttl_exceeded == 1
        assert (len(gateway.ping), len(gateway.udp)) == (0, 0)
        pinger.send(OURS[version], ttl=1)  # for us: it arrived
        pinger.send(HOST[version], ttl=1)
        await until(lambda: len(pinger.got) == 3)
        assert gateway.statistics().ttl_exceeded == 1


@VERSIONS
async def test_land_attack_is_dropped_and_counted(kernel: list[Kernel], version: int) -> None:
    """A packet from the gateway's own address to the gateway's own address."""
    async with network() as (gateway, guest):
        ours = ip.parse_address(OURS[version])
        before = gateway.statistics().datagrams_in
        land = packet((ours, 53), (ours, 53), b"loop")
        guest.interface.send_packet(land, guest.driver.now())
        pinger = Pinger(guest, version)
        pinger.send(OURS[version], src=HOST[version])
        await until(lambda: gateway.statistics().own_source == 2)
        assert gateway.statistics().datagrams_in == before
        assert pinger.got == []


def test_link_local_destinations_are_not_forwarded() -> None:
    """Row 16: 169.254/16 and fe80::/10 lead nowhere, unless the policy says so."""
    policy, open_ = Policy(), Policy(link_local=True)
    for text in ("169.254.169.254", "169.254.0.1", "fe80::1"):
        addr = ip.parse_address(text)
        assert policy.destination(addr) is None
        assert open_.destination(addr) == addr


async def test_link_local_flows_are_refused() -> None:
    async with network() as (gateway, guest):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.wait_for(guest.open("169.254.169.254", 80), 5)
        inbox = guest.bind(4000)
        guest.send(4000, ("169.254.169.254", 53), b"x")
        error = await asyncio.wait_for(inbox.errors.get(), 5)
        assert error.kind is Kind.PROHIBITED
        assert isinstance(gateway, Gateway)
        assert gateway.udp.counters.refused == 1

"""Hosts that the network configures: against our own gateway, in real and in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import dns.message
import dns.rrset
import pytest

from vpnstack.aio.host import Host, NotConfigured
from vpnstack.aio.network import Network
from vpnstack.errors import UsageError
from vpnstack.gateway import Gateway
from vpnstack.link.pair import pair
from vpnstack.proto import acd, dhcp_client, ra, slaac
from vpnstack.proto.dnsmatch import NoAnswer
from vpnstack.stack.autoconf import Config
from vpnstack.wire import ip, ndp

QUICK = Config(
    dhcp=dhcp_client.Config(hostname="box", start_delay=0.02),
    addresses=slaac.Config(retrans_timer=0.02, max_delay=0.02),
    claims=acd.Config(0.01, 1, 0.01, 0.02, 0.03, 2, 0.02, 10.0),
)


@contextlib.asynccontextmanager
async def behind_gateway(
    config: Config = QUICK, **options: Any
) -> AsyncIterator[tuple[Gateway, Host]]:
    async with Gateway(resolv_conf="", hosts_file="", seed=1, **options) as gateway:
        near, far = pair()
        gateway.attach(far)
        async with Host(near, autoconf=config, seed=2) as host:
            yield gateway, host


class Inbox(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: asyncio.Queue[Any] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.got.put_nowait((data, addr))

    def error_received(self, exc: Exception) -> None:
        self.got.put_nowait(exc)


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((await reader.readline()).upper())
    writer.close()


async def test_configured_by_our_gateway_names_and_both_families() -> None:
    async with behind_gateway() as (gateway, host):
        v4, v6 = sorted(host.addresses, key=lambda a: a.version)
        assert v4 in ipaddress.ip_network("192.168.127.0/24")
        assert v6.ip in ipaddress.ip_network("fd00:127::/64")
        assert [lease.addr for lease in gateway.dhcp.leases(host.loop.time())] == [v4.packed]
        assert set(host.dns.servers) == {
            ip.parse_address("192.168.127.1"), ip.parse_address("fd00:127::1"),
        }  # fmt: skip
        found = await host.lookup("gateway.internal")
        assert sorted(found) == ["192.168.127.1", "fd00:127::1"]
        await gateway.start_server(shout, 80)
        for name in ("gateway.internal", "gateway", *found):
            reader, writer = await host.open_connection(name, 80)
            writer.write(b"hello\n")
            assert await reader.read() == b"HELLO\n"
            info = {c.remote[1]: c.tcp for c in host.connections()}[80]
            assert info.tcpi_bytes_acked >= 6
            writer.close()
        assert host.statistics().names.queries > 0
        assert host.statistics().names.cached > 0


async def test_udp_through_the_gateway_by_name_and_getaddrinfo() -> None:
    async with behind_gateway() as (_, host):
        loop = asyncio.get_running_loop()
        for family, local in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            outside, inbox = await loop.create_datagram_endpoint(Inbox, (local, 0))
            port = outside.get_extra_info("sockname")[1]
            (info,) = await host.getaddrinfo(
                "host.internal", port, family=family, type=socket.SOCK_DGRAM
            )
            assert info[:2] == (family, socket.SOCK_DGRAM)
            transport, mine = await host.create_datagram_endpoint(Inbox, remote_addr=info[4])
            transport.sendto(b"ping")
            data, addr = await asyncio.wait_for(inbox.got.get(), 5)
            assert data == b"ping"
            outside.sendto(b"pong", addr)
            assert (await asyncio.wait_for(mine.got.get(), 5))[0] == b"pong"
            transport.close()
            outside.close()


async def test_unknown_name_and_one_family_only() -> None:
    only = replace(QUICK, ipv6=False)
    async with behind_gateway(only, addresses=("192.168.127.1/24",)) as (gateway, host):
        await gateway.start_server(shout, 80)
        assert await host.lookup("gateway.internal") == ["192.168.127.1"]
        with pytest.raises(OSError, match="expected an"):
            await host.open_connection("nobody.internal", 80)
        transport, _ = await host.create_connection(asyncio.Protocol, "gateway.internal", 80)
        transport.close()


def router(lan: Network, name: str) -> Host:
    """A host that advertises a prefix and a name server (itself)."""
    host = lan.host(name, addresses=["fd00:5::1/64"])
    said = ndp.RouterAdvertisement(
        slla=host.mac,
        prefixes=(ndp.Prefix(ip.parse_address("fd00:5::")),),
        rdnss=(ndp.Rdnss(1800, (ip.parse_address("fd00:5::1"),)),),
    )
    host.stack.resolution.router = ra.Router(ra.Config(said), lan.rng("ra"))
    host.stack.resolution.router.start(lan.loop.time())
    host.driver.wake()
    return host


def test_virtual_time_slaac_and_the_same_twice() -> None:
    async def main(lan: Network) -> tuple[float, tuple[str, ...], bytes]:
        r = router(lan, "r")
        config = Config(ipv4=False, addresses=slaac.Config(secret=b"s"))
        a = lan.host("a", autoconf=config)
        lan.link(a, r, latency=0.01)
        await r.start_server(shout, 7)
        await a.configured()
        at = lan.loop.time()
        reader, writer = await a.open_connection("r", 7)
        writer.write(b"hi\n")
        answer = await reader.read()
        writer.close()
        return at, tuple(map(str, a.addresses)), answer

    first, second = (Network(seed=7).run(main) for _ in range(2))
    assert first == second
    assert first[1][0].startswith("fd00:5::")
    assert first[2] == b"HI\n"


def test_nobody_configures() -> None:
    async def main(lan: Network) -> float:
        a, b = lan.host("a", autoconf=True), lan.host("b")
        lan.link(a, b)
        start = lan.loop.time()
        with pytest.raises(NotConfigured, match="IPv4 and IPv6 address within 20 seconds"):
            await a.configured(timeout=20)
        return lan.loop.time() - start

    assert Network(seed=1).run(main) == pytest.approx(20)


def test_silent_name_server_then_no_answer() -> None:
    async def main(lan: Network) -> None:
        a = lan.host("a", dns=["10.0.0.2"])
        b = lan.host("b")
        lan.link(a, b)
        await b.create_datagram_endpoint(Inbox, ("", 53))
        with pytest.raises(NoAnswer, match="no answer in time"):
            await a.open_connection("www.example", 80)

    Network(seed=1).run(main)


# Groups.


@pytest.mark.parametrize("group", ["239.1.2.3", "ff15::1:2"])
def test_groups_members_only_and_loop_back(group: str) -> None:
    async def main(lan: Network) -> None:
        middle = lan.switch()
        hosts = [lan.host(name) for name in "abc"]
        for host in hosts:
            lan.link(host, middle, latency=0.001)
        ends = [await h.create_datagram_endpoint(Inbox, ("", 4000)) for h in hosts]
        for transport, _ in ends[:2]:
            transport.join_group(group)
        await asyncio.sleep(1)
        ends[0][0].sendto(b"all", (group, 4000))
        await asyncio.sleep(1)
        assert [inbox.got.qsize() for _, inbox in ends] == [1, 1, 0]
        ends[0][0].multicast_loop = False
        ends[0][0].sendto(b"others", (group, 4000))
        ends[0][0].multicast_loop, ends[0][0].multicast_ttl = True, 0
        ends[0][0].sendto(b"own", (group, 4000))
        await asyncio.sleep(1)
        assert [inbox.got.qsize() for _, inbox in ends] == [2, 2, 0]
        ends[1][0].leave_group(group)
        ends[0][0].multicast_ttl = 5
        ends[0][0].sendto(b"left", (group, 4000))
        await asyncio.sleep(1)
        assert [inbox.got.qsize() for _, inbox in ends] == [3, 2, 0]
        got = [ends[0][1].got.get_nowait()[0] for _ in range(3)]
        assert got == [b"all", b"own", b"left"]
        ends[0][0].close()
        assert ip.parse_address(group) not in hosts[0].stack.groups

    Network(seed=3).run(main)


def test_group_misuse() -> None:
    async def main(lan: Network) -> None:
        a = lan.host("a")
        transport, _ = await a.create_datagram_endpoint(Inbox, ("", 4000))
        with pytest.raises(UsageError, match="expected a multicast address"):
            transport.join_group("10.0.0.1")
        with pytest.raises(UsageError, match="that was joined"):
            transport.leave_group("239.1.1.1")

    Network(seed=3).run(main)


def test_rfc4291_2_8_static_hosts_join_their_solicited_node_groups() -> None:
    async def main(lan: Network) -> None:
        a, b = lan.host("a"), lan.host("b")
        lan.link(a, b)
        for addr in [x.packed for x in a.addresses if x.version == 6]:
            assert ip.solicited_node(addr) in a.stack.groups
        assert ip.solicited_node(a.stack.interface.link_local) in a.stack.groups
        await asyncio.sleep(2)
        assert a.stack.groups.mld.groups.statistics().reports >= 1

    Network(seed=3).run(main)


# Names without a gateway: two families, of which one does not work.


class Zone(asyncio.DatagramProtocol):
    """Answers every name; its IPv6 address leads nowhere."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        reply = dns.message.make_response(query)
        kind = query.question[0].rdtype.name
        text = {"A": "10.0.0.2", "AAAA": "2001:db8::99"}[kind]
        reply.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", kind, text))
        self.transport.sendto(reply.to_wire(), addr)


async def dual(lan: Network) -> Host:
    """A host whose name server, on b, knows the address of both families."""
    a = lan.host("a", addresses=["10.0.0.1/24", "2001:db8::1/64"], dns=["10.0.0.2"])
    b = lan.host("b", addresses=["10.0.0.2/24", "2001:db8::2/64"])
    lan.link(a, b, latency=0.01)
    await b.create_datagram_endpoint(Zone, ("", 53))
    await b.start_server(shout, 7)
    return a


class Once(asyncio.Protocol):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.told.append(transport.get_extra_info("peername")[0])

    def data_received(self, data: bytes) -> None:
        self.told.append(data.decode())

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(None)


@pytest.mark.parametrize("streams", [True, False])
def test_rfc8305_the_family_that_works_wins(streams: bool) -> None:
    async def main(lan: Network) -> tuple[str, float]:
        a = await dual(lan)
        start = lan.loop.time()
        transport: Any
        if streams:
            transport = (await a.open_connection("b.example", 7))[1]
        else:
            transport, _ = await a.create_connection(asyncio.Protocol, "b.example", 7)
        took = lan.loop.time() - start
        peer = transport.get_extra_info("peername")[0]
        transport.close()
        return peer, took

    peer, took = Network(seed=5).run(main)
    assert peer == "10.0.0.2"
    assert 0.25 < took < 0.5  # one attempt delay (RFC 8305 5)


def test_rfc8305_one_protocol_whatever_was_tried() -> None:
    """The factory is called once, after the race; what the server said first is not lost."""

    async def main(lan: Network) -> None:
        a = await dual(lan)
        made: list[Once] = []

        def factory() -> Once:
            made.append(Once())
            return made[-1]

        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello")
            writer.close()

        await lan.hosts["b"].start_server(greet, 9)
        _, protocol = await a.create_connection(factory, "b.example", 9)
        await protocol.ended
        assert made == [protocol]
        assert protocol.told == ["10.0.0.2", "hello"]
        await asyncio.sleep(200)
        assert not a.connections()  # the attempt that lost is gone

    Network(seed=5).run(main)


def test_a_factory_that_fails_leaves_no_connection() -> None:
    def factory() -> asyncio.Protocol:
        raise ValueError("no protocol today")

    async def main(lan: Network) -> None:
        a = await dual(lan)
        with pytest.raises(ValueError, match="today"):
            await a.create_connection(factory, "b.example", 7)
        await asyncio.sleep(1)
        assert not a.connections()

    Network(seed=5).run(main)


def test_datagram_errno_without_a_route() -> None:
    async def main(lan: Network) -> None:
        a = lan.host("a", addresses=["10.0.0.1/24"])
        transport, inbox = await a.create_datagram_endpoint(Inbox)
        transport.sendto(b"x", ("fd00::1", 1))
        assert (await inbox.got.get()).errno == errno.ENETUNREACH

    Network(seed=5).run(main)

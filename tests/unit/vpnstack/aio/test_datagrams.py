"""Datagram endpoints: where a datagram was sent to, where one comes from, and what is too long."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from vpnstack.aio.datagrams import MessageTooLong, StackDatagramTransport
from vpnstack.aio.host import Host
from vpnstack.aio.network import Network
from vpnstack.core.burst import Burst
from vpnstack.wire import icmp, ip

FROM = [["10.0.0.1/24"], ["10.0.0.2/24", "10.0.0.9/24", "2001:db8::2/64"]]


class Inbox(asyncio.DatagramProtocol):
    """Notes who sent, to which address of ours, and errors."""

    def __init__(self) -> None:
        self.got: asyncio.Queue[Any] = asyncio.Queue()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.got.put_nowait((data, addr[0], self.transport.get_extra_info("destination")))

    def error_received(self, exc: Exception) -> None:
        self.got.put_nowait(exc)


def hosts(lan: Network) -> tuple[Host, Host]:
    a, b = (lan.host(name, addresses=own) for name, own in zip("ab", FROM, strict=True))
    lan.link(a, b, latency=0.001)
    return a, b


def test_destination_is_told_and_answered_from() -> None:
    """A server on all addresses answers from the one that was asked (RFC 1122 4.1.3.5)."""

    async def main(lan: Network) -> None:
        a, b = hosts(lan)
        server, inbox = await b.create_datagram_endpoint(Inbox, ("", 53))
        assert server.get_extra_info("destination") is None
        client, answers = await a.create_datagram_endpoint(Inbox, ("", 4000))
        client.sendto(b"?", ("10.0.0.9", 53))
        assert await inbox.got.get() == (b"?", "10.0.0.1", ("10.0.0.9", 53))
        server.sendto(b"!", ("10.0.0.1", 4000))
        server.sendto(b"!", ("10.0.0.1", 4000), source="10.0.0.9")
        assert [(await answers.got.get())[1] for _ in range(2)] == ["10.0.0.2", "10.0.0.9"]

    Network(seed=1).run(main)


@pytest.mark.parametrize("group", ["239.1.2.3", "255.255.255.255", "10.0.0.255"])
def test_destination_may_be_a_group(group: str) -> None:
    async def main(lan: Network) -> None:
        a, b = hosts(lan)
        member, inbox = await b.create_datagram_endpoint(Inbox, ("", 4000))
        if group.startswith("239"):
            member.join_group(group)
        sender, _ = await a.create_datagram_endpoint(Inbox)
        sender.sendto(b"all", (group, 4000))
        assert await inbox.got.get() == (b"all", "10.0.0.1", (group, 4000))

    Network(seed=1).run(main)


@pytest.mark.parametrize(
    ("source", "number"),
    [("10.0.0.77", errno.EADDRNOTAVAIL), ("2001:db8::2", errno.ENETUNREACH)],
    ids=["not-ours", "other-family"],
)
def test_source_that_cannot_be_one(source: str, number: int) -> None:
    async def main(lan: Network) -> None:
        _, b = hosts(lan)
        server, inbox = await b.create_datagram_endpoint(Inbox, ("", 53))
        server.sendto(b"!", ("10.0.0.1", 4000), source=source)
        assert (await inbox.got.get()).errno == number

    Network(seed=1).run(main)


@pytest.mark.parametrize(("fragment", "size", "most"), [(False, 1473, 1472), (True, 65508, 65507)])
def test_too_long_says_what_fits(fragment: bool, size: int, most: int) -> None:
    async def main(lan: Network) -> None:
        a, _ = hosts(lan)
        sender, inbox = await a.create_datagram_endpoint(Inbox, remote_addr=("10.0.0.2", 9))
        sender.fragment = fragment
        sender.sendto(bytes(size))
        error = await inbox.got.get()
        assert isinstance(error, MessageTooLong)
        assert (error.errno, error.size) == (errno.EMSGSIZE, most)

    Network(seed=1).run(main)


def test_a_router_s_word_comes_with_the_size() -> None:
    async def main(lan: Network) -> None:
        a, _ = hosts(lan)
        sender, inbox = await a.create_datagram_endpoint(Inbox, ("", 4000))
        ends = ip.parse_address("10.0.0.1"), ip.parse_address("10.1.1.1")
        quote = ip.emit(ip.Repr(*ends, ip.UDP), bytes.fromhex("0fa0000900080000"))
        error = icmp.error(icmp.Kind.TOO_BIG, 4, quote, 1300)
        sender.icmp_received((ends[1], 9), (ends[0], 4000), error, lan.loop.time())
        told = await inbox.got.get()
        assert (told.errno, told.size) == (errno.EMSGSIZE, 1272)

    Network(seed=1).run(main)


def sent(host: Host) -> list[bytes]:
    """Note every IP packet that leaves."""
    seen: list[bytes] = []
    switch: Any = host.switch
    egress = switch.egress

    def note(burst: Burst) -> None:
        seen.extend(burst.octets(i)[14:] for i in range(burst.count))
        egress(burst)

    switch.egress = note
    return seen


@pytest.mark.parametrize("known", [False, True], ids=["neighbour-unknown", "neighbour-known"])
def test_rfc6864_whole_datagrams_must_not_be_cut(known: bool) -> None:
    """They have no identification, so DF is set, whether they waited for ARP or not."""

    async def main(lan: Network) -> None:
        a, _ = hosts(lan)
        sender: StackDatagramTransport
        sender, _ = await a.create_datagram_endpoint(Inbox, remote_addr=("10.0.0.2", 9))
        if known:
            sender.sendto(b"x")
            await asyncio.sleep(1)
        seen = sent(a)
        sender.sendto(b"whole")
        sender.sendto(bytes(3000))
        await asyncio.sleep(1)
        flags = [(p[6] >> 5, int.from_bytes(p[4:6]) > 0) for p in seen if p[0] == 0x45]
        assert flags == [(2, False), (1, True), (1, True), (0, True)]

    Network(seed=1).run(main)

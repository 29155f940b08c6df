"""The stub resolver over a network that exists only here."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from vpnstack.aio import virtual
from vpnstack.aio.stub import Config, NameNotFound, Stub
from vpnstack.proto.dnsmatch import NoAnswer
from vpnstack.wire.ip import parse_address

ZONE = {
    ("host.lab.example.", "A"): ["host.lab.example. 60 IN A 192.0.2.1"],
    ("alias.example.", "A"): [
        "alias.example. 60 IN CNAME b.example.", "b.example. 60 IN CNAME host.lab.example.",
    ],
    ("loop.example.", "A"): ["loop.example. 60 IN CNAME loop.example."],
    ("six.example.", "AAAA"): ["six.example. 60 IN AAAA 2001:db8::1"],
    ("big.example.", "A"): [f"big.example. 60 IN A 192.0.2.{n}" for n in range(5)],
}  # fmt: skip


def answer(query: dns.message.Message, *, tc: bool = False) -> dns.message.Message:
    reply = dns.message.make_response(query)
    question = query.question[0]
    lines = ZONE.get((str(question.name), question.rdtype.name))
    if lines is None:
        reply.set_rcode(dns.rcode.NXDOMAIN)
    elif tc:
        reply.flags |= dns.flags.TC
    else:
        for line in lines:
            name, ttl, cls, kind, text = line.split()
            reply.answer.append(dns.rrset.from_text(name, int(ttl), cls, kind, text))
        return dns.message.from_wire(reply.to_wire())
    return reply


class World:
    """`servers` maps an address to a function from a query to what comes back."""

    def __init__(self, **servers: Callable[[dns.message.Message], list[bytes]]) -> None:
        self.servers = servers
        self.asked: list[tuple[str, str, int]] = []
        self.tcp = 0

    async def create_datagram_endpoint(
        self, factory: Callable[[], Any], *, remote_addr: tuple[str, int]
    ) -> tuple[Any, Any]:
        protocol, world = factory(), self

        class Transport:
            def sendto(self, data: bytes) -> None:
                query = dns.message.from_wire(data)
                world.asked.append((remote_addr[0], str(query.question[0].name), query.id))
                for wire in world.servers[remote_addr[0]](query):
                    asyncio.get_running_loop().call_soon(protocol.datagram_received, wire, None)

            def close(self) -> None:
                pass

        return Transport(), protocol

    async def open_connection(self, host: str, port: int) -> Any:
        self.tcp += 1
        reader = asyncio.StreamReader()

        class Writer:
            def write(self, data: bytes) -> None:
                wire = answer(dns.message.from_wire(data[2:])).to_wire()
                reader.feed_data(struct.pack("!H", len(wire)) + wire)

            def close(self) -> None:
                pass

        return reader, Writer()


def good(query: dns.message.Message) -> list[bytes]:
    return [answer(query).to_wire()]


def silent(query: dns.message.Message) -> list[bytes]:
    return []


def stub(world: World, **options: Any) -> Stub:
    return Stub(world, list(world.servers), random.Random(1), Config(**options))


async def test_address_of_each_family_and_literals() -> None:
    resolver = stub(World(s=good))
    assert await resolver.addresses("host.lab.example", 4) == [parse_address("192.0.2.1")]
    assert await resolver.addresses("six.example", 6) == [parse_address("2001:db8::1")]
    assert await resolver.addresses("192.0.2.9", 4) == [parse_address("192.0.2.9")]
    assert await resolver.addresses("192.0.2.9", 6) == []


async def test_search_list_and_dots() -> None:
    world = World(s=good)
    resolver = stub(world, search=("no.example", "lab.example"))
    assert await resolver.addresses("host", 4) == [parse_address("192.0.2.1")]
    assert [name for _, name, _ in world.asked] == ["host.no.example.", "host.lab.example."]
    world.asked.clear()
    with pytest.raises(NameNotFound):
        await resolver.addresses("host.", 4)
    assert [name for _, name, _ in world.asked] == ["host."]


async def test_aliases_are_followed_and_a_loop_ends() -> None:
    world = World(s=good)
    resolver = stub(world)
    assert await resolver.addresses("alias.example", 4) == [parse_address("192.0.2.1")]
    assert [n for _, n, _ in world.asked] == ["alias.example.", "host.lab.example."]
    with pytest.raises(NameNotFound):
        await resolver.addresses("loop.example", 4)


async def test_truncated_answer_is_asked_for_over_tcp() -> None:
    world = World(s=lambda query: [answer(query, tc=True).to_wire()])
    resolver = stub(world)
    assert len(await resolver.addresses("big.example", 4)) == 5
    assert world.tcp == 1
    assert resolver.statistics().truncated == 1


def test_silent_server_then_the_next_then_the_cache() -> None:
    async def main() -> None:
        world = World(first=silent, second=good)
        resolver = stub(world)
        for _ in range(2):
            assert await resolver.addresses("host.lab.example", 4)
        assert [server for server, _, _ in world.asked] == ["first", "second"]
        assert resolver.statistics().cached == 1

    virtual.run(main())


async def test_rfc5452_forged_answers_are_passed_over() -> None:
    def forged(query: dns.message.Message) -> list[bytes]:
        other = dns.message.make_query("host.lab.example", "A", id=query.id ^ 1)
        wrong = dns.message.make_query("six.example", "AAAA", id=query.id)
        junk = [answer(other).to_wire(), answer(wrong).to_wire(), b"junk", query.to_wire()]
        return [*junk, *good(query)]

    resolver = stub(World(s=forged))
    assert await resolver.addresses("host.lab.example", 4) == [parse_address("192.0.2.1")]


async def test_ids_differ() -> None:
    world = World(s=good)
    resolver = stub(world)
    for n in range(20):
        with pytest.raises(NameNotFound):
            await resolver.addresses(f"none{n}.example", 4)
    assert len({ident for _, _, ident in world.asked}) == 20


def test_no_answer_and_bad_names() -> None:
    async def main() -> None:
        resolver = stub(World(s=silent))
        with pytest.raises(NoAnswer, match="no answer in time"):
            await resolver.addresses("host.lab.example", 4)
        with pytest.raises(NameNotFound, match="expected a name"):
            await resolver.addresses("a" * 70 + ".example", 4)

    virtual.run(main())


async def test_rfc6761_names_are_not_asked_for() -> None:
    world = World(s=good)
    resolver = stub(world, search=("lab.example",))
    for name in ("localhost", "LocalHost.", "x.localhost"):
        assert await resolver.addresses(name, 4) == [parse_address("127.0.0.1")]
        assert await resolver.addresses(name, 6) == [parse_address("::1")]
    for name in ("invalid", "a.b.invalid", "facebook.ONION."):
        with pytest.raises(NameNotFound):
            await resolver.addresses(name, 4)
    assert world.asked == []
    with pytest.raises(NameNotFound):
        await resolver.addresses("a.test", 4)  # RFC 6761 6.2: nothing special to a resolver
    assert world.asked != []

"""The host's resolvers, asked over real sockets on loopback; checklist row 10, RFC 5452."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import uvloop

from vpnstack.proto.dnsmatch import NoAnswer
from vpnstack.services.dns import Forwarder
from vpnstack.services.resolver import Config, Resolver


def reply(question: dns.message.Message, *texts: str) -> dns.message.Message:
    answer = dns.message.make_response(question, recursion_available=True)
    if texts:
        asked = question.question[0]
        answer.answer = [dns.rrset.from_text_list(asked.name, 60, "IN", asked.rdtype, texts)]
    return answer


def texts(answer: dns.message.Message) -> list[str]:
    return [str(rdata) for rrset in answer.answer for rdata in rrset]


Answer = Callable[[dns.message.Message, str], list[bytes]]


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, handle: Answer, ports: list[int]) -> None:
        self.handle, self.ports = handle, ports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.ports.append(addr[1])
        for wire in self.handle(dns.message.from_wire(data), "udp"):
            self.transport.sendto(wire, addr)


@asynccontextmanager
async def server(handle: Answer, ports: list[int] | None = None) -> AsyncIterator[tuple[str, int]]:
    async def on_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        data = await reader.readexactly(length)
        for wire in handle(dns.message.from_wire(data), "tcp"):
            writer.write(struct.pack("!H", len(wire)) + wire)
        writer.close()

    tcp = await asyncio.start_server(on_tcp, "127.0.0.1", 0)
    address = tcp.sockets[0].getsockname()
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Udp(handle, [] if ports is None else ports), local_addr=address
    )
    try:
        yield address
    finally:
        transport.close()
        tcp.close()
        await tcp.wait_closed()


def plain(question: dns.message.Message, _via: str) -> list[bytes]:
    return [reply(question, "192.0.2.1").to_wire()]


def resolver(*servers: tuple[str, int], timeout: float = 2.0) -> Resolver:
    return Resolver(Config(servers=servers, timeout=timeout, attempts=1))


async def through(answer: Answer, name: str = "a.example") -> list[str]:
    async with server(answer) as address:
        got, _ = await resolver(address).query(dns.message.make_query(name, "A"))
        return texts(got)


async def test_upstream_answers() -> None:
    assert await through(plain) == ["192.0.2.1"]


def test_upstream_answers_on_uvloop() -> None:
    assert uvloop.run(through(plain)) == ["192.0.2.1"]
    with pytest.raises(NoAnswer):
        uvloop.run(resolver(("127.0.0.1", 1)).query(dns.message.make_query("a.example", "A")))


async def test_row10_ids_and_ports_differ() -> None:
    ids, ports = list[int](), list[int]()

    def handle(question: dns.message.Message, _via: str) -> list[bytes]:
        ids.append(question.id)
        return plain(question, _via)

    async with server(handle, ports) as address:
        for _ in range(40):
            await resolver(address).query(dns.message.make_query("a.example", "A", id=1))
    assert len(set(ids)) > 30
    assert len(set(ports)) > 30


async def test_row10_answer_must_match_id_and_question() -> None:
    def handle(question: dns.message.Message, _via: str) -> list[bytes]:
        forged = reply(question, "6.6.6.6").to_wire()
        other = dns.message.make_query("b.example", "A", id=question.id)
        return [
            bytes([forged[0] ^ 1]) + forged[1:],
            reply(other, "6.6.6.6").to_wire(),
            forged[:2] + bytes([forged[2] & 0x7F]) + forged[3:],
            b"", b"junk", forged[:20],
            *plain(question, _via),
        ]  # fmt: skip

    assert await through(handle) == ["192.0.2.1"]


async def test_row10_answer_from_another_port_is_not_taken() -> None:
    loop = asyncio.get_running_loop()
    stray, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )
    ports = list[int]()

    def handle(question: dns.message.Message, via: str) -> list[bytes]:
        stray.sendto(reply(question, "6.6.6.6").to_wire(), ("127.0.0.1", ports[-1]))
        return plain(question, via)

    async with server(handle, ports) as address:
        got, _ = await resolver(address).query(dns.message.make_query("a.example", "A"))
    stray.close()
    assert texts(got) == ["192.0.2.1"]


async def test_truncated_answer_is_asked_for_again_over_tcp() -> None:
    def handle(question: dns.message.Message, via: str) -> list[bytes]:
        if via == "tcp":
            return plain(question, via)
        answer = reply(question)
        answer.flags |= dns.flags.TC
        return [answer.to_wire()]

    assert await through(handle) == ["192.0.2.1"]


def silent(_question: dns.message.Message, _via: str) -> list[bytes]:
    return []


def failing(question: dns.message.Message, _via: str) -> list[bytes]:
    answer = reply(question)
    answer.set_rcode(dns.rcode.SERVFAIL)
    return [answer.to_wire()]


def truncated_tcp(question: dns.message.Message, via: str) -> list[bytes]:
    """TC over UDP, then another's answer over TCP."""
    answer = reply(dns.message.make_query("b.example", "A") if via == "tcp" else question)
    answer.flags |= dns.flags.TC
    return [answer.to_wire()]


@pytest.mark.parametrize("bad", [silent, failing, truncated_tcp])
async def test_next_server_is_asked(bad: Answer) -> None:
    async with server(bad) as first, server(plain) as second:
        asked = resolver(first, second, timeout=0.5)  # the second one answers within it
        got, _ = await asked.query(dns.message.make_query("a.example", "A"))
        assert texts(got) == ["192.0.2.1"]
        with pytest.raises(NoAnswer, match=r"127\.0\.0\.1"):
            await resolver(first, timeout=0.05).query(dns.message.make_query("a.example", "A"))


async def test_refused_port_goes_on_at_once() -> None:
    async with server(plain) as gone:
        pass
    async with server(plain) as second:
        got, _ = await resolver(gone, second, timeout=30).query(
            dns.message.make_query("a.example", "A")
        )
        assert texts(got) == ["192.0.2.1"]


async def test_missing_resolv_conf_asks_nobody(tmp_path: Path) -> None:
    missing = Resolver(Config(path=str(tmp_path / "resolv.conf")))
    forwarder = Forwarder({}, missing, hosts=None)
    wire = await forwarder.answer(dns.message.make_query("a.example", "A").to_wire(), tcp=False)
    assert wire is not None
    assert dns.message.from_wire(wire).rcode() == dns.rcode.SERVFAIL
    assert missing.servers() == ()


def test_resolv_conf_is_read_again_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("search lab\nnameserver 192.0.2.1\nnameserver nonsense\n#nameserver 1.1.1.1\n")
    found = Resolver(Config(path=str(path)))
    assert found.servers() == (("192.0.2.1", 53),)
    assert not found.changed()
    path.write_text("nameserver 192.0.2.2\nnameserver fd00::1\n" + "nameserver 3.3.3.3\n" * 3)
    assert found.changed()
    assert not found.changed()
    assert found.servers() == (("192.0.2.2", 53), ("fd00::1", 53), ("3.3.3.3", 53))
    os.utime(path)
    assert not found.changed()

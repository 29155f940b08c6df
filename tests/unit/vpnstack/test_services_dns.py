"""The DNS forwarder without sockets, and against a real upstream on loopback; checklist row 10."""

from __future__ import annotations

import asyncio
import os
import random
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
import uvloop

from vpnstack.services.dns import Forwarder
from vpnstack.services.resolver import Config, NoAnswer, Resolver

V4, V6 = b"\xc0\xa8\x7f\xfe", bytes.fromhex("fd0001270000000000000000000000fe")
OWN = {"host.internal": (V4, V6), "vm1.internal": (b"\xc0\xa8\x7f\x02",)}


def reply(question: dns.message.Message, *texts: str, ttl: int = 60) -> dns.message.Message:
    answer = dns.message.make_response(question, recursion_available=True)
    if texts:
        asked = question.question[0]
        answer.answer = [dns.rrset.from_text_list(asked.name, ttl, "IN", asked.rdtype, texts)]
    return answer


class Upstream:
    """Answers 192.0.2.1 to everything; `gate` holds the answers back."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts or ("192.0.2.1",)
        self.asked = list[dns.message.Message]()
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails = self.new = False

    async def query(self, question: dns.message.Message) -> tuple[dns.message.Message, bytes]:
        self.asked.append(question)
        await self.gate.wait()
        if self.fails:
            raise NoAnswer("dns: expected an answer, found none")
        texts = self.texts if question.question[0].rdtype == dns.rdatatype.A else ()
        answer = reply(question, *texts)
        return answer, answer.to_wire(max_size=65535)

    def changed(self) -> bool:
        return self.new


async def ask(
    forwarder: Forwarder, name: str, rdtype: str = "A", *, tcp: bool = False, **more: object
) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype, **more)  # type: ignore[arg-type]
    wire = await forwarder.answer(query.to_wire(), tcp=tcp)
    assert wire is not None
    answer = dns.message.from_wire(wire)
    assert query.is_response(answer)
    return answer


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until `condition` holds."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    pytest.fail("the condition never came true")


def texts(answer: dns.message.Message) -> list[str]:
    return [str(rdata) for rrset in answer.answer for rdata in rrset]


def local(hosts: str | None = None) -> Forwarder:
    return Forwarder(OWN, None, hosts=hosts)


@pytest.mark.parametrize(
    ("name", "rdtype", "expected"),
    [
        ("host.internal", "A", ["192.168.127.254"]),
        ("HOST.Internal", "AAAA", ["fd00:127::fe"]),
        ("host.internal", "ANY", ["192.168.127.254", "fd00:127::fe"]),
        ("vm1.internal", "AAAA", []),
        ("host.internal", "TXT", []),
        ("254.127.168.192.in-addr.arpa", "PTR", ["host.internal."]),
        (V6.hex()[::-1].replace("", ".")[1:] + "ip6.arpa", "PTR", ["host.internal."]),
        ("localhost", "A", ["127.0.0.1"]),
        ("x.localhost", "AAAA", ["::1"]),
        ("1.0.0.127.in-addr.arpa", "PTR", ["localhost."]),
    ],
)
async def test_own_names(name: str, rdtype: str, expected: list[str]) -> None:
    answer = await ask(local(), name, rdtype)
    assert answer.rcode() == dns.rcode.NOERROR
    assert texts(answer) == expected
    assert all(rrset.ttl <= 5 for rrset in answer.answer)


@pytest.mark.parametrize("name", ["x.host.internal", "foo.invalid", "test", "a.b.test", "a.onion"])
async def test_rfc6761_names_that_do_not_exist(name: str) -> None:
    upstream = Upstream()
    answer = await ask(Forwarder(OWN, upstream, hosts=None), name)
    assert answer.rcode() == dns.rcode.NXDOMAIN
    assert upstream.asked == []


async def test_names_is_read_at_every_query() -> None:
    own = dict(OWN)
    forwarder = Forwarder(own, None, hosts=None)
    assert (await ask(forwarder, "vm2.internal")).rcode() == dns.rcode.SERVFAIL
    own["vm2.internal"] = (b"\xc0\xa8\x7f\x03",)
    assert texts(await ask(forwarder, "vm2.internal")) == ["192.168.127.3"]


async def test_hosts_file_is_read_again_when_it_changed(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(
        "127.0.1.1 myself\n::1 ip6-loopback\n192.0.2.7 Printer printer.lan # up\n"
        "192.0.2.8 host.internal\nrubbish here\n192.0.2.9 a..b\nfe80::1%lo0 x\n"
    )
    forwarder = local(str(hosts))
    assert texts(await ask(forwarder, "printer.lan")) == ["192.0.2.7"]
    assert texts(await ask(forwarder, "printer")) == ["192.0.2.7"]
    pointers = texts(await ask(forwarder, "7.2.0.192.in-addr.arpa", "PTR"))
    assert set(pointers) == {"Printer.", "printer.lan."}
    assert texts(await ask(forwarder, "host.internal")) == ["192.168.127.254"]  # ours win
    assert (await ask(forwarder, "myself")).rcode() == dns.rcode.SERVFAIL
    hosts.write_text("192.0.2.99 printer\n")
    assert texts(await ask(forwarder, "printer")) == ["192.0.2.99"]
    hosts.unlink()
    assert (await ask(forwarder, "printer")).rcode() == dns.rcode.SERVFAIL


async def test_forwarded_then_cached_with_new_id() -> None:
    upstream, clock = Upstream(), [0.0]
    forwarder = Forwarder({}, upstream, hosts=None, clock=lambda: clock[0])
    assert texts(await ask(forwarder, "a.example")) == ["192.0.2.1"]
    clock[0] = 20.0
    answer = await ask(forwarder, "A.example")
    assert (texts(answer), answer.answer[0].ttl) == (["192.0.2.1"], 40)
    assert len(upstream.asked) == 1
    upstream.new = True  # other servers: what the old ones said is forgotten
    await ask(forwarder, "a.example")
    assert len(upstream.asked) == 2
    stats = forwarder.statistics()
    assert (stats.forwarded, stats.cached, stats.rcodes) == (2, 1, (("NOERROR", 3),))


async def test_equal_questions_share_one_query() -> None:
    upstream = Upstream()
    upstream.gate.clear()
    forwarder = Forwarder({}, upstream, hosts=None)
    tasks = [asyncio.create_task(ask(forwarder, "a.example")) for _ in range(20)]
    await until(lambda: forwarder.statistics().shared == 19)
    tasks[0].cancel()  # who asked first goes away; the others still get the answer
    upstream.gate.set()
    answers = await asyncio.gather(*tasks[1:])
    assert [texts(answer) for answer in answers] == [["192.0.2.1"]] * 19
    assert len(upstream.asked) == 1
    assert forwarder.statistics().in_flight == 0


async def test_queries_in_flight_are_bounded() -> None:
    upstream = Upstream()
    upstream.gate.clear()
    forwarder = Forwarder({}, upstream, hosts=None, in_flight_max=4)
    tasks = [asyncio.create_task(ask(forwarder, f"n{i}.example")) for i in range(10)]
    await until(lambda: forwarder.statistics().refused_busy == 6)
    assert forwarder.statistics().in_flight == 4
    upstream.gate.set()
    rcodes = [answer.rcode() for answer in await asyncio.gather(*tasks)]
    assert rcodes == [dns.rcode.NOERROR] * 4 + [dns.rcode.SERVFAIL] * 6


async def test_failure_upstream_is_servfail_and_not_kept() -> None:
    upstream = Upstream()
    upstream.fails = True
    forwarder = Forwarder({}, upstream, hosts=None)
    assert (await ask(forwarder, "a.example")).rcode() == dns.rcode.SERVFAIL
    upstream.fails = False
    assert (await ask(forwarder, "a.example")).rcode() == dns.rcode.NOERROR


async def test_close_ends_queries_under_way() -> None:
    upstream = Upstream()
    upstream.gate.clear()
    forwarder = Forwarder({}, upstream, hosts=None)
    task = asyncio.create_task(ask(forwarder, "a.example"))
    await until(lambda: bool(upstream.asked))
    await forwarder.close()
    assert (await task).rcode() == dns.rcode.SERVFAIL


@pytest.mark.parametrize(
    ("payload", "limit"), [(None, 512), (0, 512), (100, 512), (1232, 1232), (65535, 4096)]
)
async def test_row10_edns_size_and_truncation(payload: int | None, limit: int) -> None:
    upstream = Upstream(*(f"192.0.{i >> 8}.{i & 255}" for i in range(400)))
    forwarder = Forwarder({}, upstream, hosts=None)
    query = dns.message.make_query("a.example", "A")
    if payload is not None:
        query.use_edns(0, payload=payload)
    wire = await forwarder.answer(query.to_wire(), tcp=False)
    assert wire is not None
    assert len(wire) <= limit
    assert wire[2] & 2  # TC
    answer = await ask(forwarder, "a.example", tcp=True)
    assert len(texts(answer)) == 400
    assert not answer.flags & dns.flags.TC


HEAD = bytes.fromhex("1234010000010000" + "00000000")
Q = b"\x01a\x00\x00\x01\x00\x01"


@pytest.mark.parametrize("query", [b"", HEAD[:11], HEAD[:2] + b"\x81" + HEAD[3:] + Q])
async def test_row10_short_or_answer_gets_silence(query: bytes) -> None:
    forwarder = local()
    assert await forwarder.answer(query, tcp=False) is None
    assert forwarder.statistics().ignored == 1


@pytest.mark.parametrize(
    "query",
    [
        HEAD[:5] + b"\0" + HEAD[6:],  # no question
        HEAD[:5] + b"\x02" + HEAD[6:] + Q + b"\x01b\x00\x00\x01\x00\x01",  # two
        HEAD[:4] + b"\xff\xff" + HEAD[6:] + Q,  # 65535
        HEAD + b"\xc0\x0c\0\x01\0\x01",  # pointer to itself
        HEAD + b"\xc0\x20\0\x01\0\x01" + bytes(20),  # pointer forward
        HEAD + b"\x01a\xc0\x0c\0\x01\0\x01",  # loop
        HEAD + b"\x40" + b"a" * 64 + b"\0\0\x01\0\x01",  # label of 64
        HEAD + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\x01\0\x01",  # name of 257
        HEAD + Q[:-1],
        HEAD + Q + b"junk",
    ],
)
async def test_row10_malformed_gets_formerr(query: bytes) -> None:
    forwarder = local()
    wire = await forwarder.answer(query, tcp=False)
    assert wire is not None
    assert (wire[:2], wire[2] >> 7, wire[3] & 15) == (query[:2], 1, dns.rcode.FORMERR)
    assert len(wire) == 12  # never longer than what came: no amplifier
    assert forwarder.statistics().malformed == 1


async def test_opcode_class_transfer_and_edns_version() -> None:
    forwarder = Forwarder({}, Upstream(), hosts=None)
    notify = await forwarder.answer(HEAD[:2] + b"\x21" + HEAD[3:] + Q, tcp=False)
    assert notify is not None
    assert notify[3] & 15 == dns.rcode.NOTIMP
    update = await forwarder.answer(HEAD[:2] + b"\x29" + HEAD[3:] + Q, tcp=False)
    assert update is not None
    assert update[3] & 15 == dns.rcode.NOTIMP
    assert (await ask(forwarder, "a.example", "AXFR", tcp=True)).rcode() == dns.rcode.REFUSED
    chaos = await ask(forwarder, "version.bind", "TXT", rdclass="CH")
    assert chaos.rcode() == dns.rcode.REFUSED
    assert (await ask(forwarder, "a.example", use_edns=1)).rcode() == dns.rcode.BADVERS


async def test_row10_random_messages_never_raise() -> None:
    rng = random.Random(10)
    forwarder = Forwarder(OWN, Upstream(), hosts=None)
    seeds = [dns.message.make_query(name, "A", use_edns=0).to_wire() for name in (*OWN, "a.b")]
    for _ in range(3000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        wire = await forwarder.answer(bytes(data[: rng.randrange(1, len(data) + 1)]), tcp=False)
        assert wire is None or len(wire) >= 12
    assert forwarder.statistics().malformed > 500


# --- the resolver, against a server on loopback ---------------------------------------------------

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
        asked = resolver(first, second, timeout=0.05)
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
    assert (await ask(forwarder, "a.example")).rcode() == dns.rcode.SERVFAIL
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

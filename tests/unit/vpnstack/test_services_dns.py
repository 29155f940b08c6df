"""The DNS forwarder, without sockets; checklist row 10."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from vpnstack.proto.dnsmatch import NoAnswer
from vpnstack.services.dns import Forwarder

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


async def test_row10_one_id_for_two_questions() -> None:
    """Clients need not choose well: each gets the answer to what it asked."""
    upstream = Upstream()
    upstream.gate.clear()
    forwarder = Forwarder({}, upstream, hosts=None)
    same: dict[str, object] = {"id": 7}
    names = ("a.example", "b.example", "a.example")
    tasks = [asyncio.create_task(ask(forwarder, name, **same)) for name in names]
    await until(lambda: len(upstream.asked) == 2)
    upstream.gate.set()
    answers = await asyncio.gather(*tasks)
    assert [(a.id, str(a.question[0].name)) for a in answers] == [(7, f"{n}.") for n in names]


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

"""The DNS forwarder of the gateway's addresses (RFC 1035, RFC 5625, EDNS RFC 6891).

A query is answered from our own names, then from the cache, then by the host's resolvers.  Equal
questions that are under way share one query upstream; their number is bounded.  The stack gives
it the payload of a datagram, or of a TCP message without its length, and sends what comes back.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype

from ..proto.dnscache import Cache, Key
from ..proto.dnsmatch import NoAnswer
from .names import Found, Names
from .resolver import PAYLOAD, Upstream

HEADER_LEN = 12
UDP_MIN = 512  # RFC 1035 4.2.1
UDP_MAX = 4096  # what we send at most, whatever the client claims
TCP_MAX = 65535
_TRANSFERS = (dns.rdatatype.AXFR, dns.rdatatype.IXFR)


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters since the start; `rcodes` are what was answered, by name."""

    queries: int = 0
    ignored: int = 0
    malformed: int = 0
    local: int = 0
    cached: int = 0
    forwarded: int = 0
    shared: int = 0
    failed: int = 0
    refused_busy: int = 0
    truncated: int = 0
    in_flight: int = 0
    rcodes: tuple[tuple[str, int], ...] = ()


class Forwarder:
    """Answers DNS queries.

    `names` maps a lower-case name such as `host.internal` to addresses of 4 or 16 octets and is
    read at every query, so the caller may change it; `upstream` None means that only local names
    exist; `hosts` is a file in the format of hosts(5), None for no file.
    """

    def __init__(
        self,
        names: Mapping[str, Sequence[bytes]],
        upstream: Upstream | None,
        *,
        hosts: str | None = "/etc/hosts",
        in_flight_max: int = 256,
        cache: Cache | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.names = Names(names, hosts)
        self.upstream = upstream
        self.cache = cache or Cache()
        self.in_flight_max = in_flight_max
        self._clock = clock
        self._tasks: dict[Key, asyncio.Task[dns.message.Message | None]] = {}
        self._counts: Counter[str] = Counter()
        self._rcodes: Counter[str] = Counter()

    async def answer(self, query: bytes, *, tcp: bool) -> bytes | None:
        """Return the answer to `query`, or None where silence is the right one."""
        self._counts["queries"] += 1
        if len(query) < HEADER_LEN or query[2] & 0x80:  # an answer, not a question: a loop
            self._counts["ignored"] += 1
            return None
        message = None if opcode(query) else readable(query)
        if message is None:
            self._counts["malformed"] += 1
            return header_only(query, dns.rcode.NOTIMP if opcode(query) else dns.rcode.FORMERR)
        rcode = objection(message)
        if rcode != dns.rcode.NOERROR:
            return self._finish(message, failure(message, rcode), tcp)
        return self._finish(message, await self._resolve(message), tcp)

    async def close(self) -> None:
        """Give up the queries under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def statistics(self) -> Statistics:
        """Return a snapshot of the counters."""
        rcodes = tuple(sorted(self._rcodes.items()))
        return Statistics(**self._counts, in_flight=len(self._tasks), rcodes=rcodes)

    async def _resolve(self, message: dns.message.Message) -> dns.message.Message:
        question = message.question[0]
        found = self.names.find(question.name, question.rdtype)
        if found is not None:
            self._counts["local"] += 1
            return local(message, found)
        if self.upstream is None or not message.flags & dns.flags.RD:
            return failure(message, dns.rcode.REFUSED if self.upstream else dns.rcode.SERVFAIL)
        answer = await self._ask(self.upstream, message)
        return failure(message, dns.rcode.SERVFAIL) if answer is None else relay(message, answer)

    async def _ask(
        self, upstream: Upstream, message: dns.message.Message
    ) -> dns.message.Message | None:
        """Return the answer from the cache, a query under way or a new one; None for failure."""
        if upstream.changed():
            self.cache.clear()
        key = key_of(message)
        cached = self.cache.get(key, self._now())
        if cached is not None:
            self._counts["cached"] += 1
            return cached
        task = self._tasks.get(key)
        if task is not None:
            self._counts["shared"] += 1
        elif len(self._tasks) >= self.in_flight_max:
            self._counts["refused_busy"] += 1
            return None
        else:
            task = asyncio.get_running_loop().create_task(self._forward(upstream, key))
            self._tasks[key] = task
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():  # we are the one who is cancelled, not the query
                raise
            return None

    async def _forward(self, upstream: Upstream, key: Key) -> dns.message.Message | None:
        self._counts["forwarded"] += 1
        try:
            answer, wire = await upstream.query(question_for(key))
        except NoAnswer:
            self._counts["failed"] += 1
            return None
        finally:
            self._tasks.pop(key, None)
        self.cache.put(key, answer, wire, self._now())
        return answer

    def _now(self) -> float:
        return self._clock() if self._clock else asyncio.get_running_loop().time()

    def _finish(self, query: dns.message.Message, answer: dns.message.Message, tcp: bool) -> bytes:
        self._rcodes[dns.rcode.to_text(answer.rcode())] += 1
        # Without EDNS `payload` is 0; RFC 6891 6.2.3 takes less than 512 for 512.
        size = TCP_MAX if tcp else min(max(query.payload, UDP_MIN), UDP_MAX)
        try:
            wire = answer.to_wire(max_size=size, prefer_truncation=True)
        except dns.exception.TooBig:
            bare = failure(query, answer.rcode())
            bare.flags |= dns.flags.TC
            wire = bare.to_wire(max_size=size)
        self._counts["truncated"] += wire[2] >> 1 & 1
        return wire


def opcode(query: bytes) -> int:
    """Return the opcode in a header; 0 is QUERY."""
    return query[2] >> 3 & 15


def readable(query: bytes) -> dns.message.Message | None:
    """Parse a query; None where that fails or there is not one question."""
    try:
        message = dns.message.from_wire(query)
    except (dns.exception.DNSException, ValueError):
        return None
    return message if len(message.question) == 1 else None


def objection(message: dns.message.Message) -> dns.rcode.Rcode:
    """Return why a query that could be read is not answered, NOERROR for no reason."""
    if message.edns > 0:  # RFC 6891 6.1.3
        return dns.rcode.BADVERS
    question = message.question[0]
    if question.rdclass != dns.rdataclass.IN or question.rdtype in _TRANSFERS:
        return dns.rcode.REFUSED
    return dns.rcode.NOERROR


def key_of(message: dns.message.Message) -> Key:
    """Return what the answer to `message` depends on."""
    question = message.question[0]
    dnssec_ok = bool(message.ednsflags & dns.flags.DO)
    disabled = bool(message.flags & dns.flags.CD)
    return Key(question.name, question.rdtype, question.rdclass, dnssec_ok, disabled)


def question_for(key: Key) -> dns.message.Message:
    """Build the query for `key`; nothing of the client's but the question goes out."""
    flags = dns.flags.RD | (dns.flags.CD if key.checking_disabled else 0)
    return dns.message.make_query(
        key.name,
        dns.rdatatype.RdataType.make(key.rdtype),
        dns.rdataclass.RdataClass.make(key.rdclass),
        use_edns=0,
        want_dnssec=key.dnssec_ok,
        payload=PAYLOAD,
        flags=flags,
    )


def header_only(query: bytes, rcode: dns.rcode.Rcode) -> bytes:
    """Answer a query that cannot be read: its id, opcode and RD, no question (RFC 1035 4.1.1)."""
    flags = 0x8000 | int.from_bytes(query[2:4]) & 0x7900 | 0x0080 | rcode
    return query[:2] + flags.to_bytes(2) + bytes(8)


def failure(query: dns.message.Message, rcode: dns.rcode.Rcode) -> dns.message.Message:
    """Answer `query` with `rcode` and nothing else."""
    answer = respond(query)
    answer.set_rcode(rcode)
    return answer


def respond(query: dns.message.Message) -> dns.message.Message:
    """Make an empty answer to `query`, with an OPT record where it had one (RFC 6891 7)."""
    answer = dns.message.Message(id=query.id)
    answer.flags = dns.flags.QR | dns.flags.RA | query.flags & (dns.flags.RD | dns.flags.CD)
    answer.set_opcode(query.opcode())
    answer.question = list(query.question)
    if query.edns >= 0:
        answer.use_edns(0, query.ednsflags & dns.flags.DO, PAYLOAD)
    return answer


def local(query: dns.message.Message, found: Found) -> dns.message.Message:
    """Answer `query` with what was found here."""
    answer = failure(query, found.rcode)
    answer.flags |= dns.flags.AA
    answer.answer = list(found.answer)
    return answer


def relay(query: dns.message.Message, answer: dns.message.Message) -> dns.message.Message:
    """Answer `query` with the sections that came from upstream."""
    reply = failure(query, answer.rcode())
    reply.flags |= answer.flags & (dns.flags.AD | dns.flags.AA)
    reply.answer, reply.authority = answer.answer, answer.authority
    reply.additional = answer.additional
    return reply

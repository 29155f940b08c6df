"""A stub resolver (RFC 1034 5.3.1, RFC 1123 6.1.3.2) whose queries go through any network.

    stub = Stub(host, ["10.0.0.53"], rng, search=["lab.example"])
    addresses = await stub.addresses("vm1", 4)

The network is whatever opens datagram endpoints and connections as asyncio does: a host of ours,
or the loop.  Every query has an ID of its own and goes from a port of its own (RFC 5452 9.2); a
truncated answer is asked for again over TCP (RFC 7766 5).
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype

from ..errors import LinkError
from ..proto.dnscache import Cache, Key
from ..proto.dnsmatch import NoAnswer, matching

PORT = 53
PAYLOAD = 1232
CHAIN_MAX = 8  # queries for one name; within an answer dnspython has its own bound
TYPES = {4: dns.rdatatype.A, 6: dns.rdatatype.AAAA}
LOOPBACK = {4: b"\x7f\0\0\x01", 6: bytes(15) + b"\x01"}


class NameNotFound(LinkError, OSError):
    """No server knows the name, or it has no address of the family that was asked for."""


class Net(Protocol):
    """What opens our sockets; asyncio's signatures."""

    async def open_connection(
        self, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect a stream."""

    async def create_datagram_endpoint(
        self, factory: Callable[[], Any], *, remote_addr: tuple[str, int]
    ) -> tuple[Any, Any]:
        """Bind a new port and connect it to `remote_addr`."""


@dataclass(frozen=True, slots=True)
class Config:
    """As resolv.conf(5): names with fewer than `ndots` dots are searched for first."""

    search: tuple[str, ...] = ()
    ndots: int = 1
    timeout: float = 2.0
    attempts: int = 2


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters since the start."""

    queries: int = 0
    timeouts: int = 0
    truncated: int = 0
    cached: int = 0


class _Exchange(asyncio.DatagramProtocol):
    """One query: resolves `done` with the first datagram that answers it."""

    def __init__(self, question: dns.message.Message) -> None:
        self._question = question
        self.done: asyncio.Future[tuple[dns.message.Message, bytes]]
        self.done = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        answer = matching(self._question, data)
        if answer is not None and not self.done.done():
            self.done.set_result((answer, data))

    def error_received(self, exc: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(exc)


class Stub:
    """Asks `servers` (addresses as text, which the caller may change) in turn."""

    def __init__(
        self, net: Net, servers: Sequence[str], rng: random.Random, config: Config | None = None,
        *, cache: Cache | None = None,
    ) -> None:  # fmt: skip
        self.net = net
        self.servers = servers
        self.config = config or Config()
        self.cache = cache or Cache()
        self._rng = rng
        self._counts: Counter[str] = Counter()

    async def addresses(self, name: str, family: int) -> list[bytes]:
        """Return the addresses of `name` in IP version `family`, packed.

        Raises `NameNotFound`, or `NoAnswer` where no server answers.
        """
        try:
            literal = ipaddress.ip_address(name)
        except ValueError:
            pass
        else:
            return [literal.packed] if literal.version == family else []
        special = special_use(name, family)
        if special:
            return special
        for candidate in self._candidates(name) if special is None else ():
            found = await self._follow(candidate, TYPES[family])
            if found is not None:
                return found
        raise NameNotFound(f"dns: expected an IPv{family} address of {name!r}, found none")

    def _candidates(self, name: str) -> list[dns.name.Name]:
        """Return the full names to try for `name`, in order (RFC 1123 6.1.4.3)."""
        try:
            own = dns.name.from_text(name)
            below = [
                dns.name.from_text(f"{name}.{domain}")
                for domain in self.config.search
                if not name.endswith(".")
            ]
        except (dns.exception.DNSException, UnicodeError) as e:
            raise NameNotFound(f"dns: expected a name, found {name!r}: {e}") from None
        return [own, *below] if name.count(".") >= self.config.ndots else [*below, own]

    async def _follow(
        self, name: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> list[bytes] | None:
        """Resolve a full name, through aliases; None where there is no such data."""
        for _ in range(CHAIN_MAX):
            answer = await self.query(name, kind)
            if not isinstance(answer, dns.message.QueryMessage):
                return None
            try:
                chain = answer.resolve_chaining()
            except (dns.exception.DNSException, ValueError):
                return None
            if chain.answer is not None:
                return [ipaddress.ip_address(record.address).packed for record in chain.answer]
            if answer.rcode() != dns.rcode.NOERROR or chain.canonical_name == name:
                return None
            name = chain.canonical_name
        return None

    async def query(
        self, name: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> dns.message.Message:
        """Return the answer about a full name, from the cache or a server."""
        key = Key(name, kind, dns.rdataclass.IN)
        now = asyncio.get_running_loop().time()
        cached = self.cache.get(key, now)
        if cached is not None:
            self._counts["cached"] += 1
            return cached
        reason = "there is no server to ask"
        for server in [*self.servers] * self.config.attempts:
            try:
                answer, wire = await self._ask(name, kind, server)
            except TimeoutError:
                self._counts["timeouts"] += 1
                reason = f"{server}: no answer in time"
                continue
            except (OSError, EOFError) as error:
                reason = f"{server}: {error}"
                continue
            if answer.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                self.cache.put(key, answer, wire, now)
                return answer
            reason = f"{server}: {dns.rcode.to_text(answer.rcode())}"
        raise NoAnswer(f"dns: expected an answer about {name}, found none: {reason}")

    async def _ask(
        self, name: dns.name.Name, kind: dns.rdatatype.RdataType, server: str
    ) -> tuple[dns.message.Message, bytes]:
        self._counts["queries"] += 1
        question = dns.message.make_query(name, kind, use_edns=0, payload=PAYLOAD)
        question.id = self._rng.getrandbits(16)
        async with asyncio.timeout(self.config.timeout):
            answer, wire = await self._ask_udp(question, server)
        if not answer.flags & dns.flags.TC:
            return answer, wire
        self._counts["truncated"] += 1
        question.id = self._rng.getrandbits(16)
        async with asyncio.timeout(self.config.timeout):
            return await self._ask_tcp(question, server)

    async def _ask_udp(
        self, question: dns.message.Message, server: str
    ) -> tuple[dns.message.Message, bytes]:
        transport, exchange = await self.net.create_datagram_endpoint(
            lambda: _Exchange(question), remote_addr=(server, PORT)
        )
        try:
            transport.sendto(question.to_wire())
            return await exchange.done  # type: ignore[no-any-return]
        finally:
            if exchange.done.done() and not exchange.done.cancelled():
                exchange.done.exception()  # an error after the time-out is nobody's
            transport.close()

    async def _ask_tcp(
        self, question: dns.message.Message, server: str
    ) -> tuple[dns.message.Message, bytes]:
        reader, writer = await self.net.open_connection(server, PORT)
        try:
            wire = question.to_wire()
            writer.write(struct.pack("!H", len(wire)) + wire)
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            wire = await reader.readexactly(length)
        finally:
            writer.close()
        answer = matching(question, wire)
        if answer is None:
            raise OSError("an answer to another question over TCP")
        return answer, wire

    def statistics(self) -> Statistics:
        """Return a snapshot of the counters."""
        return Statistics(**self._counts)


def special_use(name: str, family: int) -> list[bytes] | None:
    """Return what RFC 6761 6.3, 6.4 and RFC 7686 2 say of a name; None where the DNS has a say.

    Nothing for a name that exists nowhere; asking would tell outside what was meant to stay here.
    """
    last = name.rstrip(".").rpartition(".")[2].lower()
    if last == "localhost":
        return [LOOPBACK[family]]
    return [] if last in ("invalid", "onion") else None

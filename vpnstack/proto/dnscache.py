"""A cache of DNS answers: bounded, least recently used out first, with negative answers (RFC 2308).

Answers are kept as the octets that came, so their size is known, and every answer handed out has
its TTLs reduced by the time it lay here (RFC 1035 3.2.1).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset


class Key(NamedTuple):
    """What tells answers apart: the question, and the bits that change what comes back."""

    name: dns.name.Name
    rdtype: int
    rdclass: int
    dnssec_ok: bool = False
    checking_disabled: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """Bounds; times in seconds (RFC 8767 4 and RFC 2308 5 suggest the two maxima)."""

    capacity: int = 1024
    entry_max: int = 4096  # octets of an answer that is worth keeping
    ttl_max: int = 86400
    negative_ttl_max: int = 3600


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters since the cache was made, and its present size."""

    entries: int = 0
    octets: int = 0
    hits: int = 0
    misses: int = 0


class _Entry(NamedTuple):
    wire: bytes
    stored: float
    until: float


class Cache:
    """Answers by `Key`."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self._table: OrderedDict[Key, _Entry] = OrderedDict()
        self._octets = self._hits = self._misses = 0

    def __len__(self) -> int:
        return len(self._table)

    def put(self, key: Key, answer: dns.message.Message, wire: bytes, now: float) -> bool:
        """Keep `answer`, which came as `wire`; False where its TTL, kind or size forbid it."""
        ttl = lifetime(answer, self.config)
        if ttl <= 0 or len(wire) > self.config.entry_max:
            return False
        self._drop(key)
        self._table[key] = _Entry(wire, now, now + ttl)
        self._octets += len(wire)
        while len(self._table) > self.config.capacity:
            self._drop(next(iter(self._table)))
        return True

    def get(self, key: Key, now: float) -> dns.message.Message | None:
        """Return the answer with its TTLs as of `now`, None where there is none in force."""
        entry = self._table.get(key)
        if entry is not None and now >= entry.until:
            self._drop(key)
            entry = None
        if entry is None:
            self._misses += 1
            return None
        self._hits += 1
        self._table.move_to_end(key)
        return _aged(entry, int(now - entry.stored))

    def clear(self) -> None:
        """Forget everything: the servers that gave the answers are no longer ours."""
        self._table.clear()
        self._octets = 0

    def statistics(self) -> Statistics:
        """Return a snapshot of the counters."""
        return Statistics(len(self._table), self._octets, self._hits, self._misses)

    def _drop(self, key: Key) -> None:
        entry = self._table.pop(key, None)
        if entry is not None:
            self._octets -= len(entry.wire)


def _aged(entry: _Entry, age: int) -> dns.message.Message:
    message = dns.message.from_wire(entry.wire)
    for section in (message.answer, message.authority, message.additional):
        for rrset in section:
            rrset.ttl = max(0, rrset.ttl - age)
    return message


def lifetime(answer: dns.message.Message, config: Config) -> int:
    """Return for how many seconds `answer` may be kept; 0 for not at all."""
    rcode = answer.rcode()
    if answer.flags & dns.flags.TC or rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return 0
    question = answer.question[0]
    positive = any(rrset.rdtype == question.rdtype for rrset in answer.answer)
    sections = answer.answer + answer.authority
    shortest = min((rrset.ttl for rrset in sections), default=0)
    if rcode == dns.rcode.NOERROR and positive:
        return min(shortest, config.ttl_max)
    return min(shortest, negative_ttl(answer), config.negative_ttl_max)


def negative_ttl(answer: dns.message.Message) -> int:
    """Return the TTL of a negative answer, RFC 2308 5: without an SOA it is not kept."""
    for rrset in answer.authority:
        if rrset.rdtype == dns.rdatatype.SOA and len(rrset):
            return min(rrset.ttl, int(rrset[0].minimum))
    return 0

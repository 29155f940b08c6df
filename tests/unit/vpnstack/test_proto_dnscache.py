"""The DNS cache: TTLs, RFC 2308, and its bounds."""

from __future__ import annotations

import dns.message
import pytest

from vpnstack.proto.dnscache import Cache, Config, Key


def answer(
    name: str = "a.example.",
    rrs: tuple[str, ...] = (),
    authority: tuple[str, ...] = (),
    flags: str = "QR RD RA",
    rcode: str = "NOERROR",
    rdtype: str = "A",
) -> dns.message.Message:
    text = [
        "id 1", "opcode QUERY", f"rcode {rcode}", f"flags {flags}",
        ";QUESTION", f"{name} IN {rdtype}", ";ANSWER", *rrs, ";AUTHORITY", *authority,
    ]  # fmt: skip
    return dns.message.from_text("\n".join(text))


def key(message: dns.message.Message) -> Key:
    question = message.question[0]
    return Key(question.name, question.rdtype, question.rdclass)


def put(cache: Cache, message: dns.message.Message, now: float = 0.0) -> bool:
    return cache.put(key(message), message, message.to_wire(), now)


GOOD = answer(rrs=("a.example. 60 IN CNAME b.example.", "b.example. 30 IN A 192.0.2.1"))
SOA = "example. {} IN SOA ns.example. admin.example. 1 2 3 4 {}"


def test_ttl_goes_down_and_the_shortest_ends_the_entry() -> None:
    cache = Cache()
    assert put(cache, GOOD, 100.0)
    got = cache.get(key(GOOD), 112.7)
    assert got is not None
    assert [rrset.ttl for rrset in got.answer] == [48, 18]
    assert cache.get(key(GOOD), 129.9) is not None
    assert cache.get(key(GOOD), 130.0) is None
    assert (len(cache), cache.statistics().octets) == (0, 0)
    assert (cache.statistics().hits, cache.statistics().misses) == (2, 1)


def test_name_is_case_insensitive_and_bits_tell_apart() -> None:
    cache = Cache()
    put(cache, GOOD)
    assert cache.get(key(answer("A.EXAMPLE.")), 0.0) is not None
    assert cache.get(key(GOOD)._replace(dnssec_ok=True), 0.0) is None
    assert cache.get(key(GOOD)._replace(rdtype=28), 0.0) is None


@pytest.mark.parametrize(("soa_ttl", "minimum", "kept"), [(20, 300, 20), (300, 20, 20), (9, 0, 0)])
@pytest.mark.parametrize("rcode", ["NXDOMAIN", "NOERROR"])
def test_rfc2308_negative(soa_ttl: int, minimum: int, kept: int, rcode: str) -> None:
    cache = Cache()
    message = answer(authority=(SOA.format(soa_ttl, minimum),), rcode=rcode)
    assert put(cache, message) is (kept > 0)
    assert (cache.get(key(message), kept - 0.1) is not None) is (kept > 0)
    assert cache.get(key(message), kept) is None


@pytest.mark.parametrize(
    "message",
    [
        answer(rcode="NXDOMAIN"),  # no SOA
        answer(),
        answer(rrs=("a.example. 60 IN A 192.0.2.1",), flags="QR TC"),
        answer(rrs=("a.example. 60 IN A 192.0.2.1",), rcode="SERVFAIL"),
        answer(rrs=("a.example. 0 IN A 192.0.2.1",)),
        answer(rrs=("a.example. 60 IN CNAME b.example.",)),  # a chain that ends in nothing
    ],
)
def test_not_kept(message: dns.message.Message) -> None:
    cache = Cache()
    assert not put(cache, message)
    assert len(cache) == 0


def test_ttl_maxima() -> None:
    cache = Cache(Config(ttl_max=50, negative_ttl_max=10))
    put(cache, answer(rrs=("a.example. 4000000 IN A 192.0.2.1",)))
    negative = answer("n.example.", authority=(SOA.format(5000, 5000),), rcode="NXDOMAIN")
    put(cache, negative)
    assert cache.get(key(GOOD), 50.0) is None
    assert cache.get(key(negative), 10.0) is None


def test_bounds_least_recently_used_goes_and_big_answers_are_not_kept() -> None:
    cache = Cache(Config(capacity=3, entry_max=512))
    for i in range(100):
        message = answer(f"n{i}.example.", rrs=(f"n{i}.example. 60 IN A 192.0.2.1",))
        put(cache, message)
        assert cache.get(key(answer("n0.example.")), 1.0) is not None
    assert len(cache) == 3
    assert 0 < cache.statistics().octets < 3 * 512
    big = answer(rrs=tuple(f"a.example. 60 IN A 192.0.2.{i}" for i in range(100)))
    assert not put(cache, big)
    cache.clear()
    assert (len(cache), cache.statistics().octets) == (0, 0)

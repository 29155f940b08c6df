"""The examples of RFC 6724 10 and its rules one by one."""

from __future__ import annotations

import pytest

from vpnstack.proto import addrsel
from vpnstack.proto.addrsel import Candidate
from vpnstack.wire.ip import parse_address


def candidates(*texts: str) -> list[Candidate]:
    """`addr` with marks: d deprecated, t temporary, h home."""
    found = []
    for text in texts:
        addr, _, marks = text.partition("!")
        found.append(
            Candidate(parse_address(addr), 64, "d" in marks, "t" in marks, "h" in marks)
        )  # fmt: skip
    return found


SOURCES = [  # RFC 6724 10.1
    ("2001:db8:1::1", ["2001:db8:3::1", "fe80::1"], "2001:db8:3::1"),
    ("ff05::1", ["2001:db8:3::1", "fe80::1"], "2001:db8:3::1"),
    ("2001:db8:1::1", ["2001:db8:1::1!d", "2001:db8:2::1"], "2001:db8:1::1"),
    ("fe80::1", ["fe80::2!d", "2001:db8:1::1"], "fe80::2"),
    ("2001:db8:1::1", ["2001:db8:1::2", "2001:db8:3::2"], "2001:db8:1::2"),
    ("2001:db8:1::1", ["2001:db8:1::2!h", "2001:db8:3::2"], "2001:db8:1::2"),
    ("2002:c633:6401::1", ["2002:c633:6401::d5e3:7953:13eb:22e8!t", "2001:db8:1::2"],
     "2002:c633:6401::d5e3:7953:13eb:22e8"),
    ("2001:db8:1::d5e3:0:0:1", ["2001:db8:1::2", "2001:db8:1::d5e3:7953:13eb:22e8!t"],
     "2001:db8:1::d5e3:7953:13eb:22e8"),
    ("2001:db8:1::1", ["2001:db8:2::1!d", "2001:db8:3::1"], "2001:db8:3::1"),
    ("192.0.2.1", ["2001:db8::1", "169.254.1.1", "192.0.2.9"], "192.0.2.9"),
]  # fmt: skip


@pytest.mark.parametrize(("dst", "mine", "expected"), SOURCES)
def test_source(dst: str, mine: list[str], expected: str) -> None:
    for order in (mine, mine[::-1]):
        found = addrsel.source(parse_address(dst), candidates(*order))
        assert found is not None
        assert found.addr == parse_address(expected)


def test_no_source_of_the_family() -> None:
    assert addrsel.source(parse_address("::2"), candidates("192.0.2.1")) is None


def test_temporary_may_be_unwanted() -> None:
    mine = candidates("2001:db8:1::2", "2001:db8:1::3!t")
    dst = parse_address("2001:db8:9::1")
    assert addrsel.source(dst, mine) == mine[1]
    assert addrsel.source(dst, mine, temporary=False) == mine[0]


DESTINATIONS = [  # RFC 6724 10.2
    (["2001:db8:1::1", "198.51.100.121"], ["2001:db8:1::2", "fe80::1", "169.254.13.78"],
     ["2001:db8:1::1", "198.51.100.121"]),
    (["2001:db8:1::1", "198.51.100.121"], ["fe80::1", "198.51.100.117"],
     ["198.51.100.121", "2001:db8:1::1"]),
    (["2001:db8:1::1", "10.1.2.3"], ["2001:db8:1::2", "fe80::1", "10.1.2.4"],
     ["2001:db8:1::1", "10.1.2.3"]),
    (["2001:db8:1::1", "fe80::1"], ["2001:db8:1::2", "fe80::2"],
     ["fe80::1", "2001:db8:1::1"]),
    (["2001:db8:1::1", "fe80::1"], ["2001:db8:1::2", "fe80::2!d"],
     ["2001:db8:1::1", "fe80::1"]),
    (["2001:db8:1::1", "2001:db8:3ffe::1"], ["2001:db8:1::2", "2001:db8:3f44::2", "fe80::2"],
     ["2001:db8:1::1", "2001:db8:3ffe::1"]),
    (["2002:c633:6401::1", "2001:db8:1::1"], ["2002:c633:6401::2", "fe80::2"],
     ["2002:c633:6401::1", "2001:db8:1::1"]),
    (["2002:c633:6401::1", "2001:db8:1::1"], ["2002:c633:6401::2", "2001:db8:1::2", "fe80::2"],
     ["2001:db8:1::1", "2002:c633:6401::1"]),
]  # fmt: skip


@pytest.mark.parametrize(("dsts", "mine", "expected"), DESTINATIONS)
def test_destinations(dsts: list[str], mine: list[str], expected: list[str]) -> None:
    own = candidates(*mine)
    for order in (dsts, dsts[::-1]):
        found = addrsel.sort(map(parse_address, order), lambda d: addrsel.source(d, own))
        assert found == [parse_address(a) for a in expected]


def test_equal_destinations_keep_their_order() -> None:
    own = candidates("192.0.2.1")
    dsts = [parse_address(f"198.51.100.{n}") for n in (9, 3, 7)]
    assert addrsel.sort(dsts, lambda d: addrsel.source(d, own)) == dsts


def test_unreachable_destinations_come_last() -> None:
    own = candidates("192.0.2.1")
    dsts = [parse_address("2001:db8::1"), parse_address("198.51.100.1")]
    assert addrsel.sort(dsts, lambda d: addrsel.source(d, own)) == dsts[::-1]

"""The neighbour cache: RFC 826 and RFC 4861 7.2, 7.3, appendix C, and its bounds."""

from __future__ import annotations

import pytest

from vpnstack.proto.neighbour import Cache, Config, Failed, Resolved, Solicit, State

A, B, C = b"\x0a\0\0\x02", b"\x0a\0\0\x03", bytes.fromhex("fd000127000000000000000000000002")
MAC, OTHER = b"\x02\0\0\0\0\x02", b"\x02\0\0\0\0\x66"


def reachable(cache: Cache, addr: bytes = A, now: float = 0.0) -> None:
    cache.resolve(addr, now)
    cache.transmit(now)
    cache.receive_advertisement(addr, MAC, now, solicited=True)
    assert cache.next_event() == Resolved(addr, MAC, ())


def test_incomplete_solicits_the_group_and_keeps_packets() -> None:
    cache = Cache()
    assert cache.resolve(A, 1.0, "p1") is None
    assert cache.resolve(A, 1.0, "p2") is None
    assert cache.deadline() == 1.0
    assert cache.transmit(1.0) == [Solicit(A, None)]
    assert cache.deadline() == 2.0
    cache.receive_advertisement(A, MAC, 1.5, solicited=True)
    assert cache.next_event() == Resolved(A, MAC, ("p1", "p2"))
    assert cache.next_event() is None
    assert cache.state(A) is State.REACHABLE
    assert cache.deadline() is None
    assert cache.resolve(A, 2.0, "p3") == MAC


def test_incomplete_fails_after_three_solicitations() -> None:
    cache = Cache()
    cache.resolve(A, 0.0, "p")
    assert [cache.transmit(t) for t in (0.0, 0.5, 1.0, 2.0)] == [
        [Solicit(A, None)], [], [Solicit(A, None)], [Solicit(A, None)],
    ]  # fmt: skip
    assert cache.next_event() is None
    assert cache.transmit(3.0) == []
    assert cache.next_event() == Failed(A, ("p",))
    assert (len(cache), cache.deadline()) == (0, None)
    assert cache.statistics().failed == 1


def test_reachable_goes_stale_delay_probe_and_is_dropped() -> None:
    cache = Cache()
    reachable(cache)
    assert cache.resolve(A, 29.9) == MAC
    assert cache.deadline() is None
    assert cache.resolve(A, 30.0) == MAC
    assert cache.state(A) is State.DELAY
    assert cache.deadline() == 35.0
    probes = [cache.transmit(t) for t in (35.0, 36.0, 37.0)]
    assert probes == [[Solicit(A, MAC)]] * 3
    assert cache.state(A) is State.PROBE
    assert cache.resolve(A, 37.5) == MAC
    assert cache.transmit(38.0) == []
    assert cache.next_event() == Failed(A, ())


def test_probe_answered_is_reachable_again() -> None:
    cache = Cache()
    reachable(cache)
    cache.resolve(A, 30.0)
    cache.transmit(35.0)
    cache.receive_advertisement(A, None, 35.1, solicited=True)  # an NA may leave the TLLA out
    assert cache.state(A) is State.REACHABLE
    assert cache.deadline() is None


def test_delay_confirmed_by_upper_layer() -> None:
    cache = Cache()
    reachable(cache)
    cache.resolve(A, 30.0)
    cache.confirm(A, 31.0)
    assert cache.state(A) is State.REACHABLE
    assert cache.deadline() is None
    assert cache.resolve(A, 60.9) == MAC
    assert cache.state(A) is State.REACHABLE


def test_solicitation_creates_stale_entry() -> None:
    cache = Cache()
    cache.receive_solicitation(A, MAC, 0.0)
    assert cache.state(A) is State.STALE
    assert cache.resolve(A, 0.0) == MAC
    assert cache.state(A) is State.DELAY


def test_solicitation_resolves_incomplete() -> None:
    cache = Cache()
    cache.resolve(A, 0.0, "p")
    cache.receive_solicitation(A, MAC, 0.1)
    assert cache.next_event() == Resolved(A, MAC, ("p",))
    assert cache.state(A) is State.STALE
    assert cache.deadline() is None


def test_row3_spoofed_reply_creates_nothing() -> None:
    cache = Cache()
    for i in range(5000):
        cache.receive_advertisement(i.to_bytes(4), OTHER, 0.0, solicited=True)
    cache.confirm(A, 0.0)
    assert (len(cache), cache.next_event(), cache.deadline()) == (0, None, None)
    assert cache.statistics().ignored == 5000


def test_row3_unasked_reply_cannot_become_reachable() -> None:
    cache = Cache()
    reachable(cache)
    cache.receive_advertisement(A, OTHER, 1.0, solicited=True)
    assert cache.state(A) is State.STALE  # the new address is used, but will be probed
    assert cache.resolve(A, 1.0) == OTHER
    assert cache.transmit(6.0) == [Solicit(A, OTHER)]


@pytest.mark.parametrize("solicited", [False, True])
def test_advertisement_without_override_only_casts_doubt(solicited: bool) -> None:
    cache = Cache()
    reachable(cache)
    cache.receive_advertisement(A, OTHER, 1.0, solicited=solicited, override=False)
    assert cache.state(A) is State.STALE
    assert cache.resolve(A, 1.0) == MAC
    cache.receive_advertisement(A, OTHER, 2.0, solicited=solicited, override=False)
    assert cache.state(A) is State.DELAY
    assert cache.resolve(A, 2.0) == MAC


def test_same_address_again_changes_nothing() -> None:
    cache = Cache()
    reachable(cache)
    cache.receive_solicitation(A, MAC, 1.0)
    cache.receive_advertisement(A, MAC, 1.0, solicited=False)
    assert cache.state(A) is State.REACHABLE


def test_advertisement_without_link_address_leaves_incomplete() -> None:
    cache = Cache()
    cache.resolve(C, 0.0, "p")
    cache.transmit(0.0)
    cache.receive_advertisement(C, None, 0.1, solicited=True)
    assert cache.state(C) is State.INCOMPLETE
    assert cache.next_event() is None


def test_pending_queue_is_bounded_and_drops_the_oldest() -> None:
    cache = Cache(Config(pending=3))
    for packet in range(10):
        cache.resolve(A, 0.0, packet)
    cache.receive_advertisement(A, MAC, 0.1, solicited=True)
    assert cache.next_event() == Resolved(A, MAC, (7, 8, 9))
    assert cache.statistics().pending_dropped == 7


def test_scan_evicts_unresolved_entries_first() -> None:
    cache = Cache(Config(capacity=4))
    reachable(cache, B)
    for i in range(100):
        cache.resolve(i.to_bytes(4), 0.0, i)
    assert cache.resolve(B, 0.0) == MAC
    assert len(cache) == 4
    failed = []
    while (event := cache.next_event()) is not None:
        failed.append(event)
    assert failed == [Failed(i.to_bytes(4), (i,)) for i in range(97)]


def test_flood_of_solicitations_is_bounded_and_least_used_goes() -> None:
    cache = Cache(Config(capacity=4))
    for addr in (A, B):
        reachable(cache, addr)
    for i in range(1000):
        cache.resolve(A, 0.0)
        cache.receive_solicitation(i.to_bytes(4), OTHER, 0.0)
    assert len(cache) == 4
    assert cache.state(A) is State.REACHABLE
    assert cache.state(B) is None
    assert cache.statistics().evicted == 998


def test_forget_returns_packets() -> None:
    cache = Cache()
    cache.resolve(A, 0.0, "p")
    cache.forget(A)
    assert cache.next_event() == Failed(A, ("p",))
    assert cache.transmit(10.0) == []


def test_row3_gratuitous_for_the_gateway_is_ignored() -> None:
    cache = Cache(own={A})
    cache.receive_solicitation(A, OTHER, 0.0)
    cache.receive_advertisement(A, OTHER, 0.0, solicited=False)
    cache.receive_solicitation(B, OTHER, 0.0)
    assert (cache.state(A), cache.state(B)) == (None, State.STALE)
    assert cache.statistics().ignored == 2

"""RFC 4821 and 8899 (PLPMTUD), RFC 1191 and 8201 (what ICMP says): sizes follow the path."""

from __future__ import annotations

import pytest
from tcp_pair import Pair, connected
from tcp_trace import ISS, MASK, established

from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.connection import Icmp

DATA = bytes(600_000)


def narrowed(mss: int, config: Config | None = None) -> Pair:
    """A pair whose path drops larger segments without a word."""
    pair = connected(config or Config(), whole=False)
    pair.a.link.drop = lambda seg: len(seg.data) > mss
    pair.a.to_send = DATA
    return pair


@pytest.mark.parametrize("limit", [1380, 1200, 1000])
@pytest.mark.parametrize("tso", [True, False])
def test_a_black_hole_is_found_and_the_search_comes_close(limit: int, tso: bool) -> None:
    pair = narrowed(limit, Config(tso=tso))
    assert pair.b is not None
    pair.run(20)
    assert len(pair.b.got) == len(DATA)
    assert limit - 8 - 300 * (limit < 1012) <= pair.a.conn.mss <= limit
    assert pair.a.conn.n_timeouts <= 4


def test_an_outage_costs_no_segment_size() -> None:
    pair = connected(whole=False)
    pair.a.link.drop = lambda seg: bool(seg.data)
    pair.a.to_send = DATA
    pair.run(3)
    assert pair.a.conn.mss < 1448
    pair.a.link.drop = None
    pair.run(20)
    assert pair.b is not None
    assert len(pair.b.got) == len(DATA)
    assert pair.a.conn.mss == 1448
    assert pair.a.conn.pmtu is None


def test_7_5_a_lost_probe_is_no_congestion() -> None:
    pair = narrowed(1200)
    pair.run(2.5)
    conn = pair.a.conn
    assert conn.mss < 1448
    reductions = conn.n_timeouts
    threshold = conn.cc.ssthresh
    pair.run(20)
    assert conn.n_timeouts == reductions
    assert conn.cc.ssthresh >= threshold


@pytest.mark.parametrize(("floor", "claimed", "taken"), [(512, 68, 512), (1220, 100, 1220),
                                                         (512, 900, 900)])  # fmt: skip
def test_rfc1191_icmp_lowers_no_further_than_the_floor(
    floor: int, claimed: int, taken: int
) -> None:
    t = established(Config(min_path_mss=floor), mss=1400)
    t.conn.send(bytes(14_000))
    t.trace()
    t.conn.icmp_error(Icmp.PACKET_TOO_BIG, t.now, (ISS + 1) & MASK, claimed)
    assert t.conn.mss == taken
    assert max(seg.gso_size or len(seg.data) for seg in t.sent()) == taken


def test_rfc5927_a_claim_outside_what_is_in_flight_or_upwards_is_ignored() -> None:
    t = established(mss=1400)
    t.conn.send(bytes(1400))
    t.trace()
    t.conn.icmp_error(Icmp.PACKET_TOO_BIG, t.now, (ISS + 5000) & MASK, 600)
    t.conn.icmp_error(Icmp.PACKET_TOO_BIG, t.now, (ISS + 1) & MASK, 9000)
    assert t.conn.mss == 1400


def proven(pair: Pair) -> int:
    """Move enough data for the size to be known; return a sequence number in flight."""
    pair.a.to_send = DATA
    conn = pair.a.conn
    while conn.n_bytes_acked < 20 * 1448:
        assert pair.step(pair.now + 1)
    pair.step(pair.now)  # more leaves, nothing arrives
    assert conn.snd_nxt > conn.snd_una
    return conn.snd_una & MASK


def test_rfc5927_7_2_a_forged_claim_against_what_arrives_changes_nothing() -> None:
    pair = connected(whole=False)
    conn = pair.a.conn
    conn.icmp_error(Icmp.PACKET_TOO_BIG, pair.now, proven(pair), 600)
    assert conn.mss == 1448
    pair.run(20)
    assert pair.b is not None
    assert len(pair.b.got) == len(DATA)
    assert conn.mss == 1448
    assert conn.pmtu is None or not conn.pmtu.told


def test_rfc5927_7_2_a_claim_is_believed_when_the_timer_expires() -> None:
    """The path changed: larger segments vanish, the router says so once."""
    pair = connected(whole=False)
    conn = pair.a.conn
    seq = proven(pair)
    pair.a.link.drop = lambda seg: len(seg.data) > 1200
    pair.heap.clear()  # what is under way does not pass, either
    conn.icmp_error(Icmp.PACKET_TOO_BIG, pair.now, seq, 1200)
    assert conn.mss == 1448
    pair.run(20)
    assert pair.b is not None
    assert len(pair.b.got) == len(DATA)
    assert conn.mss <= 1200
    assert conn.n_timeouts == 1


def test_rfc1191_6_3_a_larger_size_is_tried_after_ten_minutes() -> None:
    pair = connected(whole=False)
    pair.a.to_send = bytes(10_000)
    pair.step(200.0)
    conn = pair.a.conn
    conn.icmp_error(Icmp.PACKET_TOO_BIG, pair.now, conn.snd_una & MASK, 1000)
    assert conn.mss == 988
    pair.run(500)
    pair.a.to_send = DATA
    pair.run(30)
    assert conn.mss == 988
    pair.run(120)
    pair.a.to_send = DATA
    pair.run(30)
    assert conn.mss == 1448

"""RFC 5682 (F-RTO), RFC 3522/4015 (Eifel), RFC 3708 (DSACK): losses that were none."""

from __future__ import annotations

import pytest
from tcp_pair import connected
from tcp_trace import Trace, established

from vpnstack.proto.tcp.block import Phase
from vpnstack.proto.tcp.config import Config

PLAIN = Config(tso=False)


def timed_out(n: int = 10, **options) -> Trace:
    """A sender with n segments out whose timer has just expired; the head is sent again."""
    t = established(Config(tso=False), **options)
    t.conn.send(bytes(60_000))
    assert len(t.trace()) == n
    while not t.conn.n_timeouts:
        t.now = t.conn.deadline() or 0.0
        t.trace()
    assert t.conn.phase is Phase.LOSS
    return t


@pytest.mark.parametrize("sack", [True, False])
def test_2_1_spurious_timeout_is_undone(sack: bool) -> None:
    t = timed_out(sack_permitted=sack)
    resent = t.conn.n_retrans
    t.inject(".", ack=1001)
    new = t.trace()
    assert new
    assert all(int(line.split()[1].split(":")[0]) > 10_000 for line in new)  # step 2b: new data
    t.inject(".", ack=2001)  # never sent again, and acknowledged
    assert t.conn.phase is Phase.OPEN
    assert t.conn.cc.cwnd >= 10_000
    assert t.conn.n_retrans == resent
    assert t.conn.n_undone == 1


def test_3a_real_timeout_goes_on_retransmitting() -> None:
    t = timed_out()
    t.inject(".", ack=1001)
    new = t.trace()
    first = int(new[0].split()[1].split(":")[0])
    t.inject(".", ack=1001, sacks=((first, first + 1000),))
    assert t.conn.phase is Phase.LOSS
    assert t.trace()[0].startswith("P. 1001:2001")
    assert t.conn.n_undone == 0


def test_no_sack_a_cumulative_jump_over_the_retransmission_proves_nothing() -> None:
    t = timed_out(sack_permitted=False)
    t.inject(".", ack=10_001)  # the hole at the head was real, the rest had been kept
    assert t.conn.n_undone == 0


def test_delay_spike_costs_no_window() -> None:
    pair = connected(Config(timestamps=False), whole=False)
    pair.a.to_send = bytes(400_000)
    pair.run(0.05)
    pair.a.link.delay = 0.6  # one spike
    pair.run(0.02)
    before = pair.a.conn.cc.cwnd
    pair.a.link.delay = 0.61
    pair.run(5)
    assert pair.a.conn.n_timeouts >= 1
    assert pair.a.conn.n_undone >= 1
    assert pair.a.conn.cc.cwnd >= before
    assert pair.a.conn.n_retrans <= 4


def test_rfc4015_an_older_echo_undoes_recovery() -> None:
    t = established(PLAIN, ts=(5, 0))
    t.conn.cc.cwnd = 20_000
    t.conn.send(bytes(40_000))
    t.inject(".", ts=(6, 0))
    stamps = [seg.ts[0] for seg in t.sent() if seg.ts]
    t.wait(0.05)
    mss = t.conn.mss
    t.inject(".", ts=(7, stamps[0]), sacks=((1 + mss, 1 + 5 * mss),))
    assert t.conn.phase is Phase.RECOVERY
    assert t.conn.cc.ssthresh < 20_000
    t.sent()
    t.wait(0.01)
    t.inject(".", ack=1 + 5 * mss, ts=(8, stamps[0]))  # the first transmission was only late
    assert t.conn.phase is Phase.OPEN
    assert t.conn.cc.cwnd >= 20_000
    assert t.conn.n_undone == 1


def test_rfc3708_every_retransmission_reported_twice_undoes_recovery() -> None:
    t = established(PLAIN)
    t.conn.cc.cwnd = 20_000
    t.conn.send(bytes(40_000))
    t.sent()
    t.wait(0.02)
    t.inject(".", sacks=((1001, 20_001),))
    resent = [seg for seg in t.sent() if len(seg.data) and not (seg.seq - 0xFFFFFF01) & 0xFFFFFFFF]
    assert len(resent) == 1
    t.wait(0.02)
    t.inject(".", ack=20_001)
    assert t.conn.n_undone == 0
    t.sent()
    t.inject(".", ack=20_001, sacks=((1, 1001),))
    assert t.conn.n_undone == 1
    assert t.conn.cc.cwnd >= 20_000
    assert t.conn.statistics().tcpi_dsack_dups == 1


def test_rfc3042_limited_transmit_sends_new_data_for_the_first_two_duplicates() -> None:
    t = established(PLAIN, sack_permitted=False)
    t.conn.send(bytes(60_000))
    assert len(t.trace()) == 10
    t.wait(0.01)
    t.inject(".")
    assert t.trace() == [". 10001:11001 ack 1"]
    t.inject(".")
    assert t.trace() == [". 11001:12001 ack 1"]
    t.inject(".")
    assert t.trace()[0] == "P. 1:1001 ack 1"  # the third: fast retransmit

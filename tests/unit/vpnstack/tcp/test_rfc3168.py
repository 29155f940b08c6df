"""RFC 3168 (ECN): negotiation, what is marked, one reduction a window."""

from __future__ import annotations

import pytest
from tcp_pair import connected
from tcp_trace import Trace, established, server, syn

from vpnstack.proto.tcp.block import Phase
from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.connection import Connection
from vpnstack.proto.tcp.ecn import Mode
from vpnstack.proto.tcp.segment import CWR, ECE, SYN

ASK = Config(ecn=Mode.ASK, tso=False)


def speaking(config: Config = ASK) -> Trace:
    """A server whose peer asked for ECN, handshake done."""
    conn = Connection.passive(config, syn()._replace(flags=SYN | ECE | CWR), 10.0, 0xFFFFFF00)
    conn.accept()
    t = Trace(conn)
    assert t.trace() == ["SE. 0:0 ack 1"]
    t.wait(0.01)
    t.inject(".")
    t.events()
    return t


def test_6_1_1_syn_asks_and_the_answer_agrees() -> None:
    pair = connected(ASK, Config())
    assert pair.a.sent[0][1].flags == SYN | ECE | CWR
    assert pair.b is not None
    assert pair.b.sent[0][1].flags & (ECE | CWR) == ECE
    assert pair.a.conn.ecn
    assert pair.b.conn.ecn


@pytest.mark.parametrize(("ours", "theirs"), [(Mode.ACCEPT, Mode.ACCEPT), (Mode.OFF, Mode.ASK),
                                              (Mode.ASK, Mode.OFF)])  # fmt: skip
def test_6_1_1_no_ecn_unless_one_asks_and_the_other_accepts(ours: Mode, theirs: Mode) -> None:
    pair = connected(Config(ecn=ours), Config(ecn=theirs))
    assert not pair.a.conn.ecn
    assert pair.b is not None
    assert not pair.b.conn.ecn


def test_6_1_1_a_syn_ack_with_both_bits_is_no_agreement() -> None:
    conn = Connection.active(ASK, 10.0, 0xFFFFFF00)
    t = Trace(conn)
    t.trace()
    t.inject("S.EW", seq=0)
    assert not conn.ecn


def test_6_1_1_1_a_repeated_syn_does_not_ask() -> None:
    t = Trace(Connection.active(ASK, 10.0, 0xFFFFFF00))
    assert t.trace() == ["SEW 0:0"]
    t.wait(1.0)
    assert t.trace() == ["S 0:0"]


def test_6_1_2_only_new_data_is_ect() -> None:
    t = speaking()
    t.conn.send(bytes(2000))
    assert [seg.ect for seg in t.sent()] == [True, True]
    t.inject(".", data=b"x")
    t.wait(0.05)
    assert [seg.ect for seg in t.sent()] == [False]  # a pure ACK
    t.wait(1.0)
    assert [seg.ect for seg in t.sent()] == [False]  # a probe or a retransmission


def test_6_1_2_echo_reduces_once_a_window_and_is_answered_by_cwr() -> None:
    t = speaking()
    t.conn.send(bytes(30_000))
    t.sent()
    start = t.conn.cc.cwnd
    t.wait(0.02)
    t.inject(".E", ack=1001)
    assert t.conn.phase is Phase.CWR
    reduced = t.conn.cc.ssthresh
    assert reduced == int(0.7 * start)
    segs = t.sent()
    for ack in range(2001, 9001, 1000):
        t.inject(".E", ack=ack)
        segs += t.sent()
    assert t.conn.cc.ssthresh == reduced
    assert [bool(seg.flags & CWR) for seg in segs].count(True) == 1
    assert segs[0].flags & CWR
    t.inject(".", ack=10_001)
    assert t.conn.phase is Phase.OPEN
    assert t.conn.n_retrans == 0


def test_6_1_3_ce_is_echoed_until_cwr() -> None:
    t = speaking()
    t.inject(".", seq=1, data=bytes(100), ce=True)
    assert t.trace() == ["E. 1:1 ack 101"]  # at once, not delayed
    t.inject("P.", seq=101, data=bytes(100))
    t.wait(0.05)
    assert t.trace() == ["E. 1:1 ack 201"]
    t.inject("P.W", seq=201, data=bytes(100))
    t.wait(0.05)
    assert t.trace() == [". 1:1 ack 301"]
    assert t.conn.statistics().tcpi_options & 24 == 24


def test_ce_without_agreement_means_nothing() -> None:
    t = established()
    t.inject(".", seq=1, data=bytes(100), ce=True)
    t.wait(0.05)
    assert t.trace() == [". 1:1 ack 101"]


def test_a_marking_link_instead_of_a_dropping_one() -> None:
    pair = connected(Config(ecn=Mode.ASK), Config(), whole=False)
    pair.a.to_send = bytes(3_000_000)
    assert pair.b is not None
    receive, count = pair.b.conn.receive, [0]

    def deliver(to_b, seg) -> None:
        if to_b:
            count[0] += seg.ect
            receive(seg._replace(ce=seg.ect and count[0] % 200 == 0), pair.now)
        else:
            pair.a.conn.receive(seg, pair.now)

    pair._deliver = deliver
    pair.run(20)
    assert len(pair.b.got) == 3_000_000
    info = pair.a.conn.statistics()
    assert info.tcpi_total_retrans == 0
    assert info.tcpi_delivered_ce >= 5
    assert info.tcpi_snd_ssthresh < 1000


def test_server_ignores_ecn_when_off() -> None:
    t = server(Config(ecn=Mode.OFF))
    assert t.trace() == ["S. 0:0 ack 1"]

"""Opening: RFC 9293 3.5, options of RFC 7323 and 2018, held SYNs, retries, refusals."""

from __future__ import annotations

import pytest
from tcp_trace import IRS, ISS, MASK, client, established, server, syn

from vpnstack.errors import UsageError
from vpnstack.proto.tcp.block import Event
from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.connection import Connection, Icmp
from vpnstack.proto.tcp.segment import RST, Segment
from vpnstack.proto.tcp.state import TRANSITIONS, Input, State, advance


def test_active_open() -> None:
    t = client()
    t.inject("S.", seq=0, wnd=65535, mss=1000, wscale=7, sack_permitted=True, ts=(5, 0))
    assert t.conn.state is State.ESTABLISHED
    assert t.events() == [Event.CONNECTED]
    (ack,) = t.sent()
    assert (ack.flags, ack.ack, ack.ts[1]) == (16, (IRS + 1) & MASK, 5)
    assert t.conn.statistics().tcpi_options == 7
    assert t.conn.mss == 988  # RFC 6691: the timestamps come off the peer's 1000


def test_syn_offers_everything() -> None:
    conn = Connection.active(Config(), 0.0, ISS)
    (seg,) = conn.transmit(0.0)
    assert (seg.mss, seg.wscale, seg.sack_permitted, seg.ts is not None) == (1460, 7, True, True)
    assert seg.wnd == 65535


def test_passive_open_answers_only_what_was_offered() -> None:
    t = server(mss=0, wscale=-1, sack_permitted=False)
    (seg,) = t.sent()
    assert (seg.wscale, seg.sack_permitted, seg.ts) == (-1, False, None)
    t.inject(".", wnd=1000)
    assert t.conn.mss == 536  # RFC 9293 3.7.1: the default without the option
    assert t.conn.snd_wnd == 1000
    assert t.conn.state is State.ESTABLISHED


def test_tiny_mss_is_raised() -> None:
    assert server(mss=1).conn.mss == Config().min_mss


def test_held_syn_is_answered_by_accept_only() -> None:
    t = server(hold=True)
    t.inject("S", seq=0)
    t.wait(5)
    assert t.trace() == []
    assert t.conn.deadline() is None
    assert t.conn.state is State.LISTEN
    t.conn.accept()
    assert t.trace() == ["S. 0:0 ack 1"]


def test_held_syn_refused() -> None:
    t = server(hold=True)
    t.conn.refuse()
    assert t.conn.wants_transmit
    assert t.sent() == [Segment(0, (IRS + 1) & MASK, RST | 16, 0)]
    assert t.events() == [Event.CLOSED]
    assert not t.conn.wants_transmit


def test_held_syn_then_the_peers_reset() -> None:
    t = server(hold=True)
    t.inject("R", seq=1)
    assert t.events() == [Event.RESET, Event.CLOSED]
    assert t.conn.error is Event.RESET


def test_simultaneous_open() -> None:
    t = client()
    t.inject("S", seq=0, mss=1000)
    assert t.conn.state is State.SYN_RECEIVED
    assert t.trace() == ["S. 0:0 ack 1"]
    t.inject("S.", seq=0)
    t.inject(".")
    assert t.conn.state is State.ESTABLISHED


def test_syn_sent_bad_ack_gets_reset() -> None:
    t = client()
    t.inject("S.", seq=0, ack=5)
    (seg,) = t.sent()
    assert (seg.flags, seg.seq) == (RST, (ISS + 5) & MASK)
    assert t.conn.state is State.SYN_SENT


def test_syn_sent_reset() -> None:
    t = client()
    t.inject("R", seq=0)
    assert t.conn.state is State.SYN_SENT  # no ACK: nobody who saw our SYN
    t.inject("R.", seq=0)
    assert t.events() == [Event.REFUSED, Event.CLOSED]


def test_syn_and_fin_together_are_dropped() -> None:
    t = client()
    t.inject("SF.", seq=0)
    assert t.conn.state is State.SYN_SENT
    with pytest.raises(UsageError, match="expected a SYN"):
        Connection.passive(Config(), Segment(0, 0, 3, 0), 0.0, 0)


def test_data_with_the_syn_ack() -> None:
    t = client()
    t.inject("S.", seq=0, data=b"early")
    assert b"".join(t.conn.received()) == b"early"
    assert t.trace() == [". 1:1 ack 6"]


def test_syn_retransmission_backs_off_and_gives_up() -> None:
    t = client(Config(syn_retries=3))
    times = []
    while t.conn.state is State.SYN_SENT:
        due = t.conn.deadline()
        assert due is not None
        times.append(due - 10)
        t.now = due
        t.trace()
    assert times == [1, 3, 7, 15]  # RFC 6298: 1 s doubled
    assert t.events() == [Event.TIMED_OUT, Event.CLOSED]


def test_repeated_syn_is_answered_again() -> None:
    t = server()
    assert t.trace() == ["S. 0:0 ack 1"]
    t.inject("S", seq=0)
    assert t.trace() == ["S. 0:0 ack 1"]


def test_syn_received_bad_ack_gets_reset() -> None:
    t = server()
    t.trace()
    t.inject(".", ack=9)
    (seg,) = t.sent()
    assert (seg.flags, seg.seq) == (RST, (ISS + 9) & MASK)
    assert t.conn.state is State.SYN_RECEIVED


def test_syn_received_reset() -> None:
    t = server()
    t.trace()
    t.inject("R", seq=1)
    assert t.conn.state is State.CLOSED


def test_rfc5961_syn_in_established_is_challenged() -> None:
    t = established()
    t.inject("S", seq=1)
    assert t.trace() == [". 1:1 ack 1"]
    assert t.conn.state is State.ESTABLISHED


@pytest.mark.parametrize(("kind", "event"), [(Icmp.HARD, Event.REFUSED),
                                             (Icmp.SOFT, Event.UNREACHABLE)])  # fmt: skip
def test_icmp_error_while_opening(kind: Icmp, event: Event) -> None:
    t = client()
    t.conn.icmp_error(kind, t.now, (ISS + 1) & MASK)
    assert t.conn.state is State.SYN_SENT  # RFC 5927: not a number in flight
    t.conn.icmp_error(kind, t.now, ISS)
    assert t.events() == [event, Event.CLOSED]


def test_icmp_error_does_not_end_an_established_connection() -> None:
    t = established()
    t.conn.send(b"x")
    t.trace()
    t.conn.icmp_error(Icmp.HARD, t.now, (ISS + 1) & MASK)
    assert t.conn.state is State.ESTABLISHED


def test_icmp_packet_too_big_resends_in_smaller_segments() -> None:
    t = established()
    t.conn.send(bytes(1000))
    assert t.trace() == ["P. 1:1001 ack 1"]
    t.conn.icmp_error(Icmp.PACKET_TOO_BIG, t.now, (ISS + 1) & MASK, 600)
    segs = t.sent()
    assert {seg.gso_size or len(seg.data) for seg in segs} == {600}
    assert sum(len(seg.data) for seg in segs) == 1000


def test_table_covers_every_state() -> None:
    reached = set(TRANSITIONS.values())
    assert reached == set(State)
    assert all((s, Input.ABORT) in TRANSITIONS for s in State if s is not State.CLOSED)
    assert advance(State.LAST_ACK, Input.ACK_OF_FIN) is State.CLOSED
    with pytest.raises(KeyError):
        advance(State.TIME_WAIT, Input.SEND_FIN)


def test_syn_helper_is_a_syn() -> None:
    assert str(syn()).startswith("Flags [S], seq 4294967280, win 65535")

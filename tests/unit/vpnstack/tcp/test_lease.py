"""Lending a connection and taking it back: it goes on as if it had been here all the time."""

from __future__ import annotations

from typing import Any

import pytest
from tcp_pair import Pair
from vpnstack.core._core import ffi

from vpnstack.proto.tcp import rack
from vpnstack.proto.tcp.block import OFF, Event, Phase, Rtx
from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.connection import Connection
from vpnstack.proto.tcp.lease import in_flight, lend, lendable, let_go, take_back
from vpnstack.proto.tcp.state import State

MASK = 0xFFFFFFFF
NODELAY = Config(nodelay=True)


def joined(**options: Any) -> tuple[Pair, Connection]:
    """Return a pair that has exchanged something, and its server, of whom all is settled."""
    pair = Pair(Config(**options), NODELAY, iss_a=MASK - 5000, iss_b=MASK - 9000)
    pair.a.finish = False
    pair.a.to_send = b"x" * 3000
    while pair.b is None and pair.step(1e9):
        pass
    assert pair.b is not None
    pair.b.finish = False
    pair.b.to_send = b"y" * 3000
    while pair.step(110.0):
        pass
    assert len(pair.a.got) == len(pair.b.got) == 3000
    return pair, pair.b.conn


def lent(c: Connection) -> Any:
    e = ffi.new("struct lease *")
    assert lendable(c)
    lend(c, e)
    let_go(c)
    return e


def facts(c: Connection) -> dict[str, Any]:
    """Return all variables that can be compared."""
    skip = {
        "config",
        "sb",
        "queue",
        "snd_buf",
        "cc",
        "rtt",
        "drs",
        "pmtu",
        "flow",
        "wants_transmit",
    }
    return {n: getattr(c, n) for n in type(c).__mro__[1].__slots__ if n not in skip}


def test_nothing_happened() -> None:
    """All is as before, but for what is only looked at while something is in flight."""
    _, c = joined()
    before = facts(c)
    take_back(c, lent(c), False, b"", b"")
    after = facts(c)
    free = {"snd_sml", "snd_up", "rcv_up", "recover", "snd_wl1", "snd_wl2", "ts_recent_at"}
    assert {n for n in before if before[n] != after[n]} <= free
    assert c.snd_wl1 <= c.rcv_nxt
    assert c.ts_recent_at == pytest.approx(before["ts_recent_at"], abs=0.1)
    assert lendable(c) is False  # until it was looked at
    assert c.transmit(c.last_recv) == []
    assert lendable(c)


def received(e: Any, n: int, now: float) -> None:
    """Do what the lane does for data that went to the host."""
    e.rcv_nxt = (e.rcv_nxt + n) & MASK
    e.ack_bytes += n
    e.bytes_in += n
    e.segs_in += 1
    e.data_in += 1
    e.last_recv = e.last_data = now


def sent(e: Any, n: int, now: float) -> None:
    """Do what the lane does for data of the host."""
    e.snd_nxt = (e.snd_nxt + n) & MASK
    e.bytes_out += n
    e.segs_out += 1
    e.data_out += 1
    e.last_send = now
    e.t_rtx = now + e.pto


@pytest.mark.parametrize("owes", [False, True])
def test_acknowledgement_owed(owes: bool) -> None:
    """One that waits goes on waiting until its time; one that nobody watches is sent now."""
    _, c = joined()
    e = lent(c)
    received(e, 100, 120.0)
    e.t_ack = 120.04
    nxt = c.rcv_nxt
    take_back(c, e, owes, b"", b"")
    assert c.rcv_nxt == nxt + 100
    assert c.t_ack == (120.04 if owes else OFF)
    assert len(c.transmit(120.03)) == (not owes)
    assert len(c.transmit(120.05)) == owes
    assert c.last_ack_sent == nxt + 100


def test_acknowledgement_of_two_segments_is_sent_at_once() -> None:
    _, c = joined()
    e = lent(c)
    received(e, 2 * c.rcv_mss, 120.0)
    e.t_ack = 120.04
    take_back(c, e, True, b"", b"")
    [ack] = c.transmit(120.0)
    assert ack.ack == c.rcv_nxt & MASK


def test_delayed_acknowledgement_is_lent_along() -> None:
    pair, c = joined()
    pair.a.to_send = b"z"
    while not c.ack_bytes:
        pair.step(1e9)
    while c.next_event() is not None:
        pass
    c.consume(c.rcv_queued)
    at = c.t_ack
    assert at > pair.now
    e = lent(c)
    assert (e.ack_bytes, e.t_ack, c.t_ack) == (1, at, OFF)
    take_back(c, e, True, b"", b"")
    assert c.t_ack == at


def test_more_than_32_bits() -> None:
    """One lease carried 5 GiB each way: windows and differences are still right."""
    _, c = joined()
    e = lent(c)
    window = c.rcv_adv - c.rcv_nxt
    nxt, una = c.rcv_nxt, c.snd_una
    n = 5 << 30
    for name in ("rcv_nxt", "rcv_adv", "last_ack_sent", "snd_una", "snd_nxt"):
        setattr(e, name, (getattr(e, name) + n) & MASK)
    e.bytes_in = e.bytes_out = e.bytes_acked = n
    take_back(c, e, False, b"", b"")
    assert (c.rcv_nxt, c.snd_una, c.snd_nxt) == (nxt + n, una + n, una + n)
    assert c.rcv_adv - c.rcv_nxt == window
    assert c.last_ack_sent == c.rcv_nxt
    assert c.snd_una - c.sb.fack >= 0
    assert c.statistics().tcpi_rcv_wnd == window


def test_edge_that_wraps_before_the_data() -> None:
    """The window's edge passes 2**32 ahead of what has arrived."""
    _, c = joined()
    e = lent(c)
    n = (-c.rcv_nxt & MASK) - 10 + (1 << 32)
    window = c.rcv_adv - c.rcv_nxt
    received(e, n & MASK, 120.0)
    e.bytes_in = n
    e.rcv_adv = (e.rcv_nxt + window) & MASK
    take_back(c, e, False, b"", b"")
    assert c.rcv_adv - c.rcv_nxt == window
    assert c.transmit(120.0)[0].wnd > 0


@pytest.mark.parametrize("sack", [False, True])
def test_flight_is_watched_from_when_it_left(sack: bool) -> None:
    """The timer is neither late nor early, whatever the time of the recall."""
    _, c = joined(sack=sack)
    e = lent(c)
    sent(e, 100, 120.0)
    take_back(c, e, False, b"h" * 100, b"")
    assert c.rtx_mode is (Rtx.PROBE if sack else Rtx.RTO)
    pto = 2 * c.rtt.srtt + rack.MAX_ACK_DELAY
    assert c.t_rtx == pytest.approx(120.0 + min(pto if sack else OFF, c.rtt.timeout()))
    assert c.transmit(120.1) == []
    [again] = c.transmit(c.t_rtx)
    assert bytes(again.data) == b"h" * 100
    assert c.n_timeouts == (not sack)


def test_flight_is_acknowledged() -> None:
    pair, c = joined()
    e = lent(c)
    sent(e, 4000, pair.now)
    take_back(c, e, False, b"h" * 4000, b"")
    assert c.phase is Phase.OPEN
    assert c.sb.pipe == len(c.snd_buf) == 4000
    assert not lendable(c)
    ack = pair.a.conn.transmit(pair.now)
    assert ack == []
    stamp = (e.ts_recent + 1, 0)
    seg = pair.a.sent[-1][1]._replace(data=b"", seq=c.rcv_nxt & MASK, ack=c.snd_nxt & MASK,
                                      flags=16, ts=stamp)  # fmt: skip
    c.receive(seg, pair.now + 0.02)
    c.transmit(pair.now + 0.02)
    assert len(c.snd_buf) == c.sb.pipe == 0
    assert c.t_rtx == OFF
    assert lendable(c)


def test_counters() -> None:
    _, c = joined()
    before = c.statistics(130.0)
    e = lent(c)
    received(e, 100, 120.0)
    sent(e, 50, 121.0)
    e.snd_una, e.bytes_acked, e.rtt = e.snd_nxt, 50, 0.5
    srtt = c.rtt.srtt
    take_back(c, e, False, b"", b"")
    after = c.statistics(130.0)
    assert after.tcpi_bytes_received == before.tcpi_bytes_received + 100
    assert after.tcpi_bytes_sent == before.tcpi_bytes_sent + 50
    assert after.tcpi_bytes_acked == before.tcpi_bytes_acked + 50
    assert after.tcpi_data_segs_in == before.tcpi_data_segs_in + 1
    assert after.tcpi_data_segs_out == before.tcpi_data_segs_out + 1
    assert after.tcpi_segs_in == before.tcpi_segs_in + 1
    assert after.tcpi_segs_out == before.tcpi_segs_out + 1
    assert after.tcpi_last_data_sent == 9000
    assert after.tcpi_last_data_recv == 10000
    assert c.rtt.srtt > srtt


def test_keepalive_counts_from_what_the_lane_saw() -> None:
    _, c = joined()
    c.configure(110.0, keepalive=True, keepalive_idle=60.0)
    c.transmit(110.0)
    e = lent(c)
    received(e, 1, 160.0)
    e.last_ack_sent, e.ack_bytes = e.rcv_nxt, 0
    take_back(c, e, False, b"", b"")
    assert c.transmit(175.0) == []
    assert c.t_keep == pytest.approx(220.0, abs=0.01)
    assert len(c.transmit(221.0)) == 1


def test_old_timestamp_after_the_lease() -> None:
    """PAWS knows what the lane saw (RFC 7323, 5.3)."""
    pair, c = joined()
    e = lent(c)
    e.ts_recent = (e.ts_recent + 5000) & MASK
    e.last_recv = pair.now
    take_back(c, e, False, b"", b"")
    seg = pair.a.sent[-1][1]
    assert seg.ts is not None
    c.transmit(pair.now)
    c.receive(seg._replace(seq=c.rcv_nxt & MASK, data=b"old"), pair.now)
    assert c.rcv_queued == 0
    assert c.ack_now


NOT = {
    "closing": lambda c: c.close(),
    "half closed": lambda c: c.shutdown(),
    "unsent": lambda c: c.send(b"x"),
    "corked": lambda c: c.cork(True),
    "urgent": lambda c: setattr(c, "rcv_up", c.rcv_nxt + 1),
    "lost": lambda c: setattr(c, "phase", Phase.LOSS),
    "window": lambda c: setattr(c, "snd_wnd", c.mss - 1),
    "ECN": lambda c: setattr(c, "ecn", True),
    "paced": lambda c: setattr(c.cc, "pacing_rate", 1e6),
    "ended": lambda c: c.abort(),
    "acknowledgement": lambda c: setattr(c, "ack_now", True),
    "event": lambda c: setattr(c, "events", 1),
    "state": lambda c: setattr(c, "state", State.CLOSE_WAIT),
    "FIN": lambda c: setattr(c, "rcv_fin", c.rcv_nxt),
    "DSACK": lambda c: setattr(c, "dsack", ((1, 2),)),
}


@pytest.mark.parametrize("do", NOT.values(), ids=NOT.keys())
def test_not_lendable(do: Any) -> None:
    _, c = joined()
    assert lendable(c)
    do(c)
    assert not lendable(c)


def in_bulk(window: int = 1 << 18, n: int = 40000) -> tuple[Pair, Connection]:
    """Return a pair whose server has `n` octets in flight and need not grow its window."""
    pair, c = joined()
    c.cc.cwnd = c.snd_wnd = c.max_snd_wnd = window
    c.send(b"f" * n)
    while c.transmit(c.last_send):  # later, the window would begin anew
        pass
    assert c.snd_nxt - c.snd_una == n
    return pair, c


def test_flight_is_lent_and_comes_back() -> None:
    _, c = in_bulk()
    before = facts(c)
    e = lent(c)
    assert c.sb.records == []
    assert (c.sb.pipe, len(c.snd_buf), c.t_rtx, c.busy_since) == (0, 0, OFF, OFF)
    assert (e.timed_at, e.timed_end) == (c.last_send, c.snd_nxt & MASK)
    e.t_rtx = e.last_send + e.pto
    take_back(c, e, False, b"f" * 40000, b"")
    assert (c.sb.pipe, len(c.snd_buf)) == (40000, 40000)
    assert c.t_rtx == pytest.approx(before["t_rtx"])
    assert c.busy_since == before["busy_since"]
    assert c.statistics(c.last_send).tcpi_unacked > 0


def test_lending_fails_without_a_trace() -> None:
    """Nothing has changed until `let_go`: a lane without memory leaves the connection as it was."""
    _, c = in_bulk()
    before, pipe = facts(c), c.sb.pipe
    lend(c, ffi.new("struct lease *"))
    assert bytes(in_flight(c)) == b"f" * 40000
    assert facts(c) == before
    assert (c.sb.pipe, len(c.snd_buf)) == (pipe, 40000)


def test_segments_under_way_keep_their_octets() -> None:
    """What has just been made points into the buffer, whose memory must not be the next one's."""
    _, c = joined()
    c.cc.cwnd = c.snd_wnd = c.max_snd_wnd = 1 << 18
    c.send(b"f" * 40000)
    segments = c.transmit(c.last_send)
    lent(c)
    _, other = joined()
    other.snd_buf.limit = 1 << 18
    other.send(b"g" * 40000)
    assert all(bytes(s.data) == b"f" * len(s.data) for s in segments)


def test_mib_in_flight_comes_back() -> None:
    """More than the connection's own buffer would take."""
    _, c = joined()
    e = lent(c)
    sent(e, 1 << 20, 120.0)
    blob = bytes(range(256)) * 4096
    take_back(c, e, False, blob, b"")
    assert len(c.snd_buf) == c.snd_nxt - c.snd_una == 1 << 20
    assert bytes(c.snd_buf.peek(0, 1 << 20)) == blob


def test_kept_is_read_first() -> None:
    """What the lane took and the host did not is acknowledged, and not consumed yet."""
    _, c = joined()
    e = lent(c)
    received(e, 5000, 120.0)
    e.kept_n = 3000
    consumed = c.drs.consumed if c.drs is not None else 0
    take_back(c, e, False, b"", b"k" * 3000)
    assert c.next_event() is Event.READABLE
    assert b"".join(bytes(v) for v in c.received()) == b"k" * 3000
    assert c.n_bytes_received == 8000
    assert not lendable(c)
    assert c.drs is None or c.drs.consumed == consumed + 2000
    c.consume(3000)
    c.transmit(120.0)
    assert lendable(c)


BULK_NOT = {
    "window": lambda c: setattr(c.cc, "cwnd", (1 << 18) - 1),
    "lost": lambda c: c.sb.mark_lost(c.sb.records[0]),
    "SACKed": lambda c: c.sb.mark_sacked(c.sb.records[-1]),
    "sent again": lambda c: setattr(c.sb.records[0], "rtx", True),
    "probe": lambda c: setattr(c, "tlp_end", c.snd_nxt),
    "F-RTO": lambda c: setattr(c, "frto", 1),
    "unsent": lambda c: c.send(b"x"),
}


@pytest.mark.parametrize("do", BULK_NOT.values(), ids=BULK_NOT.keys())
def test_flight_not_lendable(do: Any) -> None:
    _, c = in_bulk()
    assert lendable(c)
    do(c)
    assert not lendable(c)


def test_a_window_of_nothing_is_not_lent() -> None:
    """Even where the peer never showed more: probes are the connection's."""
    _, c = joined()
    c.snd_wnd, c.max_snd_wnd = 0, 1
    assert not lendable(c)

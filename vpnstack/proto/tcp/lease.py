"""Lending a connection's variables to the express lane (core/lane.c), and taking them back.

Only a connection about which nothing special is to be said may be lent: established, nothing
queued, no loss, no probe, no urgent data, no ECN, no pacing, and nothing in flight where the
congestion window has to grow yet.  `lend` fills a `struct lease` and changes nothing here, `let_go`
makes it final; `take_back` continues from what the lane left, as if each of its segments had come
through here.
"""

from __future__ import annotations

from typing import Any

from . import rack
from .block import OFF, READABLE, Block, Phase
from .segment import Buffer
from .seq import MASK
from .state import State

CWND_BULK, FLIGHT_MAX = 1 << 18, 1 << 20  # lane.c's CWND_BULK and largest ring
ESTABLISHED, OPEN = State.ESTABLISHED, Phase.OPEN


def lendable(c: Block) -> bool:
    """Tell whether nothing is under way that the lane cannot go on with.

    That is nothing but perhaps a delayed acknowledgement; or, where the congestion window need not
    grow any more, what was sent once and is not acknowledged.
    """
    if c.sb.records and not _bulk(c):
        return False
    return (
        c.state is ESTABLISHED
        and not c.queue.queued
        and len(c.snd_buf) == c.snd_nxt - c.snd_una
        and not c.wants_transmit
        and not c.ack_now
        and not c.events
        and c.phase is OPEN
        and c.assembler is None
        and c.rcv_fin < 0
        and not c.fin_queued
        and not c.closing
        and not c.corked
        and not c.ecn
        and c.dsack is None
        and c.undo is None
        and not c.cc.pacing_rate
        and c.snd_wnd >= _least_window(c)
        and c.rcv_up <= c.rcv_nxt
    )


def _least_window(c: Block) -> int:
    """Return the window below which sending is the silly-window rules' and the probes'."""
    return max(1, min(c.mss, c.max_snd_wnd >> 1))


def _bulk(c: Block) -> bool:
    """Tell whether what is in flight may be lent: nothing of it is lost, SACKed or sent again."""
    sb = c.sb
    return (
        c.cc.cwnd >= CWND_BULK
        and c.snd_nxt - c.snd_una <= FLIGHT_MAX
        and not sb.lost
        and not sb.sacked
        and not c.tlp_end
        and not c.frto
        and not any(record.rtx for record in sb.records)
    )


def in_flight(c: Block) -> Buffer:
    """Return what was sent and is not acknowledged: what the lease has to hold."""
    return bytes(c.snd_buf.peek(0, c.snd_nxt - c.snd_una)) if c.sb.records else b""


def lend(c: Block, e: Any) -> None:
    """Fill the lease `e`; the addresses, descriptors and what is in flight are the caller's."""
    e.timed_at = 0.0
    if c.sb.records:
        last = c.sb.records[-1]
        e.timed_at, e.timed_end = last.time, last.end & MASK
    e.rcv_nxt = c.rcv_nxt & MASK
    e.rcv_adv = c.rcv_adv & MASK
    e.last_ack_sent = c.last_ack_sent & MASK
    e.rcv_buf, e.rcv_max, e.rcv_mss = c.rcv_buf, c.config.rcv_buf, c.rcv_mss
    e.snd_una, e.snd_nxt = c.snd_una & MASK, c.snd_nxt & MASK
    e.snd_wnd, e.cwnd, e.mss = c.snd_wnd, c.cc.cwnd, c.mss
    e.wnd_min = _least_window(c)
    e.ts_ok, e.ts_recent, e.ts_offset = c.ts_ok, c.ts_recent, c.ts_offset & MASK
    e.rcv_wscale, e.snd_wscale = c.rcv_wscale, c.snd_wscale
    e.ack_bytes, e.delack = c.ack_bytes, c.config.delayed_ack
    e.t_ack = c.t_ack if c.t_ack != OFF else 0.0
    e.pto = 2 * c.rtt.srtt + rack.MAX_ACK_DELAY
    e.rtt = 0.0
    e.last_recv, e.last_data, e.last_send = c.last_recv, c.last_data, c.last_send
    e.bytes_in = e.bytes_out = e.bytes_acked = 0
    e.segs_in = e.segs_out = e.data_in = e.data_out = 0


def let_go(c: Block) -> None:
    """Forget what is the lane's from now on: what is in flight, and the timers."""
    c.t_ack = OFF
    if c.sb.records:
        c.sb.lend()
        c.snd_buf.abandon()
        c.t_rtx = c.t_reo = OFF
        c.busy += c.last_send - c.busy_since
        c.busy_since = OFF


def take_back(c: Block, e: Any, owes: bool, held: Buffer, kept: Buffer) -> None:
    """Go on from what the lane left in `e`.

    `held` is what it sent and nobody acknowledged, `kept` what it took and did not hand on.
    The timer of what is in flight runs from when it was last started, as it would have here.
    """
    _received(c, e, owes)
    _sent(c, e)
    c.rtt.backoff = 0
    if e.rtt > 0.0:
        c.rtt.sample(max(e.rtt, 1e-6))
    if len(kept):
        c.queue.append(kept)
        c.events |= READABLE
    if len(held):
        c.snd_buf.limit = max(c.snd_buf.limit, len(held))
        c.snd_buf.write(held)
        c.sb.sent(c.snd_una, c.snd_nxt, e.last_send)
        c.busy_since = e.last_send
        rack.arm(c, e.t_rtx - e.pto)
    c.wants_transmit = True


def _received(c: Block, e: Any, owes: bool) -> None:
    c.rcv_nxt += e.bytes_in  # a long lease sees more than 32 bits can tell
    c.rcv_adv = c.rcv_nxt + ((e.rcv_adv - e.rcv_nxt) & MASK)
    c.last_ack_sent = c.rcv_nxt - ((e.rcv_nxt - e.last_ack_sent) & MASK)
    c.rcv_buf = max(c.rcv_buf, e.rcv_buf)
    c.ts_recent, c.ts_recent_at = e.ts_recent, e.last_recv
    c.last_recv, c.last_data = e.last_recv, e.last_data
    c.n_segs_in += e.segs_in
    c.n_data_in += e.data_in
    c.n_bytes_received += e.bytes_in
    if c.drs is not None:
        c.drs.consumed += e.bytes_in - e.kept_n
    c.ack_bytes = e.ack_bytes
    if owes and c.ack_bytes < 2 * c.rcv_mss:
        c.t_ack = e.t_ack
    elif c.ack_bytes:
        c.ack_now = True
    c.rcv_up = max(c.rcv_up, c.rcv_nxt)


def _sent(c: Block, e: Any) -> None:
    c.snd_nxt += e.bytes_out
    c.snd_una += e.bytes_acked
    c.snd_sml, c.snd_up = c.snd_nxt, c.snd_una
    c.snd_wnd = e.snd_wnd
    c.max_snd_wnd = max(c.max_snd_wnd, e.snd_wnd)
    c.snd_wl1, c.snd_wl2 = c.rcv_nxt, c.snd_una
    c.recover = max(c.recover, c.snd_una)
    c.last_send = e.last_send
    c.n_segs_out += e.segs_out
    c.n_data_out += e.data_out
    c.n_bytes_sent += e.bytes_out
    c.n_bytes_acked += e.bytes_acked
    c.sb.delivered += e.bytes_acked

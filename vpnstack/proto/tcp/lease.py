"""Lending a connection's variables to the express lane (core/lane.c), and taking them back.

Only a connection about which nothing special is to be said may be lent: established, nothing in
flight, nothing queued, no loss, no probe, no urgent data, no ECN, no pacing.  `lend` fills a
`struct lease`; `take_back` continues from what the lane left, as if each of its segments had come
through here.
"""

from __future__ import annotations

from typing import Any

from . import rack
from .block import OFF, Block, Phase
from .segment import Buffer
from .seq import MASK
from .state import State

ESTABLISHED, OPEN = State.ESTABLISHED, Phase.OPEN


def lendable(c: Block) -> bool:
    """Tell whether nothing is under way but perhaps a delayed acknowledgement."""
    return (
        c.state is ESTABLISHED
        and not c.sb.records
        and not c.queue.queued
        and not len(c.snd_buf)
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
        and c.snd_wnd >= 2 * c.mss
        and c.rcv_up <= c.rcv_nxt
    )


def lend(c: Block, e: Any) -> None:
    """Fill the lease `e`; the addresses and descriptors in it are the caller's to set."""
    e.rcv_nxt = c.rcv_nxt & MASK
    e.rcv_adv = c.rcv_adv & MASK
    e.last_ack_sent = c.last_ack_sent & MASK
    e.rcv_buf, e.rcv_max, e.rcv_mss = c.rcv_buf, c.config.rcv_buf, c.rcv_mss
    e.snd_una = e.snd_nxt = c.snd_nxt & MASK
    e.snd_wnd, e.cwnd, e.mss = c.snd_wnd, min(c.cc.cwnd, c.snd_buf.limit), c.mss
    e.ts_ok, e.ts_recent, e.ts_offset = c.ts_ok, c.ts_recent, c.ts_offset & MASK
    e.rcv_wscale, e.snd_wscale = c.rcv_wscale, c.snd_wscale
    e.ack_bytes, e.delack = c.ack_bytes, c.config.delayed_ack
    e.t_ack = c.t_ack if c.t_ack != OFF else 0.0
    e.pto = 2 * c.rtt.srtt + rack.MAX_ACK_DELAY
    e.rtt = 0.0
    e.last_recv, e.last_data, e.last_send = c.last_recv, c.last_data, c.last_send
    e.bytes_in = e.bytes_out = e.bytes_acked = 0
    e.segs_in = e.segs_out = e.data_in = e.data_out = 0
    c.t_ack = OFF


def take_back(c: Block, e: Any, owes: bool, held: Buffer) -> None:
    """Go on from what the lane left in `e`; `held` is what it sent and nobody acknowledged.

    The timer of what is in flight runs from when it was last started, as it would have here.
    """
    _received(c, e, owes)
    _sent(c, e)
    c.rtt.backoff = 0
    if e.rtt > 0.0:
        c.rtt.sample(max(e.rtt, 1e-6))
    if len(held):
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
        c.drs.consumed += e.bytes_in
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

"""Sizes that a connection learns: the peer's segments, and how much buffer the path needs.

The receive buffer follows dynamic right-sizing: twice what the user consumed in a round trip, so
that the peer's window may double, up to `Config.rcv_buf`.  A reader that does not read gains none.
The send buffer holds four congestion windows (one in flight, one that loss recovery stretches it
by, as much again to follow), up to `Config.snd_buf`.
"""

from __future__ import annotations

from .block import Block
from .parts import Drs
from .seq import MASK

ROUND_MIN = 0.001  # a round trip of no time at all would be evaluated at every segment
FIRST_ROUND = 0.1
FIRST_SPACE = 10  # segments of an initial window (RFC 6928): what a first round trip brings
MSS_MIN = 536  # shorter segments say nothing of the peer's full ones


def on_size(c: Block, size: int) -> None:
    """Learn the peer's segment size: the largest seen, or a smaller one seen twice in a row."""
    if size > c.rcv_mss:
        c.rcv_mss = min(size, c.config.mss)
    elif size == c.rcv_size:
        c.rcv_mss = size
    c.rcv_size = size


def on_round(c: Block, ts: tuple[int, int] | None, now: float) -> None:
    """Take stock once a round trip: what was consumed in it bounds what the next one may bring."""
    drs = c.drs
    consumed = c.n_bytes_received - c.queue.queued
    if drs is None:
        drs = c.drs = Drs(min(FIRST_SPACE * c.rcv_mss, c.rcv_buf // 2))
    elif consumed - drs.consumed > drs.space:
        _enlarge(c, drs, consumed - drs.consumed)
    drs.consumed = consumed
    _measure(c, drs, ts, now)
    c.drs_at = now + max(drs.rtt, ROUND_MIN)


def _measure(c: Block, drs: Drs, ts: tuple[int, int] | None, now: float) -> None:
    """Keep the receiver's round trip: from the echo of what our ACKs said, else the sender's."""
    rtt = c.rtt.srtt or FIRST_ROUND
    if drs.rtt and ts is not None and ts[1] and c.ts_ok:  # the first echo may be of long ago
        echo = (c.timestamp(now) - ts[1]) & MASK
        if echo < 60_000:
            rtt = echo / 1000
    if not drs.rtt or rtt < drs.rtt:
        drs.rtt = rtt
    else:  # an echo may also be old because the sender was idle
        drs.rtt += min((rtt - drs.rtt) / 8, drs.rtt / 4)


def _enlarge(c: Block, drs: Drs, copied: int) -> None:
    """Give room for twice `copied`, more while the sender is still doubling (slow start)."""
    want = 2 * copied + 16 * c.rcv_mss
    want += 2 * want * (copied - drs.space) // max(drs.space, 1)
    drs.space = copied
    c.rcv_buf = max(c.rcv_buf, min(want, c.config.rcv_buf))


def on_window(c: Block) -> None:
    """Let the send buffer grow with the congestion window."""
    want = min(4 * c.cc.cwnd, c.config.snd_buf)
    if want > c.snd_buf.limit:
        c.snd_buf.limit = want

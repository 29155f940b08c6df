"""Losses that were none: F-RTO (RFC 5682), Eifel (RFC 3522 and 4015), DSACK (RFC 3708).

What the window was is kept when a loss is seen.  It comes back when the peer proves that nothing
was lost: after a timeout it acknowledges what was never sent again (F-RTO), the timestamp that it
echoes is older than the first retransmission (Eifel), or it reports that every retransmission
arrived twice (DSACK).
"""

from __future__ import annotations

from .block import Block, Phase
from .parts import Undo
from .scoreboard import OUT
from .seq import before, unwrap

FIRST, NEW_DATA = 1, 2  # steps of F-RTO: waiting for the first ACK; new data is out


def remember(c: Block) -> None:
    """Keep the window before a loss reduces it."""
    c.undo = Undo(c.cc.cwnd, c.cc.ssthresh, c.snd_una)


def on_resend(c: Block, n: int, now: float) -> None:
    """Hear that `n` bytes leave again."""
    u = c.undo
    if u is not None:
        u.resent += n
        u.unproven += n
        if u.stamp < 0:
            u.stamp = c.timestamp(now)


def on_dsack(c: Block, left: int, right: int) -> None:
    """Hear that [left, right), 32 bits each, arrived twice; all of it did: undo (RFC 3708, 3)."""
    c.n_dsack += 1
    u = c.undo
    if u is None or not u.resent:
        return
    a, b = unwrap(left, c.snd_una), unwrap(right, c.snd_una)
    if b > u.marker:
        u.unproven -= b - max(a, u.marker)
        if u.unproven <= 0 and not c.sb.lost:
            revert(c)


def echo_is_older(c: Block, ts: tuple[int, int] | None) -> bool:
    """Eifel: the ACK answers a transmission older than the first repeated one (RFC 3522, 3.2).

    As in Linux that says nothing yet of other segments that were sent again and are still out.
    """
    u = c.undo
    return (
        u is not None
        and u.stamp >= 0
        and ts is not None
        and ts[1] != 0
        and c.ts_ok
        and before(ts[1], u.stamp)
        and not any(record.rtx and record.state == OUT for record in c.sb.records)
    )


def frto(c: Block, acked: int, news: bool) -> bool:
    """Take an ACK after a timeout (RFC 5682, 2.1 and 3.1); True: the timeout was spurious.

    `news`: the ACK brought a SACK or was a duplicate.
    """
    sb = c.sb
    original = sb.original_acked and (c.sack_ok or not sb.resent_acked)
    sb.original_acked = sb.resent_acked = False
    if original:
        revert(c)
        return True
    if c.frto == NEW_DATA:
        if news or acked:
            c.frto = 0  # step 3a: the loss was real
    elif acked and c.snd_una < c.recover:
        room = min(c.snd_una + c.snd_wnd, c.snd_una + len(c.snd_buf)) - c.snd_nxt
        c.frto = NEW_DATA if room >= c.mss and c.fin_seq < 0 else 0  # step 2b
    elif acked or news:
        c.frto = 0
    return False


def revert(c: Block) -> None:
    """Go back: the window as it was, nothing believed lost, patience with reordering."""
    u, sb = c.undo, c.sb
    if u is None:
        return
    c.undo = None
    c.cc.on_undo(u.cwnd, u.ssthresh)
    sb.unmark_lost()
    sb.reordered = max(sb.reordered, 1)
    c.frto = 0
    c.phase = Phase.OPEN
    c.dup_acks_in = 0
    c.rtt.backoff = 0
    c.n_undone += 1
    c.wants_transmit = True

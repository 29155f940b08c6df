"""Loss detection: which transmissions are believed lost, and in which phase the sender is.

With SACK: RFC 6675 (a record is lost when more than two segments above it have arrived).  Without:
RFC 6582 (NewReno; the third duplicate ACK, then every partial ACK, costs the first segment).  Both
tell the congestion controller only what it has to know.  After a timeout everything outstanding is
lost and slow start sends it again (RFC 5681, 3.1).
"""

from __future__ import annotations

from .block import Block, Phase
from .scoreboard import OUT, SACKED

DUP_THRESH = 3


def take_sacks(c: Block, blocks: tuple[tuple[int, int], ...]) -> int:
    """Apply SACK blocks (unwrapped, within the window) and return the bytes newly SACKed."""
    sb, fresh = c.sb, 0
    for left, right in blocks:
        index = 0
        records = sb.records
        while index < len(records):
            record = records[index]
            if record.seq >= right:
                break
            if record.end > left and record.state != SACKED:
                if record.seq < left:
                    sb.split(index, left)
                    index += 1
                    record = records[index]
                if record.end > right:
                    record = sb.split(index, right)
                fresh += sb.mark_sacked(record)
            index += 1
    return fresh


def on_ack(c: Block, acked: int, sacked: int, duplicate: bool, flight: int, rtt: float,
           now: float) -> None:  # fmt: skip
    """Hear what an acknowledgement said: bytes delivered in order, bytes SACKed, or a duplicate.

    `flight` is what was in the network before it.
    """
    phase = c.phase
    if phase >= Phase.RECOVERY and c.snd_una >= c.recover:
        _leave(c, now)
        phase = Phase.OPEN
    if phase is Phase.RECOVERY:
        _in_recovery(c, acked, duplicate)
        return
    if acked:
        c.dup_acks_in = 0
        c.sb.dup_bytes = 0
        _grow(c, acked, rtt, flight, now)
    if phase is Phase.LOSS:
        return
    if duplicate or sacked:
        c.dup_acks_in += 1
        if not c.sack_ok:
            c.sb.dup_bytes += c.mss
        if c.dup_acks_in >= DUP_THRESH or _sacked_enough(c):
            _enter(c, flight, now)


def _grow(c: Block, acked: int, rtt: float, flight: int, now: float) -> None:
    """Let the window grow if it was used (RFC 7661): half of it in slow start, most of it after."""
    cc = c.cc
    used = flight * 2 if cc.cwnd < cc.ssthresh else flight + (flight >> 1)
    if used >= cc.cwnd:
        cc.on_ack(acked, rtt, now, flight)


def _sacked_enough(c: Block) -> bool:
    return c.sack_ok and c.sb.sacked > (DUP_THRESH - 1) * c.mss


def _enter(c: Block, flight: int, now: float) -> None:
    """Begin fast recovery (RFC 6582 3.2 step 2, RFC 6675 section 5 step 4)."""
    c.phase = Phase.RECOVERY
    c.recover = c.snd_nxt
    c.undo = (c.cc.cwnd, c.cc.ssthresh)
    c.cc.on_loss(now, flight)
    _mark_head(c)
    if c.sack_ok:
        mark_by_sacks(c)


def _leave(c: Block, now: float) -> None:
    if c.phase is Phase.RECOVERY:
        c.cc.on_recovered(now)
    c.phase = Phase.OPEN
    c.dup_acks_in = 0
    c.sb.dup_bytes = 0
    c.undo = None


def _in_recovery(c: Block, acked: int, duplicate: bool) -> None:
    """RFC 6582 3.2 steps 3 to 5, in terms of `pipe`; RFC 6675 section 5 steps A to C."""
    if c.sack_ok:
        mark_by_sacks(c)
        return
    if acked:
        c.sb.dup_bytes = max(c.sb.dup_bytes - acked + c.mss, 0)
        _mark_head(c)
    elif duplicate:
        c.sb.dup_bytes += c.mss


def _mark_head(c: Block) -> None:
    """Believe the first outstanding segment lost and let it go at once."""
    sb = c.sb
    for index, record in enumerate(sb.records):
        if record.state == OUT:
            if record.end - record.seq > c.mss and not c.sack_ok:
                record = sb.split(index, record.seq + c.mss)
            sb.mark_lost(record)
            c.rtx_credit = c.mss
            return
        if record.state != SACKED:
            return


def mark_by_sacks(c: Block) -> None:
    """Believe lost what lies below more than two SACKed segments (RFC 6675, IsLost)."""
    sb = c.sb
    above = sb.sacked
    enough = (DUP_THRESH - 1) * c.mss
    for record in sb.records:
        if above <= enough:
            return
        if record.state == SACKED:
            above -= record.end - record.seq
        elif record.state == OUT and not record.rtx:
            sb.mark_lost(record)


def on_timeout(c: Block, now: float) -> None:
    """Hear that the retransmission timer expired (RFC 5681 3.1, RFC 6675 5.1)."""
    sb = c.sb
    if c.phase is not Phase.LOSS:
        c.undo = (c.cc.cwnd, c.cc.ssthresh)
        c.cc.on_rto(now, sb.pipe + sb.lost)
    else:
        c.cc.cwnd = c.cc.mss
    if sb.records and sb.records[0].state == SACKED:
        sb.forget_sacks()
    sb.mark_all_lost()
    c.phase = Phase.LOSS
    c.recover = c.snd_nxt
    c.dup_acks_in = 0
    c.rtx_credit = c.mss

"""Loss recovery: in which phase the sender is, and what it may send while it repairs.

With SACK `rack` says what is lost (RFC 8985).  Without: RFC 6582 (NewReno; the third duplicate ACK,
then every partial ACK, costs the first segment).  During fast recovery the window follows PRR
(RFC 6937) on its way to the controller's `ssthresh`.  After a timeout everything outstanding is
lost and slow start sends it again (RFC 5681, 3.1).  The controller hears only what it has to know.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter

from . import pmtud, rack, undo
from .block import OFF, Block, Phase
from .scoreboard import OUT, SACKED, Sent
from .state import State

DUP_THRESH = 3
END = attrgetter("end")
CWR, RECOVERY, LOSS = Phase.CWR, Phase.RECOVERY, Phase.LOSS  # looked up at every ACK


def take_sacks(c: Block, blocks: list[tuple[int, int]], now: float) -> int:
    """Apply SACK blocks (unwrapped, within the window) and return the bytes newly SACKed."""
    sb, fresh = c.sb, 0
    newest: Sent | None = None
    records = sb.records
    for left, right in blocks:
        index = bisect_right(records, left, key=END)
        while index < len(records):
            record = records[index]
            if record.seq >= right:
                break
            if record.state != SACKED:
                if record.seq < left:
                    sb.split(index, left)
                    index += 1
                    record = records[index]
                if record.end > right:
                    record = sb.split(index, right)
                fresh += sb.mark_sacked(record)
                rack.delivered(c, record, now)
                if newest is None or record.time >= newest.time:
                    newest = record
                index = _join(records, index)
            index += 1
    if newest is not None and (sb.sampled is None or newest.time >= sb.sampled.time):
        sb.sampled = newest
    return fresh


def _join(records: list[Sent], index: int) -> int:
    """Join a record with SACKed neighbours, as one of them is like the other; return where it is.

    Peers repeat their blocks, and each ACK looks at all records in them: the list stays as short
    as there are holes.
    """
    if index + 1 < len(records) and records[index + 1].state == SACKED:
        _absorb(records, index)
    if index and records[index - 1].state == SACKED:
        index -= 1
        _absorb(records, index)
    return index


def _absorb(records: list[Sent], index: int) -> None:
    """Let a record take the place of the one behind it, too."""
    behind = records.pop(index + 1)
    records[index].end = behind.end
    records[index].rtx |= behind.rtx  # no round trip may be taken if the peer reneges


def on_ack(c: Block, acked: int, sacked: int, duplicate: bool, flight: int, rtt: float,
           now: float) -> None:  # fmt: skip
    """Hear what an acknowledgement said: bytes delivered in order, bytes SACKed, or a duplicate.

    `flight` is what was in the network before it.
    """
    if c.frto:
        undo.frto(c, acked, bool(sacked) or duplicate)
    if c.phase >= CWR and c.snd_una >= c.recover:
        _leave(c, now)
    sb = c.sb
    lost = False
    if c.sack_ok:
        if sb.sacked or c.phase:
            lost = rack.detect(c, now)
    elif duplicate or c.phase is RECOVERY:
        lost = _newreno(c, acked, duplicate)
    phase = c.phase
    if phase is not RECOVERY:
        if acked:
            c.dup_acks_in = sb.dup_bytes = 0
        if phase is not CWR or not c.cc.prr:
            if acked:
                _grow(c, acked + sacked, rtt, now)
            elif not lost and sb.reordered > DUP_THRESH * c.mss:
                # RFC 5681 grows by what is acknowledged in order, which SACKed data never is again
                # here: on a path that reorders, count it when it arrives (as Linux does).
                _grow(c, sacked, rtt, now)
        if lost and phase is not LOSS:
            if c.pmtu is not None and pmtud.lost_alone(c):
                c.rtx_credit = sb.lost  # RFC 4821, 7.5: a probe's loss is no congestion
                return
            _enter(c, flight, c.snd_nxt - c.snd_una + acked, now)
        elif phase is not CWR:
            return
    elif acked and not c.cc.prr:
        c.cc.on_ack(acked, rtt, now, flight)
    _reduce(c, acked + sacked, bool(acked) and not lost)


def on_reorder_timer(c: Block, now: float) -> None:
    """The reordering window has passed: what is missing now is lost (RFC 8985, 6.3)."""
    c.t_reo = OFF
    flight = c.sb.pipe
    if rack.detect(c, now):
        if c.phase < Phase.RECOVERY:
            if c.pmtu is not None and pmtud.lost_alone(c):
                c.rtx_credit = c.sb.lost
                return
            _enter(c, flight, c.snd_nxt - c.snd_una, now)
        _reduce(c, 0, False)


def _grow(c: Block, acked: int, rtt: float, now: float) -> None:
    """Let the window grow if it was used (RFC 7661): half of it in slow start, most of it after.

    What counts is the flight when data last left: within a burst of ACKs it only shrinks.
    """
    cc, peak = c.cc, c.peak
    used = peak * 2 if cc.cwnd < cc.ssthresh else peak + (peak >> 1)
    if used >= cc.cwnd:
        cc.on_ack(acked, rtt, now, peak)


def _enter(c: Block, flight: int, size: int, now: float) -> None:
    """Begin fast recovery (RFC 6582 3.2 step 2, RFC 6675 section 5 step 4).

    `size` is RFC 5681's FlightSize: what SACKs and losses took from `flight` is part of the window
    that was too large, and the controller reduces from all of it.
    """
    c.rtx_credit = c.mss
    if c.phase is Phase.CWR:  # RFC 3168, 6.1.2: reduced once in this round trip is enough
        c.phase = Phase.RECOVERY
        c.recover = c.snd_nxt
        return
    undo.remember(c)
    begin(c, Phase.RECOVERY, flight)
    c.cc.on_loss(now, min(size, c.cc.cwnd))  # RFC 5681, 3.2: without limited transmit's
    c.ecn_cwr = c.ecn


def begin(c: Block, phase: Phase, flight: int) -> None:
    """Begin to spread a reduction over what is in flight now."""
    c.phase = phase
    c.recover = c.snd_nxt
    c.tlp_end = 0
    c.prr_delivered = c.prr_out = 0
    c.prr_flight = max(flight, 1)


def _reduce(c: Block, delivered: int, safe: bool) -> None:
    """RFC 6937 with the safe-ACK rule of its revision: spread the reduction over the recovery."""
    cc = c.cc
    if not CWR <= c.phase <= RECOVERY or not cc.prr:
        return
    c.prr_delivered += delivered
    pipe = c.sb.pipe
    if pipe > cc.ssthresh:
        count = -(-c.prr_delivered * cc.ssthresh // c.prr_flight) - c.prr_out
    else:
        limit = max(c.prr_delivered - c.prr_out, delivered)
        count = min(cc.ssthresh - pipe, limit + c.mss if safe else limit)
    cc.cwnd = max(pipe + max(count, 0), c.mss)


def _leave(c: Block, now: float) -> None:
    if c.phase is not Phase.LOSS:
        c.cc.on_recovered(now)
        rack.on_recovered(c)
    c.frto = 0
    c.phase = Phase.OPEN
    c.dup_acks_in = 0
    c.sb.dup_bytes = 0
    c.t_reo = OFF


def _newreno(c: Block, acked: int, duplicate: bool) -> bool:
    """RFC 6582 3.2 in terms of `pipe`: True when the first segment is believed lost now."""
    sb = c.sb
    if acked:
        sb.dup_bytes = max(sb.dup_bytes - acked + c.mss, 0)
        if c.phase is not Phase.RECOVERY:
            return False
        if c.snd_una < c.repair_end:
            c.rtx_credit = c.mss if sb.lost else 0
            return False
        c.repair = 2 * c.repair if c.snd_una == c.repair_end else 1
        return _mark_head(c)
    if duplicate:
        sb.dup_bytes += c.mss
        c.dup_acks_in += 1
        if c.phase < Phase.RECOVERY and c.dup_acks_in == DUP_THRESH:
            c.repair = 1
            return _mark_head(c)
    return False


def _mark_head(c: Block) -> bool:
    """Believe the first `repair` segments lost and let them go at once, within `ssthresh`.

    RFC 6582 repairs one segment a round trip.  When a partial ACK covers exactly what was repaired,
    its neighbours are missing too (a super-segment is lost as one frame): the next step is twice
    as long.
    """
    sb = c.sb
    if not sb.records or sb.records[0].state != OUT:
        return False
    stop = min(sb.records[0].seq + c.repair * c.mss, max(c.recover, sb.records[0].end))
    index = 0
    while index < len(sb.records) and sb.records[index].seq < stop:
        record = sb.records[index]
        if record.end > stop:
            record = sb.split(index, stop)
        sb.mark_lost(record)
        index += 1
    c.repair_end = stop
    c.rtx_credit = max(min(sb.lost, c.cc.ssthresh), c.mss)
    return True


def on_timeout(c: Block, now: float) -> None:
    """Hear that the retransmission timer expired (RFC 5681 3.1, RFC 6675 5.1)."""
    sb = c.sb
    first = c.phase is not Phase.LOSS
    if c.phase < Phase.CWR:
        undo.remember(c)
    if first:
        ssthresh = c.cc.ssthresh if c.phase >= Phase.CWR else 0
        c.cc.on_rto(now, c.snd_nxt - c.snd_una)
        # RFC 5681, 3.1: what has been reduced in this round trip is not reduced again.
        c.cc.ssthresh = max(c.cc.ssthresh, ssthresh)
    else:
        c.cc.cwnd = c.cc.mss
    c.ecn_cwr = c.ecn
    c.frto = undo.FIRST if first and c.retries <= 1 and c.state >= State.ESTABLISHED else 0
    sb.original_acked = sb.resent_acked = False
    if sb.records and sb.records[0].state == SACKED:
        sb.forget_sacks()
        c.frto = 0  # what is acknowledged now says nothing of the timer
    sb.mark_all_lost()
    c.phase = Phase.LOSS
    c.recover = c.snd_nxt
    c.dup_acks_in = 0
    c.tlp_end = 0
    c.t_reo = OFF
    c.rtx_credit = c.mss

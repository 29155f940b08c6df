"""RFC 8985: RACK decides by time what is lost, TLP probes when the tail stays silent.

A record is lost when something sent after it has been delivered and a reordering window has passed
since.  That finds lost retransmissions and lost tails, which counting duplicates cannot.  The probe
(TLP) sends new data, or the last segment again, two round trips after the last transmission, so
that the peer's SACKs show what is missing before the slow retransmission timer expires.
"""

from __future__ import annotations

from .block import OFF, Block, Phase, Rtx
from .scoreboard import OUT, Sent
from .state import State

DISORDER = Phase.DISORDER  # looked up at every ACK

MAX_ACK_DELAY = 0.2  # RFC 8985, 7.2: what a peer may wait before it acknowledges one segment
MAX_MULT = 20  # RFC 8985, 6.2: steps by which DSACKs widen the window
PERSIST = 16  # recoveries for which a widened window is kept


def delivered(c: Block, record: Sent, now: float) -> None:
    """Hear which was the latest sent among the records just delivered (RFC 8985, 6.2 step 2)."""
    rtt = now - record.time
    if record.rtx and rtt < c.rtt.min_rtt:
        return  # the acknowledgement is for the first transmission
    if (record.time, record.end) > (c.rack_time, c.rack_end):
        c.rack_time, c.rack_end, c.rack_rtt = record.time, record.end, rtt


def window(c: Block) -> float:
    """Return the reordering window in seconds (RFC 8985, 6.2 step 4)."""
    if not c.sb.reordered and (c.phase >= Phase.RECOVERY or c.sb.sacked >= 3 * c.mss):
        return 0.0
    return min(c.rack_mult * c.rtt.min_rtt / 4, c.rtt.srtt)


def detect(c: Block, now: float) -> bool:
    """Mark what is lost by now and set the timer for what may be soon; True when something was."""
    sb, time, end = c.sb, c.rack_time, c.rack_end
    patience = c.rack_rtt + window(c)
    lost, wait = False, 0.0
    for record in sb.records:
        if record.first > time:
            break  # and so are all behind it
        if record.state != OUT or record.time > time or (record.time == time and record.end > end):
            continue
        left = record.time + patience - now
        if left <= 0:
            sb.mark_lost(record)
            lost = True
        elif left > wait:
            wait = left
    c.t_reo = now + wait if wait else OFF
    return lost


def on_dsack(c: Block) -> None:
    """Hear that a retransmission was for nothing: once a round trip, widen the window."""
    if c.snd_una >= c.rack_round:
        c.rack_round = c.snd_nxt
        c.rack_mult = min(c.rack_mult + 1, MAX_MULT)
        c.rack_persist = PERSIST


def on_recovered(c: Block) -> None:
    """Hear that a recovery has ended: in time the window shrinks back."""
    c.rack_persist -= 1
    if c.rack_persist <= 0:
        c.rack_mult = 1


def probe_time(c: Block, now: float) -> float:
    """Return when to probe for the tail, OFF where no probe may be sent (RFC 8985, 7.2)."""
    if not c.sack_ok or c.phase > DISORDER or c.tlp_end or c.sb.sacked:
        return OFF
    if not c.sb.records or c.snd_nxt > c.snd_una + c.snd_wnd:  # never beyond a shrunken window
        return OFF
    pto = 2 * c.rtt.srtt if c.rtt.srtt else 1.0
    if c.snd_nxt - c.snd_una <= c.mss:
        pto += MAX_ACK_DELAY
    return now + pto


def on_probe_acked(c: Block, ack: int, dsack: bool, flight: int, now: float) -> None:
    """RFC 8985, 7.4: a probe that repaired a loss by itself must not hide it from the window."""
    if not c.tlp_retrans or dsack:
        c.tlp_end = 0
    elif ack > c.tlp_end:
        c.tlp_end = 0
        c.cc.on_loss(now, flight)
        c.cc.on_recovered(now)


def arm(c: Block, now: float) -> None:
    """Start the timer of transmissions, as the probe's where one may be sent (RFC 8985, 7.2)."""
    rto = now + c.rtt.timeout()
    probe = probe_time(c, now) if c.state >= State.ESTABLISHED else OFF  # a SYN has no tail
    if probe != OFF:
        c.rtx_mode, c.t_rtx = Rtx.PROBE, min(probe, rto)
    else:
        c.rtx_mode, c.t_rtx = Rtx.RTO, rto

"""Timers: retransmission and persist share one, then delayed ACK, keepalive and TIME_WAIT."""

from __future__ import annotations

from . import pmtud, rack, recovery, send
from .block import OFF, Block, Event, Phase, Rtx
from .scoreboard import OUT
from .segment import Segment
from .state import Input, State


def expire(c: Block, now: float, out: list[Segment]) -> None:
    """Do what is due at `now`; probes are appended to `out`."""
    if now >= c.t_ack:
        c.t_ack = OFF
        c.ack_now = True
    if now >= c.t_rtx:
        if c.rtx_mode is Rtx.PERSIST:
            _persist(c, now, out)
        elif c.rtx_mode is Rtx.PROBE:
            _tail(c, now, out)
        else:
            _retransmission(c, now)
    if now >= c.t_reo:
        recovery.on_reorder_timer(c, now)
    if now >= c.t_pace:
        c.t_pace = OFF
    if now >= c.t_keep:
        _keepalive(c, now, out)
    if now >= c.t_wait:
        c.finish(Input.TIMEOUT)


def _give_up(c: Block, now: float) -> bool:
    """Count one more expiration; True when the peer has been silent for too long."""
    config = c.config
    c.retries += 1
    if c.stuck_since == OFF:
        c.stuck_since = now
    limit = config.retries if c.state >= State.ESTABLISHED else config.syn_retries
    return c.retries > limit or 0 < config.user_timeout < now - c.stuck_since


def _retransmission(c: Block, now: float) -> None:
    """RFC 6298, 5.4 to 5.6; RFC 9293, 3.8.3 R2."""
    c.t_rtx = OFF
    if not c.sb.records:
        return
    if _give_up(c, now):
        if c.state >= State.SYN_RECEIVED:
            send.reset(c, c.snd_nxt)
        c.finish(Input.ABORT, Event.TIMED_OUT)
        return
    c.n_timeouts += 1
    c.rtt.backoff += 1
    pmtud.on_silence(c, now)
    recovery.on_timeout(c, now)
    rack.arm(c, now)


def _tail(c: Block, now: float, out: list[Segment]) -> None:
    """Probe for a lost tail, then wait for the ordinary timer (RFC 8985, 7.3)."""
    c.t_rtx = OFF
    records = c.sb.records
    if records:
        fits = records[-1].state == OUT and c.snd_nxt <= c.snd_una + c.snd_wnd
        if fits and c.phase <= Phase.DISORDER and not c.sb.lost:
            send.tail_probe(c, now, out)
        c.rtx_mode = Rtx.RTO
        c.t_rtx = now + c.rtt.timeout()


def _persist(c: Block, now: float, out: list[Segment]) -> None:
    """RFC 9293, 3.8.6.1: ask for the window, ever more slowly; also the override of 3.8.6.2.1."""
    orphan = c.closing and c.backoff >= c.config.orphan_probes
    if _give_up(c, now) or orphan:  # a peer may not hold what nobody waits for for ever
        send.reset(c, c.snd_nxt)
        c.finish(Input.ABORT, Event.TIMED_OUT)
        return
    if c.snd_wnd > c.snd_nxt - c.snd_una:
        c.t_rtx = OFF
        c.retries = 0
        send.force(c, now, out)
        return
    c.backoff += 1
    c.t_rtx = now + min(c.rtt.rto * (1 << min(c.backoff, 16)), c.config.max_rto)
    out.append(send.probe(c, now))


def _keepalive(c: Block, now: float, out: list[Segment]) -> None:
    """RFC 9293, 3.8.4: only when idle; the peer's silence is counted, its answers reset it."""
    config = c.config
    idle = now - c.last_recv
    if c.sb.records or idle < config.keepalive_idle:
        c.probes = 0
        c.t_keep = max(c.last_recv, now - config.keepalive_idle + 1.0) + config.keepalive_idle
        return
    if c.probes >= config.keepalive_probes:
        send.reset(c, c.snd_nxt)
        c.finish(Input.ABORT, Event.TIMED_OUT)
        return
    c.probes += 1
    c.t_keep = now + config.keepalive_interval
    out.append(send.probe(c, now))

"""Acknowledgements (RFC 9293, 3.10.7.4, fifth): what they free, show and set in motion."""

from __future__ import annotations

from . import autotune, pmtud, rack, rate, recovery, undo
from .block import OFF, WRITABLE, Block, Phase, Rtx
from .scoreboard import Sent
from .segment import FIN
from .seq import MASK, unwrap
from .state import Input, State

CLOSED, CWR, RTO = State.CLOSED, Phase.CWR, Rtx.RTO  # looked up at every ACK
CHALLENGES = 10  # a second and connection


def answer(c: Block) -> None:
    """Owe the peer an ACK: its segment was not acceptable."""
    c.ack_now = True
    c.wants_transmit = True


def challenge(c: Block, now: float) -> None:
    """Owe an ACK that carries no news, ten a second at most (RFC 5961, 7).

    Two ends that each find the other's ACK unacceptable would otherwise never stop.
    """
    if now - c.challenge_at >= 1.0:
        c.challenge_at = now
        c.challenges = 0
    c.challenges += 1
    if c.challenges <= CHALLENGES:
        answer(c)


def acknowledge(c: Block, ack: int, wnd: int, seq: int, n: int, flags: int,
                ts: tuple[int, int] | None, sacks: tuple[tuple[int, int], ...],
                now: float) -> bool:  # fmt: skip
    """RFC 9293, 3.10.7.4, fifth: take the acknowledgement; False ends the segment's processing."""
    una = c.snd_una
    if ack > c.snd_nxt or ack < una - c.max_snd_wnd:  # RFC 5961, 5.2
        challenge(c, now)
        return False
    wnd <<= c.snd_wscale
    old_wnd = c.snd_wnd
    if ack >= una and (c.snd_wl1 < seq or (c.snd_wl1 == seq and c.snd_wl2 <= ack)):
        c.snd_wl1, c.snd_wl2 = seq, ack
        if wnd != old_wnd:
            c.snd_wnd = wnd
            c.wants_transmit = True
            if wnd > c.max_snd_wnd:
                c.max_snd_wnd = wnd
    if ack == una and not c.sb.records:
        if c.rtx_mode is Rtx.PERSIST:
            _probe_answered(c)
        return True
    if ack > una:
        _advance(c, ack, ts, sacks, now)
    elif ack == una:
        flight = c.sb.pipe
        sacked = _sacks(c, sacks, now) if sacks and c.sack_ok else 0
        if sacked:
            rate.on_ack(c, sacked, now)
        if sacks and c.sack_ok and _is_dsack(c, sacks):
            rack.on_dsack(c)
            undo.on_dsack(c, *sacks[0])
            c.tlp_end = 0
        duplicate = not n and not flags & FIN and wnd == old_wnd
        if sacked or (duplicate and not c.sack_ok):
            recovery.on_ack(c, 0, sacked, duplicate, flight, 0.0, now)
            if c.cc.wants_rate and sacked:
                c.cc.on_rate(rate.sample(c, sacked, flight, 0.0), now)
            c.wants_transmit = True
        c.retries = 0 if not c.snd_wnd else c.retries
    return c.state is not CLOSED


def _probe_answered(c: Block) -> None:
    """The peer lives behind its closed window: probe on, as long as it answers (3.8.6.1)."""
    c.retries = 0
    if c.snd_wnd:
        c.backoff = 0
        c.t_rtx = OFF
        c.rtx_mode = Rtx.RTO
        c.wants_transmit = True


def _sacks(c: Block, sacks: tuple[tuple[int, int], ...], now: float) -> int:
    """Unwrap SACK blocks, keep those that make sense and apply them (RFC 2018, section 8)."""
    una, nxt = c.snd_una, c.snd_nxt
    blocks = []
    for left, right in sacks:
        a, b = unwrap(left, una), unwrap(right, una)
        if una <= a < b <= nxt:
            blocks.append((a, b))
    return recovery.take_sacks(c, blocks, now) if blocks else 0


def _is_dsack(c: Block, sacks: tuple[tuple[int, int], ...]) -> bool:
    """RFC 2883, 4: the first block lies below the ACK or inside the second."""
    una = c.snd_una
    left, right = unwrap(sacks[0][0], una), unwrap(sacks[0][1], una)
    if right <= una:
        return left >= una - c.max_snd_wnd and left < right
    return len(sacks) > 1 and unwrap(sacks[1][0], una) <= left < right <= unwrap(sacks[1][1], una)


def _advance(c: Block, ack: int, ts: tuple[int, int] | None, sacks: tuple[tuple[int, int], ...],
             now: float) -> None:  # fmt: skip
    """Take an acknowledgement of something new."""
    sb = c.sb
    flight = sb.pipe
    una, c.snd_una = c.snd_una, ack
    fresh, record = sb.acknowledge(ack)
    octets = ack - una
    fin_acked = 0 <= c.fin_seq < ack
    if fin_acked:
        octets -= 1
    c.snd_buf.release(octets)
    c.n_bytes_acked += octets
    rtt = _measure(c, record, ts, now)
    c.retries = 0
    c.stuck_since = OFF
    if record is not None:
        rack.delivered(c, record, now)
    sacked, dsack = 0, False
    if sacks and c.sack_ok:
        sacked = _sacks(c, sacks, now)
        dsack = _is_dsack(c, sacks)
        if dsack:
            rack.on_dsack(c)
            undo.on_dsack(c, *sacks[0])
    sb.delivered = delivered = sb.delivered + fresh + sacked  # `rate.on_ack`, without the call
    if sb.sampled is not None:
        sb.stamp = (delivered, now, sb.sampled.time, delivered < sb.idle_mark)
    if c.undo is not None and c.phase > CWR and undo.echo_is_older(c, ts):
        undo.revert(c)
    if c.tlp_end and ack >= c.tlp_end:
        rack.on_probe_acked(c, ack, dsack, flight, now)
    recovery.on_ack(c, fresh, sacked, False, flight, rtt, now)
    if c.cc.wants_rate:
        c.cc.on_rate(rate.sample(c, fresh + sacked, flight, rtt), now)
    if c.pmtu is not None:
        pmtud.on_ack(c, c.pmtu, now)
    if c.cc.cwnd * 4 > c.snd_buf.limit < c.config.snd_buf:
        autotune.on_window(c)
    c.rtx_mode = RTO
    if sb.records:
        rack.arm(c, now)  # RFC 6298, 5.3
    else:
        c.t_rtx = c.t_reo = OFF
        c.busy += now - c.busy_since
        c.busy_since = OFF
    c.wants_transmit = True
    if c.short and c.snd_buf.space * 4 >= c.snd_buf.limit:
        c.short = False
        c.events |= WRITABLE
    if fin_acked:
        _fin_acked(c, now)


def _measure(c: Block, record: Sent | None, ts: tuple[int, int] | None, now: float) -> float:
    """Return and take the round trip that an ACK shows, 0.0 for none (RFC 6298, section 3)."""
    rtt = 0.0
    if record is not None and not record.rtx:
        rtt = max(now - record.time, 1e-6)  # a link in virtual time may take none
    elif ts is not None and ts[1]:  # RFC 7323, 4.1: the echo tells which transmission it answers
        echo = (c.timestamp(now) - ts[1]) & MASK
        if echo < 60_000:
            rtt = echo / 1000 or 0.001
    if rtt:
        c.rtt.sample(rtt)
    return rtt


def _fin_acked(c: Block, now: float) -> None:
    if c.state is State.LAST_ACK:
        c.finish(Input.ACK_OF_FIN)
    elif c.state is State.CLOSING:
        c.go(Input.ACK_OF_FIN)
        c.t_wait = now + 2 * c.config.msl
    elif c.state is State.FIN_WAIT_1:
        c.go(Input.ACK_OF_FIN)
        if c.closing:
            c.t_wait = now + c.config.fin_timeout

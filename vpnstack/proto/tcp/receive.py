"""Arriving segments (RFC 9293, 3.10.7): checked in the standard's order, then data, then FIN."""

from __future__ import annotations

from . import autotune, ecn, send
from .acknowledge import acknowledge, answer, challenge
from .assembler import Assembler
from .block import CONNECTED, OFF, READABLE, URGENT, Block, Event, Phase
from .options import MAX_WSCALE
from .segment import ACK, CWR, ECE, FIN, PSH, RST, SYN, URG, Buffer, Segment, reset_for
from .seq import HALF, MASK, unwrap
from .state import Input, State

CLOSED, ESTABLISHED = State.CLOSED, State.ESTABLISHED  # looked up at every segment
DSACKS = 64  # duplicates of one burst that are reported
PAWS_IDLE = 24 * 86400.0  # RFC 7323, 5.5: TS.Recent is too old to be trusted


def options_of_syn(c: Block, seg: Segment) -> None:
    """Take over what the peer's SYN or SYN-ACK offers (RFC 7323 2.2 and 3.2, RFC 2018)."""
    config = c.config
    if seg.wscale >= 0 and config.window_scaling:
        c.snd_wscale = min(seg.wscale, MAX_WSCALE)
        c.rcv_wscale = scale_for(config.rcv_buf)
    else:
        c.snd_wscale, c.rcv_wscale = 0, -1
    c.sack_ok = seg.sack_permitted and config.sack
    c.ts_ok = seg.ts is not None and config.timestamps
    if seg.ts is not None:
        c.ts_recent = seg.ts[0]
    c.peer_mss = seg.mss or config.default_mss
    c.set_mss(c.peer_mss)
    c.cc = config.congestion(c.mss)


def scale_for(rcv_buf: int) -> int:
    """Return the smallest shift by which 16 bits can say `rcv_buf`."""
    shift = 0
    while shift < MAX_WSCALE and rcv_buf > 65535 << shift:
        shift += 1
    return shift


def syn_sent(c: Block, seg: Segment, now: float) -> None:
    """RFC 9293, 3.10.7.3."""
    flags = seg.flags
    acceptable = False
    if flags & ACK:
        acceptable = unwrap(seg.ack, c.iss) == c.iss + 1 == c.snd_nxt
        if not acceptable:
            c.reset_out = reset_for(seg)
            c.wants_transmit = c.reset_out is not None
            return
    if flags & RST:
        if acceptable:
            c.finish(Input.ABORT, Event.REFUSED)
        return
    if not flags & SYN or flags & FIN:
        return
    c.irs = seg.seq
    c.rcv_nxt = c.last_ack_sent = seg.seq + 1
    c.rcv_adv = c.rcv_nxt + min(c.rcv_buf, 65535)
    options_of_syn(c, seg)
    c.wants_transmit = True
    if not acceptable:  # simultaneous open
        c.go(Input.RCV_SYN)
        ecn.on_syn(c, flags)
        c.sb.mark_all_lost()
        c.snd_wnd = c.max_snd_wnd = seg.wnd
        c.snd_wl1, c.snd_wl2 = seg.seq, c.iss
        return
    ecn.on_syn_ack(c, flags)
    c.rcv_wscale = max(c.rcv_wscale, 0)
    c.snd_wnd = c.max_snd_wnd = seg.wnd  # RFC 7323, 2.2: not scaled on a SYN
    c.snd_wl1, c.snd_wl2 = seg.seq, c.snd_nxt
    c.ack_now = True
    c.go(Input.RCV_SYN_ACK)
    _opened(c, c.snd_nxt, now)
    if len(seg.data):
        synchronized(c, seg._replace(seq=(seg.seq + 1) & MASK, flags=flags & ~SYN), now)


def _opened(c: Block, ack: int, now: float) -> None:
    """Finish the handshake: our SYN is acknowledged."""
    _, record = c.sb.acknowledge(ack)
    c.sb.opened()
    if record is not None and not record.rtx:
        c.rtt.sample(now - record.first)
    elif c.rtt.srtt == 0.0:
        c.rtt.rto = max(c.rtt.rto, 3.0)  # RFC 6298, 5.7
    c.rtt.backoff = 0
    c.rcv_wscale = max(c.rcv_wscale, 0)
    c.snd_una = c.snd_sml = c.snd_up = ack
    c.rcv_up = c.rcv_nxt
    c.recover = ack
    c.busy_since = OFF
    c.t_rtx = OFF
    c.retries = 0
    c.phase = Phase.OPEN
    c.undo, c.frto = None, 0
    c.events |= CONNECTED
    c.wants_transmit = True
    if c.config.keepalive:
        c.t_keep = now + c.config.keepalive_idle


def synchronized(c: Block, seg: Segment, now: float) -> None:
    """RFC 9293, 3.10.7.4: SYN_RECEIVED and all states behind it."""
    wire, wire_ack, flags, wnd, body, urg, _, _, _, ts, sacks, size, ce, _ = seg
    c.n_segs_in += 1
    rcv_nxt = c.rcv_nxt
    seq = rcv_nxt + ((wire - rcv_nxt + HALF) & MASK) - HALF
    n = len(body)
    if ts is not None and c.ts_ok:
        age = (ts[0] - c.ts_recent) & MASK
        if age >= HALF and not flags & RST and now - c.ts_recent_at < PAWS_IDLE:
            challenge(c, now)  # RFC 7323, 5.3 R1 (PAWS)
            return
    elif c.ts_ok and not flags & (RST | SYN):
        return  # RFC 7323, 3.2; a repeated SYN may have fewer options than the first
    # First, the sequence number (RFC 9293 3.4, RFC 7323 5.3 R2).
    if seq != rcv_nxt or flags & ~(ACK | PSH | ECE | CWR) or n > c.rcv_adv - rcv_nxt:
        trimmed = _check(c, seq, flags, body, now)
        if trimmed is None:
            return
        if flags & SYN:
            wnd >>= c.snd_wscale  # RFC 7323, 2.2: not scaled on a SYN
        seq, flags, body = trimmed
        n = len(body)
    if ts is not None and c.ts_ok and seq <= c.last_ack_sent and age < HALF:
        c.ts_recent = ts[0]
        c.ts_recent_at = now
    if not flags & ACK:
        return
    c.last_recv = now
    ack = c.snd_una + ((wire_ack - c.snd_una + HALF) & MASK) - HALF
    if c.state < ESTABLISHED and not _ack_of_syn(c, ack, wnd, seq, seg, now):
        return
    flight = c.sb.pipe if flags & ECE else 0
    if not acknowledge(c, ack, wnd, seq, n, flags, ts, sacks, now):
        return
    if flags & ECE and c.ecn:
        ecn.on_echo(c, flight, now)
    if flags & FIN and c.rcv_fin < 0:  # there is one end, the first that was told
        c.rcv_fin = seq + n
    if n:
        size = size or n
        if size > c.rcv_mss or autotune.MSS_MIN <= size < c.rcv_mss:
            autotune.on_size(c, size)
        if c.ecn and (ce or flags & CWR):
            ecn.on_data(c, flags, ce)
        if flags & URG and urg:
            _urgent(c, seq + urg)
        _text(c, seq, body, now)
        if now >= c.drs_at and c.state is not CLOSED:
            autotune.on_round(c, ts, now)
    if flags & FIN and not (c.config.delayed_fin and c.rcv_fin == c.rcv_nxt):
        c.ack_now = True
        c.wants_transmit = True
    if c.rcv_fin == c.rcv_nxt and c.state is not CLOSED:
        _fin(c, now)


def _check(c: Block, seq: int, flags: int, body: Buffer, now: float
           ) -> tuple[int, int, Buffer] | None:  # fmt: skip
    """Test and trim a segment to the window, then RST and SYN; None: there is no more to do."""
    rcv_nxt, edge = c.rcv_nxt, c.rcv_adv
    n = len(body)
    end = seq + n + ((flags & FIN) != 0) + ((flags & SYN) != 0)
    if end == seq:
        acceptable = rcv_nxt <= seq <= edge
    else:
        acceptable = seq < edge and end > rcv_nxt
    if flags & RST:
        _reset(c, seq, acceptable, now)
        return None
    if flags & SYN:
        if flags & ACK and c.state is State.SYN_RECEIVED and seq == c.irs:
            # RFC 9293, 3.5, figure 7: the other half of a simultaneous open; its SYN is known.
            c.ack_now = c.wants_transmit = True
            return rcv_nxt, flags & ~(SYN | FIN), b""
        _syn(c, seq, now)
        return None
    if not acceptable:
        if n and seq + n <= rcv_nxt:
            _duplicate(c, seq, seq + n)
        _unacceptable(c, n, flags, now)
        if seq == rcv_nxt and flags & ACK:  # a full window still takes acknowledgements
            return seq, flags & ~FIN, b""
        return None
    if seq < rcv_nxt:
        if n:
            _duplicate(c, seq, min(seq + n, rcv_nxt))
        body = body[rcv_nxt - seq :]
        seq = rcv_nxt
        c.ack_now = c.wants_transmit = True
    if seq + len(body) > edge:
        body = body[: edge - seq]
        flags &= ~FIN
        c.ack_now = c.wants_transmit = True
    return seq, flags, body


def _duplicate(c: Block, left: int, right: int) -> None:
    """RFC 2883, 4: report each duplicate once, in an ACK of its own unless it touches the last.

    A sender that counts reports goes back to its old window when none is missing (RFC 3708).
    """
    if not c.sack_ok:
        return
    found = c.dsack
    if found is None:
        c.dsack = ((left, right),)
    elif found[-1][1] == left:
        c.dsack = (*found[:-1], (found[-1][0], right))
    elif len(found) < DSACKS:
        c.dsack = (*found, (left, right))


def _unacceptable(c: Block, n: int, flags: int, now: float) -> None:
    if n or flags & FIN:
        answer(c)
    else:
        challenge(c, now)
    if c.state is State.TIME_WAIT and flags & FIN:  # RFC 9293, 3.10.7.4, eighth
        c.t_wait = now + 2 * c.config.msl


def _reset(c: Block, seq: int, acceptable: bool, now: float) -> None:
    """RFC 5961, 3.2: only the exact number resets; elsewhere in the window it is challenged."""
    if seq == c.rcv_nxt:
        if c.state is State.TIME_WAIT:
            return  # RFC 1337
        if c.state >= State.CLOSING and not len(c.snd_buf):
            # RFC 9293, 3.10.7.4, second: only our FIN was unconfirmed, and the peer is gone.
            c.finish(Input.ABORT)
            return
        refused = c.state is State.SYN_RECEIVED and not c.held
        c.finish(Input.ABORT, Event.REFUSED if refused else Event.RESET)
    elif acceptable:
        challenge(c, now)


def _syn(c: Block, seq: int, now: float) -> None:
    """RFC 5961, 4.2: a SYN is challenged; the repeated one of the handshake is answered again."""
    if c.state is State.SYN_RECEIVED and seq == c.irs:
        if c.sb.records:
            c.sb.mark_all_lost()
        c.wants_transmit = True
        return
    challenge(c, now)


def _ack_of_syn(c: Block, ack: int, wnd: int, seq: int, seg: Segment, now: float) -> bool:
    """RFC 9293, 3.10.7.4, fifth, SYN_RECEIVED."""
    if not ack == c.iss + 1 == c.snd_nxt:  # the SYN-ACK may still wait for a neighbour
        c.reset_out = reset_for(seg)
        c.wants_transmit = True
        return False
    c.go(Input.ACK_OF_SYN)
    ack = c.snd_nxt  # the same number, and then one object for all that begins with it
    _opened(c, ack, now)
    c.snd_wnd = wnd << c.snd_wscale
    c.max_snd_wnd = max(c.max_snd_wnd, c.snd_wnd)
    c.snd_wl1, c.snd_wl2 = seq, ack
    return True


def _urgent(c: Block, up: int) -> None:
    """RFC 9293, 3.10.7.4, sixth: the pointer names the octet behind the urgent data (RFC 6093)."""
    if up > c.rcv_up and up > c.rcv_nxt:
        c.rcv_up = up
        c.events |= URGENT


def _text(c: Block, seq: int, body: Buffer, now: float) -> None:
    """RFC 9293, 3.10.7.4, seventh: in order to the queue, else to the assembler."""
    if c.rcv_fin >= 0 and seq + len(body) > c.rcv_fin:
        return  # beyond the peer's own FIN
    if c.closing:
        # Nobody will read it: say so (RFC 9293 3.6.1, RFC 2525 2.17).
        send.reset(c, c.snd_nxt)
        c.finish(Input.ABORT, Event.RESET)
        return
    if seq != c.rcv_nxt:
        _out_of_order(c, seq, body)
        return
    n = len(body)
    c.n_data_in += 1
    c.last_data = now
    c.rcv_nxt = seq + n
    c.n_bytes_received += n
    c.queue.append(body)
    c.events |= READABLE
    if c.assembler is not None:
        _fill(c, c.assembler)
        return
    c.ack_bytes += n
    if c.ack_bytes >= 2 * c.rcv_mss or not c.config.delayed_ack:
        c.ack_now = c.wants_transmit = True
    elif c.t_ack == OFF:
        c.t_ack = now + c.config.delayed_ack


def _fill(c: Block, assembler: Assembler) -> None:
    """Move what has become contiguous; RFC 5681, 4.2: acknowledge at once when a gap closes."""
    for piece in assembler.pop(c.rcv_nxt):
        if 0 <= c.rcv_fin < c.rcv_nxt + len(piece):  # beyond the peer's own FIN
            piece = piece[: c.rcv_fin - c.rcv_nxt]
            if not piece:
                break
        c.rcv_nxt += len(piece)
        c.n_bytes_received += len(piece)
        c.queue.append(piece)
    if not assembler.ranges or c.rcv_fin == c.rcv_nxt:
        c.assembler = None
    c.ack_now = c.wants_transmit = True


def _out_of_order(c: Block, seq: int, body: Buffer) -> None:
    if c.assembler is None:
        c.assembler = Assembler(c.config.max_gaps)
    c.n_data_in += 1
    c.n_out_of_order += 1
    before = c.assembler.queued
    if c.assembler.add(seq, body) and c.assembler.queued == before:
        _duplicate(c, seq, seq + len(body))  # all of it was here
    c.dup_acks_out += 1
    c.ack_now = c.wants_transmit = True


def _fin(c: Block, now: float) -> None:
    """RFC 9293, 3.10.7.4, eighth: everything before the FIN is here."""
    state = c.state
    if state in (State.ESTABLISHED, State.FIN_WAIT_1, State.FIN_WAIT_2):
        c.go(Input.RCV_FIN)
        c.rcv_nxt += 1
        if not c.config.delayed_fin or state is not ESTABLISHED:
            c.ack_now = c.wants_transmit = True
        elif c.t_ack == OFF:
            c.t_ack = now + c.config.delayed_ack
        c.events |= READABLE
        if state is State.FIN_WAIT_2:
            c.t_wait = now + 2 * c.config.msl
            c.t_rtx = c.t_keep = OFF

"""Sending: what leaves, how much, and in which segments.

`data` first retransmits what is believed lost, then sends new data, both within the congestion
window (bytes that may be in the network) and the peer's window.  Segments follow RFC 9293 3.8.6.2.1
(silly-window avoidance) and 3.7.4 (Nagle); with `Config.tso` a run of full segments leaves as one
super-segment.  Every segment carries the acknowledgement, so a pure ACK is made only when nothing
else went out.
"""

from __future__ import annotations

from . import pacing, pmtud, rate, undo
from .block import OFF, Block, Rtx
from .ecn import asking
from .rack import arm
from .scoreboard import Sent
from .segment import ACK, CWR, ECE, FIN, PSH, RST, SYN, URG, Buffer, Segment
from .seq import MASK
from .state import Input, State


def window(c: Block) -> int:
    """Return the window field to send and remember the right edge that it promises.

    RFC 9293 3.8.6.2.2: the edge moves only by a full segment or half the buffer.  Rounding to the
    scale may show less than was promised before; what was promised stays valid (RFC 7323, 2.4).
    """
    rcv_nxt = c.rcv_nxt
    rcv_buf = c.rcv_buf
    wnd = c.rcv_adv - rcv_nxt
    space = rcv_buf - c.queue.queued
    gain = rcv_buf >> 1
    if space - wnd >= (gain if gain < c.rcv_mss else c.rcv_mss):
        wnd = space
    if wnd < 0:
        return 0
    wire = wnd >> c.rcv_wscale
    if wire > 65535:
        wire = 65535
    edge = rcv_nxt + (wire << c.rcv_wscale)
    if edge > c.rcv_adv:
        c.rcv_adv = edge
    return wire


def update_due(c: Block) -> bool:
    """Decide after the user consumed data whether the peer should hear of the new space."""
    wnd = c.rcv_adv - c.rcv_nxt
    gain = c.rcv_buf - c.queue.queued - wnd
    if wnd < 2 * c.rcv_mss:
        return gain >= min(c.rcv_buf >> 1, c.rcv_mss)
    return gain >= c.rcv_buf >> 2


def segment(c: Block, seq: int, flags: int, data: Buffer, gso_size: int, now: float,
            ect: bool = False, urg: int = 0) -> Segment:  # fmt: skip
    """Build a segment of a synchronized connection; it takes all acknowledgement debts along."""
    if c.ecn_echo:
        flags |= ECE
    ts = None
    if c.ts_ok:
        ts = (c.timestamp(now), c.ts_recent)
    wnd = window(c)
    sacks: tuple[tuple[int, int], ...] = ()
    if c.assembler is not None or c.dsack is not None:
        sacks = _sacks(c, 3 if ts else 4)
    c.ack_now = False
    c.ack_bytes = 0
    c.t_ack = OFF
    c.last_ack_sent = rcv_nxt = c.rcv_nxt
    c.n_segs_out += 1
    return Segment(
        seq & MASK, rcv_nxt & MASK, flags, wnd, data, urg, 0, -1, False, ts, sacks, gso_size,
        False, ect,
    )  # fmt: skip


def _sacks(c: Block, room: int) -> tuple[tuple[int, int], ...]:
    """Return the blocks to report: a duplicate first (RFC 2883), then the newest ranges."""
    blocks = c.assembler.blocks(room) if c.assembler is not None else []
    if c.dsack is not None:
        blocks = [c.dsack[0], *blocks][:room]
        c.dsack = c.dsack[1:] or None
    if not c.sack_ok:
        return ()
    return tuple([(left & MASK, right & MASK) for left, right in blocks])


def pure_ack(c: Block, now: float) -> Segment:
    """Build an ACK without data; its sequence number is SND.NXT (RFC 9293, 3.10.7.4)."""
    return segment(c, c.snd_nxt, ACK, b"", 0, now)


def probe(c: Block, now: float) -> Segment:
    """Build a segment that the peer must answer though it carries nothing new.

    One below SND.UNA is outside every window.  RFC 9293 3.8.6.1 wants one new octet in a
    zero-window probe; like Linux we send none, so that nothing new is in flight to be tracked.
    """
    return segment(c, c.snd_una - 1, ACK, b"", 0, now)


def syn(c: Block, now: float) -> Segment:
    """Build our SYN or SYN-ACK with the options on offer, or those that the peer's SYN had."""
    config = c.config
    answer = c.state is State.SYN_RECEIVED
    c.last_ack_sent = c.rcv_nxt
    c.ack_now = False
    c.n_segs_out += 1
    wnd = min(c.rcv_buf, 65535)  # RFC 7323, 2.2: never scaled on a SYN
    c.rcv_adv = max(c.rcv_adv, c.rcv_nxt + wnd)
    offered = c.ts_ok if answer else config.timestamps
    return Segment(
        seq=c.iss & MASK,
        ack=c.rcv_nxt & MASK if answer else 0,
        flags=(SYN | ACK | (ECE if c.ecn else 0)) if answer else SYN | asking(c),
        wnd=wnd,
        mss=config.mss,
        wscale=c.rcv_wscale if c.rcv_wscale >= 0 else -1,
        sack_permitted=c.sack_ok if answer else config.sack,
        ts=(c.timestamp(now), c.ts_recent) if offered else None,
    )


def reset(c: Block, seq: int) -> None:
    """Queue a RST at `seq`; it carries an ACK wherever the peer's numbers are known."""
    if c.state in (State.SYN_SENT, State.CLOSED):
        return
    c.reset_out = Segment(seq & MASK, c.rcv_nxt & MASK, RST | ACK, 0)


def handshake(c: Block, now: float, out: list[Segment]) -> None:
    """Send or repeat the SYN of SYN_SENT and SYN_RECEIVED."""
    sb = c.sb
    if c.snd_nxt == c.iss:
        c.snd_nxt = c.iss + 1
        sb.sent(c.iss, c.snd_nxt, now)
    elif sb.lost:
        sb.resent(sb.records[0], now)
        c.n_retrans += 1
    elif not c.ack_now:
        return
    out.append(syn(c, now))
    if c.t_rtx == OFF:
        arm(c, now)


def payload_max(c: Block) -> int:
    """Return what fits into a segment beside the SACK blocks that it would carry."""
    if not c.sack_ok or (c.assembler is None and c.dsack is None):
        return c.mss
    ranges = len(c.assembler.ranges) if c.assembler is not None else 0
    return c.mss - 4 - 8 * min(ranges + (c.dsack is not None), 3 if c.ts_ok else 4)


def data(c: Block, now: float, budget: int, out: list[Segment]) -> None:
    """Append up to `budget` segments with data or FIN to `out`."""
    sb = c.sb
    mss = payload_max(c)
    if c.cc.pacing_rate and pacing.waits(c, now):
        return
    if sb.lost and c.frto != undo.NEW_DATA:
        retransmit(c, now, mss, budget, out)
    if c.fin_seq >= 0 or len(out) >= budget:
        c.wants_transmit = len(out) >= budget
        return
    avail = c.snd_una + len(c.snd_buf) - c.snd_nxt
    if avail > 0:
        if not sb.records:
            c.cc.on_idle(now - c.last_send, c.rtt.rto)
        avail = _new_data(c, now, mss, avail, budget, out)
    if avail <= 0 and c.fin_queued and c.fin_seq < 0:
        if c.snd_nxt < c.snd_una + c.snd_wnd:
            out.append(_transmit(c, 0, FIN | ACK, mss, now))
        else:
            # RFC 9293, 3.4: a FIN occupies the window like an octet; until there is room, probe.
            avail = 1
    if avail <= 0 and sb.out < c.cc.cwnd:
        rate.on_app_limited(c)
    if sb.records:
        if c.t_rtx == OFF or c.rtx_mode is Rtx.PERSIST:
            arm(c, now)
    elif avail > 0 and c.t_rtx == OFF:
        c.rtx_mode = Rtx.PERSIST
        c.t_rtx = now + c.rtt.rto


def _new_data(c: Block, now: float, mss: int, avail: int, budget: int, out: list[Segment]) -> int:
    """Send what the windows allow; return how many bytes stay behind."""
    if c.pmtu is not None and mss == c.mss and (n := pmtud.probe_size(c, now, avail)):
        out.append(_transmit(c, n, ACK, n, now))
        avail -= n
    limit = max(c.config.max_super // mss, 1) * mss if c.config.tso else mss
    if c.snd_up > c.snd_nxt:
        limit = mss  # no link cuts a segment and moves its urgent pointer
    paced = c.cc.pacing_rate
    if paced:
        limit = pacing.quantum(paced, limit, mss)
    cwnd = c.cc.cwnd - c.sb.pipe
    wnd = c.snd_una + c.snd_wnd - c.snd_nxt
    while avail > 0:
        n = _chunk(c, avail, wnd, cwnd, mss)
        if n <= 0:
            break
        if len(out) >= budget:
            c.wants_transmit = True
            break
        if n > limit:
            n = limit
        avail -= n
        wnd -= n
        cwnd -= n
        flags = ACK if avail else ACK | PSH
        if not avail and c.fin_queued:
            flags |= FIN
        out.append(_transmit(c, n, flags, mss, now))
        if paced and pacing.spend(c, n, now):
            break
    flight = c.snd_nxt - c.snd_una
    if flight > c.peak or c.snd_una >= c.peak_end:
        c.peak, c.peak_end = flight, c.snd_nxt
    return avail


def _chunk(c: Block, avail: int, wnd: int, cwnd: int, mss: int) -> int:
    """Return how many of `avail` bytes may go now: whole segments, or a tail that may be short.

    RFC 9293 3.8.6.2.1 for the peer's window, 3.7.4 (Nagle) for the user's data.
    """
    n = avail if avail < wnd else wnd
    if cwnd < n:
        # A congestion window never cuts a segment: wait for the next acknowledgement.
        return cwnd - cwnd % mss if cwnd > 0 else 0
    short = n % mss
    if not short:
        return n
    if n == avail:
        # Nagle as Minshall has it: one short segment at a time may be in flight.
        if c.fin_queued or (not c.corked and (c.config.nodelay or c.snd_sml <= c.snd_una)):
            return n
        return n - short
    if n > short:
        return n - short
    return n if n * 2 >= c.max_snd_wnd else 0


def _transmit(c: Block, n: int, flags: int, mss: int, now: float) -> Segment:
    """Send `n` new bytes, and the FIN when `flags` has it."""
    seq = c.snd_nxt
    body: Buffer = c.snd_buf.peek(seq - c.snd_una, n) if n else b""
    end = seq + n
    if flags & FIN:
        c.fin_seq = end
        end += 1
        c.go(Input.SEND_FIN)
    if not c.sb.records:
        c.busy_since = now
    c.sb.sent(seq, end, now)
    c.snd_nxt = end
    c.prr_out += n
    c.last_send = now
    c.n_bytes_sent += n
    if not n:
        return segment(c, seq, flags, body, 0, now)
    c.n_data_out += 1
    if n % mss:
        c.snd_sml = end
    if c.ecn_cwr:
        c.ecn_cwr = False
        flags |= CWR
    urg = 0
    if c.snd_up > seq:
        urg = min(c.snd_up - seq, 65535)
        flags |= URG
    return segment(c, seq, flags, body, mss if n > mss else 0, now, c.ecn, urg)


def retransmit(c: Block, now: float, mss: int, budget: int, out: list[Segment]) -> None:
    """Send again what is believed lost, oldest first, within the congestion window."""
    sb = c.sb
    limit = max(c.config.max_super // mss, 1) * mss if c.config.tso else mss
    while sb.lost and len(out) < budget:
        index = sb.next_lost()
        record = sb.records[index]
        room = max(c.cc.cwnd - sb.pipe, c.rtx_credit)
        if index:  # the head may always go: it is what a probe would be
            room = min(room, c.snd_una + c.snd_wnd - record.seq)
        if room < min(mss, record.end - record.seq):
            break
        n = min(record.end - record.seq, max(room - room % mss, mss), limit)
        if n < record.end - record.seq:
            record = sb.split(index, record.seq + n)
        c.rtx_credit = max(c.rtx_credit - n, 0)
        out.append(resend(c, record, mss, now))
        if c.cc.pacing_rate and pacing.spend(c, n, now):
            break
    if sb.records and c.t_rtx == OFF:
        arm(c, now)


def resend(c: Block, record: Sent, mss: int, now: float) -> Segment:
    """Build the retransmission of one record and note it."""
    seq, end = record.seq, record.end
    flags = ACK | PSH
    if c.fin_seq >= 0 and end > c.fin_seq:
        end = c.fin_seq
        flags |= FIN
    n = end - seq
    if record.state:
        c.sb.resent(record, now)
    else:
        record.rtx, record.time = True, now
    if c.undo is not None:
        undo.on_resend(c, n, now)
    c.n_retrans += 1
    c.n_bytes_retrans += n
    c.prr_out += n
    c.n_data_out += n > 0
    c.last_send = now
    body: Buffer = c.snd_buf.peek(seq - c.snd_una, n) if n else b""
    return segment(c, seq, flags, body, mss if n > mss else 0, now)


def tail_probe(c: Block, now: float, out: list[Segment]) -> None:
    """Send a tail loss probe (RFC 8985, 7.3): a new segment, or the last one again."""
    sb = c.sb
    mss = payload_max(c)
    avail = c.snd_una + len(c.snd_buf) - c.snd_nxt
    room = c.snd_una + c.snd_wnd - c.snd_nxt
    n = min(avail, mss, room)
    c.tlp_retrans = c.fin_seq >= 0 or n <= 0
    if not c.tlp_retrans:
        out.append(_transmit(c, n, ACK | PSH, mss, now))
    else:
        last = sb.records[-1]
        if last.end - last.seq > mss:
            sb.split(len(sb.records) - 1, last.end - mss)
            last = sb.records[-1]
        out.append(resend(c, last, mss, now))
    c.tlp_end = c.snd_nxt


def force(c: Block, now: float, out: list[Segment]) -> None:
    """Send what fits a window that stayed too small for a whole segment (RFC 9293 3.8.6.2.1)."""
    end = min(len(c.snd_buf), c.snd_wnd) + c.snd_una
    mss = payload_max(c)
    n = min(end - c.snd_nxt, mss)
    if n > 0 and c.fin_seq < 0:
        out.append(_transmit(c, n, ACK | PSH, mss, now))
        arm(c, now)

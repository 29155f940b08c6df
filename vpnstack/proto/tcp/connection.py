"""One TCP connection as a sans-IO machine (RFC 9293).

Theory of operation.  The owner feeds arriving segments to `receive`, asks `transmit` for what
leaves (when `wants_transmit` is set or `deadline` has passed; both after user calls, too), and
drains `next_event`.  User calls only change state.  At the end of a burst the owner calls `own`, as
received data is borrowed from the frames until then.  A connection can be forgotten once it is
CLOSED and `wants_transmit` is false: a last RST may still have to leave.
"""

from __future__ import annotations

import enum
from dataclasses import replace
from typing import Any

from ...errors import UsageError
from . import ecn, pmtud, timer
from . import receive as receiving
from . import send as sending
from .block import EVENTS, OFF, Block, Event
from .config import Config
from .segment import ACK, FIN, RST, SYN, Buffer, Segment, reset_for
from .seq import before, unwrap
from .state import Input, State
from .statistics import Statistics, snapshot

# Looked up at every segment.
SYN_SENT, SYN_RECEIVED, ESTABLISHED = State.SYN_SENT, State.SYN_RECEIVED, State.ESTABLISHED

_NO_MEMORY = memoryview(b"")


class Icmp(enum.Enum):
    """What an ICMP error about one of our segments says (RFC 5927, section 2)."""

    SOFT = "unreachable for now: network, host, time exceeded"
    HARD = "protocol or port unreachable, administratively prohibited"
    PACKET_TOO_BIG = "the path takes smaller packets"


class Connection(Block):
    """A connection; make one with `active` or `passive`."""

    __slots__ = ()

    @classmethod
    def active(cls, config: Config, now: float, iss: int) -> Connection:
        """Open towards a peer: the SYN leaves with the next `transmit`."""
        self = cls(config, now, iss)
        self.rcv_wscale = receiving.scale_for(config.rcv_buf) if config.window_scaling else -1
        self.go(Input.ACTIVE_OPEN)
        self.wants_transmit = True
        return self

    @classmethod
    def passive(
        cls, config: Config, syn: Segment, now: float, iss: int, hold: bool = True
    ) -> Connection:
        """Take a peer's SYN; with `hold` it is answered only by `accept` or `refuse`."""
        if syn.flags & (SYN | ACK | RST | FIN) != SYN:
            raise UsageError(f"expected a SYN to open a connection, found {syn}")
        self = cls(config, now, iss)
        self.go(Input.PASSIVE_OPEN)
        self.irs = syn.seq
        self.rcv_nxt = self.rcv_adv = self.last_ack_sent = syn.seq + 1
        receiving.options_of_syn(self, syn)
        ecn.on_syn(self, syn.flags)
        self.snd_wnd = self.max_snd_wnd = syn.wnd
        self.snd_wl1, self.snd_wl2 = syn.seq, iss
        self.held = True
        if not hold:
            self.accept()
        return self

    # The machine's verbs.

    def receive(self, seg: Segment, now: float) -> None:
        """Take one segment, of any size, from the peer."""
        state = self.state
        if state >= SYN_RECEIVED:
            receiving.synchronized(self, seg, now)
        elif state is State.SYN_SENT:
            self.n_segs_in += 1
            receiving.syn_sent(self, seg, now)
        elif state is State.LISTEN:
            self._receive_held(seg)
        elif self.reset_out is None:
            self.reset_out = reset_for(seg)
            self.wants_transmit = self.reset_out is not None

    def _receive_held(self, seg: Segment) -> None:
        """While the SYN is held only the peer's reset counts; its repeated SYN is ignored."""
        if seg.flags & RST and unwrap(seg.seq, self.rcv_nxt) == self.rcv_nxt:
            self.finish(Input.ABORT, Event.RESET)

    def transmit(self, now: float, budget: int = 64) -> list[Segment]:
        """Return up to `budget` segments that leave now, at most one of them a pure ACK.

        A peer without SACK gets one duplicate ACK for each segment that came out of order, as it
        counts them (RFC 5681, 4.2).  When more is ready than the budget allows, `wants_transmit`
        stays set.
        """
        out: list[Segment] = []
        self.wants_transmit = False
        due = self.deadline()
        if due is not None and now >= due:
            timer.expire(self, now, out)
        state = self.state
        if state >= ESTABLISHED:
            if self.sb.lost or self.fin_seq < 0:
                sending.data(self, now, budget, out)
            if self.ack_now:
                extra = 0 if self.sack_ok else min(self.dup_acks_out, budget) - 1
                out.append(sending.pure_ack(self, now))
                while extra > 0 or (self.dsack and len(out) < budget):
                    out.append(sending.pure_ack(self, now))
                    extra -= 1
            self.dup_acks_out = 0
        elif state >= SYN_SENT:
            sending.handshake(self, now, out)
        if self.reset_out is not None:
            out.append(self.reset_out)
            self.reset_out = None
        return out

    def deadline(self) -> float | None:
        """Return when `transmit` has to be called at the latest, None for never."""
        t = self.t_rtx
        if self.t_ack < t:
            t = self.t_ack
        if self.t_reo < t:
            t = self.t_reo
        if self.t_keep < t:
            t = self.t_keep
        if self.t_wait < t:
            t = self.t_wait
        if self.t_pace < t:
            t = self.t_pace
        return None if t == OFF else t

    def next_event(self) -> Event | None:
        """Return the next thing that happened, None when there is nothing more."""
        events = self.events
        if not events:
            return None
        lowest = events & -events
        self.events = events ^ lowest
        return EVENTS[lowest.bit_length() - 1]

    # The passive side's decision.

    def accept(self) -> None:
        """Answer the held SYN."""
        if self.held:
            self.held = False
            self.go(Input.ACCEPT)
            self.wants_transmit = True

    def refuse(self) -> None:
        """Answer the held SYN with a reset; a connection that came by a cookie likewise."""
        if not self.held:
            self.abort()
        else:
            self.snd_nxt = 0
            sending.reset(self, 0)
            self.finish(Input.ABORT)

    # The user's calls: sending.

    @property
    def snd_space(self) -> int:
        """Return how many bytes `send` would take now."""
        if self.fin_queued or self.state is State.CLOSED:
            return 0
        return self.snd_buf.space

    def send(self, data: Buffer) -> int:
        """Queue `data` and return how much of it was taken; WRITABLE follows a shortage."""
        if self.fin_queued:
            raise UsageError("expected no data after shutdown, found a call of send")
        if self.state is State.CLOSED:
            return 0
        n = self.snd_buf.write(data)
        if n < len(data):
            self.short = True
        if n:
            self.wants_transmit = True
        return n

    @property
    def send_buffer(self) -> Connection:
        """Return what has `writable` and `commit`."""
        return self

    def writable(self) -> memoryview:
        """Return free space of the send buffer to be filled in place; `commit` must follow."""
        if self.fin_queued or self.state is State.CLOSED:
            return _NO_MEMORY
        room = self.snd_buf.writable()
        if not room:
            self.short = True
        return room

    def commit(self, n: int) -> None:
        """Queue the first `n` bytes of the last `writable`."""
        if self.state is not State.CLOSED:
            self.snd_buf.commit(n)
            if n:
                self.wants_transmit = True

    def send_urgent(self, data: Buffer) -> int:
        """Queue `data` like `send`, its end as the peer's urgent mark (RFC 9293, 3.8.5)."""
        n = self.send(data)
        if n:
            self.mark_urgent()
        return n

    def mark_urgent(self, behind: int = 0) -> None:
        """Set the peer's urgent mark behind what is queued and `behind` bytes still to come."""
        self.snd_up = self.snd_una + len(self.snd_buf) + behind

    def cork(self, held: bool) -> None:
        """Hold short segments back (for an RTO at most), or let them go."""
        self.corked = held
        if not held:
            self.wants_transmit = True

    # The user's calls: receiving.

    @property
    def rcv_queued(self) -> int:
        """Return how many bytes `received` would show."""
        return self.queue.queued

    @property
    def eof(self) -> bool:
        """Tell whether the peer's FIN was reached and everything before it consumed."""
        return 0 <= self.rcv_fin < self.rcv_nxt and not self.queue.queued

    @property
    def urgent_mark(self) -> int:
        """Return how many bytes lie before the end of urgent data, 0 when none is ahead."""
        told = self.rcv_nxt - (0 <= self.rcv_fin < self.rcv_nxt)  # less the FIN, which is no byte
        return max(self.rcv_up - told + self.queue.queued, 0)

    def received(self) -> list[memoryview]:
        """Return the data that arrived in order and was not consumed, without a copy."""
        return self.queue.views()

    def consume(self, n: int) -> None:
        """Drop the first `n` bytes of what `received` shows; may make a window update due."""
        if n > self.queue.queued:
            raise UsageError(f"expected at most {self.queue.queued} bytes to consume, found {n}")
        self.queue.consume(n)
        if not self.ack_now and self.state >= ESTABLISHED and sending.update_due(self):
            self.ack_now = self.wants_transmit = True

    def own(self) -> None:
        """Copy what is still borrowed from the frames of the burst that ends now."""
        self.queue.own()

    # The user's calls: ending.

    def shutdown(self) -> None:
        """Send a FIN behind the queued data; receiving goes on."""
        if self.fin_queued or self.state is State.CLOSED:
            return
        if self.state < State.SYN_RECEIVED:
            self.finish(Input.ABORT)
            return
        self.fin_queued = True
        self.wants_transmit = True

    def close(self) -> None:
        """End politely; a reset instead if data is unread or arrives later (RFC 2525, 2.17)."""
        if self.held or (self.queue.queued and self.state is not State.CLOSED):
            self.abort()
            return
        self.closing = True
        self.shutdown()
        if self.state is State.FIN_WAIT_2 and self.t_wait == OFF:
            self.t_wait = self.last_recv + self.config.fin_timeout

    def abort(self) -> None:
        """End at once with a reset (RFC 9293, 3.10.5)."""
        if self.state is State.CLOSED:
            return
        if self.held:
            self.refuse()
            return
        if self.state is not State.TIME_WAIT:
            sending.reset(self, self.snd_nxt)
        self.finish(Input.ABORT)

    # What else can happen to a connection.

    def reusable_by(self, syn: Segment) -> bool:
        """Tell whether a SYN may replace this TIME_WAIT (RFC 6191); its ISS must exceed SND.NXT."""
        if self.state is not State.TIME_WAIT or syn.flags & (SYN | ACK | RST) != SYN:
            return False
        if syn.ts is not None and self.ts_ok and syn.ts[0] != self.ts_recent:
            return before(self.ts_recent, syn.ts[0])
        return unwrap(syn.seq, self.rcv_nxt) > self.rcv_nxt

    def configure(self, now: float, **changes: Any) -> None:
        """Change fields of the configuration of this connection alone (`Config`'s names).

        A new congestion control begins with the window of the one before.
        """
        self.config = config = replace(self.config, **changes)
        if self.state is State.CLOSED:
            return
        if "congestion" in changes:
            before = self.cc
            self.cc = config.congestion(self.mss)
            self.cc.cwnd, self.cc.ssthresh = before.cwnd, before.ssthresh
        if config.keepalive and self.state >= ESTABLISHED:
            self.t_keep = max(self.last_recv + config.keepalive_idle, now)
        else:
            self.t_keep = OFF
        self.wants_transmit = True

    def icmp_error(self, kind: Icmp, now: float, seq: int, mtu_mss: int = 0) -> None:
        """Hear of an ICMP error that quotes our segment at `seq` (32 bits).

        RFC 5927: ignored unless `seq` is in flight.  Only a connection being opened ends by it.
        `mtu_mss` is the payload a segment may have by the path's new MTU (PACKET_TOO_BIG).
        """
        at = unwrap(seq, self.snd_una)
        if not self.snd_una <= at < self.snd_nxt:
            return
        if kind is Icmp.PACKET_TOO_BIG:
            self._shrink(mtu_mss, now)
        elif self.state in (State.SYN_SENT, State.SYN_RECEIVED):
            self.finish(Input.ABORT, Event.REFUSED if kind is Icmp.HARD else Event.UNREACHABLE)

    def _shrink(self, mss: int, now: float) -> None:
        """RFC 1191, 6.4: take the smaller segment size and send again what was too big."""
        if not pmtud.on_too_big(self, mss, now):
            return
        self.sb.mark_all_lost()
        self.rtx_credit = self.mss
        self.wants_transmit = True

    def statistics(self, now: float = 0.0) -> Statistics:
        """Return a snapshot by the names of Linux's TCP_INFO, ages as of `now`."""
        return snapshot(self, now)

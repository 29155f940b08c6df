"""The transmission control block (RFC 9293, 3.3.1): the variables of one connection.

Names are the standard's.  Sequence numbers are unwrapped (see `seq`); times are seconds on the
clock that the caller passes as `now`; a timer that is off stands at infinity.  The modules
`receive`, `send`, `timer` and `recovery` are functions over this block; `Connection` is the block
with its verbs.
"""

from __future__ import annotations

import enum
from functools import lru_cache
from typing import Any

from .assembler import Assembler
from .buffer import ReceiveQueue, RingBuffer, SendBuffer
from .config import Config
from .parts import Drs, Search, Undo
from .rtt import Rtt
from .scoreboard import Scoreboard
from .state import Input, State, advance

OFF = float("inf")


class Event(enum.Enum):
    """What `next_event` reports."""

    CONNECTED = "both sides have acknowledged"
    READABLE = "data or the peer's FIN is newly there"
    WRITABLE = "there is send space again after a shortage"
    URGENT = "the peer has sent urgent data: see `urgent_mark`"
    REFUSED = "the peer answered the SYN with a reset"
    RESET = "the peer reset the connection"
    TIMED_OUT = "the peer stopped answering"
    UNREACHABLE = "ICMP says that the peer cannot be reached"
    CLOSED = "nothing more will happen; the connection can be forgotten"


EVENTS = tuple(Event)
CONNECTED, READABLE, WRITABLE, URGENT, REFUSED, RESET, TIMED_OUT, UNREACHABLE, CLOSED = (
    1 << i for i in range(len(EVENTS))
)


class Phase(enum.IntEnum):
    """What the sender believes about its losses, by Linux's names (TCP_INFO's tcpi_ca_state)."""

    OPEN = 0
    DISORDER = 1  # duplicate ACKs, nothing believed lost
    CWR = 2
    RECOVERY = 3  # fast retransmit
    LOSS = 4  # the timer expired


class Rtx(enum.IntEnum):
    """What the retransmission timer will do when it expires."""

    RTO = 0
    PERSIST = 1
    PROBE = 2  # tail loss probe


@lru_cache(maxsize=64)  # connections that are alike share the number
def _payload(snd_mss: int, ts_ok: bool) -> int:
    return snd_mss - (12 if ts_ok else 0)


class Block:
    """All variables of a connection."""

    __slots__ = (
        "ack_bytes", "ack_now", "assembler", "backoff", "busy", "busy_since", "cc", "challenge_at",
        "challenges", "closing", "config", "corked", "drs", "drs_at", "dsack", "dup_acks_in",
        "dup_acks_out", "ecn", "ecn_asked", "ecn_cwr", "ecn_echo", "error", "events", "fin_queued",
        "fin_seq", "flow", "frto", "held", "irs", "iss", "last_ack_sent", "last_data", "last_recv",
        "last_send", "max_snd_wnd", "mss", "n_bytes_acked", "n_bytes_received", "n_bytes_retrans",
        "n_bytes_sent", "n_ce", "n_data_in", "n_data_out", "n_delivered_ce", "n_dsack",
        "n_out_of_order", "n_retrans", "n_segs_in", "n_segs_out", "n_timeouts", "n_undone",
        "pace_at", "peak", "peak_end", "peer_mss", "phase", "pmtu", "probes", "prr_delivered",
        "prr_flight", "prr_out", "queue", "rack_end", "rack_mult", "rack_persist", "rack_round",
        "rack_rtt", "rack_time",
        "rcv_adv", "rcv_buf", "rcv_fin", "rcv_mss", "rcv_nxt", "rcv_size", "rcv_up", "rcv_wscale",
        "recover", "repair", "repair_end", "reset_out", "retries", "rtt", "rtx_credit", "rtx_mode",
        "sack_ok", "sb", "short", "snd_buf", "snd_mss", "snd_nxt", "snd_sml", "snd_una", "snd_up",
        "snd_wl1", "snd_wl2", "snd_wnd", "snd_wscale", "state", "stuck_since", "t_ack", "t_keep",
        "t_pace", "t_reo", "t_rtx", "t_wait", "tlp_end", "tlp_retrans", "ts_offset", "ts_ok",
        "ts_recent", "ts_recent_at", "undo", "wants_transmit",
    )  # fmt: skip

    def __init__(self, config: Config, now: float, iss: int) -> None:
        self.config = config
        self.flow: Any = None  # the owner's
        self.state = State.CLOSED
        self.error: Event | None = None
        self.events = 0
        self.wants_transmit = False
        self.held = False
        self.closing = False  # the user has closed: nobody will read any more
        self.reset_out: Any = None  # a RST to be sent
        self._init_receive()
        self._init_send(config, iss)
        self._init_timers(now)
        self._init_counters()

    def _init_send(self, config: Config, iss: int) -> None:
        self.iss = iss
        self.snd_una = iss
        self.snd_nxt = iss
        self.snd_wnd = 0
        self.max_snd_wnd = 0
        self.snd_wl1 = 0
        self.snd_wl2 = 0
        self.snd_wscale = 0  # shift of the windows that we receive
        self.snd_buf: SendBuffer = RingBuffer(min(config.snd_buf, config.first_buf))
        self.short = False  # the user was refused space and waits for WRITABLE
        self.fin_queued = False
        self.fin_seq = -1  # sequence number of our FIN, once sent
        self.peer_mss = config.default_mss
        self.snd_mss = 0  # the peer's and the path's limit, options not yet taken off
        self.mss = 0  # payload of a segment without SACK blocks
        self.sb = Scoreboard()
        self.rtt = Rtt(config.min_rto, config.max_rto, config.syn_rto)
        self.set_mss(config.default_mss)
        self.cc = config.congestion(self.mss)
        self.phase = Phase.OPEN
        self.recover = iss
        self.peak = 0  # the most in flight in this round trip, which ends with `peak_end`
        self.peak_end = iss
        self.dup_acks_in = 0
        self.prr_delivered = 0
        self.prr_out = 0
        self.prr_flight = 1  # RecoverFS of RFC 6937
        self.rack_time = 0.0  # when the latest delivered record was sent, its end, its round trip
        self.rack_end = 0
        self.rack_rtt = 0.0
        self.rack_mult = 1
        self.rack_persist = 0
        self.rack_round = 0
        self.tlp_end = 0  # SND.NXT when a tail loss probe left, 0 without one under way
        self.tlp_retrans = False
        self.rtx_credit = 0  # bytes that may be retransmitted whatever the window says
        self.repair = 1  # without SACK: segments that the next partial ACK lets go
        self.repair_end = 0  # end of what the last one let go
        self.undo: Undo | None = None
        self.frto = 0
        self.ecn = False  # both ends speak it
        self.ecn_asked = False
        self.ecn_cwr = False  # the next new data answers an ECE
        self.pmtu: Search | None = None
        self.pace_at = 0.0  # when the pacing rate allows the next segment
        self.snd_sml = iss  # end of the last segment sent that was not full (Minshall)
        self.snd_up = iss  # SND.UP: end of urgent data
        self.corked = False

    def _init_receive(self) -> None:
        self.irs = 0
        self.rcv_nxt = 0
        self.rcv_adv = 0  # right edge of the largest window ever offered
        self.rcv_wscale = 0  # shift of the windows that we send
        self.rcv_buf = min(self.config.rcv_buf, self.config.first_buf)
        self.rcv_mss = min(536, self.config.mss)  # what the peer's segments measure
        self.rcv_size = 0  # of the latest segment that measured less
        self.rcv_up = 0  # RCV.UP: end of the peer's urgent data
        self.drs: Drs | None = None
        self.drs_at = 0.0
        self.ecn_echo = False  # we say ECE
        self.rcv_fin = -1  # sequence number of the peer's FIN, once seen
        self.queue = ReceiveQueue()
        self.assembler: Assembler | None = None
        self.ack_now = False
        self.ack_bytes = 0  # bytes received since our last ACK
        self.dup_acks_out = 0
        self.last_ack_sent = 0
        self.sack_ok = False
        self.dsack: tuple[tuple[int, int], ...] | None = None  # duplicates to report (RFC 2883)
        self.challenge_at = 0.0  # the second in which challenges are counted (RFC 5961, 7)
        self.challenges = 0
        self.ts_ok = False
        self.ts_recent = 0
        self.ts_recent_at = 0.0
        self.ts_offset = 0

    def _init_timers(self, now: float) -> None:
        self.t_rtx = OFF
        self.t_reo = OFF  # RACK's reordering window
        self.t_ack = OFF
        self.t_keep = OFF
        self.t_wait = OFF
        self.t_pace = OFF
        self.rtx_mode = Rtx.RTO
        self.retries = 0  # expirations of t_rtx without an answer
        self.backoff = 0  # of the persist timer
        self.probes = 0  # keepalives without an answer
        self.stuck_since = OFF  # since when nothing was acknowledged, for the user timeout
        self.last_send = now
        self.last_recv = now
        self.last_data = now
        self.busy = 0.0  # seconds with something in flight, up to `busy_since`
        self.busy_since = OFF

    def _init_counters(self) -> None:
        self.n_segs_in = 0
        self.n_segs_out = 0
        self.n_bytes_sent = 0
        self.n_bytes_acked = 0
        self.n_bytes_received = 0
        self.n_bytes_retrans = 0
        self.n_retrans = 0
        self.n_timeouts = 0
        self.n_data_in = 0
        self.n_data_out = 0
        self.n_out_of_order = 0
        self.n_dsack = 0
        self.n_undone = 0
        self.n_ce = 0
        self.n_delivered_ce = 0

    def set_mss(self, limit: int) -> None:
        """Take the peer's or the path's limit on a segment (RFC 6691: options come off it)."""
        config = self.config
        # Of equals, `min` and `max` return the first: connections share the configuration's.
        self.snd_mss = max(config.min_mss, min(config.send_mss or config.mss, limit))
        self.mss = _payload(self.snd_mss, self.ts_ok)

    def timestamp(self, now: float) -> int:
        """Return TSval: milliseconds from the flow's own start (RFC 7323, 5.4)."""
        return (int(now * 1000) + self.ts_offset) & 0xFFFFFFFF

    def go(self, event: Input) -> None:
        """Move along the table of transitions."""
        self.state = advance(self.state, event)

    def finish(self, event: Input, error: Event | None = None) -> None:
        """Reach CLOSED: every timer off, everything kept let go, except a RST still to be sent."""
        self.go(event)
        self.t_rtx = self.t_reo = self.t_ack = self.t_keep = self.t_wait = self.t_pace = OFF
        self.undo = self.pmtu = self.drs = None
        self.sb = Scoreboard()
        self.snd_buf.release(len(self.snd_buf))
        self.assembler = None
        self.ack_now = False
        self.held = False
        self.wants_transmit = self.reset_out is not None
        if error is not None:
            self.error = error
            self.events |= 1 << EVENTS.index(error)
        self.events |= CLOSED

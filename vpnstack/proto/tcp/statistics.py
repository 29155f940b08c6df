"""A snapshot of a connection by the names of Linux's `struct tcp_info`."""

from __future__ import annotations

from dataclasses import dataclass

from . import rate
from .block import OFF, Block, Phase
from .state import State


@dataclass(frozen=True, slots=True)
class Statistics:
    """Fields as in `struct tcp_info`: times in microseconds, ages in milliseconds, rates in bytes
    a second, and where marked segments, of which a super-segment counts as many.

    `tcpi_segs_*` and `tcpi_data_segs_*` count units of the machine: a super-segment is one.
    """

    state: State
    tcpi_state: int  # by Linux's numbers (tcp_states.h)
    tcpi_ca_state: Phase
    tcpi_retransmits: int
    tcpi_probes: int
    tcpi_backoff: int
    tcpi_options: int  # 1 timestamps, 2 SACK, 4 window scaling, 8 ECN, 16 CE was seen
    tcpi_snd_wscale: int
    tcpi_rcv_wscale: int
    tcpi_delivery_rate_app_limited: bool
    tcpi_rto: int
    tcpi_ato: int
    tcpi_snd_mss: int
    tcpi_rcv_mss: int
    tcpi_unacked: int  # segments
    tcpi_sacked: int  # segments
    tcpi_lost: int  # segments
    tcpi_retrans: int  # segments sent again and not yet acknowledged
    tcpi_last_data_sent: int
    tcpi_last_data_recv: int
    tcpi_last_ack_recv: int
    tcpi_pmtu: int
    tcpi_rcv_ssthresh: int
    tcpi_rtt: int
    tcpi_rttvar: int
    tcpi_snd_ssthresh: int  # segments
    tcpi_snd_cwnd: int  # segments
    tcpi_advmss: int
    tcpi_reordering: int  # segments
    tcpi_rcv_rtt: int
    tcpi_rcv_space: int
    tcpi_total_retrans: int
    tcpi_pacing_rate: int
    tcpi_bytes_acked: int
    tcpi_bytes_received: int
    tcpi_segs_out: int
    tcpi_segs_in: int
    tcpi_notsent_bytes: int
    tcpi_min_rtt: int
    tcpi_data_segs_in: int
    tcpi_data_segs_out: int
    tcpi_delivery_rate: int
    tcpi_busy_time: int
    tcpi_delivered: int  # segments
    tcpi_delivered_ce: int
    tcpi_bytes_sent: int
    tcpi_bytes_retrans: int
    tcpi_dsack_dups: int
    tcpi_reord_seen: int
    tcpi_rcv_ooopack: int
    tcpi_snd_wnd: int
    tcpi_rcv_wnd: int
    tcpi_total_rto: int
    undone: int  # losses and timeouts that turned out to have been none
    rcv_queued: int


# RFC 9293's states by the numbers of Linux's enum; LISTEN is a SYN whose answer is being decided.
LINUX_STATES = {
    State.CLOSED: 7,
    State.LISTEN: 10,
    State.SYN_SENT: 2,
    State.SYN_RECEIVED: 3,
    State.ESTABLISHED: 1,
    State.FIN_WAIT_1: 4,
    State.FIN_WAIT_2: 5,
    State.CLOSE_WAIT: 8,
    State.CLOSING: 11,
    State.LAST_ACK: 9,
    State.TIME_WAIT: 6,
}


def _micro(seconds: float) -> int:
    return 0 if seconds == OFF else int(seconds * 1e6)


def _options(c: Block) -> int:
    wscale = c.rcv_wscale > 0 or c.snd_wscale > 0
    return c.ts_ok + 2 * c.sack_ok + 4 * wscale + 8 * c.ecn + 16 * (c.n_ce > 0)


def _ages(c: Block, now: float) -> dict[str, int]:
    """Return how long ago things happened, in milliseconds; `now` 0.0: the last time known."""
    at = max(now, c.last_send, c.last_recv)
    return {
        "tcpi_last_data_sent": int((at - c.last_send) * 1000),
        "tcpi_last_data_recv": int((at - c.last_data) * 1000),
        "tcpi_last_ack_recv": int((at - c.last_recv) * 1000),
        "tcpi_busy_time": _micro(c.busy + (at - c.busy_since if c.busy_since != OFF else 0.0)),
    }


def _receiving(c: Block) -> dict[str, int]:
    return {
        "tcpi_rcv_wscale": max(c.rcv_wscale, 0),
        "tcpi_ato": _micro(c.config.delayed_ack),
        "tcpi_rcv_mss": c.rcv_mss,
        "tcpi_rcv_ssthresh": c.rcv_buf,
        "tcpi_advmss": c.config.mss,
        "tcpi_rcv_rtt": _micro(c.drs.rtt) if c.drs is not None else 0,
        "tcpi_rcv_space": c.drs.space if c.drs is not None else 0,
        "tcpi_bytes_received": c.n_bytes_received,
        "tcpi_segs_in": c.n_segs_in,
        "tcpi_data_segs_in": c.n_data_in,
        "tcpi_rcv_ooopack": c.n_out_of_order,
        "tcpi_rcv_wnd": max(c.rcv_adv - c.rcv_nxt, 0),
        "rcv_queued": c.queue.queued,
    }


def _sending(c: Block) -> dict[str, int]:
    mss, sb = c.mss, c.sb
    return {
        "tcpi_snd_wscale": c.snd_wscale,
        "tcpi_snd_mss": mss,
        "tcpi_unacked": -(-(c.snd_nxt - c.snd_una) // mss),
        "tcpi_sacked": -(-sb.sacked // mss),
        "tcpi_lost": -(-sb.lost // mss),
        "tcpi_retrans": -(-sum(r.end - r.seq for r in sb.records if r.rtx and not r.state) // mss),
        "tcpi_pmtu": c.snd_mss + (40 if c.config.default_mss == 536 else 60),
        "tcpi_snd_ssthresh": min(c.cc.ssthresh // mss, 0x7FFFFFFF),
        "tcpi_snd_cwnd": c.cc.cwnd // mss,
        "tcpi_reordering": max(-(-sb.reordered // mss), 3),
        "tcpi_pacing_rate": int(c.cc.pacing_rate),
        "tcpi_bytes_acked": c.n_bytes_acked,
        "tcpi_segs_out": c.n_segs_out,
        "tcpi_notsent_bytes": max(c.snd_una + len(c.snd_buf) - c.snd_nxt, 0),
        "tcpi_data_segs_out": c.n_data_out,
        "tcpi_delivery_rate": int(rate.delivery_rate(c)),
        "tcpi_delivered": -(-sb.delivered // mss),
        "tcpi_delivered_ce": c.n_delivered_ce,
        "tcpi_bytes_sent": c.n_bytes_sent + c.n_bytes_retrans,
        "tcpi_bytes_retrans": c.n_bytes_retrans,
        "tcpi_reord_seen": sb.reorderings,
        "tcpi_snd_wnd": c.snd_wnd,
    }


def snapshot(c: Block, now: float) -> Statistics:
    """Return the statistics of one connection; `now` is for the ages, 0.0 where it is not known."""
    rtt = c.rtt
    return Statistics(
        state=c.state,
        tcpi_state=LINUX_STATES[c.state],
        tcpi_ca_state=c.phase,
        tcpi_retransmits=c.retries,
        tcpi_probes=c.probes,
        tcpi_backoff=rtt.backoff or c.backoff,
        tcpi_options=_options(c),
        tcpi_delivery_rate_app_limited=c.sb.stamp[3],
        tcpi_rto=_micro(rtt.timeout()),
        tcpi_rtt=_micro(rtt.srtt),
        tcpi_rttvar=_micro(rtt.rttvar),
        tcpi_min_rtt=_micro(rtt.min_rtt),
        tcpi_total_retrans=c.n_retrans,
        tcpi_total_rto=c.n_timeouts,
        tcpi_dsack_dups=c.n_dsack,
        undone=c.n_undone,
        **_receiving(c),
        **_sending(c),
        **_ages(c, now),
    )

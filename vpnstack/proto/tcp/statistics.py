"""A snapshot of a connection by the names of Linux's `struct tcp_info`."""

from __future__ import annotations

from dataclasses import dataclass

from .block import Block, Phase
from .state import State


@dataclass(frozen=True, slots=True)
class Statistics:
    """Fields as in `struct tcp_info`: times in microseconds, `tcpi_snd_cwnd` in segments."""

    state: State
    tcpi_ca_state: Phase
    tcpi_retransmits: int
    tcpi_probes: int
    tcpi_backoff: int
    tcpi_options: int  # 1 timestamps, 2 SACK, 4 window scaling
    tcpi_snd_wscale: int
    tcpi_rcv_wscale: int
    tcpi_rto: int
    tcpi_snd_mss: int
    tcpi_rcv_mss: int
    tcpi_unacked: int  # segments
    tcpi_sacked: int
    tcpi_lost: int
    tcpi_rtt: int
    tcpi_rttvar: int
    tcpi_min_rtt: int
    tcpi_snd_ssthresh: int  # segments
    tcpi_snd_cwnd: int  # segments
    tcpi_total_retrans: int
    tcpi_bytes_sent: int
    tcpi_bytes_acked: int
    tcpi_bytes_received: int
    tcpi_bytes_retrans: int
    tcpi_segs_in: int
    tcpi_segs_out: int
    tcpi_notsent_bytes: int
    tcpi_snd_wnd: int
    tcpi_total_rto: int
    rcv_queued: int


def snapshot(c: Block) -> Statistics:
    """Return the statistics of one connection."""
    mss, sb, rtt = c.mss, c.sb, c.rtt
    wscale = c.rcv_wscale > 0 or c.snd_wscale > 0
    return Statistics(
        state=c.state,
        tcpi_ca_state=c.phase,
        tcpi_retransmits=c.retries,
        tcpi_probes=c.probes,
        tcpi_backoff=rtt.backoff or c.backoff,
        tcpi_options=c.ts_ok * 1 + c.sack_ok * 2 + wscale * 4,
        tcpi_snd_wscale=c.snd_wscale,
        tcpi_rcv_wscale=max(c.rcv_wscale, 0),
        tcpi_rto=int(rtt.timeout() * 1e6),
        tcpi_snd_mss=mss,
        tcpi_rcv_mss=c.config.mss,
        tcpi_unacked=-(-(c.snd_nxt - c.snd_una) // mss),
        tcpi_sacked=-(-sb.sacked // mss),
        tcpi_lost=-(-sb.lost // mss),
        tcpi_rtt=int(rtt.srtt * 1e6),
        tcpi_rttvar=int(rtt.rttvar * 1e6),
        tcpi_min_rtt=0 if rtt.min_rtt == float("inf") else int(rtt.min_rtt * 1e6),
        tcpi_snd_ssthresh=min(c.cc.ssthresh // mss, 0x7FFFFFFF),
        tcpi_snd_cwnd=c.cc.cwnd // mss,
        tcpi_total_retrans=c.n_retrans,
        tcpi_bytes_sent=c.n_bytes_sent,
        tcpi_bytes_acked=c.n_bytes_acked,
        tcpi_bytes_received=c.n_bytes_received,
        tcpi_bytes_retrans=c.n_bytes_retrans,
        tcpi_segs_in=c.n_segs_in,
        tcpi_segs_out=c.n_segs_out,
        tcpi_notsent_bytes=max(c.snd_una + len(c.snd_buf) - c.snd_nxt, 0),
        tcpi_snd_wnd=c.snd_wnd,
        tcpi_total_rto=c.n_timeouts,
        rcv_queued=c.queue.queued,
    )

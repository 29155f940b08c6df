"""A connection's statistics as Linux's `struct tcp_info` (linux/tcp.h), for getsockopt(TCP_INFO).

Tools that read the octets of a kernel socket read ours.  What the stack does not count is 0.
"""

from __future__ import annotations

import struct

from ..proto.tcp.statistics import Statistics

# In the order of the structure; a name with its width.  Two bytes of bit fields stand before.
_FIELDS = (
    *((name, "I") for name in (
        "rto", "ato", "snd_mss", "rcv_mss", "unacked", "sacked", "lost", "retrans", "fackets",
        "last_data_sent", "last_ack_sent", "last_data_recv", "last_ack_recv", "pmtu",
        "rcv_ssthresh", "rtt", "rttvar", "snd_ssthresh", "snd_cwnd", "advmss", "reordering",
        "rcv_rtt", "rcv_space", "total_retrans",
    )),
    *((name, "Q") for name in ("pacing_rate", "max_pacing_rate", "bytes_acked", "bytes_received")),
    *((name, "I") for name in (
        "segs_out", "segs_in", "notsent_bytes", "min_rtt", "data_segs_in", "data_segs_out",
    )),
    *((name, "Q") for name in ("delivery_rate", "busy_time", "rwnd_limited", "sndbuf_limited")),
    ("delivered", "I"), ("delivered_ce", "I"), ("bytes_sent", "Q"), ("bytes_retrans", "Q"),
    *((name, "I") for name in (
        "dsack_dups", "reord_seen", "rcv_ooopack", "snd_wnd", "rcv_wnd", "rehash",
    )),
    ("total_rto", "H"), ("total_rto_recoveries", "H"), ("total_rto_time", "I"),
)  # fmt: skip
_BITS = {"H": 16, "I": 32, "Q": 64}
_HEAD = struct.Struct("8B")
_REST = struct.Struct("=" + "".join(width for _, width in _FIELDS))
SIZE = _HEAD.size + _REST.size


def pack(s: Statistics) -> bytes:
    """Return the octets of the structure, in the machine's byte order; larger values saturate."""
    head = (
        s.tcpi_state, s.tcpi_ca_state, s.tcpi_retransmits, s.tcpi_probes, s.tcpi_backoff,
        s.tcpi_options, s.tcpi_snd_wscale | s.tcpi_rcv_wscale << 4,
        s.tcpi_delivery_rate_app_limited,
    )  # fmt: skip
    rest = (min(getattr(s, f"tcpi_{name}", 0), (1 << _BITS[width]) - 1) for name, width in _FIELDS)
    return _HEAD.pack(*(min(int(value), 255) for value in head)) + _REST.pack(*rest)

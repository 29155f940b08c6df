"""What a connection is told when it is made; frozen, shared by all connections of a stack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .congestion.base import Congestion
from .congestion.cubic import Cubic

MAX_SUPER = 65535 - 40 - 60  # payload of a super-segment: IPv6 header and a full TCP header off


@dataclass(frozen=True, slots=True)
class Config:
    """Parameters of a connection; times in seconds, sizes in bytes."""

    mss: int = 1460  # what our link can receive: its MTU less 40 (IPv4) or 60 (IPv6)
    send_mss: int = 0  # cap on what we send, from the path's MTU; 0: the same as `mss`
    default_mss: int = 536  # without the peer's option: 536 (IPv4), 1220 (IPv6)
    min_mss: int = 88  # a peer's smaller option is raised to this
    min_path_mss: int = 512  # ICMP lowers no further: an MTU of 552 (IPv4), 1280 (IPv6: 1220)
    plpmtud: bool = True  # find black holes, and the way up again (RFC 4821)
    rcv_buf: int = 1 << 22  # the most; what is used grows from `first_buf` with the flow
    snd_buf: int = 1 << 22
    first_buf: int = 1 << 16
    nodelay: bool = False  # True: no Nagle algorithm
    timestamps: bool = True
    sack: bool = True
    window_scaling: bool = True
    tso: bool = True  # data may leave as super-segments
    max_super: int = MAX_SUPER
    delayed_ack: float = 0.04  # 0: acknowledge at once
    delayed_fin: bool = False  # the peer's FIN too: who forwards will soon have one of its own
    min_rto: float = 0.2  # RFC 6298 2.4 wants 1 s; 200 ms as in Linux
    max_rto: float = 60.0
    syn_rto: float = 1.0
    syn_retries: int = 6
    retries: int = 15  # retransmissions or unanswered probes before giving up
    user_timeout: float = 0.0  # RFC 5482; 0: only `retries` counts
    msl: float = 30.0  # TIME_WAIT lasts twice this
    fin_timeout: float = 60.0  # FIN_WAIT_2 of a connection that its user has closed
    keepalive: bool = False
    keepalive_idle: float = 7200.0
    keepalive_interval: float = 75.0
    keepalive_probes: int = 9
    orphan_probes: int = 8  # a closed window of a peer whose user here is gone
    ecn: int = 2  # as Linux's tcp_ecn: 0 off, 1 ask for it, 2 accept it (`ecn.Mode`)
    max_gaps: int = 256  # holes kept in the received sequence
    congestion: Callable[[int], Congestion] = Cubic  # called with the MSS

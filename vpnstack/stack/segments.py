"""Between frames and segments: what a connection takes and gives, on the wire."""

from __future__ import annotations

from typing import Any

from ..core import access
from ..core._core import ffi, lib
from ..core.burst import Burst
from ..proto.tcp.options import emit_options
from ..proto.tcp.segment import Segment
from . import headers


def segment_of(f: Any) -> Segment:
    """Make a `Segment` of a parsed TCP frame; its data is borrowed from the frame."""
    opts = f.opts
    if not opts:
        return Segment(
            f.seq, f.ack, f.tcp_flags, f.wnd, access.payload(f), f.urg,
            gso_size=f.vnet.gso_size, ce=f.tos & 3 == 3,
        )  # fmt: skip
    sacks: tuple[tuple[int, int], ...] = ()
    if opts & lib.TCPOPT_SACK:
        edges = f.sack
        sacks = tuple((edges[2 * i], edges[2 * i + 1]) for i in range(f.sack_n))
    return Segment(
        f.seq,
        f.ack,
        f.tcp_flags,
        f.wnd,
        access.payload(f),
        f.urg,
        f.mss if opts & lib.TCPOPT_MSS else 0,
        f.wscale if opts & lib.TCPOPT_WSCALE else -1,
        bool(opts & lib.TCPOPT_SACK_PERMITTED),
        (f.tsval, f.tsecr) if opts & lib.TCPOPT_TIMESTAMP else None,
        sacks,
        f.vnet.gso_size,
        f.tos & 3 == 3,
    )


def emit(burst: Burst, template: bytes, seg: Segment) -> None:
    """Add the frame of an outgoing segment to `burst`."""
    opts = emit_options(seg)
    if seg.ect:
        template = headers.with_ect(template)
    n = len(seg.data)
    data = ffi.NULL
    if n:
        data = ffi.from_buffer(seg.data)
        burst.keep(data)
    lib.frame_emit_tcp(
        burst.frames[burst.count], template, len(template), seg.seq, seg.ack, seg.flags, seg.wnd,
        seg.urg, opts, len(opts), data, n, seg.gso_size,
    )  # fmt: skip
    burst.count += 1

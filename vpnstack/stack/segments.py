"""Between frames and segments: what a connection takes and gives, on the wire."""

from __future__ import annotations

import struct
from typing import Any

from ..core import access
from ..core._core import ffi, lib
from ..core.burst import Burst
from ..proto.tcp.options import emit_options
from ..proto.tcp.segment import Segment
from . import headers

_buffer, _field = ffi.buffer, ffi.addressof
_TCP = struct.Struct("=IIHHHHBBB5xII")  # struct frame from `seq` to `tsecr` (frame.h)
assert ffi.offsetof("struct frame", "tsval") - ffi.offsetof("struct frame", "seq") == 24


def segment_of(f: Any) -> Segment:
    """Make a `Segment` of a parsed TCP frame; its data is borrowed from the frame."""
    seq, ack, wnd, urg, flags, mss, opts, wscale, sack_n, tsval, tsecr = _TCP.unpack(
        _buffer(_field(f, "seq"), _TCP.size)
    )
    size, ce = f.vnet.gso_size, f.tos & 3 == 3
    if not opts:
        return Segment(seq, ack, flags, wnd, access.payload(f), urg, gso_size=size, ce=ce)
    sacks: tuple[tuple[int, int], ...] = ()
    if opts & lib.TCPOPT_SACK:
        edges = f.sack
        sacks = tuple((edges[2 * i], edges[2 * i + 1]) for i in range(sack_n))
    return Segment(
        seq, ack, flags, wnd, access.payload(f), urg,
        mss if opts & lib.TCPOPT_MSS else 0,
        wscale if opts & lib.TCPOPT_WSCALE else -1,
        bool(opts & lib.TCPOPT_SACK_PERMITTED),
        (tsval, tsecr) if opts & lib.TCPOPT_TIMESTAMP else None,
        sacks, size, ce,
    )  # fmt: skip


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

"""TCP options (RFC 9293 3.2, RFC 7323, RFC 2018): the reference codec of what the core does.

Options are read in order until the end, an end-of-list or a fault; what stands before a fault is
taken, as every stack does.  `parse_options(emit_options(segment))` gives the same options back.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from .segment import Segment

EOL = 0
NOP = 1
MSS = 2
WSCALE = 3
SACK_PERMITTED = 4
SACK = 5
TIMESTAMP = 8

MAX_LEN = 40
MAX_WSCALE = 14  # RFC 7323, 2.3: a larger shift counts as 14
MAX_SACKS = 4


@dataclass(frozen=True, slots=True)
class Options:
    """What the option list of one segment said; the defaults stand for an absent option."""

    mss: int = 0
    wscale: int = -1
    sack_permitted: bool = False
    ts: tuple[int, int] | None = None
    sacks: tuple[tuple[int, int], ...] = ()
    malformed: bool = False  # a length ran past the end or was too small


_TIMESTAMPS = struct.Struct(">BBBBII")


def emit_options(seg: Segment) -> bytes:
    """Return the option bytes of `seg`, padded to a multiple of 4, at most 40.

    SACK blocks that no longer fit are left out, the last first.
    """
    if seg.ts is not None and seg.wscale < 0 and not (seg.mss or seg.sacks or seg.sack_permitted):
        return _TIMESTAMPS.pack(NOP, NOP, TIMESTAMP, 10, *seg.ts)
    out = bytearray()
    if seg.mss:
        out += struct.pack(">BBH", MSS, 4, seg.mss)
    if seg.wscale >= 0:
        out += bytes((NOP, WSCALE, 3, seg.wscale))
    if seg.sack_permitted:
        out += bytes((NOP, NOP, SACK_PERMITTED, 2))
    if seg.ts is not None:
        out += struct.pack(">BBBBII", NOP, NOP, TIMESTAMP, 10, *seg.ts)
    room = (MAX_LEN - len(out) - 4) // 8
    if seg.sacks and room > 0:
        blocks = seg.sacks[: min(room, MAX_SACKS)]
        out += bytes((NOP, NOP, SACK, 2 + 8 * len(blocks)))
        for block in blocks:
            out += struct.pack(">II", *block)
    return bytes(out)


def parse_options(data: bytes) -> Options:
    """Read an option list; bounded by its length, never raises."""
    found: dict[int, bytes] = {}
    pos, malformed = 0, False
    while pos < len(data):
        kind = data[pos]
        if kind == EOL:
            break
        if kind == NOP:
            pos += 1
            continue
        length = data[pos + 1] if pos + 1 < len(data) else 0
        if length < 2 or length > len(data) - pos:
            malformed = True
            break
        found[kind] = data[pos + 2 : pos + length]
        pos += length
    return _decode(found, malformed)


def _decode(found: dict[int, bytes], malformed: bool) -> Options:
    mss, wscale, ts = found.get(MSS, b""), found.get(WSCALE, b""), found.get(TIMESTAMP, b"")
    sack = found.get(SACK, b"")
    blocks = len(sack) // 8 if len(sack) % 8 == 0 else 0
    return Options(
        mss=struct.unpack(">H", mss)[0] if len(mss) == 2 else 0,
        wscale=min(wscale[0], MAX_WSCALE) if len(wscale) == 1 else -1,
        sack_permitted=found.get(SACK_PERMITTED) == b"",
        ts=struct.unpack(">II", ts) if len(ts) == 8 else None,
        sacks=tuple(struct.unpack_from(">II", sack, 8 * i) for i in range(min(blocks, MAX_SACKS))),
        malformed=malformed,
    )

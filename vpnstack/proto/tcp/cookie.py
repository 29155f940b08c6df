"""SYN cookies (RFC 4987, 3.6 and appendix A): answer a SYN and keep nothing.

The initial sequence number carries the time (5 bits, units of 64 s), the peer's segment size (3
bits, rounded down) and 24 bits of a keyed hash.  Window scale, SACK and ECN ride in the low bits of
our timestamp when the peer sent one, and are not offered otherwise.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from . import ecn
from .config import Config
from .connection import Connection
from .isn import timestamp_offset
from .segment import CWR, ECE, SYN, Segment
from .seq import MASK

UNIT = 64.0  # seconds
LIFETIME = 2  # units for which a cookie is taken
SIZES = (88, 536, 900, 1200, 1220, 1440, 1460, 8940)
NO_SCALE = 15


def _hash(secret: bytes, flow: bytes, irs: int, head: int) -> int:
    text = flow + irs.to_bytes(4, "big") + bytes((head,))
    digest = hashlib.blake2s(text, key=secret, digest_size=3, person=b"cookie").digest()
    return int.from_bytes(digest, "big")


def make(secret: bytes, flow: bytes, syn: Segment, default_mss: int, now: float) -> int:
    """Return the sequence number that answers `syn`; `flow` is as for `initial_sequence`."""
    mss = syn.mss or default_mss
    index = max((i for i, size in enumerate(SIZES) if size <= mss), default=0)
    head = (int(now / UNIT) & 31) << 3 | index
    return head << 24 | _hash(secret, flow, syn.seq, head)


def mss_of(secret: bytes, flow: bytes, ack: Segment, now: float) -> int:
    """Return the segment size in the cookie that `ack` brings back, 0 when there is none."""
    iss, irs = (ack.ack - 1) & MASK, (ack.seq - 1) & MASK
    head = iss >> 24
    if (int(now / UNIT) - (head >> 3)) & 31 >= LIFETIME:
        return 0
    return SIZES[head & 7] if _hash(secret, flow, irs, head) == iss & 0xFFFFFF else 0


def answer(config: Config, secret: bytes, flow: bytes, syn: Segment, now: float) -> Segment:
    """Return the SYN-ACK that carries a cookie."""
    if syn.ts is None or not config.timestamps:
        config = replace(config, window_scaling=False, sack=False, ecn=ecn.Mode.OFF)
    iss = make(secret, flow, syn, config.default_mss, now)
    c = Connection.passive(config, syn, now, iss, hold=False)
    c.ts_offset = timestamp_offset(secret, flow)
    (seg,) = c.transmit(now)
    if seg.ts is None:
        return seg
    scale = c.snd_wscale if c.rcv_wscale >= 0 else NO_SCALE
    low = scale | c.sack_ok << 4 | c.ecn << 5
    value = (seg.ts[0] & ~63) | low
    if value > seg.ts[0]:  # never from the future: the next one must not be smaller
        value -= 64
    return seg._replace(ts=(value & MASK, seg.ts[1]))


def restore(config: Config, secret: bytes, flow: bytes, ack: Segment, now: float
            ) -> Connection | None:  # fmt: skip
    """Return the established connection that a cookie brings back, None when it is not ours."""
    mss = mss_of(secret, flow, ack, now)
    if not mss:
        return None
    syn = Segment((ack.seq - 1) & MASK, 0, SYN, ack.wnd, mss=mss)
    if ack.ts is not None and config.timestamps:
        low = ack.ts[1] & 63
        scale = low & 15
        flags = SYN | ECE | CWR if low >> 5 else SYN
        syn = syn._replace(
            flags=flags, ts=(ack.ts[0], 0), sack_permitted=bool(low >> 4 & 1),
            wscale=scale if scale != NO_SCALE else -1,
        )  # fmt: skip
    c = Connection.passive(config, syn, now, (ack.ack - 1) & MASK, hold=False)
    c.ts_offset = timestamp_offset(secret, flow)
    c.transmit(now)
    c.sb.records[0].rtx = True  # when the SYN-ACK left is not known: no round trip to be taken
    c.receive(ack, now)
    return c

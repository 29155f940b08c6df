"""RFC 9293, 3.1: a TCP segment as connections take and give it; the core knows its octets.

One shape serves both directions.  `data` may be a super-segment of up to 64 KiB: on the way out
`gso_size` says by which MSS the link has to cut it.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, TypeAlias

Buffer: TypeAlias = bytes | memoryview

FIN = 1
SYN = 2
RST = 4
PSH = 8
ACK = 16
URG = 32
ECE = 64
CWR = 128


class Flag(enum.IntFlag):
    """The control bits by their names; the hot path uses the plain integers above."""

    FIN = FIN
    SYN = SYN
    RST = RST
    PSH = PSH
    ACK = ACK
    URG = URG
    ECE = ECE
    CWR = CWR


_LETTERS = ((FIN, "F"), (SYN, "S"), (RST, "R"), (PSH, "P"), (URG, "U"), (ECE, "E"), (CWR, "W"),
            (ACK, "."))  # fmt: skip


class Segment(NamedTuple):
    """A segment: `seq` and `ack` in 32 bits, `wnd` in 16 as on the wire, options when present."""

    seq: int
    ack: int
    flags: int
    wnd: int
    data: Buffer = b""
    urg: int = 0
    mss: int = 0  # 0: the option is absent
    wscale: int = -1  # -1: the option is absent
    sack_permitted: bool = False
    ts: tuple[int, int] | None = None  # TSval, TSecr
    sacks: tuple[tuple[int, int], ...] = ()
    gso_size: int = 0  # payload of each wire segment, 0 when `data` is one
    ce: bool = False  # in: IP said congestion experienced (RFC 3168)
    ect: bool = False  # out: IP says ECN-capable transport

    @property
    def length(self) -> int:
        """Return SEG.LEN: octets of sequence space, SYN and FIN counted (RFC 9293, 3.3.1)."""
        return len(self.data) + bool(self.flags & SYN) + bool(self.flags & FIN)

    def __str__(self) -> str:
        letters = "".join(letter for bit, letter in _LETTERS if self.flags & bit) or "none"
        n = len(self.data)
        parts = [f"Flags [{letters}]"]
        parts.append(f"seq {self.seq}:{(self.seq + n) & 0xFFFFFFFF}" if n else f"seq {self.seq}")
        if self.flags & ACK:
            parts.append(f"ack {self.ack}")
        parts.append(f"win {self.wnd}")
        if self.urg:
            parts.append(f"urg {self.urg}")
        if options := self._option_names():
            parts.append(f"options [{','.join(options)}]")
        parts.append(f"length {n}" + (f" gso {self.gso_size}" if self.gso_size else ""))
        return ", ".join(parts)

    def _option_names(self) -> list[str]:
        out = [f"mss {self.mss}"] if self.mss else []
        if self.sack_permitted:
            out.append("sackOK")
        if self.ts:
            out.append(f"TS val {self.ts[0]} ecr {self.ts[1]}")
        if self.wscale >= 0:
            out.append(f"wscale {self.wscale}")
        if self.sacks:
            blocks = "".join(f"{{{left}:{right}}}" for left, right in self.sacks)
            out.append(f"sack {len(self.sacks)} {blocks}")
        return out


def reset_for(seg: Segment) -> Segment | None:
    """Return the RST that answers a segment which belongs to no connection (RFC 9293, 3.10.7.1).

    None when the segment is itself a reset.
    """
    if seg.flags & RST:
        return None
    if seg.flags & ACK:
        return Segment(seg.ack, 0, RST, 0)
    return Segment(0, (seg.seq + seg.length) & 0xFFFFFFFF, RST | ACK, 0)

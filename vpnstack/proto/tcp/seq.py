"""Sequence numbers (RFC 9293, 3.4): 32 bits on the wire, unbounded integers inside.

A connection keeps every sequence number unwrapped: the first is the one that was on the wire, and
those after it simply grow.  Comparisons are then plain `<` and `max`, and only the edges translate:
`unwrap` when a segment arrives, `& MASK` when one leaves.
"""

from __future__ import annotations

MASK = 0xFFFFFFFF
HALF = 0x80000000


def unwrap(wire: int, near: int) -> int:
    """Return the unwrapped number that reads `wire` on the wire and lies closest to `near`."""
    return near + ((wire - near + HALF) & MASK) - HALF


def before(a: int, b: int) -> bool:
    """Compare two 32-bit numbers as they stand on the wire: is `a` older than `b`?"""
    return ((a - b) & MASK) >= HALF

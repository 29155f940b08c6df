"""Pacing: segments leave at the controller's rate instead of as fast as the window allows."""

from __future__ import annotations

from .block import OFF, Block

BURST = 0.001  # seconds of the rate that may leave at once, and that a late timer makes up for


def waits(c: Block, now: float) -> bool:
    """Tell whether the rate allows nothing yet; a timer then says when it will."""
    if now >= c.pace_at:
        c.t_pace = OFF
        return False
    if c.sb.lost or len(c.snd_buf) > c.snd_nxt - c.snd_una:
        c.t_pace = c.pace_at
    return True


def quantum(rate: float, limit: int, mss: int) -> int:
    """Return the largest super-segment at this rate: a millisecond of it, two segments at least."""
    return min(limit, max(int(rate * BURST) // mss, 2) * mss)


def spend(c: Block, n: int, now: float) -> bool:
    """Count `n` bytes as sent; True when the next ones have to wait."""
    c.pace_at = max(c.pace_at, now - BURST) + n / c.cc.pacing_rate
    if c.pace_at <= now:
        return False
    c.t_pace = c.pace_at
    return True

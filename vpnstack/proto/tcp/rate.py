"""Delivery rate (draft-cheng-iccrg-delivery-rate-estimation): what the path carried of late.

Each record remembers what had been delivered when it left; the newest record that an ACK delivers
then spans an interval with a known amount of data.  The longer of the time to send it and the time
to have it acknowledged counts, so that neither bursts nor compressed ACKs look fast.
"""

from __future__ import annotations

from dataclasses import dataclass

from .block import Block
from .scoreboard import NO_STAMP, Stamp

_IDLE: Stamp = (0, 0.0, 0.0, True)  # of all connections that have sent nothing yet


@dataclass(frozen=True, slots=True)
class RateSample:
    """What one ACK showed; bytes and seconds."""

    rate: float  # bytes a second, 0.0 where the interval says nothing
    rtt: float  # 0.0 without a sample
    acked: int  # newly known to have arrived
    lost: int  # ever believed lost
    delivered: int  # ever known to have arrived
    prior_delivered: int  # the same, when the newest record left
    in_flight: int  # before this ACK
    app_limited: bool  # the user, not the window, bounded what was sent
    recovering: bool  # loss recovery is under way


def on_ack(c: Block, fresh: int, now: float) -> None:
    """Count `fresh` bytes as delivered; the scoreboard knows the newest record among them."""
    sb = c.sb
    newest = sb.sampled
    sb.delivered = delivered = sb.delivered + fresh
    if newest is not None:
        sb.stamp = (delivered, now, newest.time, delivered < sb.idle_mark)


def on_app_limited(c: Block) -> None:
    """Hear that the user has no more to send though the window is open."""
    sb = c.sb
    sb.idle_mark = sb.delivered + sb.out or 1
    if sb.stamp is NO_STAMP:
        sb.stamp = _IDLE
    elif not sb.stamp[3]:
        delivered, at, sent, _ = sb.stamp
        sb.stamp = (delivered, at, sent, True)


def delivery_rate(c: Block) -> float:
    """Return bytes a second as the last ACK showed it, 0.0 where it is not known."""
    newest = c.sb.sampled
    if newest is None:
        return 0.0
    prior, prior_at, first, _ = newest.stamp
    delivered, at, _, _ = c.sb.stamp
    interval = max(newest.time - first, at - prior_at)
    if interval <= 0 or interval < c.rtt.min_rtt:
        return 0.0
    return (delivered - prior) / interval


def sample(c: Block, fresh: int, flight: int, rtt: float) -> RateSample:
    """Return what the ACK just taken shows to a controller that asks (`wants_rate`)."""
    sb = c.sb
    newest = sb.sampled
    stamp = newest.stamp if newest is not None else (0, 0.0, 0.0, True)
    return RateSample(
        rate=delivery_rate(c),
        rtt=rtt,
        acked=fresh,
        lost=sb.n_lost,
        delivered=sb.delivered,
        prior_delivered=stamp[0],
        in_flight=flight,
        app_limited=stamp[3],
        recovering=c.phase > 1,
    )

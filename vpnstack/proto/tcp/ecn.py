"""Explicit congestion notification (RFC 3168): a router marks instead of dropping.

Both ends agree during the handshake.  Data segments then leave as ECN-capable (never a
retransmission, a probe, or a segment without data, 6.1.4 to 6.1.6).  A receiver that sees the mark
says ECE on every segment until the sender answers CWR; the sender reduces its window once a round
trip, as if a segment had been lost, and sends nothing again.
"""

from __future__ import annotations

import enum

from . import recovery
from .block import Block, Phase
from .segment import CWR, ECE


class Mode(enum.IntEnum):
    """Whether to use ECN, by the numbers of Linux's `tcp_ecn`."""

    OFF = 0
    ASK = 1  # on every connection, either way
    ACCEPT = 2  # where the peer asks


def asking(c: Block) -> int:
    """Return the flags that our SYN adds; a repeated SYN asks no more (6.1.1.1)."""
    c.ecn_asked = c.config.ecn == Mode.ASK and not c.retries
    return ECE | CWR if c.ecn_asked else 0


def on_syn(c: Block, flags: int) -> None:
    """Take the peer's SYN: does it ask, and do we want to (6.1.1)?"""
    c.ecn = c.config.ecn != Mode.OFF and flags & (ECE | CWR) == ECE | CWR


def on_syn_ack(c: Block, flags: int) -> None:
    """Take the answer to our SYN: ECE alone agrees; both bits are a peer that echoes blindly."""
    c.ecn = c.ecn_asked and flags & (ECE | CWR) == ECE


def on_data(c: Block, flags: int, ce: bool) -> None:
    """Hear of an acceptable segment with data that has a mark or the answer to ours (6.1.3)."""
    if flags & CWR:
        c.ecn_echo = False
    if ce:
        c.n_ce += 1
        c.ecn_echo = True
        c.ack_now = c.wants_transmit = True


def on_echo(c: Block, flight: int, now: float) -> None:
    """Hear ECE: reduce the window once for the `flight` that was out before (6.1.2)."""
    c.n_delivered_ce += 1
    if c.phase > Phase.DISORDER or c.ecn_cwr:
        return  # reduced in this round trip already
    if c.snd_nxt > c.snd_una:
        recovery.begin(c, Phase.CWR, flight)
    c.cc.on_ecn(now, flight)
    c.ecn_cwr = True

"""The queue of half-open connections to local listeners; beyond its bound, cookies (RFC 4987)."""

from __future__ import annotations

from typing import Protocol

from ..proto.tcp import cookie
from ..proto.tcp.config import Config
from ..proto.tcp.connection import Connection
from ..proto.tcp.segment import ACK, FIN, RST, SYN, Segment
from ..proto.tcp.state import State

SYN_QUEUE = 256


class HalfOpen(Protocol):
    """What the queue holds: whatever has a connection."""

    conn: Connection


class SynQueue:
    """Counts handshakes under way; says when a SYN is to be answered without keeping it."""

    __slots__ = ("_last", "_pending", "_secret", "cookies_out", "cookies_taken", "limit")

    def __init__(self, secret: bytes, limit: int = SYN_QUEUE) -> None:
        self._secret = secret
        self._pending: list[HalfOpen] = []
        self._last = float("-inf")  # when a cookie was sent last
        self.limit = limit
        self.cookies_out = 0
        self.cookies_taken = 0

    def full(self) -> bool:
        """Tell whether no more handshakes may be kept."""
        if len(self._pending) < self.limit:
            return False
        half = (State.LISTEN, State.SYN_SENT, State.SYN_RECEIVED)
        self._pending = [one for one in self._pending if one.conn.state in half]
        return len(self._pending) >= self.limit

    def add(self, one: HalfOpen) -> None:
        """Keep a handshake until it ends."""
        self._pending.append(one)

    def answer(self, config: Config, key: bytes, syn: Segment, now: float) -> Segment:
        """Return the SYN-ACK with a cookie for a SYN that is not kept."""
        self._last = now
        self.cookies_out += 1
        return cookie.answer(config, self._secret, key, syn, now)

    def restore(self, config: Config, key: bytes, seg: Segment, now: float) -> Connection | None:
        """Return the connection whose cookie `seg` brings back, None when it brings none.

        Only while cookies may be about: an attacker is not to guess at leisure (RFC 4987, 3.6).
        """
        if now - self._last > cookie.LIFETIME * cookie.UNIT:
            return None
        if seg.flags & (SYN | ACK | RST | FIN) != ACK:
            return None
        conn = cookie.restore(config, self._secret, key, seg, now)
        self.cookies_taken += conn is not None
        return conn

"""IPv4 link-local addresses (RFC 3927): pick one, claim it, pick another where it is taken.

The choice is pseudo-random from the link address (2.1), so that a machine tends to get the same
one again.  After ten conflicts a new one is tried only once a minute (2.2.1).
"""

from __future__ import annotations

import random

from ..wire import arp
from . import acd

FIRST, LAST = 0xA9FE0100, 0xA9FEFEFF  # 169.254.1.0 to 169.254.254.255
PREFIX_LEN = 16
CONFLICTS_MAX = 10
RATE_LIMIT = 60.0


class LinkLocal:
    """A link-local address for the station `mac`; `claim` is the present attempt."""

    def __init__(
        self, mac: bytes, now: float, rng: random.Random, config: acd.Config | None = None
    ) -> None:
        self.mac = mac
        self.conflicts = 0
        self._config = config
        self._rng = rng
        self._choices = random.Random(int.from_bytes(mac))
        self.claim = self._next(now)

    def _next(self, now: float) -> acd.Claim:
        addr = self._choices.randint(FIRST, LAST).to_bytes(4)
        wait = RATE_LIMIT if self.conflicts >= CONFLICTS_MAX else 0.0
        return acd.Claim(addr, self.mac, now + wait, self._rng, self._config)

    def receive(self, message: arp.Repr, now: float) -> None:
        """Take any ARP message of the link."""
        self.claim.receive(message, now)

    def transmit(self, now: float) -> list[arp.Repr]:
        """Return the ARP requests to broadcast now."""
        return self.claim.transmit(now)

    def deadline(self) -> float | None:
        """Return when `transmit` has something to do next."""
        return self.claim.deadline()

    def next_event(self, now: float) -> tuple[acd.Event, bytes] | None:
        """Return the oldest event and its address; after a conflict the next one is tried."""
        addr = self.claim.addr
        event = self.claim.next_event()
        if event is acd.Event.CONFLICT:
            self.conflicts += 1
            self.claim = self._next(now)
        return None if event is None else (event, addr)

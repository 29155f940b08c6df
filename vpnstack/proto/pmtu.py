"""What fits the path to each destination (RFC 1191, RFC 8201): a bounded cache that forgets.

The caller has checked that a "too big" message is about something that we sent.  A value is
believed for ten minutes, after which larger packets are tried again (RFC 1191 6.3, RFC 8201 5.3);
a message never raises a value, and never lowers it below what every link must carry.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MIN_V4, MIN_V6 = 552, 1280  # as in Linux (min_pmtu); RFC 8200 5
# RFC 1191 7: the common MTUs, for routers that do not tell theirs.
PLATEAUS = (65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68)


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters since the cache was made, and its present size."""

    entries: int = 0
    lowered: int = 0
    ignored: int = 0


class Cache:
    """Path MTUs by destination, which is an address of 4 or 16 octets."""

    def __init__(self, capacity: int = 1024, lifetime: float = 600.0) -> None:
        self.capacity = capacity
        self.lifetime = lifetime
        self._table: OrderedDict[bytes, tuple[int, float]] = OrderedDict()
        self._lowered = self._ignored = 0

    def get(self, dst: bytes, now: float, link_mtu: int) -> int:
        """Return the largest packet for `dst` in octets, at most `link_mtu`."""
        entry = self._table.get(dst)
        if entry is None:
            return link_mtu
        if entry[1] <= now:
            del self._table[dst]
            return link_mtu
        return min(entry[0], link_mtu)

    def too_big(self, dst: bytes, told: int, now: float, *, link_mtu: int, sent: int = 0) -> int:
        """Take the MTU that a router `told`, 0 for none; returns the value in force.

        `sent` is the length of the packet that did not fit, as the message quotes it.
        """
        before = self.get(dst, now, link_mtu)
        if not told:
            below = min(sent or before, before)
            told = next((p for p in PLATEAUS if p < below), PLATEAUS[-1])
        least = MIN_V4 if len(dst) == 4 else MIN_V6
        # RFC 8201 4: what is below the minimum is not about IPv6; for IPv4 it is an attack.
        value = max(told, min(least, link_mtu)) if len(dst) == 4 else told
        if value >= before or (len(dst) == 16 and told < least):
            self._ignored += 1
            return before
        self._put(dst, value, now)
        return value

    def _put(self, dst: bytes, value: int, now: float) -> None:
        self._lowered += 1
        self._table[dst] = (value, now + self.lifetime)
        self._table.move_to_end(dst)
        if len(self._table) > self.capacity:
            self._table.popitem(last=False)

    def statistics(self) -> Statistics:
        """Return a snapshot of the counters."""
        return Statistics(len(self._table), self._lowered, self._ignored)

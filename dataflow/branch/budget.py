"""How much memory open transactions may hold, for one owner and for all."""

from __future__ import annotations

import threading

from ..errors import QuotaError


class Budget:
    """A number of octets that must stay below a limit, and below that of the budget above."""

    def __init__(self, limit: int, above: Budget | None = None) -> None:
        self.limit = limit
        self.used = 0
        self._above = above
        self._lock = threading.Lock()  # a merge ends in the writing thread

    def take(self, octets: int) -> None:
        """Count octets before they are kept; raises `QuotaError` and counts nothing."""
        with self._lock:
            if octets > self.limit - self.used:
                raise QuotaError(octets, self.used, self.limit)
            if self._above is not None:
                self._above.take(octets)
            self.used += octets

    def give_back(self, octets: int) -> None:
        """Count octets that are kept no more."""
        with self._lock:
            self.used -= octets
            if self._above is not None:
                self._above.give_back(octets)

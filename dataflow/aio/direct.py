"""A client of a server in the same process: whole messages go in, answers come out, no socket.

This is what `hypervisor`'s virtio-9p device looks for: an object with `converse(client)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..p9.tree import Buffer


class Client(Protocol):
    """What a conversation calls, on the loop."""

    def answered(self, pieces: Sequence[Buffer]) -> None:
        """Take octets of answers, in order, and copy what is to be kept."""

    def throttle(self, stop: bool) -> None:
        """Send no more requests until told that it goes on."""

    def lost(self, why: str) -> None:
        """Know that no answer will come any more."""


class Conversation(Protocol):
    """One client's session."""

    def request(self, message: bytes | bytearray) -> None:
        """Take one whole T-message, which is the server's to keep; it may answer at once."""

    async def close(self) -> None:
        """Cancel what is under way and release everything."""

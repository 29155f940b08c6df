"""RFC 6528: initial sequence numbers, a clock of 4 microseconds plus a keyed hash of the flow."""

from __future__ import annotations

import hashlib

from .seq import HALF, MASK

GAP = 65537  # beyond whatever an old segment without window scaling could show


def initial_sequence(secret: bytes, flow: bytes, now: float) -> int:
    """Return an ISN for `flow` (addresses and ports, in any fixed encoding) at time `now`.

    `secret` is 16 to 32 random bytes chosen once per stack.
    """
    digest = hashlib.blake2s(flow, key=secret, digest_size=4).digest()
    return (int(now * 250_000) + int.from_bytes(digest, "big")) & MASK


def sequence_beyond(iss: int, old: int) -> int:
    """Return `iss`, or a number above `old`: the SND.NXT of the connection before (RFC 6191, 2)."""
    if 0 < (iss - old) & MASK < HALF:
        return iss
    return (old + GAP) & MASK


def timestamp_offset(secret: bytes, flow: bytes) -> int:
    """Return a random-looking start for a flow's timestamp clock (RFC 7323, 5.4)."""
    digest = hashlib.blake2s(flow, key=secret, digest_size=4, person=b"tsoffset").digest()
    return int.from_bytes(digest, "big")

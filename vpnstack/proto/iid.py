"""Interface identifiers that say nothing about the hardware (RFC 7217, RFC 8981 3.3.1).

Both are 64 bits behind a prefix of the same length.  What RFC 5453 and RFC 4291 reserve is not
returned.
"""

from __future__ import annotations

import hashlib
import random
import struct

IID_LEN = 8
_SUBNET_ROUTER_ANYCAST = bytes(IID_LEN)
_IANA_BLOCK = b"\x02\x00\x5e\xff\xfe"  # RFC 5453, first five octets
_ANYCAST_FIRST = bytes.fromhex("fdffffffffffff80")  # RFC 2526


def stable(
    prefix: bytes, interface: bytes, secret: bytes, counter: int, network: bytes = b""
) -> bytes:
    """Return the identifier for `prefix` (8 octets): the same as long as all arguments are.

    RFC 7217 5: a keyed hash of prefix, interface, network and the count of collisions so far.
    Where the result is reserved the next counter is taken.
    """
    while True:
        parts = struct.pack("!8sHHI", prefix[:8], len(interface), len(network), counter)
        keyed = hashlib.blake2s(parts + interface + network, key=secret[:32], digest_size=IID_LEN)
        found = keyed.digest()
        if not reserved(found):
            return found
        counter += 0x10000


def temporary(rng: random.Random) -> bytes:
    """Return a random identifier (RFC 8981 3.3.1)."""
    while True:
        found = rng.randbytes(IID_LEN)
        if not reserved(found):
            return found


def reserved(iid: bytes) -> bool:
    """Tell whether no host may use `iid` (RFC 5453 3)."""
    anycast = iid[:7] == _ANYCAST_FIRST[:7] and iid[7] >= 0x80
    return iid == _SUBNET_ROUTER_ANYCAST or iid[:5] == _IANA_BLOCK or anycast

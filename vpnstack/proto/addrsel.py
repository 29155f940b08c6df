"""Which address to talk from and to (RFC 6724), by the policy table of its section 2.1.

`source` picks among our addresses for one destination; `sort` orders the destinations of a name.
IPv4 takes part as IPv4-mapped addresses (3.2), so one pair of functions serves both families.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cmp_to_key
from ipaddress import ip_network
from typing import NamedTuple

from ..wire import ip


class Scope(enum.IntEnum):
    """RFC 4291 2.7's numbers, which RFC 6724 3.1 gives to unicast addresses too."""

    LINK_LOCAL = 2
    SITE_LOCAL = 5
    GLOBAL = 14


class Policy(NamedTuple):
    """One row: addresses under `prefix` (of `length` bits) have this precedence and label."""

    prefix: bytes
    length: int
    precedence: int
    label: int


def _row(prefix: str, precedence: int, label: int) -> Policy:
    network = ip_network(prefix)
    return Policy(network.network_address.packed, network.prefixlen, precedence, label)


DEFAULT_POLICY = (  # RFC 6724 2.1
    _row("::1/128", 50, 0),
    _row("::/0", 40, 1),
    _row("::ffff:0:0/96", 35, 4),
    _row("2002::/16", 30, 2),
    _row("2001::/32", 5, 5),
    _row("fc00::/7", 3, 13),
    _row("::/96", 1, 3),
    _row("fec0::/10", 1, 11),
    _row("3ffe::/16", 1, 12),
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An address of ours (4 or 16 octets) and what the rules ask about it."""

    addr: bytes
    prefix_len: int = 64
    deprecated: bool = False
    temporary: bool = False
    home: bool = False


def mapped(addr: bytes) -> bytes:
    """Return an address as 16 octets, IPv4 as IPv4-mapped."""
    return bytes(10) + b"\xff\xff" + addr if len(addr) == 4 else addr


def scope(addr: bytes) -> int:
    """Return the scope of an address (RFC 6724 3.1 and 3.2)."""
    if len(addr) == 4 or mapped(addr)[:12] == bytes(10) + b"\xff\xff":
        v4 = addr[-4:]
        return Scope.LINK_LOCAL if v4[:2] == b"\xa9\xfe" or v4[0] == 127 else Scope.GLOBAL
    if addr[0] == 0xFF:
        return addr[1] & 15
    if ip.is_link_local(addr) or addr == bytes(15) + b"\x01":
        return Scope.LINK_LOCAL
    return Scope.SITE_LOCAL if addr[0] == 0xFE and addr[1] & 0xC0 == 0xC0 else Scope.GLOBAL


def policy(addr: bytes, table: Sequence[Policy] = DEFAULT_POLICY) -> Policy:
    """Return the row with the longest prefix that `addr` has."""
    octets = mapped(addr)
    rows = [row for row in table if common(octets, row.prefix) >= row.length]
    return max(rows, key=lambda row: row.length, default=Policy(bytes(16), 0, 40, 1))


def common(a: bytes, b: bytes) -> int:
    """Count the leading bits that are equal (RFC 6724 2.2)."""
    return len(a) * 8 - (int.from_bytes(a) ^ int.from_bytes(b)).bit_length()


def source(
    dst: bytes, candidates: Iterable[Candidate], *, temporary: bool = True,
    table: Sequence[Policy] = DEFAULT_POLICY,
) -> Candidate | None:  # fmt: skip
    """Return the best of our addresses for `dst` (RFC 6724 5), None where no family fits.

    Rules 5 and 5.5 (the outgoing interface, its router) are the caller's choice of candidates.
    `temporary` is rule 7's preference.
    """
    fitting = [c for c in candidates if len(c.addr) == len(dst)]
    if not fitting:
        return None
    target, label = scope(dst), policy(dst, table).label

    def rank(c: Candidate) -> tuple[object, ...]:
        own = scope(c.addr)
        return (
            c.addr == dst,  # 1
            _scope_rank(own, target),  # 2
            not c.deprecated,  # 3
            c.home,  # 4
            policy(c.addr, table).label == label,  # 6
            c.temporary == temporary,  # 7
            min(common(c.addr, dst), c.prefix_len),  # 8
        )

    return max(fitting, key=rank)


def _scope_rank(own: int, target: int) -> tuple[bool, int]:
    """Rule 2: the smallest scope that reaches the destination, else the largest there is."""
    return (own >= target, -own if own >= target else own)


def sort(
    destinations: Iterable[bytes], choose: Callable[[bytes], Candidate | None], *,
    table: Sequence[Policy] = DEFAULT_POLICY,
) -> list[bytes]:  # fmt: skip
    """Order destinations, the best first (RFC 6724 6); `choose` gives the source for each.

    Equal ones stay in the order of the name server (rule 10).
    """
    chosen = [(dst, choose(dst)) for dst in destinations]

    def compare(a: tuple[bytes, Candidate | None], b: tuple[bytes, Candidate | None]) -> int:
        left, right = _destination_rank(*a, table), _destination_rank(*b, table)
        if left != right:
            return -1 if left > right else 1
        if len(a[0]) == len(b[0]) == 16 and a[1] and b[1]:  # 9
            return _shared(*b) - _shared(*a)
        return 0

    return [dst for dst, _ in sorted(chosen, key=cmp_to_key(compare))]


def _shared(dst: bytes, src: Candidate | None) -> int:
    return min(common(src.addr, dst), src.prefix_len) if src else 0


def _destination_rank(
    dst: bytes, src: Candidate | None, table: Sequence[Policy]
) -> tuple[object, ...]:
    row = policy(dst, table)
    if src is None:
        return (False,)
    return (
        True,  # 1
        scope(dst) == scope(src.addr),  # 2
        not src.deprecated,  # 3
        src.home,  # 4
        policy(src.addr, table).label == row.label,  # 5
        row.precedence,  # 6
        -scope(dst),  # 8; 7, native before encapsulated, has no subject here
    )

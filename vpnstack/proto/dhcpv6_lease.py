"""What a DHCPv6 server gives: addresses and prefixes, read from a Reply (RFC 8415 18.2.10)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from ..wire import dhcpv6
from ..wire.dhcpv6 import INFINITE

FOREVER = float("inf")
PER_IA_MAX = 8  # addresses or prefixes kept
Item = TypeVar("Item", dhcpv6.Address, dhcpv6.Prefix)


@dataclass(frozen=True, slots=True)
class Lease:
    """What a server gave us; times are those of `now`."""

    server: bytes
    addresses: tuple[dhcpv6.Address, ...]
    prefixes: tuple[dhcpv6.Prefix, ...]
    dns: tuple[bytes, ...]
    search: tuple[str, ...]
    since: float
    t1: float
    t2: float
    until: float


def lease_of(
    message: dhcpv6.Repr, iaid: int, now: float, *, addresses: bool, prefixes: bool
) -> Lease | None:
    """Read what a Reply gives; None where it gives nothing of what was asked for."""
    got_na, got_pd = offered(message, iaid)
    got_na, got_pd = (got_na if addresses else ()), (got_pd if prefixes else ())
    lives = [(a.preferred, a.valid) for a in got_na] + [(p.preferred, p.valid) for p in got_pd]
    if not lives or message.server_id is None:
        return None
    times = [(ia.t1, ia.t2) for ia in message.ia_na if ia.iaid == iaid]
    times += [(ia.t1, ia.t2) for ia in message.ia_pd if ia.iaid == iaid]
    shortest = min(preferred for preferred, _ in lives)
    t1 = min((t for t, _ in times if t), default=0) or _part(shortest, 0.5)
    t2 = min((t for _, t in times if t), default=0) or _part(shortest, 0.8)
    if t1 > t2:
        t1, t2 = _part(shortest, 0.5), _part(shortest, 0.8)
    until = after(now, max(valid for _, valid in lives))
    return Lease(
        message.server_id, got_na, got_pd, message.dns, message.search, now,
        after(now, t1), after(now, t2), until,
    )  # fmt: skip


def offered(
    message: dhcpv6.Repr, iaid: int
) -> tuple[tuple[dhcpv6.Address, ...], tuple[dhcpv6.Prefix, ...]]:
    """Return what can be used of a message's addresses and prefixes (18.2.10.1)."""
    addresses = [
        a
        for ia in message.ia_na
        if ia.iaid == iaid and not ia.status
        for a in ia.addresses
        if a.valid and a.preferred <= a.valid and not a.status and a.addr[0] not in (0, 0xFF)
    ]
    prefixes = [
        p
        for ia in message.ia_pd
        if ia.iaid == iaid and not ia.status
        for p in ia.prefixes
        if p.valid and p.preferred <= p.valid and not p.status
    ]
    return tuple(addresses[:PER_IA_MAX]), tuple(prefixes[:PER_IA_MAX])


def bare(items: Iterable[Item]) -> tuple[Item, ...]:
    """Return the same without lifetimes, as a client asks for them."""
    return tuple(replace(item, preferred=0, valid=0) for item in items)


def lost_of(before: Lease, after: Lease) -> Lease:
    """Return what `before` had and `after` has not."""
    addresses = {a.addr for a in after.addresses}
    prefixes = {(p.prefix, p.length) for p in after.prefixes}
    return replace(
        before,
        addresses=tuple(a for a in before.addresses if a.addr not in addresses),
        prefixes=tuple(p for p in before.prefixes if (p.prefix, p.length) not in prefixes),
    )


def _part(lifetime: int, fraction: float) -> int:
    return INFINITE if lifetime >= INFINITE else int(lifetime * fraction)


def after(now: float, seconds: float) -> float:
    """Return when `seconds` are over, never for the infinite lifetime."""
    return FOREVER if seconds >= INFINITE else now + seconds

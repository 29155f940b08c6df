"""What a DHCP server gives: a lease, read from the options of its message (RFC 2131, RFC 2132).

Options that make no sense are as good as none; lists are bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ..wire import dhcp, ip
from ..wire.dhcp import Option
from ..wire.malformed import Malformed

INFINITE = 0xFFFFFFFF
LEASE_MIN = 1.0
LIST_MAX = 16  # servers, routers, names and routes kept of one lease
FOREVER = float("inf")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Lease:
    """What a server gave us; times are those of `now`."""

    addr: bytes
    prefix_len: int
    server: bytes
    t1: float
    t2: float
    until: float
    routers: tuple[bytes, ...] = ()
    dns: tuple[bytes, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    mtu: int | None = None
    routes: tuple[tuple[bytes, int, bytes], ...] = ()


def lease_of(message: dhcp.Repr, server: bytes, now: float) -> Lease | None:
    """Read a lease from an offer or acknowledgement; None where it gives nothing to use."""
    addr = message.yiaddr
    usable = addr[0] not in (0, 127) and addr[0] < 224
    duration = _number(message, Option.LEASE_TIME, 4)
    prefix_len = _prefix_len(message.address(Option.SUBNET_MASK), addr)
    if not usable or duration is None or prefix_len is None:
        return None
    t1, t2, until = _times(message, duration, now)
    routes = _tried(dhcp.parse_routes, message.get(Option.CLASSLESS_ROUTES)) or ()
    default = next((via for _, n, via in routes if n == 0), None)
    # RFC 3442: with option 121 the option for routers means nothing.
    routers = _addresses(message.get(Option.ROUTER)) if not routes else (default,) * bool(default)
    mtu = _number(message, Option.INTERFACE_MTU, 2)
    return Lease(
        addr, prefix_len, server, t1, t2, until, tuple(r for r in routers if r),
        _addresses(message.get(Option.DNS_SERVERS)),
        (message.get(Option.DOMAIN_NAME) or b"").rstrip(b"\0").decode("ascii", "replace"),
        (_tried(dhcp.parse_search, message.get(Option.DOMAIN_SEARCH)) or ())[:LIST_MAX],
        mtu if mtu is not None and mtu >= 68 else None,
        tuple(r for r in routes if r[1])[:LIST_MAX],
    )  # fmt: skip


def _times(message: dhcp.Repr, duration: int, now: float) -> tuple[float, float, float]:
    """Return T1, T2 and the end of a lease (RFC 2131 4.4.5)."""
    if duration == INFINITE:
        return FOREVER, FOREVER, FOREVER
    whole = max(float(duration), LEASE_MIN)
    t1 = _number(message, Option.RENEWAL_TIME, 4) or whole * 0.5
    t2 = _number(message, Option.REBINDING_TIME, 4) or whole * 0.875
    if not t1 <= t2 <= whole:
        t1, t2 = whole * 0.5, whole * 0.875
    return now + t1, now + t2, now + whole


def _number(message: dhcp.Repr, code: int, size: int) -> int | None:
    value = message.get(code)
    return int.from_bytes(value) if value is not None and len(value) == size else None


def _prefix_len(mask: bytes | None, addr: bytes) -> int | None:
    """Count a mask's bits, by the address's class without one; None where it has holes."""
    if mask is None:
        return 8 if addr[0] < 128 else 16 if addr[0] < 192 else 24
    bits = f"{int.from_bytes(mask):032b}"
    return bits.count("1") if "01" not in bits and mask != ip.UNSPECIFIED_V4 else None


def _addresses(value: bytes | None) -> tuple[bytes, ...]:
    if not value or len(value) % 4:
        return ()
    return tuple(value[i : i + 4] for i in range(0, len(value), 4))[:LIST_MAX]


def _tried(parse: Callable[[bytes], Value], value: bytes | None) -> Value | None:
    try:
        return None if value is None else parse(value)
    except Malformed:
        return None

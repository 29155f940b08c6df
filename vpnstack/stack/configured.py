"""What an interface that configures itself tells its owner."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AddressAdded:
    """`addr` passed its check and may be used; `origin` says where it came from."""

    addr: bytes
    prefix_len: int
    origin: str


@dataclass(frozen=True, slots=True)
class AddressDeprecated:
    """`addr` goes on for what uses it already; new connections take another."""

    addr: bytes


@dataclass(frozen=True, slots=True)
class AddressRemoved:
    """`addr` is not ours any more."""

    addr: bytes


@dataclass(frozen=True, slots=True)
class Conflict:
    """Another station has `addr`: we do not use it."""

    addr: bytes


@dataclass(frozen=True, slots=True)
class RouterChanged:
    """The default router of IP `version` is `addr`, or nobody."""

    version: int
    addr: bytes | None


@dataclass(frozen=True, slots=True)
class DnsChanged:
    """The servers to ask, the best first, and the domains to search."""

    servers: tuple[bytes, ...]
    search: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PrefixDelegated:
    """A prefix for networks of our own, until the time given (RFC 8415 6.3)."""

    prefix: bytes
    length: int
    until: float


@dataclass(frozen=True, slots=True)
class PrefixWithdrawn:
    """A delegated prefix is not ours any more."""

    prefix: bytes
    length: int


Event = (
    AddressAdded
    | AddressDeprecated
    | AddressRemoved
    | Conflict
    | RouterChanged
    | DnsChanged
    | PrefixDelegated
    | PrefixWithdrawn
)

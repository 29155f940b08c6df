"""Which address belongs to which DHCP client: a bounded pool with fixed and dynamic leases.

An offer holds its address for some seconds only, so a flood of invented clients takes the pool
for that long and no longer; when nothing is free, new clients get silence and those that hold a
lease keep it.  An address is found in constant time: first the client's old one, then one that
was given back or that nobody ever had; when there are none left, all leases that ended lose their
addresses at once.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class State(enum.Enum):
    """Of a lease."""

    OFFERED = enum.auto()
    BOUND = enum.auto()
    ENDED = enum.auto()  # released, declined by its client, or not taken; kept for its return


@dataclass(frozen=True, slots=True)
class Lease:
    """One binding; `client` is the client identifier or hardware type and address, `until` is in
    the clock of the caller and infinite for a fixed one."""

    addr: bytes
    client: bytes
    mac: bytes
    hostname: str
    state: State
    until: float
    fixed: bool = False


class Pool:
    """Addresses from `first` to `last`, both included, without those in `reserved`."""

    def __init__(self, first: bytes, last: bytes, reserved: frozenset[bytes]) -> None:
        self.first, self.last = int.from_bytes(first), int.from_bytes(last)
        self.reserved = reserved
        self._fixed: dict[bytes, tuple[bytes, str]] = {}  # MAC or client id -> address, host name
        self._fixed_addrs: set[bytes] = set()
        self._by_addr: dict[bytes, Lease] = {}
        self._by_client: dict[bytes, bytes] = {}
        self._blocked: dict[bytes, float] = {}  # declined addresses and when they come back
        self._fresh = self.first  # from here on nobody ever had one
        self._returned: dict[bytes, None] = {}  # free ones below that, oldest first
        self._none_before = float("-inf")  # when a full pool is worth another look

    def __len__(self) -> int:
        return len(self._by_addr)

    def fix(self, key: bytes, addr: bytes, hostname: str) -> None:
        """Keep `addr` for the client with MAC address or client identifier `key`."""
        self.unfix(key)
        lease = self._by_addr.get(addr)
        if lease is not None:
            self._drop(lease)
        self._fixed[key] = (addr, hostname)
        self._fixed_addrs.add(addr)

    def unfix(self, key: bytes) -> None:
        """Give the address kept for `key` back to the pool."""
        addr, _ = self._fixed.pop(key, (b"", ""))
        if addr:
            self._fixed_addrs.discard(addr)
            self._returned[addr] = None

    def fixed(self, client: bytes, mac: bytes) -> tuple[bytes, str] | None:
        """Return the address and host name kept for this client."""
        return self._fixed.get(client) or self._fixed.get(mac)

    def leases(self) -> tuple[Lease, ...]:
        """Return all leases, ended ones too, in no order."""
        return tuple(self._by_addr.values())

    def of(self, client: bytes) -> Lease | None:
        """Return the lease of `client`, perhaps one that ended."""
        addr = self._by_client.get(client)
        return None if addr is None else self._by_addr[addr]

    def choose(self, client: bytes, mac: bytes, wanted: bytes | None, now: float) -> bytes | None:
        """Return the address that `client` should get (RFC 2131 4.3.1), None when there is none."""
        kept = self.fixed(client, mac)
        if kept is not None:
            return kept[0]
        own = self.of(client)
        if own is not None and self.free(own.addr, client, mac, now):
            return own.addr
        if wanted is not None and self.free(wanted, client, mac, now):
            return wanted
        return self._next_free() or (self._reclaim(now) and self._next_free()) or None

    def free(self, addr: bytes, client: bytes, mac: bytes, now: float) -> bool:
        """Tell whether `client` may have `addr`."""
        kept = self.fixed(client, mac)
        if kept is not None:
            return kept[0] == addr
        if addr in self._fixed_addrs or not self._ours(addr):
            return False
        if self._blocked.get(addr, now) > now:
            return False
        lease = self._by_addr.get(addr)
        return lease is None or lease.client == client or lease.until <= now

    def put(self, lease: Lease) -> None:
        """Store a lease, replacing those that its address and its client had."""
        for old in (self.of(lease.client), self._by_addr.get(lease.addr)):
            if old is not None:
                self._drop(old)
        self._blocked.pop(lease.addr, None)
        self._returned.pop(lease.addr, None)
        self._by_addr[lease.addr] = lease
        self._by_client[lease.client] = lease.addr

    def block(self, lease: Lease, until: float) -> None:
        """Take a declined address out of use for a while (RFC 2131 4.3.3)."""
        self._drop(lease)
        if not lease.fixed:
            self._blocked[lease.addr] = until

    def _drop(self, lease: Lease) -> None:
        if self._by_addr.pop(lease.addr, None) is not None:
            self._by_client.pop(lease.client, None)
            self._returned[lease.addr] = None

    def _ours(self, addr: bytes) -> bool:
        return self.first <= int.from_bytes(addr) <= self.last and addr not in self.reserved

    def _next_free(self) -> bytes | None:
        while self._returned or self._fresh <= self.last:
            if self._returned:
                addr = next(iter(self._returned))
                del self._returned[addr]
            else:
                addr = self._fresh.to_bytes(4)
                self._fresh += 1
            taken = addr in self._by_addr or addr in self._fixed_addrs or addr in self._blocked
            if self._ours(addr) and not taken:
                return addr
        return None

    def _reclaim(self, now: float) -> bool:
        """Take all addresses back whose time is over; look at most once a second."""
        if now < self._none_before:
            return False
        self._none_before = now + 1
        ended = sorted((x for x in self._by_addr.values() if x.until <= now), key=_until)
        for lease in ended:
            self._drop(lease)
        for addr in [addr for addr, at in self._blocked.items() if at <= now]:
            del self._blocked[addr]
            self._returned[addr] = None
        return bool(self._returned)


def _until(lease: Lease) -> float:
    return lease.until

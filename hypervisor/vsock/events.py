"""What happens to connections, and counters of it."""

from __future__ import annotations

from dataclasses import dataclass

from .connection import Connection


@dataclass(frozen=True, slots=True)
class Offered:
    """The guest wants to connect: `accept` or `reset` it."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class Established:
    """The guest took our request."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class PeerShutdown:
    """The guest will send or receive no more, see `connection.peer_shutdown`."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class Credit:
    """The guest said how much room it has: there is more than none."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection is gone; `clean` if both sides had said that they do nothing more."""

    connection: Connection
    why: str
    clean: bool = False


Event = Offered | Established | PeerShutdown | Credit | Closed


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters of one guest's connections; octets are payload."""

    connections: int = 0  # there now
    packets_in: int = 0
    packets_out: int = 0
    octets_in: int = 0
    octets_out: int = 0
    resets: int = 0  # RST sent
    unknown: int = 0  # packets of no connection
    misaddressed: int = 0  # wrong address or type
    violations: int = 0  # connections that ended because the guest broke a rule
    over_limit: int = 0  # requests beyond the limit

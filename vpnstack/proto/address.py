"""One IPv6 address of an interface: its states (RFC 4862 2), its origin and its lifetimes."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class State(enum.Enum):
    """Of an address, RFC 4862 2; INVALID ones are forgotten."""

    TENTATIVE = enum.auto()
    PREFERRED = enum.auto()
    DEPRECATED = enum.auto()
    INVALID = enum.auto()


class Input(enum.Enum):
    """What moves an address."""

    UNIQUE = enum.auto()  # all probes stayed without an answer
    DUPLICATE = enum.auto()
    AGED = enum.auto()  # the preferred lifetime is over
    RENEWED = enum.auto()  # it is not over any more
    EXPIRED = enum.auto()  # the valid lifetime is over, or the owner took it back


_S, _I = State, Input
TRANSITIONS: dict[tuple[State, Input], State] = {
    (_S.TENTATIVE, _I.UNIQUE): _S.PREFERRED,
    (_S.TENTATIVE, _I.DUPLICATE): _S.INVALID,
    (_S.TENTATIVE, _I.EXPIRED): _S.INVALID,
    (_S.PREFERRED, _I.AGED): _S.DEPRECATED,
    (_S.PREFERRED, _I.EXPIRED): _S.INVALID,
    (_S.DEPRECATED, _I.RENEWED): _S.PREFERRED,
    (_S.DEPRECATED, _I.EXPIRED): _S.INVALID,
}  # what is not listed leaves the state as it is


class Origin(enum.Enum):
    """Where an address comes from."""

    LINK_LOCAL = enum.auto()
    STABLE = enum.auto()
    TEMPORARY = enum.auto()
    MANAGED = enum.auto()  # DHCPv6
    MANUAL = enum.auto()


@dataclass(slots=True)
class Entry:
    """One address; times are those of `now`, infinity included."""

    addr: bytes
    origin: Origin
    prefix_len: int
    created: float
    preferred_until: float
    valid_until: float
    state: State = State.TENTATIVE
    collisions: int = 0  # of this prefix, RFC 7217's DAD_Counter
    left: int = 0  # probes to be sent
    at: float = 0.0  # of the next probe, or of the end of detection
    nonce: bytes = b""
    desync: float = 0.0
    succeeded: bool = False  # a temporary address that has its successor
    joined: bool = False  # the owner's: whether it joined the solicited-node group

    def deadline(self, advance: float) -> float:
        """Return when this address changes by itself."""
        if self.state is State.TENTATIVE:
            return min(self.at, self.valid_until)
        if self.state is State.DEPRECATED:
            return self.valid_until
        early = self.origin is Origin.TEMPORARY and not self.succeeded
        return min(self.preferred_until - (advance if early else 0.0), self.valid_until)

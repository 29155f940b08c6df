"""The error of every codec of `vpnstack.wire`: octets that break their specification."""

from __future__ import annotations

from ..errors import LinkError


class Malformed(LinkError):
    """A message that cannot be parsed; `protocol`, `expected` and `found` say why."""

    def __init__(self, protocol: str, expected: str, found: object) -> None:
        super().__init__(f"{protocol}: expected {expected}, found {found}")
        self.protocol = protocol
        self.expected = expected
        self.found = found


def need(protocol: str, what: str, data: bytes, length: int) -> None:
    """Raise `Malformed` unless `data` has at least `length` octets; `what` names them."""
    if len(data) < length:
        raise Malformed(protocol, f"{what} of at least {length} octets", f"{len(data)}")

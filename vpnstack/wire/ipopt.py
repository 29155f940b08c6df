"""The options of an IPv4 header (RFC 791 3.1; RFC 1122 3.2.1.8 and RFC 7126 say what a host does).

A host looks whether they are well formed and which there are; it records no route and no time.
"""

from __future__ import annotations

from .malformed import Malformed

END, NO_OPERATION, RECORD_ROUTE, TIMESTAMP = 0, 1, 7, 68
LOOSE_SOURCE_ROUTE, STRICT_SOURCE_ROUTE, ROUTER_ALERT = 131, 137, 148
SOURCE_ROUTES = frozenset({LOOSE_SOURCE_ROUTE, STRICT_SOURCE_ROUTE})


class BadOption(Malformed):
    """An option that does not fit; `offset` is its place in the options."""

    def __init__(self, offset: int, found: object) -> None:
        super().__init__("ip", "an option within its header", found)
        self.offset = offset


def parse(options: bytes) -> frozenset[int]:
    """Return the kinds of the options, at most 40 octets of them; the walk always moves on."""
    found, at = set[int](), 0
    while at < len(options) and options[at] != END:
        kind = options[at]
        found.add(kind)
        if kind == NO_OPERATION:
            at += 1
            continue
        length = options[at + 1] if at + 1 < len(options) else 0
        if not 2 <= length <= len(options) - at:
            raise BadOption(at, options[at : at + 2].hex())
        at += length
    return frozenset(found)

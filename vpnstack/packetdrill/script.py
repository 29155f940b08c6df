"""What a script says: the options and the events, as parsed.

Sequence numbers, acknowledgements and timestamps stand as written; `flows` relates them to those on
the wire.  The same packets describe what is injected, what is expected and what the stack sent.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

FLAG_LETTERS = "FSRP.UEW"  # in the order of their bits


class ExpressionKind(enum.Enum):
    """What cannot be a plain Python value in an expression."""

    ANY = "..."


ANY = ExpressionKind.ANY


@dataclass(frozen=True, slots=True)
class Name:
    """A constant's or a field's name."""

    text: str


@dataclass(frozen=True, slots=True)
class Function:
    """`htons(80)`, `inet_addr("192.0.2.1")` and their like within an expression."""

    name: str
    args: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Struct:
    """`{name=value, ...}`; members without a name stand in `items`."""

    members: dict[str, Expression]
    items: tuple[Expression, ...] = ()


@dataclass(frozen=True, slots=True)
class Alternatives:
    """`A | B`: flags or-ed together."""

    parts: tuple[Expression, ...]


Expression = (
    ExpressionKind | int | float | str | Name | Function | Struct | Alternatives
    | tuple["Expression", ...]
)  # fmt: skip


class Option(NamedTuple):
    """A TCP option by its name in scripts: `mss`, `wscale`, `sackOK`, `sack`, `TS`, `nop`, `eol`.

    An option that has no name is `kind` with its number and octets.
    """

    name: str
    values: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class IpInfo:
    """What stands in brackets in front of a packet; None is "not checked" or the default.

    `ecn` is 0 to 3, or -1 for either ECT (`ect01`); `csum` is "zero" or "bad" for what is injected.
    Ports choose a flow other than the last one used.
    """

    ecn: int | None = None
    ttl: int | None = None
    tos: int | None = None
    sport: int | None = None
    dport: int | None = None
    csum: str = ""


@dataclass(frozen=True, slots=True)
class Tcp:
    """A segment; `options` is None for `<...>`, `seq` of an absent number is None."""

    info: IpInfo
    flags: int
    seq: int
    length: int
    ack: int | None = None
    win: int | None = None
    urg: int | None = None
    options: tuple[Option, ...] | None = ()


@dataclass(frozen=True, slots=True)
class Udp:
    """A datagram with `length` octets of payload."""

    info: IpInfo
    length: int


@dataclass(frozen=True, slots=True)
class Quote:
    """The packet that an ICMP error quotes: `protocol` is "tcp" or "udp"."""

    protocol: str
    seq: int = 0
    length: int = 0


@dataclass(frozen=True, slots=True)
class Icmp:
    """An ICMP message; `value` is the MTU or pointer, `length` the payload of an echo."""

    info: IpInfo
    type: int
    code: int
    value: int | None = None
    quote: Quote | None = None
    ident: int | None = None
    seq: int | None = None
    length: int | None = None


Packet = Tcp | Udp | Icmp


@dataclass(frozen=True, slots=True)
class Inject:
    """A packet from the peer."""

    packet: Packet


@dataclass(frozen=True, slots=True)
class Expect:
    """A packet that the stack has to send."""

    packet: Packet


@dataclass(frozen=True, slots=True)
class Call:
    """A socket call, its result and errno's name; with `until` it may block up to that time."""

    name: str
    args: tuple[Expression, ...]
    result: Expression
    errno: str = ""
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Code:
    """Assertions between %{ and }%."""

    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Shell:
    """A command in back quotes, which is not run."""

    text: str


Action = Inject | Expect | Call | Code | Shell


@dataclass(frozen=True, slots=True)
class Time:
    """When an event happens, in seconds: since the start or, if `relative`, since the last event.

    `start` of None is `*`, any time; with `end` any time between the two.
    """

    start: float | None
    end: float | None = None
    relative: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """One event with the line it stands on and its own text."""

    time: Time
    action: Action
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Script:
    """A parsed script."""

    options: dict[str, str] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    ignored: tuple[Shell, ...] = ()

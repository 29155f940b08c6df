"""The states of a DHCPv6 client, their messages and their timing (RFC 8415 7.6, 15 and 18.2)."""

from __future__ import annotations

import enum
from typing import NamedTuple

from ..wire.dhcpv6 import Type


class State(enum.Enum):
    """What the client is doing; named after the message that it sends."""

    STOPPED = enum.auto()
    SOLICIT = enum.auto()
    REQUEST = enum.auto()
    BOUND = enum.auto()
    RENEW = enum.auto()
    REBIND = enum.auto()
    RELEASE = enum.auto()
    DECLINE = enum.auto()
    INFORMATION = enum.auto()
    INFORMED = enum.auto()


class Input(enum.Enum):
    """What moves the client."""

    ADVERTISED = enum.auto()
    REPLY = enum.auto()
    FAILED = enum.auto()  # the server has nothing for us, or no answer came in time
    T1 = enum.auto()
    T2 = enum.auto()
    EXPIRED = enum.auto()
    CONFLICT = enum.auto()
    DONE = enum.auto()


_S, _I = State, Input
TRANSITIONS: dict[tuple[State, Input], State] = {
    (_S.SOLICIT, _I.ADVERTISED): _S.REQUEST,
    (_S.SOLICIT, _I.REPLY): _S.BOUND,  # rapid commit
    (_S.REQUEST, _I.REPLY): _S.BOUND,
    (_S.REQUEST, _I.FAILED): _S.SOLICIT,
    (_S.BOUND, _I.T1): _S.RENEW,
    (_S.BOUND, _I.EXPIRED): _S.SOLICIT,
    (_S.BOUND, _I.CONFLICT): _S.DECLINE,
    (_S.RENEW, _I.REPLY): _S.BOUND,
    (_S.RENEW, _I.FAILED): _S.SOLICIT,
    (_S.RENEW, _I.T2): _S.REBIND,
    (_S.RENEW, _I.EXPIRED): _S.SOLICIT,
    (_S.RENEW, _I.CONFLICT): _S.DECLINE,
    (_S.REBIND, _I.REPLY): _S.BOUND,
    (_S.REBIND, _I.FAILED): _S.SOLICIT,
    (_S.REBIND, _I.EXPIRED): _S.SOLICIT,
    (_S.REBIND, _I.CONFLICT): _S.DECLINE,
    (_S.DECLINE, _I.DONE): _S.SOLICIT,
    (_S.RELEASE, _I.DONE): _S.STOPPED,
    (_S.INFORMATION, _I.REPLY): _S.INFORMED,
    (_S.INFORMED, _I.EXPIRED): _S.INFORMATION,
}


class Timing(NamedTuple):
    """IRT, MRT and MRC of RFC 8415 7.6, in seconds and counts; 0 means no limit."""

    first: float
    most: float
    tries: int = 0


TIMINGS = {
    State.SOLICIT: Timing(1, 3600),
    State.REQUEST: Timing(1, 30, 10),
    State.RENEW: Timing(10, 600),
    State.REBIND: Timing(10, 600),
    State.RELEASE: Timing(1, 0, 4),
    State.DECLINE: Timing(1, 0, 4),
    State.INFORMATION: Timing(1, 3600),
}
MESSAGES = {
    State.SOLICIT: Type.SOLICIT,
    State.REQUEST: Type.REQUEST,
    State.RENEW: Type.RENEW,
    State.REBIND: Type.REBIND,
    State.RELEASE: Type.RELEASE,
    State.DECLINE: Type.DECLINE,
    State.INFORMATION: Type.INFORMATION_REQUEST,
}

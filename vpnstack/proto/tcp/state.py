"""The states of a connection and every transition between them (RFC 9293, 3.3.2 and figure 5)."""

from __future__ import annotations

import enum


class State(enum.IntEnum):
    """RFC 9293, 3.3.2; the order matters: from ESTABLISHED on both sequence spaces are known."""

    CLOSED = 0
    LISTEN = 1
    SYN_SENT = 2
    SYN_RECEIVED = 3
    ESTABLISHED = 4
    FIN_WAIT_1 = 5
    FIN_WAIT_2 = 6
    CLOSE_WAIT = 7
    CLOSING = 8
    LAST_ACK = 9
    TIME_WAIT = 10


class Input(enum.IntEnum):
    """What moves a connection from one state to another; numbers, as their hashes are C's."""

    PASSIVE_OPEN = 0
    ACTIVE_OPEN = 1  # our SYN is sent
    ACCEPT = 2  # the peer's SYN is answered
    RCV_SYN = 3  # without ACK
    RCV_SYN_ACK = 4
    ACK_OF_SYN = 5
    SEND_FIN = 6  # the user has no more data
    RCV_FIN = 7  # the peer has no more data
    ACK_OF_FIN = 8
    TIMEOUT = 9  # 2 MSL passed
    ABORT = 10  # reset by either side, or given up


S, I = State, Input  # noqa: E741

TRANSITIONS: dict[tuple[State, Input], State] = {
    (S.CLOSED, I.PASSIVE_OPEN): S.LISTEN,
    (S.CLOSED, I.ACTIVE_OPEN): S.SYN_SENT,
    (S.LISTEN, I.ACCEPT): S.SYN_RECEIVED,
    (S.SYN_SENT, I.RCV_SYN): S.SYN_RECEIVED,  # simultaneous open
    (S.SYN_SENT, I.RCV_SYN_ACK): S.ESTABLISHED,
    (S.SYN_RECEIVED, I.ACK_OF_SYN): S.ESTABLISHED,
    (S.ESTABLISHED, I.SEND_FIN): S.FIN_WAIT_1,
    (S.ESTABLISHED, I.RCV_FIN): S.CLOSE_WAIT,
    (S.FIN_WAIT_1, I.ACK_OF_FIN): S.FIN_WAIT_2,
    (S.FIN_WAIT_1, I.RCV_FIN): S.CLOSING,  # simultaneous close
    (S.FIN_WAIT_2, I.RCV_FIN): S.TIME_WAIT,
    (S.CLOSE_WAIT, I.SEND_FIN): S.LAST_ACK,
    (S.CLOSING, I.ACK_OF_FIN): S.TIME_WAIT,
    (S.LAST_ACK, I.ACK_OF_FIN): S.CLOSED,
    (S.TIME_WAIT, I.TIMEOUT): S.CLOSED,
    (S.FIN_WAIT_2, I.TIMEOUT): S.CLOSED,  # closed by the user, and the peer's FIN never came
    **{(state, I.ABORT): S.CLOSED for state in S if state is not S.CLOSED},
}


def advance(state: State, event: Input) -> State:
    """Return the state that follows; KeyError would be a fault of this package, never a peer's."""
    return TRANSITIONS[state, event]

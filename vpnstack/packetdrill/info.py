"""The names that assertions may use: TCP_INFO's, Linux's constants, the stack's counters."""

from __future__ import annotations

import enum
from dataclasses import fields
from typing import Any

from ..proto.tcp.block import Phase
from ..proto.tcp.state import State
from .calls import Calls
from .lab import Lab

LINUX_STATES = {
    State.ESTABLISHED: 1, State.SYN_SENT: 2, State.SYN_RECEIVED: 3, State.FIN_WAIT_1: 4,
    State.FIN_WAIT_2: 5, State.TIME_WAIT: 6, State.CLOSED: 7, State.CLOSE_WAIT: 8,
    State.LAST_ACK: 9, State.LISTEN: 10, State.CLOSING: 11,
}  # fmt: skip
CONSTANTS: dict[str, Any] = {
    **{f"TCP_{state.name}": number for state, number in LINUX_STATES.items()},
    "TCP_SYN_RECV": 3, "TCP_FIN_WAIT1": 4, "TCP_FIN_WAIT2": 5, "TCP_CLOSE": 7,
    "TCP_CA_Open": Phase.OPEN.value, "TCP_CA_Disorder": Phase.DISORDER.value,
    "TCP_CA_CWR": Phase.CWR.value, "TCP_CA_Recovery": Phase.RECOVERY.value,
    "TCP_CA_Loss": Phase.LOSS.value,
    "TCPI_OPT_TIMESTAMPS": 1, "TCPI_OPT_SACK": 2, "TCPI_OPT_WSCALE": 4, "TCPI_OPT_ECN": 8,
    "TCP_INFINITE_SSTHRESH": 0x7FFFFFFF,
}  # fmt: skip


def names(calls: Calls, lab: Lab) -> dict[str, Any]:
    """Return every name with its value now; those of TCP_INFO are of the last socket used."""
    out = dict(CONSTANTS)
    stack = lab.stack.statistics()
    out.update({f.name: getattr(stack, f.name) for f in fields(stack)})
    conn = calls.subject.conn if calls.subject is not None else None
    if conn is not None:
        found = conn.statistics()
        for field in fields(found):
            value = getattr(found, field.name)
            out[field.name] = value.value if isinstance(value, enum.Enum) else value
        out["state"] = conn.state.name
        out["tcpi_state"] = LINUX_STATES[conn.state]
    return {name: value for name, value in out.items() if isinstance(value, int | float | str)}

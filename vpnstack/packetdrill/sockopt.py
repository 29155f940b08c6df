"""Socket options: which field of a connection's configuration each one sets."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from .errors import ScriptError
from .names import CONSTANTS
from .script import Expression, Name, Struct
from .settings import LEAST, MOST, congestion
from .sockets import Fault, Socket
from .streams import TcpSocket
from .values import number

C = CONSTANTS
SOCKET, TCP = C["SOL_SOCKET"], C["IPPROTO_TCP"]
QUICK, DELAYED = 0.0, 0.04

_FIELDS: dict[tuple[int, int], tuple[str, Callable[[int], Any]]] = {
    (SOCKET, C["SO_KEEPALIVE"]): ("keepalive", bool),
    (SOCKET, C["SO_RCVBUF"]): ("rcv_buf", int),
    (TCP, C["TCP_NODELAY"]): ("nodelay", bool),
    (TCP, C["TCP_MAXSEG"]): ("mss", int),
    (TCP, C["TCP_KEEPIDLE"]): ("keepalive_idle", float),
    (TCP, C["TCP_KEEPINTVL"]): ("keepalive_interval", float),
    (TCP, C["TCP_KEEPCNT"]): ("keepalive_probes", int),
    (TCP, C["TCP_SYNCNT"]): ("syn_retries", int),
    (TCP, C["TCP_LINGER2"]): ("fin_timeout", float),
    (TCP, C["TCP_QUICKACK"]): ("delayed_ack", lambda on: QUICK if on else DELAYED),
    (TCP, C["TCP_USER_TIMEOUT"]): ("user_timeout", lambda ms: ms / 1000),
}


def set_option(sock: Socket, level: int, name: int, value: Expression) -> int:
    """setsockopt(2)."""
    if (level, name) == (SOCKET, C["SO_LINGER"]):
        _linger(sock, value)
    elif (level, name) == (TCP, C["TCP_CONGESTION"]):
        if isinstance(sock, TcpSocket):
            sock.configure(congestion=congestion(_text(value)))
    else:
        found = number(value)
        sock.options[level, name] = found
        if isinstance(sock, TcpSocket) and (level, name) == (TCP, C["TCP_CORK"]):
            sock.cork(bool(found))
        elif isinstance(sock, TcpSocket) and (level, name) in _FIELDS:
            field, convert = _FIELDS[level, name]
            if not LEAST.get(field, 0) <= found <= MOST:
                raise Fault("EINVAL")
            sock.configure(**{field: convert(found)})
    return 0


def _text(value: Expression) -> str:
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, Name):
        return value.text
    if isinstance(value, str):
        return value
    raise ScriptError(f"expected a string, found {value}")


def _linger(sock: Socket, value: Expression) -> None:
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Struct) or not isinstance(sock, TcpSocket):
        raise ScriptError(f"expected {{onoff=1, linger=0}} for a stream socket, found {value}")
    fields = [value.members.get(key, 0) for key in ("onoff", "linger")]
    if "l_onoff" in value.members:
        fields = [value.members["l_onoff"], value.members.get("l_linger", 0)]
    sock.linger = (number(fields[0]), number(fields[1]))


def get_option(sock: Socket, level: int, name: int) -> int:
    """getsockopt(2): the value of an option that is a number."""
    if (level, name) == (SOCKET, C["SO_ERROR"]):
        found, sock.error = sock.error, ""
        return errno_of(found)
    if (level, name) == (SOCKET, C["SO_TYPE"]):
        return C["SOCK_STREAM"] if isinstance(sock, TcpSocket) else C["SOCK_DGRAM"]
    if isinstance(sock, TcpSocket):
        if (level, name) == (SOCKET, C["SO_ACCEPTCONN"]):
            return int(sock.listening)
        if (level, name) == (TCP, C["TCP_MAXSEG"]) and sock.conn is not None:
            return sock.conn.mss
    if (level, name) in sock.options:
        return sock.options[level, name]
    if level not in (SOCKET, TCP, 0, 41):
        raise Fault("ENOPROTOOPT")
    return 0


def errno_of(name: str) -> int:
    """Return the number of an errno name, 0 for none."""

    return int(getattr(errno, name, 0))

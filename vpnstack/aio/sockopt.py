"""What `get_extra_info("socket")` returns: a flow with the names of a socket's options.

Libraries on asyncio set TCP_NODELAY, keepalive and the like through it.  Linux's names and units
(socket(7), tcp(7)); an option that has no meaning here raises `OSError` with ENOPROTOOPT.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

from ..proto.tcp.congestion.base import Congestion
from ..proto.tcp.congestion.bbr import Bbr
from ..proto.tcp.congestion.cubic import Cubic
from ..proto.tcp.congestion.reno import Reno
from ..stack.flow import Flow
from ..wire import ip
from . import tcpinfo

Value: TypeAlias = int | bytes | bytearray | str

SOCKET, TCP = socket.SOL_SOCKET, socket.IPPROTO_TCP
CONTROLS: dict[str, type[Congestion]] = {"cubic": Cubic, "reno": Reno, "bbr": Bbr}
LINGER = struct.Struct("ii")  # l_onoff, l_linger
SECONDS_MAX = 32767  # of the keepalive times, as Linux has it

# (level, name): the field of `Config`, the least and the largest value, how many make one unit.
FIELDS: dict[tuple[int, int], tuple[str, int, int, int]] = {
    (SOCKET, socket.SO_KEEPALIVE): ("keepalive", 0, 1 << 31, 0),
    (TCP, socket.TCP_NODELAY): ("nodelay", 0, 1 << 31, 0),
    (TCP, socket.TCP_KEEPIDLE): ("keepalive_idle", 1, SECONDS_MAX, 1),
    (TCP, socket.TCP_KEEPINTVL): ("keepalive_interval", 1, SECONDS_MAX, 1),
    (TCP, socket.TCP_KEEPCNT): ("keepalive_probes", 1, 127, 1),
    (TCP, socket.TCP_USER_TIMEOUT): ("user_timeout", 0, 1 << 31, 1000),
}


class FlowSocket:
    """The options and the ends of one flow; no descriptor, nothing to read or write."""

    type = socket.SOCK_STREAM
    proto = TCP

    __slots__ = ("_changed", "_flow", "_now", "family", "linger")

    def __init__(self, flow: Flow, now: Callable[[], float], changed: Callable[[], None]) -> None:
        self._flow = flow
        self._now = now
        self._changed = changed  # the flow may have something to send now
        self.linger = (0, 0)
        self.family = socket.AF_INET if len(flow.local[0]) == 4 else socket.AF_INET6

    def fileno(self) -> int:
        """Return -1: the flow is not the kernel's."""
        return -1

    def getsockname(self) -> tuple[Any, ...]:
        """Return our end as a socket would: with flow label and scope for IPv6."""
        return self._name(self._flow.local)

    def getpeername(self) -> tuple[Any, ...]:
        """Return the peer's end."""
        return self._name(self._flow.remote)

    def _name(self, end: tuple[bytes, int]) -> tuple[Any, ...]:
        name = (ip.format_address(end[0]), end[1])
        return name if self.family == socket.AF_INET else (*name, 0, 0)

    def setsockopt(self, level: int, optname: int, value: Value, optlen: int = 0) -> None:
        """Set an option; raises `OSError` (EINVAL, ENOENT, ENOPROTOOPT) as setsockopt(2)."""
        if (level, optname) == (TCP, socket.TCP_CONGESTION):
            self._set_congestion(value)
        elif (level, optname) == (SOCKET, socket.SO_LINGER):
            self.linger = _pair(value)
        elif (level, optname) == (TCP, socket.TCP_CORK):
            self._flow.conn.cork(bool(_number(value)))
        elif (level, optname) in FIELDS:
            field, least, most, unit = FIELDS[level, optname]
            number = _number(value)
            if not least <= number <= most:
                raise _error(errno.EINVAL)
            self._configure(**{field: bool(number) if not unit else _scaled(number, unit)})
        else:
            raise _error(errno.ENOPROTOOPT)
        self._changed()

    def _configure(self, **changes: Any) -> None:
        self._flow.conn.configure(self._now(), **changes)

    def _set_congestion(self, value: Value) -> None:
        name = value if isinstance(value, str) else bytes(_octets(value)).rstrip(b"\0").decode()
        if name not in CONTROLS:
            raise _error(errno.ENOENT)
        self._configure(congestion=CONTROLS[name])

    def getsockopt(self, level: int, optname: int, buflen: int = 0) -> int | bytes:
        """Return an option as getsockopt(2) does: a number, or octets with a `buflen`."""
        conn = self._flow.conn
        if (level, optname) == (TCP, socket.TCP_CONGESTION):
            return conn.cc.name.encode()[: buflen or 16]
        if (level, optname) == (SOCKET, socket.SO_LINGER):
            return LINGER.pack(*self.linger)[: buflen or LINGER.size]
        if (level, optname) == (TCP, socket.TCP_INFO):
            return tcpinfo.pack(conn.statistics(self._now()))[: buflen or tcpinfo.SIZE]
        number = self._number(level, optname)
        return number.to_bytes(4, sys.byteorder)[:buflen] if buflen else number

    def _number(self, level: int, optname: int) -> int:
        conn = self._flow.conn
        plain = {
            (SOCKET, socket.SO_ERROR): 0,
            (SOCKET, socket.SO_TYPE): int(self.type),
            (SOCKET, socket.SO_PROTOCOL): self.proto,
            (SOCKET, socket.SO_DOMAIN): int(self.family),
            (SOCKET, socket.SO_RCVBUF): conn.rcv_buf,
            (SOCKET, socket.SO_SNDBUF): conn.snd_buf.limit,
            (TCP, socket.TCP_MAXSEG): conn.mss,
            (TCP, socket.TCP_CORK): int(conn.corked),
        }
        if (level, optname) in plain:
            return plain[level, optname]
        if (level, optname) not in FIELDS:
            raise _error(errno.ENOPROTOOPT)
        field, _, _, unit = FIELDS[level, optname]
        return int(getattr(conn.config, field) * (unit or 1))


def _scaled(number: int, unit: int) -> float:
    return number if unit == 1 else number / unit


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _octets(value: Value) -> bytes | bytearray:
    if isinstance(value, (bytes, bytearray)):
        return value
    raise TypeError(f"expected octets, found {value!r}")


def _number(value: Value) -> int:
    if isinstance(value, int):
        return int(value)
    octets = _octets(value)
    if len(octets) < 4:
        raise _error(errno.EINVAL)
    return int.from_bytes(octets[:4], sys.byteorder, signed=True)


def _pair(value: Value) -> tuple[int, int]:
    octets = _octets(value)
    if len(octets) < LINGER.size:
        raise _error(errno.EINVAL)
    first, second = LINGER.unpack_from(octets)
    return first, second

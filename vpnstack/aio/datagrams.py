"""asyncio datagram transports over ports of the stack."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

from ..errors import UsageError
from ..stack.stack import Stack
from ..stack.udp import PAYLOAD_MAX, Endpoint
from ..wire import icmp, ip
from ..wire.icmp import Kind

HEADERS = {4: 28, 6: 48}  # of IP and UDP
_ERRORS: dict[Kind | None, tuple[type[OSError], int]] = {
    Kind.PORT_UNREACHABLE: (ConnectionRefusedError, errno.ECONNREFUSED),
    Kind.PROTOCOL_UNREACHABLE: (OSError, errno.ENOPROTOOPT),
    Kind.NET_UNREACHABLE: (OSError, errno.ENETUNREACH),
    Kind.PROHIBITED: (PermissionError, errno.EACCES),
    Kind.TOO_BIG: (OSError, errno.EMSGSIZE),
}  # any other is EHOSTUNREACH


class MessageTooLong(OSError):
    """A datagram is larger than the link or the path takes; `size` is the largest payload."""

    def __init__(self, text: str, size: int) -> None:
        super().__init__(errno.EMSGSIZE, text)
        self.size = size


class StackDatagramTransport(asyncio.DatagramTransport):
    """A bound port.

    ICMP errors about what was sent come to `error_received`, whether the transport is connected or
    not: `ConnectionRefusedError` for a port that nobody has, `MessageTooLong` for what a router
    cannot pass on, others with their errno.

    In `datagram_received`, `get_extra_info("destination")` is the address and port that the
    datagram was sent to (IP_PKTINFO): one of ours, a group, or a broadcast address.
    """

    def __init__(
        self,
        stack: Stack,
        loop: asyncio.AbstractEventLoop,
        wake: Callable[[], None],
        local: tuple[bytes | None, int],
        remote: Endpoint | None,
        resolve: Callable[[str], bytes],
    ) -> None:
        extra: dict[str, Any] = {"sockname": (_text(local[0]), local[1])}
        if remote is not None:
            extra["peername"] = (_text(remote[0]), remote[1])
        super().__init__(extra)
        self._stack = stack
        self._loop = loop
        self._wake = wake
        self._local = local
        self._remote = remote
        self._resolve = resolve
        self._protocol: asyncio.DatagramProtocol = asyncio.DatagramProtocol()
        self._closing = False
        self._groups: Counter[bytes] = Counter()
        self._destination: Endpoint | None = None
        self.fragment = True  # False: what a link or router cannot take whole is an error
        self.ttl: int | None = None  # of single hosts; None: the link's
        self.multicast_ttl = 1  # RFC 1112 6.1
        self.multicast_loop = True  # what goes to a group reaches its members here too
        stack.udp.ports[local] = self

    def open(self, protocol: asyncio.DatagramProtocol) -> None:
        """Begin: tell the protocol about its transport."""
        self._protocol = protocol
        protocol.connection_made(self)

    # From the stack.

    def datagram_received(self, remote: Endpoint, local: Endpoint, data: bytes, now: float) -> None:
        """Hand a datagram on; a connected transport takes its peer's only."""
        if self._closing or (self._remote is not None and remote != self._remote):
            return
        self._destination = local
        self._protocol.datagram_received(data, (_text(remote[0]), remote[1]))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return "sockname", "peername" or "destination", that of the latest datagram."""
        if name == "destination" and self._destination is not None:
            return _text(self._destination[0]), self._destination[1]
        return super().get_extra_info(name, default)

    def icmp_received(
        self, remote: Endpoint, local: Endpoint, error: icmp.Error, now: float
    ) -> None:
        """Hand an error on."""
        if self._closing or (self._remote is not None and remote != self._remote):
            return
        kind, number = _ERRORS.get(error.kind, (OSError, errno.EHOSTUNREACH))
        text = f"{_text(remote[0])} port {remote[1]}: {os.strerror(number)} ({error})"
        if error.kind is Kind.TOO_BIG:
            told = error.value & 0xFFFF if error.version == 4 else error.value
            told = told or self._stack.interface.path_mtu(remote[0], now)
            self._protocol.error_received(MessageTooLong(text, payload_of(told, error.version)))
        else:
            self._protocol.error_received(kind(number, text))

    # From the user.

    def sendto(self, data: Any, addr: Any = None, source: str | None = None) -> None:
        """Send one datagram, to `addr` or to the peer; errors come to `error_received`.

        `source` is the address of ours that it comes from, by default the one that is bound, or
        the best one towards `addr`.
        """
        if self._closing:
            return
        if self._remote is None:
            if addr is None:
                raise ValueError("expected an address: the transport is not connected")
            target = (self._resolve(addr[0]), addr[1])
        else:
            target = self._remote
        mine = self._source(target[0]) if source is None else ipaddress.ip_address(source).packed
        if mine is None or len(mine) != len(target[0]):
            self._soon(OSError(errno.ENETUNREACH, f"no address to reach {_text(target[0])} from"))
            return
        if source is not None and mine not in self._stack.interface.local:
            self._soon(OSError(errno.EADDRNOTAVAIL, f"{source} is no address of ours"))
            return
        self._send((mine, self._local[1]), target, bytes(data))

    def _send(self, local: Endpoint, target: Endpoint, octets: bytes) -> None:
        group = ip.is_multicast(target[0])
        ttl = self.multicast_ttl if group else self.ttl
        if group and self.multicast_loop and target[0] in self._stack.groups:
            self._loop.call_soon(self._loop_back, local, target, octets)
        if group and ttl == 0:
            return  # RFC 1112 6.1: to this host only
        now, stack = self._loop.time(), self._stack
        if not stack.udp.send(local, target, octets, now, ttl=ttl, fragment=self.fragment):
            version = 4 if len(target[0]) == 4 else 6
            most = PAYLOAD_MAX[len(target[0])]
            if not self.fragment:
                most = min(most, payload_of(stack.interface.mtu, version))
            text = f"{len(octets)} bytes are too long for a datagram: expected at most {most}"
            self._soon(MessageTooLong(text, most))
        self._wake()

    def _source(self, target: bytes) -> bytes | None:
        bound = self._local[0]
        if bound is not None and not ip.is_multicast(bound):
            return bound
        return self._stack.interface.source_for(target)

    def _loop_back(self, local: Endpoint, group: Endpoint, data: bytes) -> None:
        """Give what we sent to a group to its member on this host (RFC 1112 6.2)."""
        self._stack.udp.deliver(local, group, data, self._loop.time(), None)

    # Groups.

    def join_group(self, group: str) -> None:
        """Receive what is sent to `group` on our port, until `leave_group` or `close`.

        A group is the host's: whoever has the port gets its datagrams (as Linux does by default).
        """
        addr = _group(group)
        if not self._stack.groups.join(addr, self._loop.time()):
            raise UsageError(f"no room for the group {group}: leave another one first")
        self._groups[addr] += 1
        self._wake()

    def leave_group(self, group: str) -> None:
        """Undo one `join_group`."""
        addr = _group(group)
        if self._groups[addr] < 1:
            raise UsageError(f"expected a group that was joined, found {group}")
        self._groups[addr] -= 1
        self._stack.groups.leave(addr, self._loop.time())
        self._wake()

    def _soon(self, error: OSError) -> None:
        self._loop.call_soon(self._protocol.error_received, error)

    def is_closing(self) -> bool:
        """Tell whether it was closed."""
        return self._closing

    def close(self) -> None:
        """Give the port back; the protocol hears `connection_lost`."""
        if not self._closing:
            self._closing = True
            self._stack.udp.ports.pop(self._local, None)
            for group in self._groups.elements():
                self._stack.groups.leave(group, self._loop.time())
            self._groups.clear()
            self._wake()
            self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        """Close; nothing is queued here."""
        self.close()

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the transport to another protocol."""
        if not isinstance(protocol, asyncio.DatagramProtocol):
            raise TypeError(f"expected a DatagramProtocol, found {type(protocol).__name__}")
        self._protocol = protocol


def payload_of(mtu: int, version: int) -> int:
    """Return the payload of a datagram that makes an IP packet of `mtu` bytes."""
    return max(mtu - HEADERS[version], 0)


def _text(addr: bytes | None) -> str:
    return "0.0.0.0" if addr is None else ip.format_address(addr)


def _group(text: str) -> bytes:
    try:
        addr = ipaddress.ip_address(text).packed
    except ValueError:
        addr = b""
    if not addr or not ip.is_multicast(addr):
        raise UsageError(f"expected a multicast address, found {text!r}")
    return addr

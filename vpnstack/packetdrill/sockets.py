"""Sockets on the stack by the rules of the socket API, as Linux has them.

A call returns its result or raises `Fault` with errno's name; one that cannot go on raises
`WouldBlock`, and the caller asks again when something happened.
"""

from __future__ import annotations

from collections import deque

from ..wire import icmp
from ..wire.icmp import Kind
from .lab import Lab
from .names import CONSTANTS

Endpoint = tuple[bytes, int]
QUEUE_MAX = 1024
SIOCINQ, SIOCOUTQ = CONSTANTS["SIOCINQ"], CONSTANTS["SIOCOUTQ"]


class Fault(Exception):
    """A call fails with the errno of that name."""

    def __init__(self, errno: str) -> None:
        super().__init__(errno)
        self.errno = errno


class WouldBlock(Exception):
    """A call has to wait, for at most `seconds` (negative: without an end)."""

    def __init__(self, seconds: float = -1.0) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Socket:
    """What TCP and UDP sockets have in common."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.nonblocking = False
        self.local: Endpoint | None = None
        self.remote: Endpoint | None = None
        self.error = ""
        self.options: dict[tuple[int, int], int] = {}

    @property
    def address(self) -> bytes:
        """The address that a socket has which is not bound to one."""
        return self.lab.settings.local

    def readiness(self) -> int:
        """Return the events of poll(2) that hold."""
        return 0

    def queued(self, request: int) -> int:
        """Return what ioctl(2) says of SIOCINQ and SIOCOUTQ."""
        raise Fault("EINVAL")

    def close(self) -> int:
        """Close the socket."""
        return 0

    def pending_error(self) -> None:
        """Raise the error that waits to be told, once."""
        if self.error:
            found, self.error = self.error, ""
            raise Fault(found)


class UdpSocket(Socket):
    """A datagram socket: `UdpOwner` of the stack."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.queue: deque[tuple[Endpoint, bytes]] = deque()

    def bind(self, local: Endpoint) -> int:
        """Take a port."""
        key = (local[0] if any(local[0]) else None, local[1])
        if key in self.lab.stack.udp.ports:
            raise Fault("EADDRINUSE")
        self.lab.stack.udp.ports[key] = self
        self.local = local
        return 0

    def ensure(self, port: int) -> Endpoint:
        """Bind to `port` unless there is one; return our end."""
        local = self.local or (self.address, port)
        if self.local is None:
            self.bind(local)
        return (local[0] if any(local[0]) else self.address, local[1])

    def datagram_received(
        self, remote: Endpoint, local: Endpoint, data: bytes, now: float
    ) -> None:  # fmt: skip
        """Queue a datagram; of others than the peer of a connected socket nothing is heard."""
        if self.remote in (None, remote) and len(self.queue) < QUEUE_MAX:
            self.queue.append((remote, data))

    def icmp_received(
        self, remote: Endpoint, local: Endpoint, error: icmp.Error, now: float
    ) -> None:  # fmt: skip
        """RFC 1122 4.1.3.3: a connected socket hears of it."""
        if self.remote != remote:
            return
        if error.kind is Kind.PORT_UNREACHABLE:
            self.error = "ECONNREFUSED"
        elif error.kind is Kind.TOO_BIG:
            self.error = "EMSGSIZE"
        elif error.kind is Kind.PROTOCOL_UNREACHABLE:
            self.error = "ENOPROTOOPT"

    def send(self, data: bytes, remote: Endpoint | None, port: int) -> int:
        """Send one datagram."""
        self.pending_error()
        to = remote or self.remote
        if to is None:
            raise Fault("EDESTADDRREQ")
        mine = self.ensure(port)
        if not self.lab.stack.udp.send(mine, to, data, self.lab.clock):
            raise Fault("EMSGSIZE")
        return len(data)

    def recv(self, size: int, peek: bool = False) -> bytes:
        """Return the start of the oldest datagram."""
        self.pending_error()
        if not self.queue:
            raise WouldBlock
        return (self.queue[0] if peek else self.queue.popleft())[1][:size]

    def close(self) -> int:
        """Give the port back."""
        if self.local is not None:
            addr, port = self.local
            self.lab.stack.udp.ports.pop((addr if any(addr) else None, port), None)
        return 0

    def readiness(self) -> int:
        """Return the events of poll(2) that hold."""
        return 4 | (1 if self.queue else 0) | (8 if self.error else 0)

    def queued(self, request: int) -> int:
        """Return the size of the oldest datagram."""
        if request != SIOCINQ:
            return 0
        return len(self.queue[0][1]) if self.queue else 0

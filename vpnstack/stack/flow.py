"""A TCP connection in its place: its ends, who owns it, and what the stack remembers of it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

from ..proto.tcp.connection import Connection
from ..proto.tcp.state import Input
from . import headers


@lru_cache(maxsize=1024)
def _shared(address: bytes) -> bytes:
    """Return the same object for the same octets: many flows have the same peer."""
    return address


class FlowTable(Protocol):
    """What a flow asks of the layer that holds it."""

    lender: Lender | None

    def ready(self, flow: Flow) -> None:
        """Look at the flow again."""

    def decided(self, flow: Flow) -> None:
        """Its held SYN got an answer."""

    def recall(self, flow: Flow) -> None:
        """Take its lent connection back."""

    def forget(self, flow: Flow) -> None:
        """Take it out of the table."""


class Lender(Protocol):
    """Who carries settled connections past the stack (`aio.lane`)."""

    def offer(self, flow: Flow, now: float) -> None:
        """Take the connection over, if it may be."""

    def readable(self, flow: Flow, now: float) -> int:
        """Carry what the host's socket has; see `Flow.carry`."""

    def writable(self, flow: Flow, now: float) -> int:
        """Give the host's socket what was kept for it; see `Flow.drain`."""

    def recall(self, flow: Flow) -> None:
        """Give the connection back: `flow.conn` is right again, `flow.lease` None."""


class FlowOwner(Protocol):
    """Who is told about a flow; calls on the flow are allowed from inside."""

    def flow_event(self, flow: Flow, now: float) -> None:
        """Something happened: take `flow.conn.next_event()` until there is none."""


class Acceptor(Protocol):
    """Who is asked about a SYN; the flow is held, and answered by one of its three methods."""

    def flow_arrived(self, flow: Flow, now: float) -> None:
        """Set `flow.owner`, then accept, refuse or drop the flow, now or later."""


class Flow:
    """A connection with its ends: `local` and `remote` are (address, port), addresses packed."""

    __slots__ = (
        "_layer", "conn", "dirty", "fd", "key", "lease", "mac", "owner", "ready", "remote",
        "resolved_by", "resolved_until", "template", "timer",
    )  # fmt: skip

    def __init__(self, layer: FlowTable, key: bytes, conn: Connection) -> None:
        src, sport, _, _ = headers.unpack_key(key)
        self._layer = layer
        self.key = key
        self.conn = conn
        self.remote = (_shared(src), sport)
        self.owner: FlowOwner | None = None
        self.mac = self.template = b""
        self.resolved_until, self.resolved_by = 0.0, 0  # how long `mac` is believed
        self.fd = -1  # a host socket whose octets these are: the flow may be lent
        self.lease: Any = None  # while it is (struct lease, core.h)
        self.ready = self.dirty = False
        self.timer: float | None = None

    @property
    def local(self) -> tuple[bytes, int]:
        """Return our end, out of the key: few ask, and 100,000 flows are as many tuples."""
        _, _, dst, dport = headers.unpack_key(self.key)
        return dst, dport

    def carry(self, now: float) -> int:
        """Carry past the stack what the socket of a lent flow has, once.

        Not 0: `recall` it and go on without; negative: the socket has told of an error.
        """
        lender = self._layer.lender
        return 1 if lender is None else lender.readable(self, now)

    def drain(self, now: float) -> int:
        """Give the socket of a lent flow what the guest sent while it took nothing.

        0: all of it is gone; 1: some still waits; negative: an errno of the socket.
        """
        lender = self._layer.lender
        return 1 if lender is None else lender.writable(self, now)

    def recall(self) -> None:
        """Take the connection back from whom it was lent to, before anything looks at it."""
        if self.lease is not None:
            self._layer.recall(self)

    def touch(self) -> None:
        """Have the stack look at the connection again after a call that changed it."""
        self._layer.ready(self)

    def accept(self) -> None:
        """Answer the held SYN: the connection is wanted."""
        self._layer.decided(self)
        self.conn.accept()
        self.touch()

    def refuse(self) -> None:
        """Answer the held SYN with a reset."""
        self._layer.decided(self)
        self.conn.refuse()
        self.touch()

    def drop(self) -> None:
        """Forget the flow without a word to the peer."""
        self._layer.forget(self)
        self.conn.finish(Input.ABORT)

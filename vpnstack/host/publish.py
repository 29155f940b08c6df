"""Host ports published to guests: what arrives on the host becomes a flow into the guest's link.

The guest sees the true source of a peer where it could answer to it (the gateway is its way out);
the host's own loopback appears as `host.internal`, or as the gateway where that is off.
"""

from __future__ import annotations

import ipaddress
import socket
from collections import OrderedDict

from ..aio.driver import Driver
from ..errors import UsageError
from ..proto.tcp.block import Event
from ..stack.flow import Flow
from ..stack.stack import Stack
from ..stack.udp import Endpoint
from ..wire import icmp
from .bridge import Bridge
from .policy import Policy
from .udp import BATCH, IDLE

PEERS_MAX = 1024
PENDING_MAX = 1024


def bind(kind: int, host: tuple[str, int], backlog: int = 1024) -> socket.socket:
    """Bind a host socket for a published port; raises `UsageError` that names what is wrong."""
    try:
        family = socket.AF_INET6 if ":" in host[0] else socket.AF_INET
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    except OSError as e:
        raise UsageError(f"cannot make a socket: {e.strerror}") from e
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind == socket.SOCK_STREAM))
        sock.bind(host)
        if kind == socket.SOCK_STREAM:
            sock.listen(backlog)
    except OSError as e:
        sock.close()
        raise UsageError(f"cannot publish {host[0]}:{host[1]}: {e.strerror}") from e
    return sock


class Published:
    """What the two kinds share: the host socket and where its traffic goes."""

    def __init__(
        self,
        stack: Stack,
        policy: Policy,
        driver: Driver,
        sock: socket.socket,
        guest: Endpoint,
    ) -> None:
        self.stack = stack
        self.policy = policy
        self.driver = driver
        self.loop = driver.loop
        self.wake = driver.wake
        self.sock = sock
        self.guest = guest
        self.refused = 0
        self.address: tuple[str, int] = sock.getsockname()[:2]

    def source_for(self, peer: tuple[str, int]) -> bytes | None:
        """Return what the guest shall see as the address of `peer`."""
        seen = ipaddress.ip_address(peer[0].partition("%")[0]).packed
        source = self.policy.source(seen) if len(seen) == len(self.guest[0]) else None
        return source or self.stack.interface.source_for(self.guest[0])

    def close(self) -> None:
        """Stop listening on the host."""
        if self.sock.fileno() >= 0:
            self.loop.remove_reader(self.sock.fileno())
            self.sock.close()


class PublishedTcp(Published):
    """A listening host socket; every connection becomes a flow to `guest`."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.bridges: set[Bridge] = set()
        self._connecting: dict[Flow, socket.socket] = {}
        self.loop.add_reader(self.sock.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            for _ in range(BATCH):
                sock, peer = self.sock.accept()
                self._open(sock, peer)
        except OSError:
            pass  # EAGAIN, or the peer went away, or no descriptors: the next wake-up tells
        self.wake()

    def _open(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        source = self.source_for(peer)
        flow = None
        if source is not None and len(self._connecting) < PENDING_MAX:
            flow = self._connect(source, peer[1])
        if flow is None:
            self.refused += 1
            sock.close()
            return
        flow.owner = self
        self._connecting[flow] = sock

    def _connect(self, source: bytes, port: int) -> Flow | None:
        """Open a flow from the peer's own port where that is free, else from another."""
        now, tcp = self.loop.time(), self.stack.tcp
        try:
            return tcp.connect((source, port), self.guest, now)
        except KeyError:
            other = tcp.choose_port(source, self.guest)
        return tcp.connect((source, other), self.guest, now) if other else None

    def flow_event(self, flow: Flow, now: float) -> None:
        """Join the two when the guest accepted, reset the host's peer when it did not."""
        while (event := flow.conn.next_event()) is not None:
            sock = self._connecting.pop(flow, None)
            if sock is None:
                continue
            if event is Event.CONNECTED:
                bridge = Bridge(flow, sock, self.driver, self.bridges.discard)
                self.bridges.add(bridge)
                bridge.flow_event(flow, now)
                return
            self.refused += 1
            Bridge(flow, sock, self.driver, self.bridges.discard).abort()

    def close(self) -> None:
        """Stop listening and reset what is open."""
        super().close()
        for flow, sock in list(self._connecting.items()):
            flow.conn.abort()
            flow.touch()
            sock.close()
        self._connecting.clear()
        for bridge in list(self.bridges):
            bridge.flow.recall()
            bridge.flow.conn.abort()
            bridge.flow.touch()
            bridge.abort()
        self.wake()


class PublishedUdp(Published):
    """A bound host socket; each peer that sends gets a port of its own towards the guest."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._peers: OrderedDict[tuple[str, int], tuple[Endpoint, float]] = OrderedDict()
        self._by_local: dict[Endpoint, tuple[str, int]] = {}
        self.loop.add_reader(self.sock.fileno(), self._readable)

    def _readable(self) -> None:
        now = self.loop.time()
        try:
            for _ in range(BATCH):
                data, peer = self.sock.recvfrom(65535)
                local = self._local(peer, now)
                if local is not None:
                    self.stack.udp.send(local, self.guest, data, now)
        except OSError:
            pass  # EAGAIN, or an ICMP error about an answer of ours
        self.wake()

    def _local(self, peer: tuple[str, int], now: float) -> Endpoint | None:
        known = self._peers.get(peer)
        if known is not None:
            self._peers[peer] = (known[0], now)
            self._peers.move_to_end(peer)
            return known[0]
        self._trim(now)
        source = self.source_for(peer)
        if source is None:
            self.refused += 1
            return None
        taken, free = self.stack.udp.ports, peer[1]
        if (source, free) in taken:
            ends = b"udp" + source + self.guest[0] + self.guest[1].to_bytes(2, "big")
            free = self.stack.tcp.ports.choose(ends, lambda port: (source, port) not in taken)
            if not free:
                return None
        local = (source, free)
        taken[local] = self
        self._peers[peer] = (local, now)
        self._by_local[local] = peer
        return local

    def _trim(self, now: float) -> None:
        """Forget peers that were idle for a minute, and the oldest when there are too many."""
        while self._peers:
            peer, (local, used) = next(iter(self._peers.items()))
            if now - used < IDLE and len(self._peers) < PEERS_MAX:
                return
            del self._peers[peer], self._by_local[local], self.stack.udp.ports[local]

    def datagram_received(self, remote: Endpoint, local: Endpoint, data: bytes, now: float) -> None:
        """Send the guest's answer to the peer that it is for."""
        peer = self._by_local.get(local)
        if peer is None or remote != self.guest:
            return
        try:
            self.sock.sendto(data, peer)
        except OSError:
            self.refused += 1

    def icmp_received(
        self, remote: Endpoint, local: Endpoint, error: icmp.Error, now: float
    ) -> None:
        """The guest has nobody on that port; a UDP peer of the host learns nothing of it."""
        self.refused += 1

    def close(self) -> None:
        """Stop listening and give the ports back."""
        super().close()
        for local in self._by_local:
            self.stack.udp.ports.pop(local, None)
        self._by_local.clear()
        self._peers.clear()

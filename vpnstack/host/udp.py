"""Guest datagrams to host sockets: a mapping for each guest endpoint (RFC 4787, REQ-1 and REQ-8).

One unconnected socket serves each source address and port of a guest, whatever the destinations,
so hole punching works; the answers keep their true source.  Mappings end after a minute without
traffic, ten seconds after a single question and its answer (DNS), or, over the bound, oldest first.

Here it is decided what may pass, and what is not plain passes here; the rest is carried by the
express lane (aio/udplane.py), which is told of every pair of ends that was decided about.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from ..aio.udplane import SETTLED, Carried, DatagramLane
from ..stack.stack import Stack
from ..stack.udp import Endpoint, packet
from ..wire import icmp
from ..wire.icmp import Kind
from .policy import UNREACHABLE, Policy, text

IDLE = 60.0
IDLE_ANSWERED = 10.0  # after exactly one datagram each way
MAPPINGS_MAX = 1024
BATCH = 64
IP_RECVERR, IPV6_RECVERR = 11, 25
UDP_GRO = 104
_KINDS = {**UNREACHABLE, errno.ECONNREFUSED: Kind.PORT_UNREACHABLE}


@dataclass(slots=True)
class UdpForwardCounters:
    """Datagrams between guests and the host's network."""

    sent: int = 0
    received: int = 0
    refused: int = 0
    failed: int = 0
    evicted: int = 0
    spoofed: int = 0  # sources that are not on the guest's link


class Mapping:
    """One guest endpoint and its host socket; the lane counts what it carries itself."""

    __slots__ = ("answers", "carried", "guest", "questions", "sock", "used")

    def __init__(self, guest: Endpoint, sock: socket.socket, now: float) -> None:
        self.guest = guest
        self.sock = sock
        self.used = now
        self.questions = self.answers = 0
        self.carried = Carried(guest, sock.fileno())

    @property
    def settled(self) -> bool:
        """Tell whether there is more to it than a question and its answer."""
        return self.questions + self.answers >= SETTLED

    def expired(self, now: float) -> bool:
        """Tell whether the mapping has been idle for long enough."""
        lane = self.carried.state
        short = self.questions + lane.questions == 1 and self.answers + lane.answers == 1
        used: float = max(self.used, lane.used)
        return now - used >= (IDLE_ANSWERED if short else IDLE)


def open_socket(family: socket.AddressFamily) -> socket.socket:
    """Make the host's socket of a mapping; raises `OSError` where there are too many."""
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    return sock


class UdpForwarder:
    """Takes datagrams that nobody in the stack is bound for."""

    def __init__(
        self,
        stack: Stack,
        policy: Policy,
        loop: asyncio.AbstractEventLoop,
        wake: Callable[[], None],
        mappings_max: int = MAPPINGS_MAX,
        lane: DatagramLane | None = None,
    ) -> None:
        self.stack = stack
        self.policy = policy
        self.loop = loop
        self.wake = wake
        self.mappings_max = mappings_max
        self.lane = lane
        self.counters = UdpForwardCounters()
        if lane is not None:
            lane.tally = self.counters
        self._mappings: OrderedDict[Endpoint, Mapping] = OrderedDict()  # least recently used first
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._mappings)

    def datagram_received(self, remote: Endpoint, local: Endpoint, data: bytes, now: float) -> None:
        """Send a guest's datagram to where it is for."""
        interface = self.stack.interface
        if not interface.on_link(remote[0]) or remote[0] in interface.local:
            self.counters.spoofed += 1
            return
        target = self.policy.destination(local[0])
        if target is None or local[1] == 0:
            self.counters.refused += 1
            ours = local[0] in interface.local
            kind = Kind.PORT_UNREACHABLE if ours else Kind.PROHIBITED
            self._report(remote, local, data, kind, now)
            return
        mapping = self._mapping(remote, now)
        if mapping is None:
            return
        mapping.questions += 1
        code = self._send(mapping, data, (text(target), local[1]), now)
        if not code:
            self.counters.sent += 1
            if self.lane is not None and mapping.settled:
                self.lane.up(mapping.carried, local, (target, local[1]), now)
            return
        self.counters.failed += 1
        if code in _KINDS:
            self._report(remote, local, data, _KINDS[code], now)

    def _send(self, mapping: Mapping, data: bytes, to: tuple[str, int], now: float) -> int:
        """Send; return an errno.  An ICMP error about an earlier datagram comes up first: ip(7)."""
        code = 0
        for _ in range(2):
            try:
                mapping.sock.sendto(data, to)
                return 0
            except OSError as e:
                code = e.errno or errno.EINVAL
            if not self._errors(mapping, now):
                break
        return code

    def _mapping(self, guest: Endpoint, now: float) -> Mapping | None:
        mapping = self._mappings.get(guest)
        if mapping is not None:
            mapping.used = now
            self._mappings.move_to_end(guest)
            return mapping
        if len(self._mappings) >= self.mappings_max:
            self.counters.evicted += 1
            self._end(self._oldest())
        try:
            sock = open_socket(socket.AF_INET if len(guest[0]) == 4 else socket.AF_INET6)
        except OSError:
            self.counters.failed += 1
            return None
        mapping = self._mappings[guest] = Mapping(guest, sock, now)
        if self.lane is not None:
            self.lane.admit(mapping.carried)
            with contextlib.suppress(OSError):  # Linux 5.0
                sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        self.loop.add_reader(sock.fileno(), self._readable, mapping)
        self._arm()
        return mapping

    def _oldest(self) -> Mapping:
        """Return who was idle longest; the order does not know yet what the lane carried."""
        while True:
            mapping = next(iter(self._mappings.values()))
            if mapping.carried.state.used <= mapping.used:
                return mapping
            mapping.used = mapping.carried.state.used
            self._mappings.move_to_end(mapping.guest)

    def _readable(self, mapping: Mapping) -> None:
        now = self.loop.time()
        if self.lane is not None:
            self._carry(self.lane, mapping, now)
            return
        try:
            for _ in range(BATCH):
                data, peer = mapping.sock.recvfrom(65535)
                self._answer(mapping, data, peer, now)
        except OSError:  # EAGAIN, or an error that waits in the queue
            self._errors(mapping, now)
        self.wake()

    def _carry(self, lane: DatagramLane, mapping: Mapping, now: float) -> None:
        """Have the lane read the socket, and take what is not for it."""
        got = lane.read(mapping.carried, now)
        left = 0
        for peer, data in lane.strays():
            left += 1
            self._deliver(mapping, data, peer, now)
        if got <= 0:  # nothing, or an error that waits in the queue
            self._errors(mapping, now)
        if left or got <= 0:
            self.wake()

    def _answer(self, mapping: Mapping, data: bytes, peer: tuple[str, int], now: float) -> None:
        addr = ipaddress.ip_address(peer[0].partition("%")[0]).packed
        self._deliver(mapping, data, (addr, peer[1]), now)

    def _deliver(self, mapping: Mapping, data: bytes, peer: Endpoint, now: float) -> None:
        """Send the guest what came for it."""
        addr = peer[0]
        source = self.policy.source(addr)
        if source is None:
            self.counters.refused += 1
            return
        mapping.used = now
        mapping.answers += 1
        self._mappings.move_to_end(mapping.guest)
        self.counters.received += 1
        self.stack.udp.send((source, peer[1]), mapping.guest, data, now)
        if self.lane is not None and mapping.settled:
            self.lane.down(mapping.carried, peer, (source, peer[1]), now)

    def _errors(self, mapping: Mapping, now: float) -> int:
        """Read ICMP errors that came back (ip(7), IP_RECVERR), tell the guest; return how many."""
        count = 0
        try:
            for _ in range(BATCH):
                data, control, _, peer = mapping.sock.recvmsg(
                    1500, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT
                )
                count += 1
                code = struct.unpack_from("=I", control[0][2])[0] if control else 0
                addr = self.policy.source(ipaddress.ip_address(peer[0]).packed) if peer else None
                if addr is not None and code in _KINDS:
                    self._report(mapping.guest, (addr, peer[1]), data, _KINDS[code], now)
        except OSError:
            pass  # EAGAIN: the queue is empty
        return count

    def _report(self, guest: Endpoint, to: Endpoint, data: bytes, kind: Kind, now: float) -> None:
        offender = packet(guest, to, data[:64])
        self.stack.icmp.report_packet(offender, kind, now)

    def icmp_received(
        self, remote: Endpoint, local: Endpoint, error: icmp.Error, now: float
    ) -> None:
        """A guest refused an answer: nothing to do, its mapping goes in time."""

    def _arm(self) -> None:
        if self._timer is None and self._mappings:
            self._timer = self.loop.call_later(IDLE_ANSWERED / 2, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = self.loop.time()
        for mapping in [m for m in self._mappings.values() if m.expired(now)]:
            self._end(mapping)
        self._arm()

    def _end(self, mapping: Mapping) -> None:
        self._mappings.pop(mapping.guest, None)
        if self.lane is not None:
            self.lane.drop(mapping.carried)
        self.loop.remove_reader(mapping.sock.fileno())
        mapping.sock.close()

    def close(self) -> None:
        """End every mapping."""
        if self._timer is not None:
            self._timer.cancel()
        for mapping in list(self._mappings.values()):
            self._end(mapping)

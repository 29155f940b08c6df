"""Guest datagrams to host sockets: a mapping for each guest endpoint (RFC 4787, REQ-1 and REQ-8).

One unconnected socket serves each source address and port of a guest, whatever the destinations,
so hole punching works; the answers keep their true source.  Mappings end after a minute without
traffic, ten seconds after a single question and its answer (DNS), or, over the bound, oldest first.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

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
    """One guest endpoint and its host socket."""

    __slots__ = ("answers", "guest", "questions", "sock", "used")

    def __init__(self, guest: Endpoint, sock: socket.socket, now: float) -> None:
        self.guest = guest
        self.sock = sock
        self.used = now
        self.questions = self.answers = 0

    def expired(self, now: float) -> bool:
        """Tell whether the mapping has been idle for long enough."""
        short = self.questions == 1 and self.answers == 1
        return now - self.used >= (IDLE_ANSWERED if short else IDLE)


class UdpForwarder:
    """Takes datagrams that nobody in the stack is bound for."""

    def __init__(
        self,
        stack: Stack,
        policy: Policy,
        loop: asyncio.AbstractEventLoop,
        wake: Callable[[], None],
        mappings_max: int = MAPPINGS_MAX,
    ) -> None:
        self.stack = stack
        self.policy = policy
        self.loop = loop
        self.wake = wake
        self.mappings_max = mappings_max
        self.counters = UdpForwardCounters()
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
            self._end(next(iter(self._mappings.values())))
        family = socket.AF_INET if len(guest[0]) == 4 else socket.AF_INET6
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError:
            self.counters.failed += 1
            return None
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        mapping = self._mappings[guest] = Mapping(guest, sock, now)
        self.loop.add_reader(sock.fileno(), self._readable, mapping)
        self._arm()
        return mapping

    def _readable(self, mapping: Mapping) -> None:
        now = self.loop.time()
        try:
            for _ in range(BATCH):
                data, peer = mapping.sock.recvfrom(65535)
                self._answer(mapping, data, peer, now)
        except OSError:  # EAGAIN, or an error that waits in the queue
            self._errors(mapping, now)
        self.wake()

    def _answer(self, mapping: Mapping, data: bytes, peer: tuple[str, int], now: float) -> None:
        addr = ipaddress.ip_address(peer[0].partition("%")[0]).packed
        source = self.policy.source(addr)
        if source is None:
            self.counters.refused += 1
            return
        mapping.used = now
        mapping.answers += 1
        self._mappings.move_to_end(mapping.guest)
        self.counters.received += 1
        self.stack.udp.send((source, peer[1]), mapping.guest, data, now)

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
        self.loop.remove_reader(mapping.sock.fileno())
        mapping.sock.close()

    def close(self) -> None:
        """End every mapping."""
        if self._timer is not None:
            self._timer.cancel()
        for mapping in list(self._mappings.values()):
            self._end(mapping)

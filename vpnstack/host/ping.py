"""Guest pings to unprivileged ICMP sockets of the host (icmp(7), RFC 5508 3).

One socket serves each guest address and identifier; the kernel puts its own identifier into the
request, and we put the guest's back into the reply.  The guest's hop limit goes with it, less one,
so traceroute sees the routers outside: their errors come back with their own address.  Where
`net.ipv4.ping_group_range` does not allow such sockets, pings to outside stay without an answer: a
forged one would say that a host is there which nobody asked.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from ..stack.stack import Stack
from ..wire import icmp, ip
from ..wire.icmp import Kind
from .policy import Policy, text

log = logging.getLogger(__name__)

IDLE = 60.0  # RFC 5508 REQ-1
MAPPINGS_MAX = 256
BATCH = 64
RECVERR = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}
HOPS = {4: (socket.IPPROTO_IP, socket.IP_TTL), 6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)}
PROTO = {4: ip.ICMP, 6: ip.ICMPV6}
REQUEST, REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}
EXTENDED = struct.Struct("=IBBBBII")  # struct sock_extended_err; the offender's sockaddr follows
ORIGINS = (2, 3)  # SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6
_KINDS = {
    errno.EHOSTUNREACH: Kind.HOST_UNREACHABLE,
    errno.ENETUNREACH: Kind.NET_UNREACHABLE,
    errno.EACCES: Kind.PROHIBITED,
    errno.EPERM: Kind.PROHIBITED,
}


@dataclass(slots=True)
class PingCounters:
    """Pings between guests and the host's network."""

    sent: int = 0
    received: int = 0
    errors: int = 0  # of routers and hosts, handed on
    refused: int = 0
    failed: int = 0
    evicted: int = 0
    spoofed: int = 0
    unavailable: int = 0  # the host allows no ICMP sockets


class Mapping:
    """One guest address and identifier, and their socket."""

    __slots__ = ("guest", "hops", "ident", "sock", "used", "version")

    def __init__(self, guest: bytes, ident: int, sock: socket.socket, now: float) -> None:
        self.guest = guest
        self.ident = ident
        self.sock = sock
        self.used = now
        self.version = 4 if len(guest) == 4 else 6
        self.hops = 0

    @property
    def key(self) -> tuple[bytes, int]:
        """What names it."""
        return self.guest, self.ident

    def request(self, dst: bytes, message: bytes) -> bytes:
        """Build the guest's packet again, of which the kernel quotes the ICMP message."""
        seq = int.from_bytes(message[6:8])
        body = icmp.emit(icmp.Echo(False, self.ident, seq, message[8:]), self.guest, dst)
        return ip.emit(ip.Repr(self.guest, dst, PROTO[self.version]), body)


class PingForwarder:
    """Takes echo requests for hosts that are not ours."""

    def __init__(
        self, stack: Stack, policy: Policy, loop: asyncio.AbstractEventLoop,
        wake: Callable[[], None], mappings_max: int = MAPPINGS_MAX,
    ) -> None:  # fmt: skip
        self.stack = stack
        self.policy = policy
        self.loop = loop
        self.wake = wake
        self.mappings_max = mappings_max
        self.counters = PingCounters()
        self._mappings: OrderedDict[tuple[bytes, int], Mapping] = OrderedDict()  # oldest first
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._mappings)

    def echo_received(self, echo: icmp.Echo, src: bytes, dst: bytes, ttl: int, now: float) -> None:
        """Send a guest's request on."""
        if not self.stack.interface.on_link(src):
            self.counters.spoofed += 1
            return
        target = self.policy.destination(dst)
        if target is None:
            self.counters.refused += 1
            self._report(src, dst, echo, Kind.PROHIBITED, now)
            return
        mapping = self._mapping(src, echo.ident, now)
        if mapping is None:
            return
        code = self._send(mapping, echo, target, ttl - 1, now)
        if not code:
            self.counters.sent += 1
            return
        self.counters.failed += 1
        if code in _KINDS:
            self._report(src, dst, echo, _KINDS[code], now)

    def _send(self, mapping: Mapping, echo: icmp.Echo, to: bytes, hops: int, now: float) -> int:
        """Send; return an errno.  An error about an earlier request comes up first: ip(7)."""
        kind = REQUEST[mapping.version]
        message = struct.pack("!BBHHH", kind, 0, 0, 0, echo.seq) + echo.data
        code = 0
        for _ in range(2):
            try:
                if hops != mapping.hops:
                    mapping.sock.setsockopt(*HOPS[mapping.version], hops)
                    mapping.hops = hops
                mapping.sock.sendto(message, (text(to), 0))
                return 0
            except OSError as e:
                code = e.errno or errno.EINVAL
            if not self._errors(mapping, now):
                break
        return code

    def _mapping(self, guest: bytes, ident: int, now: float) -> Mapping | None:
        mapping = self._mappings.get((guest, ident))
        if mapping is not None:
            mapping.used = now
            self._mappings.move_to_end(mapping.key)
            return mapping
        sock = self._open(4 if len(guest) == 4 else 6)
        if sock is None:
            return None
        if len(self._mappings) >= self.mappings_max:
            self.counters.evicted += 1
            self._end(next(iter(self._mappings.values())))
        mapping = Mapping(guest, ident, sock, now)
        self._mappings[mapping.key] = mapping
        self.loop.add_reader(sock.fileno(), self._readable, mapping)
        self._arm()
        return mapping

    def _open(self, version: int) -> socket.socket | None:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, PROTO[version])
        except PermissionError:
            if not self.counters.unavailable:
                log.info("no ping to outside: net.ipv4.ping_group_range does not allow it")
            self.counters.unavailable += 1
            return None
        except OSError:
            self.counters.failed += 1
            return None
        sock.setsockopt(*RECVERR[version], 1)
        return sock

    # What comes back.

    def _readable(self, mapping: Mapping) -> None:
        now = self.loop.time()
        try:
            for _ in range(BATCH):
                message, peer = mapping.sock.recvfrom(65535)
                self._answer(mapping, message, peer, now)
        except OSError:  # EAGAIN, or an error that waits in the queue
            self._errors(mapping, now)
        self.wake()

    def _answer(self, mapping: Mapping, message: bytes, peer: tuple[str, int], now: float) -> None:
        source = self.policy.source(_packed(peer[0]))
        if source is None or len(message) < 8 or message[0] != REPLY[mapping.version]:
            self.counters.refused += 1
            return
        mapping.used = now
        self._mappings.move_to_end(mapping.key)
        self.counters.received += 1
        echo = icmp.Echo(True, mapping.ident, int.from_bytes(message[6:8]), message[8:])
        body = icmp.emit(echo, source, mapping.guest)
        packet = ip.emit(ip.Repr(source, mapping.guest, PROTO[mapping.version]), body)
        self.stack.interface.send_packet(packet, now)

    def _errors(self, mapping: Mapping, now: float) -> int:
        """Hand on ICMP errors that came back (ip(7), IP_RECVERR); return how many there were."""
        count = 0
        try:
            for _ in range(BATCH):
                message, control, _, peer = mapping.sock.recvmsg(
                    2048, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT
                )
                count += 1
                if peer and len(message) >= 8:
                    self._error(mapping, message, control, _packed(peer[0]), now)
        except OSError:
            pass  # EAGAIN: the queue is empty
        return count

    def _error(
        self, mapping: Mapping, message: bytes, control: list[tuple[int, int, bytes]],
        dst: bytes, now: float,
    ) -> None:  # fmt: skip
        """Tell the guest what a router or host said about its request to `dst`."""
        for level, kind, data in control:
            if (level, kind) != RECVERR[mapping.version] or len(data) < EXTENDED.size:
                continue
            _, origin, type_, code, _, info, _ = EXTENDED.unpack_from(data)
            name = icmp.Error(mapping.version, type_, code).kind
            sender = self._offender(mapping.version, data[EXTENDED.size :])
            if origin not in ORIGINS or name is None or sender is None:
                continue
            self.counters.errors += 1
            layer, request = self.stack.icmp, mapping.request(dst, message)
            packet = layer.errors.build(request, name, sender, now, value=info)
            if packet is not None:
                self.stack.interface.send_packet(packet, now)

    def _offender(self, version: int, sockaddr: bytes) -> bytes | None:
        """Return who sent an error, as the guest may know him: by his address or by ours."""
        addr = sockaddr[4:8] if version == 4 else sockaddr[8:24]
        if len(addr) != (4 if version == 4 else 16) or not any(addr):
            return None
        mine = self.stack.interface.source_for
        return self.policy.source(addr) or next(
            (a for net in self.policy.networks if net.version == version
             for a in [mine(net.network_address.packed)] if a is not None), None,
        )  # fmt: skip

    def _report(self, src: bytes, dst: bytes, echo: icmp.Echo, kind: Kind, now: float) -> None:
        body = icmp.emit(icmp.Echo(False, echo.ident, echo.seq, echo.data[:64]), src, dst)
        proto = ip.ICMP if len(src) == 4 else ip.ICMPV6
        offender = ip.emit(ip.Repr(src, dst, proto), body)
        self.stack.icmp.report_packet(offender, kind, now)

    # Time.

    def _arm(self) -> None:
        if self._timer is None and self._mappings:
            self._timer = self.loop.call_later(IDLE / 2, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        end = self.loop.time() - IDLE
        for mapping in [m for m in self._mappings.values() if m.used <= end]:
            self._end(mapping)
        self._arm()

    def _end(self, mapping: Mapping) -> None:
        del self._mappings[mapping.key]
        self.loop.remove_reader(mapping.sock.fileno())
        mapping.sock.close()

    def close(self) -> None:
        """End every mapping."""
        if self._timer is not None:
            self._timer.cancel()
        for mapping in list(self._mappings.values()):
            self._end(mapping)


def _packed(host: str) -> bytes:
    return ipaddress.ip_address(host.partition("%")[0]).packed

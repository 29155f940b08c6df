"""The stack under test on a link of its own, in virtual time.

What the stack sends is cut into wire segments (`link.soft`) and kept until the script asks for it;
what the peer sends goes through the core's parser as octets.  Address resolution is answered here,
and scripts do not see it.
"""

from __future__ import annotations

import ipaddress
import math
import random
import struct
from collections import deque
from dataclasses import replace

from ..core import access
from ..core.burst import Burst
from ..core.pure import GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM
from ..link.port import Offload
from ..link.soft import Softener
from ..proto.tcp.config import Config
from ..stack.interface import Interface, InterfaceConfig
from ..stack.stack import Stack, default_tcp_config
from ..wire import arp, ip, ndp
from ..wire.malformed import Malformed
from .decode import Sent, decode
from .errors import Mismatch
from .settings import Settings

LOCAL_MAC, PEER_MAC = bytes.fromhex("02000000000a"), bytes.fromhex("02000000000b")
START = 1000.0  # when scripts begin; a clock that shows 0 would hide faults
LINK_LEN = 14
ROUNDS_MAX = 20_000  # transmissions at one instant


class Lab:
    """A stack, its clock and the packets that it sent; times are seconds since the start."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.now = 0.0
        self.sent: deque[Sent] = deque()  # not yet asked for
        self._frames: deque[bytes] = deque()  # answers that have yet to arrive
        self._offload = ~Offload.NONE if settings.gso else Offload.NONE
        self._soft = Softener()
        self.stack = Stack(
            Interface(_interface(settings), self),
            rng=random.Random(settings.seed),
            tcp_config=self._config,
        )
        self.stack.tcp.syn_queue.limit = settings.syn_queue

    def _config(self, version: int, mtu: int) -> Config:
        return replace(default_tcp_config(version, mtu), **self.settings.tcp)

    # A `Link` as the interface wants it.

    def blocked(self, mac: bytes) -> bool:
        """Never: the link takes everything."""
        return False

    def egress(self, burst: Burst) -> None:
        """Take what the stack sends."""
        for part in self._soft(burst, self._offload):
            for i in range(part.count):
                self._take(part.octets(i), part.vnet(i))

    def _take(self, octets: bytes, vnet: bytes) -> None:
        if octets[12:14] == b"\x08\x06":
            self._answer_arp(octets[14:])
            return
        if octets[12:14] == b"\x86\xdd" and octets[20] == ip.ICMPV6 and octets[54] == ndp.NS:
            self._answer_ndp(octets[14:])
            return
        packet = decode(octets, vnet, self.now)
        if packet is not None:
            self.sent.append(packet)

    def _answer_arp(self, octets: bytes) -> None:
        try:
            asked = arp.parse(octets)
        except Malformed as e:
            raise Mismatch(f"the stack sent a malformed ARP message: {e}") from e
        if asked.op is arp.Op.REQUEST:
            answer = arp.emit(arp.reply(asked, PEER_MAC))
            self._frames.append(LOCAL_MAC + PEER_MAC + b"\x08\x06" + answer)

    def _answer_ndp(self, octets: bytes) -> None:
        header, body = ip.parse(octets)
        try:
            asked = ndp.parse(body, header.src, header.dst, header.ttl)
        except Malformed as e:
            raise Mismatch(f"the stack sent a malformed NDP message: {e}") from e
        if isinstance(asked, ndp.NeighbourSolicitation):
            answer = ndp.NeighbourAdvertisement(asked.target, PEER_MAC, solicited=True)
            body = ndp.emit(answer, asked.target, header.src)
            packet = ip.Repr(asked.target, header.src, ip.ICMPV6, ttl=ndp.HOP_LIMIT)
            self._frames.append(LOCAL_MAC + PEER_MAC + b"\x86\xdd" + ip.emit(packet, body))

    # Time.

    @property
    def clock(self) -> float:
        """The time that the stack sees."""
        return START + self.now

    def inject(self, packet: bytes) -> None:
        """Have an IP packet arrive now."""
        kind = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
        vnet = super_segment(packet, self.settings.mtu)
        self._receive(LOCAL_MAC + PEER_MAC + kind + packet, vnet)
        self.settle()

    def _receive(self, octets: bytes, vnet: bytes = bytes(12)) -> None:
        burst = Burst(1)
        burst.append(octets, vnet)
        access.parse_burst(burst)
        self.stack.receive(burst, self.clock)
        self._owners()
        self.stack.settle()

    def _owners(self) -> None:
        while (event := self.stack.next_event()) is not None:
            owner, flow = event
            owner.flow_event(flow, self.clock)

    def settle(self) -> None:
        """Transmit until the stack has nothing more to send at this instant."""
        for _ in range(ROUNDS_MAX):
            burst = self.stack.transmit(self.clock)
            if burst is not None:
                self.egress(burst)
            self._owners()
            if self._frames:
                self._receive(self._frames.popleft())
            elif burst is None and not self.stack.tcp.pending:
                return
        raise Mismatch(f"the stack does not come to rest at {self.now:.6f}")

    def step(self, until: float) -> bool:
        """Go on to the stack's next deadline, or to `until`; True when there was a deadline."""
        at = self.stack.deadline()
        due = at is not None and at - START <= until
        # Never short of the deadline: what rounding leaves would make it come again and again.
        self.now = max(self.now, at - START) if due and at is not None else until
        while due and at is not None and self.clock < at:
            self.now = math.nextafter(self.now, math.inf)
        if due:
            self.settle()
        return due


def super_segment(packet: bytes, mtu: int) -> bytes:
    """Return the virtio-net header of an IP packet: one beyond the MTU came as many segments."""
    v4 = packet[0] >> 4 == 4
    network = ip.V4_HEADER_LEN if v4 else ip.V6_HEADER_LEN
    if len(packet) <= mtu or packet[9 if v4 else 6] != ip.TCP:
        return bytes(12)
    headers = network + (packet[network + 12] >> 4) * 4
    kind = GSO_TCPV4 if v4 else GSO_TCPV6
    fields = (NEEDS_CSUM, kind, LINK_LEN + headers, mtu - headers, LINK_LEN + network, 16, 0)
    return struct.pack("<BBHHHHH", *fields)


def _interface(s: Settings) -> InterfaceConfig:
    address = ipaddress.ip_interface(f"{ipaddress.ip_address(s.local)}/{s.prefix}")
    return InterfaceConfig(
        LOCAL_MAC,
        (address,),
        s.mtu,
        gateway4=s.gateway if s.version == 4 else None,
        gateway6=s.gateway if s.version == 6 else None,
    )

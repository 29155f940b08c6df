"""ARP and neighbour discovery on an interface: frames to and from its neighbour cache."""

from __future__ import annotations

from typing import Any, Protocol

from ..core import access
from ..proto.neighbour import Failed, Resolved
from ..wire import arp, ip, ndp
from ..wire.malformed import Malformed
from .interface import BROADCAST_MAC, Interface, Packet

ETHERTYPE_ARP = 0x0806


class Advertiser(Protocol):
    """A router's side of neighbour discovery: `proto.ra.Router`."""

    def receive_rs(self, src: bytes, now: float) -> None:
        """Note that a host asked for an advertisement."""


class Resolution:
    """Answers for our addresses, asks for others, and releases what waited for an answer."""

    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        self.router: Any = None
        self.malformed = 0
        self.failed: list[Failed] = []

    def receive_arp(self, f: Any, now: float) -> None:
        """Take an ARP frame (RFC 826)."""
        try:
            message = arp.parse(access.octets(f, f.data, f.data_len))
        except Malformed:
            self.malformed += 1
            return
        interface = self.interface
        usable = interface.on_link(message.spa) and message.spa not in interface.local
        if message.op == arp.REQUEST and message.tpa in interface.local:
            if usable:
                interface.neighbours.receive_solicitation(message.spa, message.sha, now)
            reply = arp.Repr(arp.REPLY, interface.mac, message.tpa, message.sha, message.spa)
            interface.send_frame(message.sha, arp.emit(reply), ETHERTYPE_ARP)
        elif usable:
            interface.neighbours.receive_advertisement(
                message.spa, message.sha, now, solicited=message.op == arp.REPLY
            )

    def receive_ndp(self, f: Any, now: float) -> None:
        """Take a neighbour discovery message (RFC 4861); RFC 4861 6.1, 7.1: hop limit 255."""
        src, dst = access.source(f), access.destination(f)
        if f.ttl != 255:
            self.malformed += 1
            return
        try:
            message = ndp.parse(access.octets(f, f.l4, f.data + f.data_len - f.l4), src, dst)
        except Malformed:
            self.malformed += 1
            return
        if isinstance(message, ndp.NeighbourSolicitation):
            self._solicited(message, src, now)
        elif isinstance(message, ndp.NeighbourAdvertisement):
            self.interface.neighbours.receive_advertisement(
                message.target, message.mac, now,
                solicited=message.solicited, override=message.override,
            )  # fmt: skip
        elif isinstance(message, ndp.RouterSolicitation) and self.router is not None:
            self.router.receive_rs(src, now)

    def _solicited(self, message: Any, src: bytes, now: float) -> None:
        interface = self.interface
        if message.target not in interface.local:
            return
        probe = src == ip.UNSPECIFIED_V6  # duplicate address detection (RFC 4862 5.4.3)
        if not probe and message.mac is not None and interface.on_link(src):
            interface.neighbours.receive_solicitation(src, message.mac, now)
        dst = ip.ALL_NODES if probe else src
        answer = ndp.NeighbourAdvertisement(
            message.target, interface.mac, router=self.router is not None,
            solicited=not probe, override=True,
        )  # fmt: skip
        self.send_ndp(answer, message.target, dst, now)

    def send_ndp(self, message: Any, src: bytes, dst: bytes, now: float) -> None:
        """Send a discovery message with the hop limit of 255 that receivers ask for."""
        body = ndp.emit(message, src, dst)
        self.interface.send_packet(ip.emit(ip.Repr(src, dst, ip.ICMPV6, ttl=255), body), now)

    def transmit(self, now: float) -> None:
        """Queue the solicitations that are due and release packets whose neighbour answered."""
        for solicit in self.interface.neighbours.transmit(now):
            if len(solicit.addr) == 4:
                self._ask_arp(solicit.addr, solicit.mac)
            else:
                self._ask_ndp(solicit.addr, solicit.mac, now)

    def _ask_arp(self, addr: bytes, mac: bytes | None) -> None:
        interface = self.interface
        src = interface.source_for(addr)
        if src is not None:
            request = arp.Repr(arp.REQUEST, interface.mac, src, bytes(6), addr)
            interface.send_frame(mac or BROADCAST_MAC, arp.emit(request), ETHERTYPE_ARP)

    def _ask_ndp(self, addr: bytes, mac: bytes | None, now: float) -> None:
        interface = self.interface
        src = interface.source_for(addr) or interface.link_local
        dst = addr if mac else ip.solicited_node(addr)
        message = ndp.NeighbourSolicitation(addr, interface.mac)
        body = ndp.emit(message, src, dst)
        packet = ip.emit(ip.Repr(src, dst, ip.ICMPV6, ttl=255), body)
        interface.send_frame(mac or ip.multicast_mac(dst), packet)

    def events(self) -> list[Any]:
        """Release packets whose neighbour answered; return what else waited (flows)."""
        ready: list[Any] = []
        while (event := self.interface.neighbours.next_event()) is not None:
            if isinstance(event, Failed):
                self.interface.counters.unresolved += len(event.pending)
                self.failed.append(event)
                continue
            assert isinstance(event, Resolved)
            for waiting in event.pending:
                if isinstance(waiting, Packet):
                    self.interface.send_frame(event.mac, waiting.octets)
                else:
                    ready.append(waiting)
        return ready

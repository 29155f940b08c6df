"""ARP and neighbour discovery on an interface: frames to and from its neighbour cache."""

from __future__ import annotations

from typing import Any, Protocol

from ..core import access
from ..proto.neighbour import Failed
from ..proto.ra import Router
from ..wire import arp, ip, ndp
from ..wire.malformed import Malformed
from .interface import BROADCAST_MAC, Interface

ETHERTYPE_ARP = 0x0806


class Configurator(Protocol):
    """Who configures the interface by what it hears on the link: `autoconf`."""

    def arp_received(self, message: arp.Repr, now: float) -> None:
        """Hear an ARP message of another station, whatever it is about."""

    def ndp_received(self, message: ndp.Repr, src: bytes, now: float) -> bool:
        """Hear a valid discovery message; True where nobody else may take it."""

    def neighbour_failed(self, addr: bytes) -> None:
        """Learn that a neighbour does not answer (any more)."""

    def transmit(self, now: float) -> None:
        """Send what is due."""

    def deadline(self) -> float | None:
        """Return when `transmit` has something to do next."""


class Resolution:
    """Answers for our addresses, asks for others, and releases what waited for an answer.

    With a `router` it also advertises one (RFC 4861 6.2).
    """

    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        self.router: Router | None = None
        self.configurator: Configurator | None = None
        self.malformed = 0

    def receive_arp(self, f: Any, now: float) -> None:
        """Take an ARP frame (RFC 826)."""
        try:
            message = arp.parse(access.octets(f, f.data, f.data_len))
        except Malformed:
            self.malformed += 1
            return
        interface = self.interface
        if message.sha == interface.mac:
            return  # our own, which the link sent back
        if self.configurator is not None:
            self.configurator.arp_received(message, now)
        usable = interface.on_link(message.spa) and message.spa not in interface.local
        if message.op is arp.Op.REQUEST and message.tpa in interface.local:
            if usable:
                interface.neighbours.receive_solicitation(message.spa, message.sha, now)
            answer = arp.emit(arp.reply(message, interface.mac))
            interface.send_frame(message.sha, answer, ETHERTYPE_ARP)
        elif usable:
            interface.neighbours.receive_advertisement(
                message.spa, message.sha, now, solicited=message.op is arp.Op.REPLY
            )

    def receive_ndp(self, f: Any, now: float) -> None:
        """Take a neighbour discovery message (RFC 4861)."""
        src, dst = access.source(f), access.destination(f)
        body = access.octets(f, f.l4, f.data + f.data_len - f.l4)
        try:
            message = ndp.parse(body, src, dst, f.ttl)
        except Malformed:
            self.malformed += 1
            return
        if self.configurator is not None and self.configurator.ndp_received(message, src, now):
            return
        if isinstance(message, ndp.NeighbourSolicitation):
            self._solicited(message, src, now)
        elif isinstance(message, ndp.NeighbourAdvertisement):
            self._advertised(message, now)
        elif isinstance(message, ndp.RouterSolicitation) and self.router is not None:
            if message.slla is not None and self.interface.on_link(src):
                self.interface.neighbours.receive_solicitation(src, message.slla, now)
            self.router.receive_rs(src, message, now)

    def _advertised(self, message: ndp.NeighbourAdvertisement, now: float) -> None:
        if message.target not in self.interface.local:
            self.interface.neighbours.receive_advertisement(
                message.target,
                message.tlla,
                now,
                solicited=message.solicited,
                override=message.override,
            )

    def _solicited(self, message: ndp.NeighbourSolicitation, src: bytes, now: float) -> None:
        interface = self.interface
        if message.target not in interface.local or src in interface.local:
            return
        probe = src == ip.UNSPECIFIED_V6  # duplicate address detection (RFC 4862 5.4.3)
        if not probe and message.slla is not None and interface.on_link(src):
            interface.neighbours.receive_solicitation(src, message.slla, now)
        answer = ndp.NeighbourAdvertisement(
            message.target, interface.mac, router=self.router is not None, solicited=not probe
        )
        self.send(answer, message.target, ip.ALL_NODES if probe else src, None, now)

    def send(
        self, message: ndp.Repr, src: bytes, dst: bytes, mac: bytes | None, now: float
    ) -> None:
        """Send a discovery message with the hop limit of 255 that receivers ask for."""
        body = ndp.emit(message, src, dst)
        packet = ip.emit(ip.Repr(src, dst, ip.ICMPV6, ttl=ndp.HOP_LIMIT), body)
        if mac is not None:
            self.interface.send_frame(mac, packet)
        else:
            self.interface.send_packet(packet, now)

    def transmit(self, now: float) -> None:
        """Queue the solicitations and advertisements that are due."""
        for solicit in self.interface.neighbours.transmit(now):
            if len(solicit.addr) == 4:
                self._ask_arp(solicit.addr, solicit.mac)
            else:
                self._ask_ndp(solicit.addr, solicit.mac, now)
        if self.configurator is not None:
            self.configurator.transmit(now)
        if self.router is not None:
            for out in self.router.transmit(now):
                self.send(out.message, self.interface.link_local, out.dst, out.mac, now)

    def _ask_arp(self, addr: bytes, mac: bytes | None) -> None:
        interface = self.interface
        src = interface.source_for(addr)
        if src is not None:
            question = arp.emit(arp.request(interface.mac, src, addr))
            interface.send_frame(mac or BROADCAST_MAC, question, ETHERTYPE_ARP)

    def _ask_ndp(self, addr: bytes, mac: bytes | None, now: float) -> None:
        src = self.interface.source_for(addr) or self.interface.link_local
        if src not in self.interface.local:
            return  # RFC 4861 7.2.2: no address to ask from yet
        dst = addr if mac else ip.solicited_node(addr)
        question = ndp.NeighbourSolicitation(addr, self.interface.mac)
        self.send(question, src, dst, mac or ip.multicast_mac(dst), now)

    def deadline(self) -> float | None:
        """Return when `transmit` has something to do next."""
        times = [self.interface.neighbours.deadline()]
        times.append(self.router.deadline() if self.router is not None else None)
        times.append(self.configurator.deadline() if self.configurator is not None else None)
        return min((at for at in times if at is not None), default=None)

    def release(self) -> tuple[list[bytes], list[bytes]]:
        """Send packets whose neighbour answered; return the neighbours that did and did not."""
        resolved: list[bytes] = []
        failed: list[bytes] = []
        while (event := self.interface.neighbours.next_event()) is not None:
            if isinstance(event, Failed):
                self.interface.counters.unresolved += len(event.pending)
                failed.append(event.addr)
                if self.configurator is not None:
                    self.configurator.neighbour_failed(event.addr)
                continue
            resolved.append(event.addr)
            for waiting in event.pending:
                self.interface.send_resolved(event.mac, waiting.octets, waiting.mtu)
        return resolved, failed

"""ICMP on an interface: answers echo, reports errors, and hands received errors to their flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ..core import access
from ..proto.icmp import Errors, addresses
from ..wire import icmp, ip
from ..wire.icmp import Kind
from ..wire.malformed import Malformed
from .interface import Interface

LINK_HEADER = 14


class EchoForwarder(Protocol):
    """Who takes pings for hosts that are not ours."""

    def echo_received(self, echo: icmp.Echo, src: bytes, dst: bytes, ttl: int, now: float) -> None:
        """Take an echo request from `src`; `ttl` is what it arrived with, 2 or more."""


@dataclass(slots=True)
class IcmpCounters:
    """Messages since the stack was made."""

    echoes_answered: int = 0
    errors_in: int = 0
    errors_refused: int = 0  # about a neighbour, and not from it
    malformed: int = 0


class IcmpLayer:
    """Both versions of ICMP for one interface."""

    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        self.errors = Errors(broadcasts=interface.broadcasts)
        self.counters = IcmpCounters()
        self.forward: EchoForwarder | None = None

    def receive(self, f: Any, now: float) -> icmp.Error | None:
        """Take an ICMP frame that is not neighbour discovery; return an error to be handed on."""
        src, dst = access.source(f), access.destination(f)
        body = access.octets(f, f.l4, f.data + f.data_len - f.l4)
        try:
            message = icmp.parse(body, src, dst)
        except Malformed:
            self.counters.malformed += 1
            return None
        if isinstance(message, icmp.Error):
            self.counters.errors_in += 1
            return message if self._believed(message, src) else None
        if message.reply or self.interface.framed_to_group(f):
            return None
        if self.forward is None or dst in self.interface.local or self._is_group(dst):
            self._answer(message, src, dst, now)
        else:
            self.forward.echo_received(message, src, dst, f.ttl, now)
        return None

    def _is_group(self, dst: bytes) -> bool:
        return ip.is_multicast(dst) or dst == ip.BROADCAST_V4 or self.interface.is_broadcast(dst)

    def _believed(self, error: icmp.Error, src: bytes) -> bool:
        """Tell whether `src` can know: between us and a neighbour there is only the neighbour."""
        if ip.upper(error.quote) is None:
            return False
        about = addresses(error.quote)[1]
        believed = about == src or not self.interface.on_link(about)
        self.counters.errors_refused += not believed
        return believed

    def _answer(self, echo: icmp.Echo, src: bytes, dst: bytes, now: float) -> None:
        interface = self.interface
        if dst not in interface.local:  # a group: RFC 1122 3.2.2.6 lets us stay silent for IPv4
            if not ip.is_multicast(dst) or len(dst) == 4:
                return
            dst = interface.source_for(src) or interface.link_local
        if not interface.reachable(src):
            return
        self.counters.echoes_answered += 1
        reply = icmp.Echo(True, echo.ident, echo.seq, echo.data)
        body = icmp.emit(reply, dst, src)
        proto = ip.ICMP if len(src) == 4 else ip.ICMPV6
        # A router may cut an answer of any length: it needs an identification (RFC 6864 4.1).
        interface.ident = (interface.ident + 1) & 0xFFFFFFFF
        repr = ip.Repr(dst, src, proto, ident=interface.ident & 0xFFFF)
        interface.send_packet(ip.emit(repr, body), now)

    def report(self, f: Any, kind: Kind, now: float, value: int = 0) -> None:
        """Send the error `kind` about a received frame, if the rules and the rate allow it."""
        offender = access.octets(f, f.l3, min(f.ip_len, icmp.V6_ERROR_MAX))
        group = bool(access.macs(f)[0][0] & 1)
        self.report_packet(offender, kind, now, value=value, link_multicast=group)

    def report_packet(
        self, offender: bytes, kind: Kind, now: float, *, value: int = 0,
        link_multicast: bool = False,
    ) -> None:  # fmt: skip
        """Send the error `kind` about an IP packet, of which at least the headers are given."""
        v4 = offender[0] >> 4 == 4
        source, target = (offender[12:16], offender[16:20]) if v4 else (
            offender[8:24], offender[24:40]
        )  # fmt: skip
        local = self.interface.local
        mine = target if target in local else self.interface.source_for(source)
        if mine is None:
            return
        packet = self.errors.build(
            offender, kind, mine, now, value=value, link_multicast=link_multicast
        )
        if packet is not None:
            self.interface.send_packet(packet, now)

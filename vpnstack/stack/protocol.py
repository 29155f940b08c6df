"""A registry for protocols of the user's own: an IP protocol number, or an EtherType.

    class Echo(Handler):
        def __init__(self):
            self.out = []
        def receive(self, src, packet, now):
            self.out.append((src, packet))
        def transmit(self, now):
            out, self.out = self.out, []
            return out

    host.stack.protocols[253] = Echo()      # for experiments (RFC 3692)
    host.stack.ethertypes[0x88B5] = Echo()  # for experiments (IEEE 802-2014 9.2.4)

A handler is a machine with three verbs, as everything below the stack is: no clock, no socket.
Addresses are packed: 4 or 16 octets for an IP protocol, 6 (a station's) for an EtherType.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from ..core import access
from ..wire import icmp, ip
from .interface import Interface

log = logging.getLogger(__name__)

T = TypeVar("T")


class Handler:
    """What a protocol does; override what you need."""

    def receive(self, src: bytes, packet: bytes, now: float) -> None:
        """Take the payload of a packet for us; it is yours to keep."""

    def icmp_received(self, dst: bytes, error: icmp.Error, now: float) -> None:
        """Learn that a packet to `dst` did not arrive (IP protocols only)."""

    def transmit(self, now: float) -> Iterable[tuple[bytes, bytes]]:
        """Return (destination, payload) pairs to be sent now.

        Called at every turn of the stack; after a call from outside, `driver.wake` brings one.
        """
        return ()

    def deadline(self) -> float | None:
        """Return when `transmit` has something to send by itself."""
        return None


class Registry:
    """The handlers of one interface."""

    def __init__(self, interface: Interface) -> None:
        self._interface = interface
        self.protocols: dict[int, Handler] = {}
        self.ethertypes: dict[int, Handler] = {}
        self.failures = 0

    @property
    def busy(self) -> bool:
        """True where there are handlers: they are asked at every turn."""
        return bool(self.protocols or self.ethertypes)

    def _call(self, handler: Handler, call: Callable[..., T], *args: Any) -> T | None:
        """Call a handler, whose error must not leave the memory of a burst borrowed."""
        try:
            return call(*args)
        except Exception:
            self.failures += 1
            log.exception("the protocol handler %s failed", type(handler).__name__)
            return None

    def receive_ip(self, f: Any, now: float) -> bool:
        """Give an IP packet to its protocol's handler; False where there is none."""
        handler = self.protocols.get(f.proto)
        if handler is None:
            return False
        octets = access.octets(f, f.data, f.data_len)
        self._call(handler, handler.receive, access.source(f), octets, now)
        return True

    def receive_frame(self, f: Any, now: float) -> None:
        """Give a frame that is neither IP nor ARP to its EtherType's handler."""
        handler = self.ethertypes.get(f.ethertype)
        if handler is not None:
            octets = access.octets(f, f.data, f.data_len)
            self._call(handler, handler.receive, access.macs(f)[1], octets, now)

    def icmp_received(self, error: icmp.Error, now: float) -> None:
        """Hand on an ICMP error about a packet of ours."""
        where = ip.upper(error.quote)
        handler = self.protocols.get(where.proto) if where is not None else None
        if handler is not None:
            v4 = error.quote[0] >> 4 == 4
            dst = error.quote[16:20] if v4 else error.quote[24:40]
            self._call(handler, handler.icmp_received, dst, error, now)

    def transmit(self, now: float) -> None:
        """Queue what handlers send."""
        if not self.protocols and not self.ethertypes:
            return
        interface = self._interface
        for proto, handler in self.protocols.items():
            for dst, payload in self._call(handler, handler.transmit, now) or ():
                src = interface.source_for(dst)
                if src is not None:
                    interface.send_packet(ip.emit(ip.Repr(src, dst, proto), payload), now)
        for ethertype, handler in self.ethertypes.items():
            for dst, payload in self._call(handler, handler.transmit, now) or ():
                interface.send_frame(dst, payload, ethertype)

    def deadline(self) -> float | None:
        """Return the earliest deadline of any handler."""
        if not self.protocols and not self.ethertypes:
            return None
        handlers = (*self.protocols.values(), *self.ethertypes.values())
        return min((at for h in handlers if (at := h.deadline()) is not None), default=None)

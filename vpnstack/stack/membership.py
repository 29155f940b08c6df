"""Groups of an interface: who joined what, told by IGMP and MLD."""

from __future__ import annotations

import random
from typing import Any

from ..core import access
from ..proto import igmp as igmp_host
from ..proto import mld as mld_host
from ..wire import igmp, ip, mld
from ..wire.malformed import Malformed
from .interface import Interface


class Membership:
    """The groups of both families; `group in membership` says whether its packets are for us."""

    def __init__(self, interface: Interface, rng: random.Random) -> None:
        self.interface = interface
        self.igmp = igmp_host.Host(rng)
        self.mld = mld_host.Host(rng)
        self.malformed = 0

    def __contains__(self, group: bytes) -> bool:
        return group in (self.igmp if len(group) == 4 else self.mld)

    def join(self, group: bytes, now: float) -> bool:
        """Receive what is sent to `group` (4 or 16 octets); False when there is no room."""
        if not ip.is_multicast(group):
            return False
        return (self.igmp if len(group) == 4 else self.mld).join(group, now)

    def join_own(self, now: float) -> None:
        """Join the solicited-node groups of our fixed addresses (RFC 4291 2.8)."""
        groups = {ip.solicited_node(a) for a in self.interface.local if len(a) == 16}
        for group in sorted(groups):
            self.join(group, now)

    def leave(self, group: bytes, now: float) -> None:
        """Undo one `join`."""
        (self.igmp if len(group) == 4 else self.mld).leave(group, now)

    def receive_igmp(self, f: Any, now: float) -> None:
        """Take an IGMP frame; what came through a router is none (RFC 3376 4)."""
        try:
            message = igmp.parse(access.octets(f, f.data, f.data_len))
        except Malformed:
            self.malformed += 1
            return
        if f.ttl == 1 and access.source(f) not in self.interface.local:
            self.igmp.receive(message, access.destination(f), now)

    def receive_mld(self, f: Any, now: float) -> None:
        """Take an MLD frame; it must have a hop-by-hop header (RFC 3810 6.2)."""
        src, dst = access.source(f), access.destination(f)
        body = access.octets(f, f.l4, f.data + f.data_len - f.l4)
        try:
            message = mld.parse(body, src, dst, f.ttl)
        except Malformed:
            self.malformed += 1
            return
        if f.head[f.l3 + 6] != ip.HOP_BY_HOP:
            self.malformed += 1
        elif src not in self.interface.local:
            self.mld.receive(message, dst, now)

    def transmit(self, now: float) -> None:
        """Queue the reports that are due."""
        interface = self.interface
        for packet in self.igmp.transmit(self._source4(), now):
            interface.send_packet(packet, now)
        mine = interface.link_local if interface.link_local in interface.local else None
        for packet in self.mld.transmit(mine, now):
            interface.send_packet(packet, now)

    def _source4(self) -> bytes | None:
        mine = (a.packed for a in self.interface.addresses if a.version == 4)
        return next(mine, None)

    def deadline(self) -> float | None:
        """Return when `transmit` has something to do next."""
        times = (self.igmp.groups.deadline(), self.mld.groups.deadline())
        return min((at for at in times if at is not None), default=None)

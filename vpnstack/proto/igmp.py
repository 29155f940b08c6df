"""IGMP of a host (RFC 3376, with RFC 2236 and RFC 1112 towards older queriers).

The machine is `groups`; here are its packets.  224.0.0.1 is joined without a word (RFC 3376 6).
"""

from __future__ import annotations

import random

from ..wire import igmp, ip
from . import groups

CONFIG = groups.Config(newest=3)


class Host:
    """The IPv4 groups of one interface."""

    def __init__(self, rng: random.Random, config: groups.Config = CONFIG) -> None:
        self.groups = groups.Groups(config, rng)

    def __contains__(self, group: bytes) -> bool:
        return group == igmp.ALL_HOSTS or group in self.groups

    def join(self, group: bytes, now: float) -> bool:
        """Join a group; False when there is no room for it."""
        return group == igmp.ALL_HOSTS or self.groups.join(group, now)

    def leave(self, group: bytes, now: float) -> None:
        """Leave a group."""
        self.groups.leave(group, now)

    def receive(self, message: igmp.Repr, dst: bytes, now: float) -> None:
        """Take a message that came to `dst`."""
        if isinstance(message, igmp.Report) and not message.leave:
            self.groups.receive_report(message.group, now)
        if not isinstance(message, igmp.Query):
            return
        general = message.group == ip.UNSPECIFIED_V4
        if general and dst != igmp.ALL_HOSTS and message.version == 3:
            return  # RFC 3376 9.1: a forged one, sent to a single host
        self.groups.receive_query(
            None if general else message.group, message.sources, message.max_response,
            message.version, now, message.robustness if message.version == 3 else 0,
        )  # fmt: skip

    def transmit(self, src: bytes | None, now: float) -> list[bytes]:
        """Return the IP packets that are due; `src` is our address, None while we have none."""
        src = src or ip.UNSPECIFIED_V4  # RFC 3376 4.2.13
        return [_packet(src, out) for out in self.groups.transmit(now)]


def _packet(src: bytes, out: groups.Transmit) -> bytes:
    if out.version == 3:
        return igmp.packet(src, igmp.V3_REPORTS, igmp.ReportV3(out.records))
    (record,) = out.records
    leaves = record.mode is igmp.Mode.TO_INCLUDE
    dst = igmp.ALL_ROUTERS if leaves else record.group
    return igmp.packet(src, dst, igmp.Report(record.group, out.version, leaves))

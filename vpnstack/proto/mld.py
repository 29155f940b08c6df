"""Multicast listener discovery of a host (RFC 3810, with RFC 2710 towards older queriers).

The machine is `groups`; here are its packets.  The group of all nodes, and groups that do not
leave the host, are joined without a word (RFC 3810 6).
"""

from __future__ import annotations

import random

from ..wire import ip, mld
from . import groups

CONFIG = groups.Config(newest=2)


class Host:
    """The IPv6 groups of one interface."""

    def __init__(self, rng: random.Random, config: groups.Config = CONFIG) -> None:
        self.groups = groups.Groups(config, rng)
        self._silent: dict[bytes, int] = {}

    def __contains__(self, group: bytes) -> bool:
        return group == ip.ALL_NODES or group in self._silent or group in self.groups

    def join(self, group: bytes, now: float) -> bool:
        """Join a group; False when there is no room for it."""
        if not silent(group):
            return self.groups.join(group, now)
        if group not in self._silent and len(self._silent) >= self.groups.config.groups_max:
            return False
        self._silent[group] = self._silent.get(group, 0) + 1
        return True

    def leave(self, group: bytes, now: float) -> None:
        """Leave a group."""
        if not silent(group):
            self.groups.leave(group, now)
        elif self._silent.get(group, 0) > 1:
            self._silent[group] -= 1
        else:
            self._silent.pop(group, None)

    def receive(self, message: mld.Repr, dst: bytes, now: float) -> None:
        """Take a message that came to `dst`."""
        if isinstance(message, mld.Report) and not message.leave:
            self.groups.receive_report(message.group, now)
        if not isinstance(message, mld.Query):
            return
        general = message.group == ip.UNSPECIFIED_V6
        if general and dst != ip.ALL_NODES:  # a forged one, sent to a single host
            return
        self.groups.receive_query(
            None if general else message.group, message.sources, message.max_response,
            message.version, now, message.robustness if message.version == 2 else 0,
        )  # fmt: skip

    def transmit(self, src: bytes | None, now: float) -> list[bytes]:
        """Return the IP packets that are due; `src` is our link-local address once it is ours."""
        src = src or ip.UNSPECIFIED_V6  # RFC 3810 5.2.13
        return [_packet(src, out) for out in self.groups.transmit(now)]


def silent(group: bytes) -> bool:
    """Tell whether a group is never reported: all nodes, and scopes 0 and 1."""
    return group == ip.ALL_NODES or group[1] & 15 <= 1


def _packet(src: bytes, out: groups.Transmit) -> bytes:
    if out.version == 2:
        return mld.packet(src, mld.V2_REPORTS, mld.ReportV2(out.records))
    (record,) = out.records
    leaves = record.mode is mld.Mode.TO_INCLUDE
    dst = ip.ALL_ROUTERS if leaves else record.group
    return mld.packet(src, dst, mld.Report(record.group, leaves))

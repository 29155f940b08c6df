"""ARP for IPv4 over Ethernet (RFC 826), with the probes and announcements of RFC 5227."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import dpkt

from . import ethernet, ip
from .malformed import Malformed, need

LENGTH = 28


class Op(enum.IntEnum):
    """The operations that we speak; reverse ARP is not among them."""

    REQUEST = 1
    REPLY = 2


@dataclass(frozen=True, slots=True)
class Repr:
    """A request or reply: sender's and target's hardware (6) and protocol (4) addresses."""

    op: Op
    sha: bytes
    spa: bytes
    tha: bytes
    tpa: bytes

    @property
    def is_probe(self) -> bool:
        """True for a request with no sender address (RFC 5227 2.1.1): nothing to learn from it."""
        return self.spa == ip.UNSPECIFIED_V4

    @property
    def is_gratuitous(self) -> bool:
        """True where a station announces its own address (RFC 5227 2.3)."""
        return self.spa == self.tpa

    def __str__(self) -> str:
        spa, tpa = ip.format_address(self.spa), ip.format_address(self.tpa)
        if self.op is Op.REQUEST:
            return f"ARP, Request who-has {tpa} tell {spa}"
        return f"ARP, Reply {spa} is-at {ethernet.format_mac(self.sha)}"


def parse(data: bytes) -> Repr:
    """Read a message; padding behind it is dropped.  The sender must be one station."""
    need("arp", "a message", data, LENGTH)
    packet = dpkt.arp.ARP(data[:LENGTH])
    kinds = (packet.hrd, packet.pro, packet.hln, packet.pln)
    if kinds != (dpkt.arp.ARP_HRD_ETH, dpkt.arp.ARP_PRO_IP, 6, 4):
        raise Malformed("arp", "hardware 1, protocol 0x800, lengths 6 and 4", kinds)
    if packet.op not in (Op.REQUEST, Op.REPLY):
        raise Malformed("arp", "operation 1 or 2", packet.op)
    if not ethernet.is_unicast(packet.sha):
        raise Malformed("arp", "a station's address as sender", packet.sha.hex(":"))
    if ip.is_multicast(packet.spa) or packet.spa == ip.BROADCAST_V4:
        raise Malformed("arp", "a host's address as sender", ip.format_address(packet.spa))
    return Repr(Op(packet.op), packet.sha, packet.spa, packet.tha, packet.tpa)


def emit(repr: Repr) -> bytes:
    """Build the message without padding."""
    return bytes(dpkt.arp.ARP(op=repr.op, sha=repr.sha, spa=repr.spa, tha=repr.tha, tpa=repr.tpa))


def request(sha: bytes, spa: bytes, tpa: bytes) -> Repr:
    """Make the request of `sha`, `spa` for `tpa`."""
    return Repr(Op.REQUEST, sha, spa, ethernet.ZERO, tpa)


def reply(to: Repr, sha: bytes) -> Repr:
    """Make the answer to the request `to`: its target is at `sha`."""
    return Repr(Op.REPLY, sha, to.tpa, to.sha, to.spa)

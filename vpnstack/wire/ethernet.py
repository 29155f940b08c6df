"""Ethernet II frames (IEEE 802.3-2022 clause 3; RFC 894, RFC 2464) for packets off the fast path.

The fast path's headers are parsed and built in C (`core/frame.h`).  MAC addresses are 6 octets.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from .malformed import Malformed, need

HEADER_LEN = 14
MAC_LEN = 6

TYPE_IPV4 = 0x0800
TYPE_ARP = 0x0806
TYPE_VLAN = 0x8100
TYPE_IPV6 = 0x86DD

BROADCAST = b"\xff" * 6
ZERO = bytes(6)

_MAC = re.compile(r"[0-9a-fA-F]{1,2}(?:([:-])[0-9a-fA-F]{1,2})(?:\1[0-9a-fA-F]{1,2}){4}")


@dataclass(frozen=True, slots=True)
class Repr:
    """An Ethernet header; `ethertype` is a number from 0x0600."""

    dst: bytes
    src: bytes
    ethertype: int

    def __str__(self) -> str:
        return f"{format_mac(self.src)} > {format_mac(self.dst)}, ethertype 0x{self.ethertype:04x}"


def parse(frame: bytes) -> tuple[Repr, bytes]:
    """Split a frame without FCS into its header and its payload, padding included."""
    need("ethernet", "a frame", frame, HEADER_LEN)
    ethertype = int.from_bytes(frame[12:14])
    if ethertype < 0x0600:
        raise Malformed("ethernet", "an EtherType from 0x0600", f"0x{ethertype:04x}")
    return Repr(frame[:6], frame[6:12], ethertype), frame[14:]


def emit(repr: Repr, payload: bytes) -> bytes:
    """Build the frame, unpadded and without FCS."""
    return repr.dst + repr.src + repr.ethertype.to_bytes(2) + payload


def parse_mac(text: str) -> bytes:
    """Read `aa:bb:cc:dd:ee:ff` or `aa-bb-...`; raises ValueError on anything else."""
    if not _MAC.fullmatch(text):
        raise ValueError(f"expected a MAC address such as 02:00:00:00:00:01, found {text!r}")
    return bytes(int(part, 16) for part in re.split("[:-]", text))


def format_mac(mac: bytes) -> str:
    """Write a MAC address as `aa:bb:cc:dd:ee:ff`."""
    return mac.hex(":")


def is_unicast(mac: bytes) -> bool:
    """Tell whether `mac` can be one station's: not a group address and not all zero."""
    return len(mac) == MAC_LEN and not mac[0] & 1 and mac != ZERO


def local_mac(name: str) -> bytes:
    """Return a locally administered address (IEEE 802-2014 8.4), always the same for a name."""
    digest = hashlib.blake2s(f"trikit:{name}".encode(), digest_size=5).digest()
    return b"\x02" + digest

"""Neighbour discovery (RFC 4861 4, 6.1, 7.1) with the DNS options of RFC 8106.

`parse` applies all validity checks of RFC 4861 that the message and its IP header allow, among
them the hop limit of 255, which no packet from another link can have.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar

from . import ethernet, ip, names
from .malformed import Malformed, need

HOP_LIMIT = 255
RS, RA, NS, NA, REDIRECT = 133, 134, 135, 136, 137
SLLA, TLLA, PREFIX, REDIRECTED, MTU, NONCE, RDNSS, DNSSL = 1, 2, 3, 4, 5, 14, 25, 31
QUOTE_MAX = 1280 - 40 - 40 - 16  # octets of the packet that a redirect quotes (RFC 4861 4.6.3)
OPTIONS_MAX = 64

_RA = struct.Struct("!BBHII")
_PREFIX = struct.Struct("!BBIII16s")
_ROUTER, _SOLICITED, _OVERRIDE = 0x80, 0x40, 0x20
_MANAGED, _OTHER = 0x80, 0x40
_ON_LINK, _AUTONOMOUS = 0x80, 0x40


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prefix information option (RFC 4861 4.6.2); lifetimes in seconds."""

    prefix: bytes
    length: int = 64
    on_link: bool = True
    autonomous: bool = True
    valid: int = 86400
    preferred: int = 14400


@dataclass(frozen=True, slots=True)
class Rdnss:
    """Recursive DNS servers (RFC 8106 5.1); lifetime in seconds."""

    lifetime: int
    servers: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Dnssl:
    """The search list (RFC 8106 5.2); lifetime in seconds."""

    lifetime: int
    domains: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RouterSolicitation:
    """RFC 4861 4.1; `slla` is the sender's link address."""

    type: ClassVar[int] = RS
    slla: bytes | None = None

    def __str__(self) -> str:
        return "ICMP6, router solicitation"


@dataclass(frozen=True, slots=True)
class RouterAdvertisement:
    """RFC 4861 4.2; `lifetime` in seconds, 0 for not a default router, timers in milliseconds."""

    type: ClassVar[int] = RA
    hop_limit: int = 64
    lifetime: int = 1800
    managed: bool = False
    other: bool = False
    reachable: int = 0
    retrans: int = 0
    slla: bytes | None = None
    mtu: int | None = None
    prefixes: tuple[Prefix, ...] = ()
    rdnss: tuple[Rdnss, ...] = ()
    dnssl: tuple[Dnssl, ...] = ()

    def __str__(self) -> str:
        prefixes = ", ".join(f"{ip.format_address(p.prefix)}/{p.length}" for p in self.prefixes)
        return f"ICMP6, router advertisement, lifetime {self.lifetime}s, prefixes [{prefixes}]"


@dataclass(frozen=True, slots=True)
class NeighbourSolicitation:
    """RFC 4861 4.3; `nonce` tells a probe of our own that came back (RFC 7527)."""

    type: ClassVar[int] = NS
    target: bytes
    slla: bytes | None = None
    nonce: bytes | None = None

    def __str__(self) -> str:
        return f"ICMP6, neighbor solicitation, who has {ip.format_address(self.target)}"


@dataclass(frozen=True, slots=True)
class NeighbourAdvertisement:
    """RFC 4861 4.4."""

    type: ClassVar[int] = NA
    target: bytes
    tlla: bytes | None = None
    router: bool = False
    solicited: bool = False
    override: bool = True

    def __str__(self) -> str:
        return f"ICMP6, neighbor advertisement, tgt is {ip.format_address(self.target)}"


@dataclass(frozen=True, slots=True)
class Redirect:
    """RFC 4861 4.5: `target` is the better first hop to `destination`; `quote` caused it."""

    type: ClassVar[int] = REDIRECT
    target: bytes
    destination: bytes
    tlla: bytes | None = None
    quote: bytes = b""

    def __str__(self) -> str:
        to, hop = ip.format_address(self.destination), ip.format_address(self.target)
        return f"ICMP6, redirect, {to} to {hop}"


Repr = (
    RouterSolicitation
    | RouterAdvertisement
    | NeighbourSolicitation
    | NeighbourAdvertisement
    | Redirect
)

_FIXED = {RS: 8, RA: 16, NS: 24, NA: 24, REDIRECT: 40}


def parse(data: bytes, src: bytes, dst: bytes, hop_limit: int) -> Repr:
    """Read the ICMPv6 message `data` that came from `src` to `dst` with this hop limit."""
    if hop_limit != HOP_LIMIT:
        raise Malformed("ndp", "hop limit 255", hop_limit)
    need("ndp", "a message", data, 8)
    if data[0] not in _FIXED or data[1]:
        raise Malformed("ndp", "type 133 to 137, code 0", (data[0], data[1]))
    need("ndp", "a message", data, _FIXED[data[0]])
    if ip.checksum(data, ip.pseudo_sum(src, dst, ip.ICMPV6, len(data))):
        raise Malformed("ndp", "a right checksum", data[2:4].hex())
    options = _options(data[_FIXED[data[0]] :])
    if data[0] == RS:
        return _parse_rs(src, options)
    if data[0] == RA:
        return _parse_ra(data, src, options)
    if data[0] == REDIRECT:
        return _parse_redirect(data, src, options)
    return _parse_neighbour(data, src, dst, options)


def _options(data: bytes) -> list[tuple[int, bytes]]:
    """Split the options into (type, body behind the length); the walk always moves on."""
    found, at = list[tuple[int, bytes]](), 0
    while at < len(data):
        length = data[at + 1] * 8 if len(data) - at >= 2 else 0
        if not 0 < length <= len(data) - at or len(found) == OPTIONS_MAX:
            # RFC 4861 4.6: a length of 0 makes the whole message invalid.
            raise Malformed("ndp", "an option length within the message", data[at : at + 2].hex())
        found.append((data[at], data[at + 2 : at + length]))
        at += length
    return found


def _mac(options: list[tuple[int, bytes]], kind: int) -> bytes | None:
    for number, body in options:
        if number == kind:
            if len(body) != 6 or not ethernet.is_unicast(body):
                raise Malformed("ndp", "a station's link address of 6 octets", body.hex(":"))
            return body
    return None


def _parse_rs(src: bytes, options: list[tuple[int, bytes]]) -> RouterSolicitation:
    slla = _mac(options, SLLA)
    if src == ip.UNSPECIFIED_V6 and slla is not None:  # RFC 4861 6.1.1
        raise Malformed("ndp", "no link address from the unspecified address", slla.hex(":"))
    return RouterSolicitation(slla)


def _parse_ra(data: bytes, src: bytes, options: list[tuple[int, bytes]]) -> RouterAdvertisement:
    if not ip.is_link_local(src):  # RFC 4861 6.1.2
        raise Malformed("ndp", "a link-local source", ip.format_address(src))
    hop_limit, flags, lifetime, reachable, retrans = _RA.unpack_from(data, 4)
    mtus = [int.from_bytes(body[2:6]) for kind, body in options if kind == MTU and len(body) == 6]
    return RouterAdvertisement(
        hop_limit,
        lifetime,
        bool(flags & _MANAGED),
        bool(flags & _OTHER),
        reachable,
        retrans,
        _mac(options, SLLA),
        mtus[0] if mtus else None,
        tuple(_parse_prefix(body) for kind, body in options if kind == PREFIX),
        tuple(_parse_rdnss(body) for kind, body in options if kind == RDNSS),
        tuple(_parse_dnssl(body) for kind, body in options if kind == DNSSL),
    )


def _parse_prefix(body: bytes) -> Prefix:
    if len(body) != _PREFIX.size or body[0] > 128:
        raise Malformed("ndp", "a prefix option of 32 octets, length to 128", body[:1].hex())
    length, flags, valid, preferred, _, prefix = _PREFIX.unpack(body)
    on_link, autonomous = bool(flags & _ON_LINK), bool(flags & _AUTONOMOUS)
    return Prefix(prefix, length, on_link, autonomous, valid, preferred)


def _parse_rdnss(body: bytes) -> Rdnss:
    servers = body[6:]
    if not servers or len(servers) % 16:  # RFC 8106 5.3.1
        raise Malformed("ndp", "one or more whole addresses in RDNSS", len(servers))
    found = tuple(servers[i : i + 16] for i in range(0, len(servers), 16))
    return Rdnss(int.from_bytes(body[2:6]), found)


def _parse_dnssl(body: bytes) -> Dnssl:
    return Dnssl(int.from_bytes(body[2:6]), names.parse(body[6:], "ndp"))


def _parse_neighbour(
    data: bytes, src: bytes, dst: bytes, options: list[tuple[int, bytes]]
) -> NeighbourSolicitation | NeighbourAdvertisement:
    target, flags = data[8:24], data[4]
    if ip.is_multicast(target):
        raise Malformed("ndp", "a unicast target", ip.format_address(target))
    if data[0] == NA:
        if flags & _SOLICITED and ip.is_multicast(dst):  # RFC 4861 7.1.2
            raise Malformed("ndp", "no solicited flag to a group", f"0x{flags:02x}")
        bits = (bool(flags & bit) for bit in (_ROUTER, _SOLICITED, _OVERRIDE))
        return NeighbourAdvertisement(target, _mac(options, TLLA), *bits)
    slla = _mac(options, SLLA)
    probe = dst == ip.solicited_node(target) and slla is None
    if src == ip.UNSPECIFIED_V6 and not probe:  # RFC 4861 7.1.1
        raise Malformed("ndp", "a plain probe from the unspecified address", f"{len(data)} octets")
    nonce = next((body for number, body in options if number == NONCE), None)
    return NeighbourSolicitation(target, slla, nonce)


def _parse_redirect(data: bytes, src: bytes, options: list[tuple[int, bytes]]) -> Redirect:
    """Check RFC 4861 8.1."""
    target, destination = data[8:24], data[24:40]
    if not ip.is_link_local(src):
        raise Malformed("ndp", "a link-local source of a redirect", ip.format_address(src))
    if ip.is_multicast(destination):
        raise Malformed("ndp", "a unicast destination", ip.format_address(destination))
    if not ip.is_link_local(target) and target != destination:
        raise Malformed("ndp", "a router or the destination as target", ip.format_address(target))
    quote = next((body[6:] for number, body in options if number == REDIRECTED), b"")
    return Redirect(target, destination, _mac(options, TLLA), quote)


def emit(repr: Repr, src: bytes, dst: bytes) -> bytes:
    """Build the ICMPv6 message from `src` to `dst`; send it with hop limit 255."""
    message = bytes([repr.type, 0, 0, 0]) + _body(repr)
    right = ip.checksum(message, ip.pseudo_sum(src, dst, ip.ICMPV6, len(message)))
    return message[:2] + right.to_bytes(2) + message[4:]


def _body(repr: Repr) -> bytes:
    if isinstance(repr, RouterSolicitation):
        return bytes(4) + _link(SLLA, repr.slla)
    if isinstance(repr, RouterAdvertisement):
        return _ra_body(repr)
    if isinstance(repr, NeighbourSolicitation):
        nonce = _option(NONCE, repr.nonce) if repr.nonce else b""
        return bytes(4) + repr.target + _link(SLLA, repr.slla) + nonce
    if isinstance(repr, Redirect):
        quote = repr.quote[: QUOTE_MAX & ~7]
        end = _option(REDIRECTED, bytes(6) + quote) if quote else b""
        return bytes(4) + repr.target + repr.destination + _link(TLLA, repr.tlla) + end
    flags = repr.router * _ROUTER | repr.solicited * _SOLICITED | repr.override * _OVERRIDE
    return bytes([flags, 0, 0, 0]) + repr.target + _link(TLLA, repr.tlla)


def _ra_body(repr: RouterAdvertisement) -> bytes:
    flags = repr.managed * _MANAGED | repr.other * _OTHER
    parts = [_RA.pack(repr.hop_limit, flags, repr.lifetime, repr.reachable, repr.retrans)]
    parts.append(_link(SLLA, repr.slla))
    if repr.mtu is not None:
        parts.append(_option(MTU, bytes(2) + repr.mtu.to_bytes(4)))
    for p in repr.prefixes:
        flags = p.on_link * _ON_LINK | p.autonomous * _AUTONOMOUS
        fields = (p.length, flags, p.valid, p.preferred, 0, p.prefix)
        parts.append(_option(PREFIX, _PREFIX.pack(*fields)))
    for r in repr.rdnss:
        parts.append(_option(RDNSS, bytes(2) + r.lifetime.to_bytes(4) + b"".join(r.servers)))
    for d in repr.dnssl:
        parts.append(_option(DNSSL, bytes(2) + d.lifetime.to_bytes(4) + names.emit(d.domains)))
    return b"".join(parts)


def _link(kind: int, mac: bytes | None) -> bytes:
    return b"" if mac is None else _option(kind, mac)


def _option(kind: int, body: bytes) -> bytes:
    """Frame an option, padding with zeros to a multiple of 8 octets (RFC 4861 4.6)."""
    body += bytes(-(len(body) + 2) % 8)
    return bytes([kind, (len(body) + 2) // 8]) + body

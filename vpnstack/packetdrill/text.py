"""Packets as one line, as scripts and tcpdump write them."""

from __future__ import annotations

from .names import ECN, icmp_name
from .script import FLAG_LETTERS, Icmp, IpInfo, Option, Packet, Quote, Tcp, Udp

MASK = 0xFFFFFFFF


def line(packet: Packet, version: int, brackets: bool = False) -> str:
    """Write a packet; with `brackets` what is known of its IP header as well."""
    front = _info(packet.info, brackets)
    if isinstance(packet, Tcp):
        return front + _tcp(packet)
    if isinstance(packet, Udp):
        return f"{front}udp ({packet.length})"
    return front + _icmp(packet, version)


def _info(info: IpInfo, brackets: bool) -> str:
    parts = []
    if info.ecn is not None and (brackets or info.ecn):
        parts.append(next(name for name, value in ECN.items() if value == info.ecn))
    if brackets and info.ttl is not None:
        parts.append(f"ttl {info.ttl}")
    for name, port in (("sport", info.sport), ("dport", info.dport)):
        if port is not None:
            parts.append(f"{name} {port}")
    return f"[{', '.join(parts)}] " if parts else ""


def flags(bits: int) -> str:
    """Write control bits as letters, `-` for none."""
    return "".join(c for i, c in enumerate(FLAG_LETTERS) if bits >> i & 1) or "-"


def _tcp(p: Tcp) -> str:
    letters = flags(p.flags & ~16) if p.flags & ~16 else ""
    letters += "." if p.flags & 16 else ""
    parts = [letters or "-", f"{p.seq}:{(p.seq + p.length) & MASK}({p.length})"]
    for name, value in (("ack", p.ack if p.flags & 16 else None), ("win", p.win)):
        if value is not None:
            parts.append(f"{name} {value}")
    if p.urg:
        parts.append(f"urg {p.urg}")
    if p.options is None:
        parts.append("<...>")
    elif p.options:
        parts.append(f"<{','.join(option(o) for o in p.options)}>")
    return " ".join(parts)


def option(o: Option) -> str:
    """Write one TCP option."""
    name, values = o
    if name == "TS":
        return f"TS val {values[0]} ecr {values[1]}"
    if name == "sack":
        pairs = zip(values[::2], values[1::2], strict=True)
        return "sack " + " ".join(f"{left}:{right}" for left, right in pairs)
    if name == "kind":
        return f"kind {values[0]}" + (f" 0x{bytes(values[1:]).hex()}" if values[1:] else "")
    return " ".join([name, *map(str, values)])


def _icmp(p: Icmp, version: int) -> str:
    parts = ["icmp", icmp_name(version, p.type, p.code)]
    if p.value:
        parts.append(f"mtu {p.value}")
    for name, value in (("id", p.ident), ("seq", p.seq)):
        if value is not None:
            parts.append(f"{name} {value}")
    if p.length is not None:
        parts.append(f"({p.length})")
    if p.quote is not None:
        parts.append(_quote(p.quote))
    return " ".join(parts)


def _quote(q: Quote) -> str:
    if q.protocol == "udp":
        return f"[udp ({q.length})]"
    return f"[{q.seq}:{(q.seq + q.length) & MASK}({q.length})]"

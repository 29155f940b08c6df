"""From a script's packet to the octets of an IP packet, as the peer would send it."""

from __future__ import annotations

import struct

from ..wire import icmp, ip
from .errors import ScriptError
from .flows import FlowMap
from .script import Icmp, IpInfo, Option, Packet, Quote, Tcp, Udp

TCP_HEADER_LEN = 20
QUOTE_WINDOW = 65535
OPTIONS_MAX = 40
BODY_MAX = 65535 - ip.V4_HEADER_LEN
_KINDS = {"eol": 0, "nop": 1, "mss": 2, "wscale": 3, "sackOK": 4, "sack": 5, "TS": 8}
_FORMATS = {"mss": "H", "wscale": "B", "TS": "II"}


class Builder:
    """Builds what goes from `remote` to `local` (packed addresses)."""

    def __init__(self, local: bytes, remote: bytes) -> None:
        self.local = local
        self.remote = remote
        self.version = 4 if len(local) == 4 else 6

    def packet(self, what: Packet, flow: FlowMap) -> bytes:
        """Build the IP packet for `what`, which came by `flow`."""
        if isinstance(what, Tcp):
            return self._tcp(what, flow)
        if isinstance(what, Udp):
            return self._udp(what, flow)
        return self._icmp(what, flow)

    def _emit(self, info: IpInfo, proto: int, body: bytes) -> bytes:
        tos = (info.tos or 0) & ~3 | max(info.ecn or 0, (info.tos or 0) & 3)
        ttl = 64 if info.ttl is None else info.ttl
        return ip.emit(ip.Repr(self.remote, self.local, proto, ttl=ttl, tos=tos), body)

    def _sum(self, body: bytes, proto: int, at: int, info: IpInfo) -> bytes:
        """Set the checksum at offset `at`, or what `info` wants instead."""
        pseudo = ip.pseudo_sum(self.remote, self.local, proto, len(body))
        right = ip.checksum(body, pseudo)
        if proto == ip.UDP:
            right = right or 0xFFFF
        if info.csum:
            right = 0 if info.csum == "zero" else right ^ 0x5555
        return body[:at] + right.to_bytes(2, "big") + body[at + 2 :]

    def _tcp(self, what: Tcp, flow: FlowMap) -> bytes:
        ack = 0
        if what.flags & 16:
            ack = flow.to_wire(what.ack or 0)
        options = emit_options(what.options or (), flow)
        header = struct.pack(
            "!HHIIHHHH", flow.remote, flow.local, what.seq, ack,
            min((TCP_HEADER_LEN + len(options)) // 4, 15) << 12 | what.flags,
            what.win if what.win is not None else 0, 0, what.urg or 0,
        )  # fmt: skip
        body = header + options + bytes(what.length)
        if len(options) > OPTIONS_MAX or len(body) > BODY_MAX:
            raise ScriptError(
                f"expected at most {OPTIONS_MAX} octets of options and {BODY_MAX} in all, "
                f"found {len(options)} and {len(body)}"
            )
        return self._emit(what.info, ip.TCP, self._sum(body, ip.TCP, 16, what.info))

    def _udp(self, what: Udp, flow: FlowMap) -> bytes:
        header = struct.pack("!HHHH", flow.remote, flow.local, 8 + what.length, 0)
        body = self._sum(header + bytes(what.length), ip.UDP, 6, what.info)
        return self._emit(what.info, ip.UDP, body)

    def _icmp(self, what: Icmp, flow: FlowMap) -> bytes:
        proto = ip.ICMP if self.version == 4 else ip.ICMPV6
        if what.quote is None:
            value = (what.ident or 0) << 16 | (what.seq or 0)
            rest = bytes(what.length or 0)
        else:
            value = what.value or 0
            rest = self._quoted(what.quote, flow)[: icmp.quote_max(self.version)]
        body = struct.pack("!BBHI", what.type, what.code, 0, value) + rest
        pseudo = 0
        if self.version == 6:
            pseudo = ip.pseudo_sum(self.remote, self.local, proto, len(body))
        right = ip.checksum(body, pseudo) ^ (0x5555 if what.info.csum == "bad" else 0)
        return self._emit(what.info, proto, body[:2] + right.to_bytes(2, "big") + body[4:])

    def _quoted(self, quote: Quote, flow: FlowMap) -> bytes:
        """Build the packet of ours that an error quotes."""
        ports = struct.pack("!HH", flow.local, flow.remote)
        if quote.protocol == "udp":
            body = ports + struct.pack("!HH", 8 + quote.length, 0) + bytes(quote.length)
            return ip.emit(ip.Repr(self.local, self.remote, ip.UDP), body)
        seq = flow.to_wire(quote.seq)
        header = ports + struct.pack("!IIHHHH", seq, 0, 5 << 12 | 16, QUOTE_WINDOW, 0, 0)
        packet = ip.Repr(self.local, self.remote, ip.TCP, dont_fragment=True)
        return ip.emit(packet, header + bytes(quote.length))


def emit_options(options: tuple[Option, ...], flow: FlowMap) -> bytes:
    """Build the options in the script's order, padded to a multiple of four octets."""
    out = bytearray()
    for option in options:
        name, values = option
        if name in ("eol", "nop"):
            out.append(_KINDS[name])
        elif name == "kind":
            out += bytes((values[0], 1 + len(values))) + bytes(values[1:])
        else:
            body = _body(name, values, flow)
            out += bytes((_KINDS[name], 2 + len(body))) + body
    return bytes(out) + bytes(-len(out) % 4)


def _body(name: str, values: tuple[int, ...], flow: FlowMap) -> bytes:
    if name == "TS":
        values = (values[0], flow.echo(values[1]))
    if name == "sack":
        return b"".join(flow.to_wire(edge).to_bytes(4, "big") for edge in values)
    return struct.pack("!" + _FORMATS.get(name, ""), *values)

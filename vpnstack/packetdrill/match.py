"""Whether a packet that the stack sent is the one that a script expects.

What a script leaves out is not checked: the window, the acknowledgement, what stands in brackets.
Flags, numbers and lengths are; so are TCP options, but for padding and order, unless the script
says `<...>`.
"""

from __future__ import annotations

from dataclasses import replace

from . import text
from .decode import Sent
from .flows import FlowMap
from .script import Icmp, IpInfo, Option, Packet, Tcp, Udp
from .settings import Settings

SYN, ACK = 2, 16


def translate(sent: Sent, flow: FlowMap) -> Packet:
    """Write a packet of the stack's with the script's numbers; a SYN of ours starts them."""
    packet = sent.packet
    if isinstance(packet, Tcp):
        if packet.flags & SYN:
            flow.isn = packet.seq
        options = tuple(_show(o, flow) for o in packet.options or ())
        return replace(packet, seq=flow.to_script(packet.seq), options=options)
    return packet


def _show(option: Option, flow: FlowMap) -> Option:
    if option.name == "TS":
        return Option("TS", (flow.timestamp(option.values[0]), option.values[1]))
    return option


def differences(want: Packet, found: Packet, flow: FlowMap, sent: Sent, s: Settings) -> list[str]:
    """Compare `found` (in the script's numbers) with what is wanted; return what differs."""
    if isinstance(want, Tcp) and isinstance(found, Tcp):
        out = _tcp(want, found, flow, sent, s)
    elif isinstance(want, Udp) and isinstance(found, Udp):
        out = _fields((("length", want.length, found.length),))
    elif isinstance(want, Icmp) and isinstance(found, Icmp):
        out = _icmp(want, found)
    else:
        return [f"protocol: expected {_protocol(want)}, found {_protocol(found)}"]
    return out + _info(want.info, found.info, sent)


def _protocol(packet: Packet) -> str:
    return type(packet).__name__.lower()


def _fields(rows: tuple[tuple[str, object, object], ...]) -> list[str]:
    """Compare; a wanted None is not checked."""
    return [
        f"{name}: expected {want}, found {found}"
        for name, want, found in rows
        if want is not None and want != found
    ]


def _tcp(want: Tcp, found: Tcp, flow: FlowMap, sent: Sent, s: Settings) -> list[str]:
    out = _fields(
        (
            ("flags", text.flags(want.flags), text.flags(found.flags)),
            ("seq", want.seq, found.seq),
            ("length", want.length, found.length),
            ("ack", want.ack, found.ack if found.flags & ACK else None),
            ("win", want.win, found.win),
            ("urg", want.urg, found.urg),
        )
    )
    if want.options is not None and isinstance(sent.packet, Tcp):
        out += _options(want.options, found.options or (), sent, flow, s)
    return out


def _options(
    want: tuple[Option, ...], found: tuple[Option, ...], sent: Sent, flow: FlowMap, s: Settings
) -> list[str]:
    """Compare options; the values of our timestamps only where their tick is known."""
    wire = sent.packet.options or () if isinstance(sent.packet, Tcp) else ()
    vals = {o.name: o.values for o in wire}
    for i, option in enumerate(want):
        if option.name == "TS" and "TS" in vals:
            out = _timestamp(option.values[0], vals["TS"][0], flow, s)
            if out:
                return out
            val = option.values[0]
            found = tuple(Option("TS", (val, o.values[1])) if o.name == "TS" else o for o in found)
            want = (*want[:i], option, *want[i + 1 :])
    if _listed(want, s.strict_options) == _listed(found, s.strict_options):
        return []
    names = [",".join(text.option(o) for o in side) or "none" for side in (want, found)]
    return [f"options: expected {names[0]}, found {names[1]}"]


def _listed(options: tuple[Option, ...], strict: bool) -> list[Option]:
    if strict:
        return list(options)
    return sorted(o for o in options if o.name not in ("nop", "eol"))


def _timestamp(script: int, wire: int, flow: FlowMap, s: Settings) -> list[str]:
    if s.ts_tick and flow.ts_first is not None:
        first, value = flow.ts_first
        passed = (wire - value) - (script - first)
        if abs(passed) * s.ts_tick > s.tolerance + s.ts_tick:
            return [f"TS val: expected {script}, found {script + passed}"]
    flow.sent_timestamp(script, wire)
    return []


def _icmp(want: Icmp, found: Icmp) -> list[str]:
    return _fields(
        (
            ("type", want.type, found.type),
            ("code", want.code, found.code),
            ("mtu", want.value, found.value),
            ("id", want.ident, found.ident),
            ("seq", want.seq, found.seq),
            ("length", want.length, found.length),
            ("quote", want.quote, found.quote),
        )
    )


def _info(want: IpInfo, found: IpInfo, sent: Sent) -> list[str]:
    ecn = want.ecn
    either = ecn == -1 and found.ecn in (1, 2)
    return _fields(
        (
            ("ecn", None if either else ecn, found.ecn),
            ("ttl", want.ttl, found.ttl),
            ("tos", want.tos, found.tos),
            ("sport", want.sport, sent.sport),
            ("dport", want.dport, sent.dport),
        )
    )

"""Frames as lines that read as tcpdump's, for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..core import access
from ..core._core import lib
from ..core.burst import Burst
from ..proto.tcp.segment import Segment
from ..wire import arp, dhcp, ethernet, icmp, ip, ndp
from ..wire.malformed import Malformed
from .capture import INBOUND

TCP, UDP = 6, 17
DHCP_PORTS = {67, 68}


class TextWriter:
    """A sink that writes a line for each frame: time, interface, direction, what it is."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._names: list[str] = []

    def interface(self, name: str) -> int:
        """Add an interface."""
        self._names.append(name)
        return len(self._names) - 1

    def frame(
        self, interface: int, direction: int, octets: bytes, now: float, comment: str = ""
    ) -> None:
        """Write one line."""
        arrow = "<" if direction == INBOUND else ">"
        note = f" ({comment})" if comment else ""
        self._write(f"{now:.6f} {self._names[interface]} {arrow} {describe(octets)}{note}")


def describe(octets: bytes) -> str:
    """Return one line about an Ethernet frame; never raises."""
    burst = Burst(1)
    f = burst.append(octets, b"\x02" + bytes(11))  # checksums are not our business here
    access.parse_burst(burst)
    if f.verdict or (not f.ip_version and f.ethertype != ethernet.TYPE_ARP):
        return _link(octets)
    try:
        return _ip(f) if f.ip_version else str(arp.parse(access.octets(f, f.data, f.data_len)))
    except Malformed as e:
        return f"{_link(octets)}, {e}"


def _link(octets: bytes) -> str:
    try:
        return f"{ethernet.parse(octets)[0]}, length {len(octets)}"
    except Malformed as e:
        return f"{e}, length {len(octets)}"


def _ip(f: Any) -> str:
    src, dst = access.source(f), access.destination(f)
    family = "IP" if f.ip_version == 4 else "IP6"
    ends = f"{family} {ip.format_address(src)} > {ip.format_address(dst)}"
    if f.is_frag:
        more = "+" if f.frag_more else ""
        return f"{ends}: frag {f.ip_id}:{f.data_len}@{f.frag_off}{more}, proto {f.proto}"
    if f.proto in (TCP, UDP):
        src_text, dst_text = ip.format_address(src), ip.format_address(dst)
        ports = f"{family} {src_text}.{f.sport} > {dst_text}.{f.dport}"
        return f"{ports}: {_segment(f) if f.proto == TCP else _datagram(f)}"
    if f.proto in (ip.ICMP, ip.ICMPV6):
        return f"{ends}: {_icmp(f, src, dst)}"
    return f"{ends}: proto {f.proto}, length {f.data_len}"


def _segment(f: Any) -> Segment:
    opts = f.opts
    return Segment(
        f.seq, f.ack, f.tcp_flags, f.wnd, bytes(f.data_len), f.urg,
        f.mss if opts & lib.TCPOPT_MSS else 0,
        f.wscale if opts & lib.TCPOPT_WSCALE else -1,
        bool(opts & lib.TCPOPT_SACK_PERMITTED),
        (f.tsval, f.tsecr) if opts & lib.TCPOPT_TIMESTAMP else None,
        tuple((f.sack[2 * i], f.sack[2 * i + 1]) for i in range(f.sack_n)),
    )  # fmt: skip


def _datagram(f: Any) -> str:
    if {f.sport, f.dport} <= DHCP_PORTS and f.ip_version == 4:
        return str(dhcp.parse(access.octets(f, f.data, f.data_len)))
    return f"UDP, length {f.data_len}"


def _icmp(f: Any, src: bytes, dst: bytes) -> str:
    body = access.octets(f, f.l4, f.data + f.data_len - f.l4)
    if f.ip_version == 6 and body[0] in (ndp.RS, ndp.RA, ndp.NS, ndp.NA):
        return str(ndp.parse(body, src, dst, f.ttl))
    return str(icmp.parse(body, src, dst))

"""Fragments on an interface: put together, parsed again, and handed on as whole frames."""

from __future__ import annotations

from typing import Any

from ..core import access
from ..core.burst import Burst
from ..proto.reassembly import Fault, Reassembler, parse
from ..wire.icmp import Kind
from .icmp import IcmpLayer

PAYLOAD_LENGTH_FIELD = 4  # offset in the IPv6 header, RFC 8200 3
OFFSET_FIELD = 2  # in the fragment header, RFC 8200 4.5


class FragmentLayer:
    """Reassembly for one interface; whole packets live until `settle`."""

    def __init__(self, icmp: IcmpLayer) -> None:
        self.icmp = icmp
        self.reassembler = Reassembler()
        self.dropped = 0
        self._whole = Burst()

    def receive(self, f: Any, now: float) -> Any:
        """Take a fragment; return the parsed frame of the whole packet, None while parts miss."""
        data_at = f.data - f.l3
        packet = access.octets(f, f.l3, f.ip_len)
        made = self.reassembler.receive(parse(packet, data_at), now)
        if isinstance(made, Fault):
            self._refuse(f, made, data_at, now)
        elif made is not None:
            return self._parse(f, made)
        return None

    def _parse(self, f: Any, packet: bytes) -> Any:
        whole = self._whole
        if whole.full:
            self.dropped += 1
            return None
        dst, src = access.macs(f)
        ethertype = 0x0800 if f.ip_version == 4 else 0x86DD
        made = whole.append(dst + src + ethertype.to_bytes(2, "big") + packet)
        access.parse_frame(made)
        return made

    def _refuse(self, f: Any, fault: Fault, data_at: int, now: float) -> None:
        """RFC 8200 4.5: two of the faults are reported to the source."""
        self.dropped += 1
        if f.ip_version == 6 and fault in (Fault.UNALIGNED, Fault.TOO_LONG):
            unaligned = fault is Fault.UNALIGNED
            where = PAYLOAD_LENGTH_FIELD if unaligned else data_at - 8 + OFFSET_FIELD
            self.icmp.report(f, Kind.PARAMETER_PROBLEM, now, where)

    def settle(self) -> None:
        """Let go of the whole packets of the burst."""
        self._whole.clear()

    def expire(self, now: float) -> None:
        """Report the packets that were not finished in time (RFC 1122 3.3.2, RFC 8200 4.5)."""
        for first in self.reassembler.expire(now):
            self.icmp.report_packet(first, Kind.REASSEMBLY_EXCEEDED, now)

    def deadline(self) -> float | None:
        """Return when `expire` has something to do next."""
        return self.reassembler.deadline()

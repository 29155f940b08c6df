"""When an ICMP error may be sent, and at what rate (RFC 1122 3.2.2, RFC 1812 4.3.2, RFC 4443 2.4).

A wrong answer to a packet with a forged or shared source makes us an amplifier, so the rules
that forbid an error are checked on the offending packet itself, then a token bucket decides.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from ..wire import icmp, ip
from ..wire.icmp import Kind


class Limiter:
    """A token bucket: `rate` errors a second on average, `burst` at once (RFC 4443 2.4 (f))."""

    def __init__(self, rate: float = 100.0, burst: int = 50) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = float(burst)
        self._at = 0.0

    def allow(self, now: float) -> bool:
        """Take a token; False when the bucket is empty."""
        self._tokens = min(self.burst, self._tokens + max(0.0, now - self._at) * self.rate)
        self._at = max(now, self._at)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@dataclass(frozen=True, slots=True)
class Statistics:
    """Errors built, forbidden by a rule, and held back by the limit."""

    sent: int = 0
    forbidden: int = 0
    limited: int = 0


class Errors:
    """Builds the ICMP errors of one interface; `broadcasts` are its directed broadcasts."""

    def __init__(self, limiter: Limiter | None = None, broadcasts: Container[bytes] = ()) -> None:
        self.limiter = limiter or Limiter()
        self.broadcasts = broadcasts
        self._sent = self._forbidden = self._limited = 0

    def build(
        self,
        offender: bytes,
        kind: Kind,
        src: bytes,
        now: float,
        *,
        value: int = 0,
        link_multicast: bool = False,
    ) -> bytes | None:
        """Build the whole IP packet that reports `kind` about the IP packet `offender`.

        `src` is our address of its family; `value` is the MTU of TOO_BIG or the pointer of a
        parameter problem; `link_multicast` tells that the frame came to a group or to all.
        None where no error may be sent.  At least the network header of `offender` is needed.
        """
        if not self._allowed(offender, kind, link_multicast):
            self._forbidden += 1
            return None
        if not self.limiter.allow(now):
            self._limited += 1
            return None
        self._sent += 1
        version = offender[0] >> 4
        dst = addresses(offender)[0]
        message = icmp.emit(icmp.error(kind, version, offender, value), src, dst)
        proto = ip.ICMP if version == 4 else ip.ICMPV6
        # RFC 1812 4.3.2.5: precedence 6 on errors.
        return ip.emit(ip.Repr(src, dst, proto, tos=0xC0 if version == 4 else 0), message)

    def statistics(self) -> Statistics:
        """Return a snapshot of the counters."""
        return Statistics(self._sent, self._forbidden, self._limited)

    def _allowed(self, offender: bytes, kind: Kind, link_multicast: bool) -> bool:
        where = ip.upper(offender)
        if where is None or not where.first:
            return False
        src, dst = addresses(offender)
        version = offender[0] >> 4
        if src in self.broadcasts or not is_single_host(src):
            return False
        # RFC 4443 2.4 (e.3): path MTU discovery works for multicast in IPv6.
        to_group = link_multicast or ip.is_multicast(dst) or dst in self.broadcasts
        if (to_group or dst == ip.BROADCAST_V4) and not (version == 6 and kind is Kind.TOO_BIG):
            return False
        if where.proto != (ip.ICMP if version == 4 else ip.ICMPV6):
            return True
        inner = offender[where.offset : where.offset + 1]
        return bool(inner) and not icmp.is_error(version, inner[0])


def addresses(packet: bytes) -> tuple[bytes, bytes]:
    """Return source and destination of an IP packet whose header is whole."""
    if packet[0] >> 4 == 4:
        return packet[12:16], packet[16:20]
    return packet[8:24], packet[24:40]


def is_single_host(src: bytes) -> bool:
    """Tell whether `src` defines one host that can be answered (RFC 1122 3.2.2, RFC 4443 2.4)."""
    if len(src) == 4:
        return src[0] not in (0, 127) and src[0] < 224
    return src not in (ip.UNSPECIFIED_V6, bytes(15) + b"\x01") and not ip.is_multicast(src)

"""Captures: a port that writes what passes through it to a pcapng file, or as lines of text.

`Tracer` wraps any port and is one; it hands each frame to a `Sink`.  Several tracers may share one:
a pcapng file then has several interfaces, by their names.  Super-segments are written whole, with a
comment; checksums that the link would complete are completed in the copy.

pcapng: draft-ietf-opsawg-pcapng-02, sections 4.1 to 4.3.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

from ..core._core import ffi, lib
from ..core.access import parse_burst
from ..core.burst import Burst
from .port import Listener, Notifying, Offload, Port, PortStatistics

log = logging.getLogger(__name__)

SHB, IDB, EPB = 0x0A0D0D0A, 1, 6
BYTE_ORDER, VERSION = 0x1A2B3C4D, (1, 0)
ETHERNET = 1  # LINKTYPE_ETHERNET
SNAPLEN = 262144
OPT_END, OPT_COMMENT, SHB_USERAPPL, IF_NAME, IF_TSRESOL, EPB_FLAGS = 0, 1, 4, 2, 9, 2
NANOSECONDS = 9
INBOUND, OUTBOUND = 1, 2
_NEEDS_CSUM = 1


class Sink(Protocol):
    """Where tracers send frames."""

    def interface(self, name: str) -> int:
        """Add an interface and return its number."""

    def frame(
        self, interface: int, direction: int, octets: bytes, now: float, comment: str
    ) -> None:
        """Take a frame: `direction` is `INBOUND` or `OUTBOUND`, seen from the port's owner."""


class PcapngWriter:
    """Writes a pcapng file, little-endian, with nanosecond times.

    `epoch` is added to times: pass the difference of wall and loop time for a capture that shows
    dates.  The file is the caller's to close.
    """

    def __init__(self, file: BinaryIO, *, epoch: float = 0.0, snaplen: int = SNAPLEN) -> None:
        self._file = file
        self._epoch = epoch
        self._snaplen = snaplen
        self._interfaces = 0
        body = struct.pack("<IHHq", BYTE_ORDER, *VERSION, -1)
        self._write(SHB, body + options((SHB_USERAPPL, b"vpnstack")))

    def _write(self, kind: int, body: bytes) -> None:
        size = len(body) + 12
        self._file.write(struct.pack("<II", kind, size) + body + struct.pack("<I", size))

    def interface(self, name: str) -> int:
        """Add an interface description."""
        body = struct.pack("<HHI", ETHERNET, 0, self._snaplen)
        named = (IF_NAME, name.encode("utf-8", "replace"))
        self._write(IDB, body + options(named, (IF_TSRESOL, bytes([NANOSECONDS]))))
        self._interfaces += 1
        return self._interfaces - 1

    def frame(
        self, interface: int, direction: int, octets: bytes, now: float, comment: str = ""
    ) -> None:
        """Add an enhanced packet block."""
        at = int((now + self._epoch) * 1_000_000_000)
        kept = octets[: self._snaplen]
        head = (interface, at >> 32, at & 0xFFFFFFFF, len(kept), len(octets))
        flags = (EPB_FLAGS, struct.pack("<I", direction))
        extra = ((OPT_COMMENT, comment.encode("utf-8", "replace")),) if comment else ()
        body = struct.pack("<5I", *head) + padded(kept) + options(flags, *extra)
        self._write(EPB, body)


def padded(data: bytes) -> bytes:
    """Fill up to 32 bits."""
    return data + bytes(-len(data) % 4)


def options(*pairs: tuple[int, bytes]) -> bytes:
    """Build a list of options (section 3.5), its end included."""
    parts = [struct.pack("<HH", code, len(value)) + padded(value) for code, value in pairs]
    return b"".join(parts) + struct.pack("<HH", OPT_END, 0)


class Tracer:
    """`port` with everything that passes shown to `sink`; `clock` gives the time in seconds.

    `name` is the interface's, the port's own unless given.
    """

    def __init__(
        self, port: Port, sink: Sink, clock: Callable[[], float], *, name: str = ""
    ) -> None:
        self.name = port.name
        self.mtu = port.mtu
        self.port = port
        self._sink = sink
        self._clock = clock
        self._interface = sink.interface(name or port.name)
        self._failed = False

    @property
    def offload(self) -> Offload:
        """That of the port below."""
        return self.port.offload

    @property
    def stalled(self) -> bool:
        """True while the port below is."""
        return self.port.stalled

    def fileno(self) -> int:
        """The descriptor of the port below."""
        return self.port.fileno()

    def notify(self, ready: Callable[[], None] | None) -> None:
        """Have the port below call, where it does."""
        if isinstance(self.port, Notifying):
            self.port.notify(ready)

    def _show(self, burst: Burst, direction: int) -> None:
        if self._failed:
            return
        try:
            self._hand(burst, direction)
        except OSError as e:  # a full disk must not end the network
            self._failed = True
            log.warning("the capture of %s ends here: %s", self.name, e)

    def _hand(self, burst: Burst, direction: int) -> None:
        now = self._clock()
        for i in range(burst.count):
            f = burst[i]
            if f.len:
                octets = complete(burst.octets(i), f.vnet)
                self._sink.frame(self._interface, direction, octets, now, comment(f))

    def rx_burst(self, burst: Burst) -> int:
        """Receive, and show what came."""
        n = self.port.rx_burst(burst)
        if n:
            parse_burst(burst)
            self._show(burst, INBOUND)
        return n

    def rx_done(self, burst: Burst) -> None:
        """Give the buffers back."""
        self.port.rx_done(burst)

    def tx_burst(self, burst: Burst) -> None:
        """Show what is sent, and send it."""
        self._show(burst, OUTBOUND)
        self.port.tx_burst(burst)

    def flush(self) -> None:
        """Send from the backlog of the port below."""
        self.port.flush()

    def close(self) -> None:
        """Close the port below; the sink stays open."""
        self.port.close()

    def statistics(self) -> PortStatistics:
        """Return the counters of the port below."""
        return self.port.statistics()


class TracingListener:
    """`listener` with a tracer around every port that arrives at it."""

    def __init__(self, listener: Listener, wrap: Callable[[Port], Port]) -> None:
        self._listener = listener
        self._wrap = wrap

    def fileno(self) -> int:
        """The descriptor of the listener below."""
        return self._listener.fileno()

    def accept(self) -> list[Port]:
        """Return the ports that arrived, wrapped."""
        return [self._wrap(port) for port in self._listener.accept()]

    def close(self) -> None:
        """Close the listener below."""
        self._listener.close()


def comment(f: Any) -> str:
    """Say what a frame's offloads ask for, and why parsing drops it."""
    size: int = f.vnet.gso_size if f.vnet.gso_type else 0
    said = [f"super-segment: {size} bytes a packet"] if size else []
    verdict: int = f.verdict
    if verdict:
        said.append(f"dropped: {VERDICTS[verdict]}")
    return "; ".join(said)


VERDICTS = (
    "", "too short", "bad virtio-net header", "bad IP header", "bad IP checksum",
    "bad transport header", "bad transport checksum", "bad IPv6 extension", "bad address",
    "merged into an earlier frame", "taken",
)  # fmt: skip


def complete(octets: bytes, vnet: Any) -> bytes:
    """Return the frame with the checksum that `VNET_NEEDS_CSUM` leaves to the link."""
    flags: int = vnet.flags
    start: int = vnet.csum_start
    at: int = start + vnet.csum_offset
    if not flags & _NEEDS_CSUM or at + 2 > len(octets):
        return octets
    out = bytearray(octets)
    part = memoryview(out)[start:]
    right = ~lib.csum_partial(ffi.from_buffer(part), len(part), 0) & 0xFFFF
    out[at : at + 2] = struct.pack("=H", right or 0xFFFF)
    return bytes(out)

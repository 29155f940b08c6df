"""A learning Ethernet switch between ports and the stack (IEEE 802.1Q 8.7 and 8.8, without VLANs).

The stack is one more station: frames for its address stay, groups go to it as well.  Frames
between machines are handed from port to port without being copied here.
"""

from __future__ import annotations

from collections import OrderedDict

from ..core._core import ffi, lib
from ..core.access import macs, octets
from ..core.burst import Burst
from .port import Port

_buffer = ffi.buffer
MERGED = lib.FRAME_MERGED
STATIONS_MAX = 4096  # behind one port


class Switch:
    """Ports by name, and the table of who was seen where."""

    def __init__(self, mac: bytes, stations_max: int = STATIONS_MAX) -> None:
        self.mac = mac
        self.ports: list[Port] = []
        self.stations_max = stations_max
        self.moved = self.refused = self.invalid = 0
        self._stations: dict[bytes, Port] = {}
        self._behind: dict[int, OrderedDict[bytes, None]] = {}  # by port, oldest first
        self._outgoing: dict[int, Burst] = {}
        self._usual: bytes | None = None  # both addresses of what the only port sends most

    def attach(self, port: Port) -> None:
        """Add a port."""
        self._usual = None
        self.ports.append(port)
        self._outgoing[id(port)] = Burst()
        self._behind[id(port)] = OrderedDict()

    def detach(self, port: Port) -> None:
        """Remove a port and forget who was behind it."""
        self._usual = None
        if port in self.ports:
            self.ports.remove(port)
            del self._outgoing[id(port)]
            for mac in self._behind.pop(id(port)):
                del self._stations[mac]

    def stations(self, port: Port) -> list[bytes]:
        """Return the addresses seen behind `port`."""
        return list(self._behind.get(id(port), ()))

    def port_of(self, mac: bytes) -> Port | None:
        """Return the port behind which `mac` was seen last."""
        return self._stations.get(mac)

    def blocked(self, mac: bytes) -> bool:
        """Tell whether the port that leads to `mac` takes no frames now."""
        port = self._stations.get(mac)
        return port is not None and port.stalled

    def _learn(self, mac: bytes, port: Port) -> bool:
        """Note that `mac` is behind `port`; False for an address that no station may use."""
        if self._stations.get(mac) is port:
            return True
        if mac[0] & 1 or mac == self.mac:
            self.refused += 1
            return False
        before = self._stations.get(mac)
        if before is not None:
            self.moved += 1
            self._usual = None
            del self._behind[id(before)][mac]
        behind = self._behind[id(port)]
        if len(behind) >= self.stations_max:  # who floods the table forgets its own stations
            del self._stations[behind.popitem(last=False)[0]]
            self._usual = None
        behind[mac] = None
        self._stations[mac] = port
        return True

    def ingress(self, port: Port, burst: Burst) -> list[object]:
        """Take a parsed burst received from `port`; return the frames that are for the stack.

        The rest is forwarded before this returns.
        """
        local = []
        usual = self._usual
        for f in burst:
            if f.verdict >= MERGED:
                continue
            if usual is not None and f.head_len >= 14 and bytes(_buffer(f.head, 12)) == usual:
                local.append(f)
                continue
            if f.head_len < 14 or f.len < 14:
                self.invalid += 1
                continue
            dst, src = macs(f)
            if not self._learn(src, port):
                continue
            if dst == self.mac:
                local.append(f)
                if len(self.ports) == 1:
                    self._usual = dst + src  # nothing more to be learned of its next frames
                continue
            if dst[0] & 1:
                local.append(f)
            if f.verdict:
                self.invalid += 1
            elif len(self.ports) > 1:
                self._forward(dst, f, port)
        if len(self.ports) > 1:
            self._send()
        return local

    def _forward(self, dst: bytes, f: object, came: Port | None) -> None:
        known = self._stations.get(dst)
        for port in [known] if known is not None else self.ports:
            if port is came:
                continue
            out = self._outgoing[id(port)]
            if out.full:
                port.tx_burst(out)
                out.clear()
            lib.frame_alias(f, out.frames[out.count])
            out.count += 1

    def _send(self) -> None:
        for port in self.ports:
            out = self._outgoing[id(port)]
            if out.count:
                port.tx_burst(out)
                out.clear()

    def egress(self, burst: Burst) -> None:
        """Send what the stack transmits to the ports that its destinations are behind."""
        if len(self.ports) == 1:
            self.ports[0].tx_burst(burst)
            return
        for f in burst:
            if not f.len:  # one that could not be built (emit.c)
                continue
            # Frames of the stack lie behind their own headers: the address is in the first piece.
            self._forward(octets(f, 0, 6), f, None)
        self._send()

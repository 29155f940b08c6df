"""A cable between two ports, where no stack stands between a machine and its network.

Frames cross in bursts: Python sees how many came, C reads and writes them.  Whoever does not take
what it is sent holds the other back: nothing is read that could not be delivered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vpnstack.core.burst import Burst
from vpnstack.link.port import Port, PortClosed

BURSTS = 8  # a turn of the loop


class Cable:
    """Joins `port` to `line` until `close`, which closes both; `lost` is told why one went."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        port: Port,
        line: Port,
        lost: Callable[[str], None] = lambda why: None,
    ) -> None:
        self.wakeups = 0  # how often the loop has called for frames
        self._loop = loop
        self._ends = (port, line)
        self._lost = lost
        self._burst = Burst()
        self._reading: set[Port] = set()
        self._writing: set[Port] = set()
        self._closed = False
        for source, sink in (self._ends, self._ends[::-1]):
            self._settle(source, sink)

    def _ready(self, source: Port, sink: Port) -> None:
        self.wakeups += 1
        burst = self._burst
        for _ in range(BURSTS):
            burst.clear()
            try:
                count = source.rx_burst(burst)
                if count:
                    sink.tx_burst(burst)
                source.rx_done(burst)
            except PortClosed as error:
                self.close()
                self._lost(str(error))
                return
            if count * 2 < burst.capacity or sink.stalled:
                break
        self._settle(source, sink)
        self._settle(sink, source)  # what `source` served may have ended its own stall

    def _flush(self, sink: Port, source: Port) -> None:
        sink.flush()
        self._settle(source, sink)

    def _settle(self, source: Port, sink: Port) -> None:
        """Read `source` while `sink` takes frames; until then wait for `sink`, which is writable
        when it does or readable when its driver has made room."""
        stalled = sink.stalled
        if stalled == (source in self._reading):
            if stalled:
                self._reading.discard(source)
                self._loop.remove_reader(source.fileno())
            else:
                self._reading.add(source)
                self._loop.add_reader(source.fileno(), self._ready, source, sink)
        if stalled and sink not in self._writing:
            self._writing.add(sink)
            self._loop.add_writer(sink.fileno(), self._flush, sink, source)
        elif not stalled and sink in self._writing:
            self._writing.discard(sink)
            self._loop.remove_writer(sink.fileno())

    def close(self) -> None:
        """Take both ports off the loop and close them; may be called again."""
        if self._closed:
            return
        self._closed = True
        for port in self._ends:
            if port in self._reading:
                self._loop.remove_reader(port.fileno())
            if port in self._writing:
                self._loop.remove_writer(port.fileno())
            port.close()

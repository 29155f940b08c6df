"""Ports joined without a stack: a switch of its own, and a relay between two ports."""

from __future__ import annotations

import asyncio
import logging
import random
from functools import partial

from ..core.access import parse_burst
from ..core.burst import Burst
from ..link.impair import Impaired, Impairment
from ..link.port import Notifying, Port, PortClosed
from ..link.switch import Switch

log = logging.getLogger(__name__)

BURSTS = 4
NOBODY = bytes(6)  # no station has this address: nothing is for the switch itself


class Fabric:
    """A learning switch that nobody but its ports is on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str = "switch") -> None:
        self.name = name
        self.switch = Switch(NOBODY)
        self._loop = loop
        self._burst = Burst()
        self._fds: dict[Port, int] = {}
        self._writing: set[Port] = set()

    def attach(self, port: Port) -> None:
        """Connect a port."""
        self.switch.attach(port)
        fd = self._fds[port] = port.fileno()
        if fd >= 0:
            self._loop.add_reader(fd, self._readable, port)
        if isinstance(port, Notifying):
            port.notify(partial(self._readable, port))

    def detach(self, port: Port) -> None:
        """Disconnect a port and close it."""
        if port not in self._fds:
            return
        fd = self._fds.pop(port)
        if fd >= 0:
            self._loop.remove_reader(fd)
            if port in self._writing:
                self._loop.remove_writer(fd)
        self._writing.discard(port)
        self.switch.detach(port)
        port.close()

    def _readable(self, port: Port) -> None:
        burst = self._burst
        try:
            for _ in range(BURSTS):
                if port not in self._fds or not port.rx_burst(burst):
                    break
                full = burst.full
                parse_burst(burst)
                self.switch.ingress(port, burst)
                port.rx_done(burst)
                if not full:
                    break
        except PortClosed as e:
            log.info("port %s is gone: %s", port.name, e)
            self.detach(port)
        self._watch_stalled()

    def _watch_stalled(self) -> None:
        for port, fd in self._fds.items():
            if fd >= 0 and port.stalled and port not in self._writing:
                self._writing.add(port)
                self._loop.add_writer(fd, self._writable, port)

    def _writable(self, port: Port) -> None:
        port.flush()
        if not port.stalled:
            self._writing.discard(port)
            self._loop.remove_writer(self._fds[port])

    def close(self) -> None:
        """Disconnect and close all ports."""
        for port in list(self._fds):
            self.detach(port)


class Relay:
    """An imperfect link between two ports, in real time: two TAP devices, for example.

    `ab` acts on what goes from `a` to `b`, `ba` on the way back.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        a: Port,
        b: Port,
        ab: Impairment,
        ba: Impairment,
        *,
        seed: int | str | None = None,
    ) -> None:
        rng = random.Random(seed)
        self.a = Impaired(a, loop, tx=ba, rng=rng)
        self.b = Impaired(b, loop, tx=ab, rng=rng)
        self._fabric = Fabric(loop, "relay")
        self._fabric.attach(self.a)
        self._fabric.attach(self.b)

    def close(self) -> None:
        """Close both ports."""
        self._fabric.close()

"""A port on an imperfect link: delay, loss, reordering, a rate and a queue around any other port.

`Impaired` wraps a port and is one; `proto/impair.py` says what can be done to packets.  Where loss,
a rate or the like act on packets, super-segments are cut into wire segments on their way in, and
are not put together again: the receiver sees what it would see behind a real link.  With nothing
but latency and jitter they pass whole.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from ..core.access import parse_burst
from ..core.burst import Burst
from ..proto.impair import GilbertElliott, Impairment, Machine, Statistics, normal, pareto
from .port import Clock, Notifying, Offload, Port, PortStatistics, Timer
from .soft import Softener

__all__ = ["GilbertElliott", "Impaired", "ImpairedStatistics", "Impairment", "normal", "pareto"]

NOTHING = Impairment()
WHOLE = Offload.CSUM | Offload.TSO4 | Offload.TSO6 | Offload.USO


@dataclass(frozen=True, slots=True)
class ImpairedStatistics:
    """What became of packets in either direction."""

    tx: Statistics
    rx: Statistics


class Impaired:
    """`port` behind an imperfect link; `tx` acts on what is sent, `rx` on what is received.

    `clock` is the loop that drives the port.  `tx` and `rx` may be replaced while it lives.
    """

    offload = WHOLE

    def __init__(
        self,
        port: Port,
        clock: Clock,
        *,
        tx: Impairment | None = None,
        rx: Impairment | None = None,
        rng: random.Random | None = None,
    ) -> None:
        rng = rng or random.Random()
        self.name = port.name
        self.mtu = port.mtu
        self.port = port
        self.cut = False
        self._clock = clock
        self._tx = _Direction(self._send, tx, random.Random(rng.getrandbits(64)), clock)
        self._rx = _Direction(self._arrived, rx, random.Random(rng.getrandbits(64)), clock)
        self._ready: Callable[[], None] | None = None
        self._calling = False
        self._straight = False  # the last burst received is the port's own
        self._in = Burst()
        self._out = Burst()

    @property
    def tx(self) -> Impairment:
        """What is done to packets that are sent."""
        return self._tx.machine.impairment

    @tx.setter
    def tx(self, impairment: Impairment) -> None:
        self._tx.machine.impairment = impairment

    @property
    def rx(self) -> Impairment:
        """What is done to packets that are received."""
        return self._rx.machine.impairment

    @rx.setter
    def rx(self, impairment: Impairment) -> None:
        self._rx.machine.impairment = impairment

    @property
    def stalled(self) -> bool:
        """True while the port below is; a queue on the link drops instead."""
        return self.port.stalled

    def fileno(self) -> int:
        """The descriptor of the port below."""
        return self.port.fileno()

    def notify(self, ready: Callable[[], None] | None) -> None:
        """Set who is called when delayed frames arrive; the port below calls it as well."""
        self._ready = ready
        if isinstance(self.port, Notifying):
            self.port.notify(ready)

    def rx_burst(self, burst: Burst) -> int:
        """Take in what the port below has, and return what has crossed the link by now."""
        self._straight = self._rx.clear and not self.cut
        if self._straight:
            return self.port.rx_burst(burst)
        now = self._clock.time()
        if self.port.rx_burst(self._in):
            parse_burst(self._in)
            if not self.cut:
                self._rx.enter(self._in, now)
            more = self._in.full
            self.port.rx_done(self._in)
            if more:
                self._arrived()
        burst.clear()
        self._rx.take(burst, now)
        if burst.full:
            self._arrived()
        return burst.count

    def _arrived(self) -> None:
        if self._ready is not None and not self._calling:
            self._calling = True
            self._clock.call_soon(self._call)

    def _call(self) -> None:
        self._calling = False
        if self._ready is not None:
            self._ready()

    def rx_done(self, burst: Burst) -> None:
        """Let go of the frames."""
        if self._straight:
            self.port.rx_done(burst)
        else:
            burst.clear()

    def tx_burst(self, burst: Burst) -> None:
        """Put all frames of `burst` on the link."""
        if self.cut:
            return
        if self._tx.clear:
            self.port.tx_burst(burst)
            return
        self._tx.enter(burst, self._clock.time())
        self._send()

    def _send(self) -> None:
        out, now = self._out, self._clock.time()
        while True:
            out.clear()
            self._tx.take(out, now)
            if not out.count:
                return
            parse_burst(out)  # a port without offloads looks at the headers
            full = out.full
            self.port.tx_burst(out)
            if not full:
                return

    def sever(self) -> None:
        """Cut the cable: what is on its way is lost, and whatever comes until `heal`."""
        self.cut = True
        self._tx.machine.clear()
        self._rx.machine.clear()

    def heal(self) -> None:
        """Mend the cable."""
        self.cut = False

    def flush(self) -> None:
        """Send from the backlog of the port below."""
        self.port.flush()

    def close(self) -> None:
        """Stop the timers and close the port below; what is on its way is lost."""
        self._ready = None
        self._tx.close()
        self._rx.close()
        self.port.close()

    def statistics(self) -> PortStatistics:
        """Return the counters of the port below."""
        return self.port.statistics()

    def link_statistics(self) -> ImpairedStatistics:
        """Return what became of packets on the link."""
        return ImpairedStatistics(self._tx.machine.statistics(), self._rx.machine.statistics())


class _Direction:
    """One machine, the cutting in front of it, and its timer."""

    def __init__(
        self,
        due: Callable[[], None],
        impairment: Impairment | None,
        rng: random.Random,
        clock: Clock,
    ) -> None:
        self.machine = Machine(impairment or NOTHING, rng)
        self._due = due
        self._clock = clock
        self._soften = Softener()
        self._timer: Timer | None = None
        self._timer_at = 0.0

    @property
    def clear(self) -> bool:
        """True while nothing is done to packets and none is under way."""
        machine = self.machine
        return machine.impairment is NOTHING and machine.deadline() is None

    def enter(self, burst: Burst, now: float) -> None:
        """Put the frames of `burst` on the link, cut into packets where it acts on those.

        `take` must follow, which sets the timer.
        """
        machine = self.machine
        imp = machine.impairment
        offload = WHOLE
        if imp.corrupt:
            offload = Offload.NONE  # a wrong checksum has to show
        elif imp.per_packet:
            offload = Offload.CSUM
        for part in self._soften(burst, offload):
            for i in range(part.count):
                machine.receive((part.vnet(i), part.octets(i)), now)

    def take(self, burst: Burst, now: float) -> None:
        """Fill `burst` with what has crossed by `now`."""
        transmit = self.machine.transmit
        while not burst.full:
            frame = transmit(now)
            if frame is None:
                break
            burst.append(frame[1], frame[0])
        self._arm()

    def _arm(self) -> None:
        at = self.machine.deadline()
        if at is None or (self._timer is not None and self._timer_at <= at):
            return
        self.close()
        self._timer_at = at
        self._timer = self._clock.call_at(at, self._expired)

    def _expired(self) -> None:
        self._timer = None
        self._due()  # takes, which sets the timer again

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

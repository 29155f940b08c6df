"""The one place where a stack meets a loop: readers for its ports, one timer, one flush.

A wake-up is: receive a burst, forward what is for others, let the stack take the rest, run the
owners of what changed, give the memory back, transmit until there is nothing left.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from functools import partial

from ..core.access import coalesce, parse_burst
from ..core.burst import Burst
from ..link.port import Listener, Notifying, Port, PortClosed
from ..link.switch import Switch
from ..stack.stack import Stack
from .busypoll import BusyPoll
from .lane import Lane
from .pause import Pause
from .poller import Poller
from .udplane import DatagramLane

log = logging.getLogger(__name__)

BURSTS = 4  # of one port before other events of the loop have their turn


class Driver:
    """Runs a stack and the switch below it on a loop; `wake` after any call that changed state."""

    def __init__(self, stack: Stack, switch: Switch, loop: asyncio.AbstractEventLoop) -> None:
        self.stack = stack
        self.switch = switch
        self.loop = loop
        self._burst = Burst()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._flushing = False
        self._scheduled = False
        self._burst_was_full = False
        self._fds: dict[Port, int] = {}  # a port that closed itself has none any more
        self._writing: set[Port] = set()
        self._closed: dict[Port, Callable[[Port], None] | None] = {}
        self.lane: Lane | None = None
        self._resuming = self._closed_down = False
        self.datagrams: DatagramLane | None = None
        self._pause = Pause(loop)
        self._busy_poll = BusyPoll(0)
        self._poller: Poller | None = None

    @property
    def poller(self) -> Poller:
        """Host sockets whose callbacks may change the stack: it transmits after each turn."""
        if self._poller is None:
            self._poller = Poller(self.loop, self._turned)
        return self._poller

    def open_lane(self, rng: random.Random, busy_poll: int = 0) -> Lane:
        """Let flows of bridges be lent to an express lane (`Flow.fd`).

        After it carried something, wait actively for more, for `busy_poll` microseconds.
        """
        self.lane = self.stack.tcp.lender = Lane(self.stack, self.switch, rng)
        self._busy_poll = BusyPoll(busy_poll)
        self._busy_poll.add(self.poller.fileno())
        for port, fd in self._fds.items():
            self.lane.attach(port)
            self._busy_poll.add(fd)
        return self.lane

    def now(self) -> float:
        """Return the loop's time, the only clock of the stack."""
        return self.loop.time()

    def attach(self, port: Port, closed: Callable[[Port], None] | None = None) -> None:
        """Connect a port to the switch and watch it; `closed` is told when its peer is gone."""
        self.switch.attach(port)
        self._closed[port] = closed
        if self.lane is not None:
            self.lane.attach(port)
        fd = self._fds[port] = port.fileno()
        if fd >= 0:
            self.loop.add_reader(fd, self._readable, port)
            self._busy_poll.add(fd)
        if isinstance(port, Notifying):
            port.notify(partial(self._readable, port))
        self.wake()

    def detach(self, port: Port) -> None:
        """Stop watching a port, take it off the switch and close it."""
        if port not in self._closed:
            return
        del self._closed[port]
        fd = self._fds.pop(port)
        if fd >= 0:
            self.loop.remove_reader(fd)
            self._busy_poll.remove(fd)
        if port in self._writing:
            self._unwatch_stalled(port, fd)
        if self.lane is not None:
            self.lane.detach(port)
        if self.datagrams is not None:
            self.datagrams.detach(port)
        gone = self.switch.stations(port)
        self.switch.detach(port)
        port.close()
        self.stack.tcp.lost(frozenset(gone))
        self.stack.tcp.unblock()
        self.wake()

    def watch(self, listener: Listener, arrived: Callable[[Port], None]) -> None:
        """Watch a listener; `arrived` gets each port that comes."""

        def accept() -> None:
            for port in listener.accept():
                arrived(port)

        self.loop.add_reader(listener.fileno(), accept)

    def unwatch(self, listener: Listener) -> None:
        """Stop watching a listener and close it."""
        self.loop.remove_reader(listener.fileno())
        listener.close()

    def wake(self) -> None:
        """Have the stack transmit soon; calls until then cost nothing more."""
        self.stack.look()
        self.wake_flows()

    def wake_flows(self) -> None:
        """Do the same after calls that touched nothing but flows."""
        if not self._scheduled and not self._flushing:
            self._scheduled = True
            self.loop.call_soon(self._flush_soon)

    def _turned(self) -> None:
        """Flush after a turn of the poller, unless the lane carried all that it brought."""
        if self.stack.tcp.pending or self.stack.tcp.events or self.stack.interface.queue:
            self.flush()
        else:
            self._settle_lane()

    def _flush_soon(self) -> None:
        self._scheduled = False
        self.flush()

    def _readable(self, port: Port) -> None:
        was_stalled = port in self._writing or port.stalled
        changed = was_stalled
        try:
            for _ in range(BURSTS):
                if port not in self._closed or not port.rx_burst(self._burst):
                    break
                changed |= self._receive(port)
                if not self._burst_was_full or self._flooded(port):
                    break
            else:  # frames may wait in the port's own buffer, of which its descriptor says nothing
                self.loop.call_soon(self._readable, port)
        except PortClosed as e:
            self._lost(port, e)
            return
        if was_stalled and not port.stalled:
            if port in self._writing:
                self._unwatch_stalled(port, self._fds[port])
            self.stack.tcp.unblock()
        if changed or self.stack.tcp.pending:  # the lane may have given flows back
            self.flush()
        else:
            self._settle_lane()

    def _receive(self, port: Port) -> bool:
        """Take a burst; False where the lane carried all of it."""
        burst = self._burst
        self._burst_was_full = burst.full
        now = self.now()
        parse_burst(burst)
        if burst.count > 1:
            coalesce(burst, self.switch.mac)
        left = burst.count
        if self.lane is not None and len(self.lane):
            left = self.lane.receive(port, burst, now)
        if left and self.datagrams is not None:
            before, left = left, self.datagrams.receive(port, burst, now)
            self.stack.passed(before - left, 0)
        if not left:
            port.rx_done(burst)
            return False
        self.stack.receive(self.switch.ingress(port, burst), now)
        self._run_owners(now)
        self.stack.settle()
        port.rx_done(burst)
        return True

    def _flooded(self, port: Port) -> bool:
        """Leave a port that brings nothing but datagrams alone for a moment (aio/pause.py)."""
        lane = self.datagrams
        if lane is None or not lane.flooded():
            return False
        return self._pause.begin(self._fds.get(port, -1), partial(self._resume, port))

    def _resume(self, port: Port) -> None:
        fd = self._fds.get(port, -1)
        if fd >= 0:
            self.loop.add_reader(fd, self._readable, port)
            self._readable(port)

    def _settle_lane(self) -> None:
        """After a turn of which the stack need not hear: acknowledgements may be due."""
        self._resume_lane()
        at = self.lane.deadline() if self.lane is not None else None
        if at is not None and (self._timer is None or at < self._timer_at):
            self._set_timer(at)
        self._busy_poll.wait()

    def _run_owners(self, now: float) -> None:
        next_event = self.stack.next_event
        while (event := next_event()) is not None:
            owner, flow = event
            try:
                owner.flow_event(flow, now)
            except Exception as e:  # an owner's fault must not leave the burst's memory borrowed
                context = {"message": "the owner of a flow failed", "exception": e}
                self.loop.call_exception_handler(context)
                flow.conn.abort()
                flow.touch()

    def flush(self) -> None:
        """Transmit until the stack has nothing more, then set the timer."""
        if self._flushing:
            return
        self._flushing = True
        try:
            if self.lane is not None:
                self._expire_lane(self.lane)
            while True:
                now = self.now()
                burst = self.stack.transmit(now)
                if burst is not None:
                    self.switch.egress(burst)
                self._run_owners(now)
                if not self.stack.tcp.pending and not self.stack.interface.queue:
                    break
        finally:
            self._flushing = False
        self._resume_lane()
        self._arm()

    def _resume_lane(self) -> None:
        """Let the lane's flows go on whose turn was over, now and in the next turn of the loop."""
        lane = self.lane
        self._watch_stalled()
        if lane is None or not lane.waiting:
            return
        lane.resume(self.now())
        self._watch_stalled()
        if self.stack.tcp.pending:
            self.wake_flows()
        if lane.waiting and not self._resuming:
            self._resuming = True
            self.loop.call_soon(self._resumed)

    def _resumed(self) -> None:
        self._resuming = False
        if not self._closed_down:
            self._turned()

    def _expire_lane(self, lane: Lane) -> None:
        at, now = lane.deadline(), self.now()
        if at is not None and at <= now:
            lane.expire(now)

    def _watch_stalled(self) -> None:
        for port in self.switch.ports:
            if port.stalled and port not in self._writing:
                self._writing.add(port)
                if self.lane is not None:
                    self.lane.stall(port, True)
                if self._fds[port] >= 0:
                    self.loop.add_writer(self._fds[port], self._writable, port)

    def _unwatch_stalled(self, port: Port, fd: int) -> None:
        self._writing.discard(port)
        if self.lane is not None:
            self.lane.stall(port, False)
        if fd >= 0:
            self.loop.remove_writer(fd)

    def _writable(self, port: Port) -> None:
        port.flush()
        if not port.stalled:
            self._unwatch_stalled(port, self._fds[port])
            self.stack.tcp.unblock()
            self.flush()

    def _arm(self) -> None:
        at = self.stack.deadline()
        lent = self.lane.deadline() if self.lane is not None else None
        if lent is not None and (at is None or lent < at):
            at = lent
        if at is not None and (self._timer is None or at < self._timer_at):
            self._set_timer(at)  # else it fires first and arms again

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self.loop.call_at(at, self._expired)

    def _expired(self) -> None:
        self._timer = None
        self.flush()

    def _lost(self, port: Port, why: PortClosed) -> None:
        log.info("port %s is gone: %s", port.name, why)
        told = self._closed.get(port)
        self.detach(port)
        if told is not None:
            told(port)

    def close(self) -> None:
        """Stop the timer and close every port."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._closed_down = True
        self._busy_poll.close()
        if self._poller is not None:
            self._poller.close()
        self._flushing = True  # nothing is sent any more
        self._pause.close()
        for port in list(self._closed):
            self.detach(port)

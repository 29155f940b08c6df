"""The express lane on a loop: lends idle connections of bridges to C, and takes them back.

A bridge says that its flow may be lent by setting `flow.fd`.  The stack offers such flows when they
have settled after a turn; from then on `receive` carries what the guest sends to the host's socket
and `readable` what the host sends, with one call into C for a burst.  Whoever touches a lent flow's
connection has to `recall` it first; the stack does so by itself.
"""

from __future__ import annotations

import enum
import random
from typing import Protocol, cast

from ..core._core import ffi, lib
from ..core.burst import CAPACITY, Burst
from ..link.port import Port
from ..link.switch import Switch
from ..proto.tcp.lease import in_flight, lend, lendable, let_go, take_back
from ..stack.flow import Flow, FlowOwner
from ..stack.stack import Stack

BUCKETS = 4096
LEASES_MAX = 16384
PORTS_MAX = lib.LANE_PORTS
LEND_AFTER = 3  # data segments: what opens, asks once and closes is not worth a lease
REASONS = (
    "goes_on", "unexpected", "host_full", "host_eof", "bulk", "window", "timeout", "host_dead",
)  # fmt: skip


class LaneEvent(enum.Enum):
    """What the owner of a lent flow is told."""

    ENDED = "the lease ended by itself, it was recalled"
    FULL = "the host's socket takes no more for now: say `drain` when it does"
    DEAD = "the host's socket has told of an error; the flow was recalled"
    HUNGRY = "the flow was recalled while the host's socket had more"


class Lessor(FlowOwner, Protocol):
    """Who owns a flow that may be lent."""

    def lane_event(self, flow: Flow, event: LaneEvent) -> None:
        """Hear of the lease or of the host's socket."""


class Lane:
    """The lent connections of one stack."""

    def __init__(self, stack: Stack, switch: Switch, rng: random.Random) -> None:
        self.switch = switch
        self._stack = stack
        self._counters = stack.tcp.counters
        self._moved = 0  # the switch's count up to which leases know their stations' ports
        self._lane = ffi.gc(lib.lane_new(BUCKETS, rng.getrandbits(64)), lib.lane_free)
        self._flows: dict[int, Flow] = {}  # by the address of their lease
        self._ports: dict[int, Port] = {}
        self._numbers: dict[Port, int] = {}
        self._out = Burst()
        self._one = Burst(1)
        self._became = ffi.new("struct lane_burst *")
        self.lent = 0
        self.reasons = [0] * len(REASONS)

    def __len__(self) -> int:
        return len(self._flows)

    def attach(self, port: Port) -> None:
        """Let flows through `port` be lent."""
        number = next((i for i in range(1, PORTS_MAX) if i not in self._ports), None)
        if number is not None:
            self._ports[number] = port
            self._numbers[port] = number
            self.stall(port, port.stalled)

    def detach(self, port: Port) -> None:
        """Take all flows back that go through `port`."""
        number = self._numbers.pop(port, None)
        if number is None:
            return
        del self._ports[number]
        for flow in [f for f in self._flows.values() if f.lease.port == number]:
            self.recall(flow)

    def _look_for_moved(self) -> None:
        """Take back the flows of stations that the switch has seen behind another port."""
        self._moved = self.switch.moved
        for flow in list(self._flows.values()):
            port = self.switch.port_of(flow.mac)
            if port is not None and self._numbers.get(port) != flow.lease.port:
                self.recall(flow)

    # Lending.

    def offer(self, flow: Flow, now: float) -> None:
        """Lend the connection of `flow` where nothing special is under way."""
        conn = flow.conn
        if flow.lease is not None or (conn.n_data_in < LEND_AFTER and not conn.sb.records):
            return
        if not lendable(conn):
            return
        port = self.switch.port_of(flow.mac)
        number = self._numbers.get(port) if port is not None else None
        if number is None or not flow.template or len(self._flows) >= LEASES_MAX:
            return
        e = ffi.new("struct lease *")
        e.key = flow.key
        ffi.memmove(e.tmpl, flow.template, len(flow.template))
        e.tmpl_len, e.fd, e.port = len(flow.template), flow.fd, number
        lend(conn, e)
        held = in_flight(conn)
        if len(held) and lib.lease_load(self._lane, e, ffi.from_buffer(held), len(held)):
            return  # no memory
        if lib.lane_lend(self._lane, e) < 0:
            lib.lease_free(self._lane, e)
            return
        let_go(conn)
        flow.lease = e
        self._flows[int(ffi.cast("uintptr_t", e))] = flow
        self.lent += 1

    def recall(self, flow: Flow) -> None:
        """Take a connection back."""
        e, flow.lease = flow.lease, None
        if e is None:
            return
        owes = bool(e.owes)
        lib.lane_recall(self._lane, e)
        del self._flows[int(ffi.cast("uintptr_t", e))]
        self.reasons[e.why] += 1
        held, kept = bytearray((e.snd_nxt - e.snd_una) & 0xFFFFFFFF), bytearray(e.kept_n)
        lib.lease_flight(e, ffi.from_buffer(held))
        lib.lease_kept(e, ffi.from_buffer(kept))
        take_back(flow.conn, e, owes, bytes(held), bytes(kept))
        lib.lease_free(self._lane, e)
        if e.hungry and flow.owner is not None:  # no edge will tell of it again
            cast(Lessor, flow.owner).lane_event(flow, LaneEvent.HUNGRY)
        flow.touch()

    # Carrying.

    def receive(self, port: Port, burst: Burst, now: float) -> int:
        """Carry what is expected of a parsed burst; return how many frames are left."""
        if self.switch.moved != self._moved:
            self._look_for_moved()
        became = self._became
        left: int = lib.lane_receive(
            self._lane, burst.array, burst.count, self.switch.mac, self._numbers.get(port, 0), now,
            self._out.array, became,
        )  # fmt: skip
        self._counters.segments_in += became.segments
        self._stack.passed(became.taken, 0)
        if became.made:
            self._out.count = became.made
            self._send(port, self._out)
        if became.n_look:
            self._look()
        return left

    def readable(self, flow: Flow, now: float) -> int:
        """Carry what the host's socket has; 0 where that went well, else recall the flow.

        Positive: go on without the lane; negative: the socket has told of an error.
        """
        if self.switch.moved != self._moved:
            self._look_for_moved()
        e = flow.lease
        if e is None or flow.resolved_by != self._stack.interface.neighbours.generation:
            return 1
        port = self._ports[e.port]
        if port.stalled:
            lib.lane_wait(self._lane, e)
        if e.hungry:
            return 0  # it is read when its turn has come
        self._out.count = lib.lane_send(self._lane, e, now, self._out.array, CAPACITY)
        if self._out.count:
            self._send(port, self._out)
        return -1 if e.why == lib.LEASE_HOST_DEAD else int(e.why)

    def writable(self, flow: Flow, now: float) -> int:
        """Give the host's socket what was kept for it.

        0: all of it is gone; 1: some still waits; negative: an errno of the socket.
        """
        e = flow.lease
        got: int = lib.lane_drain(self._lane, e, now, self._one.array)
        if got > 0:
            self._one.count = 1
            self._send(self._ports[e.port], self._one)
        return got if got < 0 else int(e.full)

    @property
    def waiting(self) -> bool:
        """True while flows whose ports take frames have more to send."""
        return bool(lib.lane_waiting(self._lane))

    def resume(self, now: float) -> None:
        """Go on with the flows whose turn was over."""
        if self.switch.moved != self._moved:
            self._look_for_moved()
        lib.lane_resume(self._lane, now, self._out.array, CAPACITY, self._became)
        self._send_all()
        self._look()

    def stall(self, port: Port, stalled: bool) -> None:
        """Hear that a port takes no frames now, or takes them again."""
        number = self._numbers.get(port)
        if number is not None:
            lib.lane_stall(self._lane, number, stalled)

    def _look(self) -> None:
        """Tell the owners of leases that ended, or whose host socket became full."""
        became = self._became
        leases = [became.look[i] for i in range(became.n_look)]
        became.n_look = 0
        for e in leases:
            flow = self._flows.get(int(ffi.cast("uintptr_t", e)))
            if flow is None:
                continue
            if e.why == lib.LEASE_GOES_ON:
                event = LaneEvent.FULL
            else:
                event = LaneEvent.DEAD if e.why == lib.LEASE_HOST_DEAD else LaneEvent.ENDED
                self.recall(flow)
            cast(Lessor, flow.owner).lane_event(flow, event)

    def _send(self, port: Port, burst: Burst) -> None:
        self._counters.segments_out += burst.count
        self._stack.passed(0, burst.count)
        port.tx_burst(burst)
        burst.count = 0

    def _send_all(self) -> None:
        """Send what `_became` says was made, each frame through its own port."""
        became, count = self._became, self._became.made
        ports = set(became.ports[0:count])
        if len(ports) == 1:
            self._out.count = count
            self._send(self._ports[ports.pop()], self._out)
            return
        for i in range(count):
            lib.frame_alias(self._out[i], self._one[0])
            self._one.count = 1
            self._send(self._ports[became.ports[i]], self._one)

    # Time.

    def deadline(self) -> float | None:
        """Return when `expire` has something to do."""
        return lib.lane_deadline(self._lane) or None

    def expire(self, now: float) -> None:
        """Acknowledge what was delayed, take back what got no acknowledgement."""
        if self.switch.moved != self._moved:
            self._look_for_moved()
        lib.lane_expire(self._lane, now, self._out.array, CAPACITY, self._became)
        self._send_all()
        self._look()

"""The express lane on a loop: lends idle connections of bridges to C, and takes them back.

A bridge says that its flow may be lent by setting `flow.fd`.  The stack offers such flows when they
have settled after a turn; from then on `receive` carries what the guest sends to the host's socket
and `readable` what the host sends, with one call into C for a burst.  Whoever touches a lent flow's
connection has to `recall` it first; the stack does so by itself.
"""

from __future__ import annotations

import random

from ..core._core import ffi, lib
from ..core.burst import CAPACITY, Burst
from ..link.port import Port
from ..link.switch import Switch
from ..proto.tcp.lease import lend, lendable, take_back
from ..stack.flow import Flow
from ..stack.stack import Stack

BUCKETS = 4096
LEASES_MAX = 16384
LEND_AFTER = 3  # data segments: what opens, asks once and closes is not worth a lease
REASONS = ("goes_on", "unexpected", "host_full", "host_eof", "bulk", "window", "timeout")


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
        self._made = ffi.new("uint32_t *")
        self._became = ffi.new("struct lane_burst *")
        self._via = ffi.new("uint32_t[]", CAPACITY)
        self._ended = ffi.new("struct lease *[]", CAPACITY)
        self.lent = 0
        self.reasons = [0] * len(REASONS)

    def __len__(self) -> int:
        return len(self._flows)

    def attach(self, port: Port) -> None:
        """Let flows through `port` be lent."""
        number = max(self._ports, default=0) + 1
        self._ports[number] = port
        self._numbers[port] = number

    def detach(self, port: Port) -> None:
        """Take all flows back that go through `port`."""
        number = self._numbers.pop(port)
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
        if conn.n_data_in < LEND_AFTER or flow.lease is not None or not lendable(conn):
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
        if lib.lane_lend(self._lane, e) == 0:
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
        n = (e.snd_nxt - e.snd_una) & 0xFFFFFFFF
        held = bytes(ffi.buffer(e.held + e.held_at, n)) if n else b""
        take_back(flow.conn, e, owes, held)
        lib.lease_free(e)
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
        return left

    def readable(self, flow: Flow, now: float) -> int:
        """Carry what the host's socket has; 0 where that went well, else recall the flow.

        Positive: go on without the lane; negative: an errno of the socket, which it has told now.
        """
        if self.switch.moved != self._moved:
            self._look_for_moved()
        e = flow.lease
        if e is None or flow.resolved_by != self._stack.interface.neighbours.generation:
            return 1
        port = self._ports[e.port]
        if port.stalled:
            return 1
        got: int = lib.lane_send(self._lane, e, now, self._one.array)
        if got > 0:
            self._one.count = 1
            self._send(port, self._one)
        elif got < 0:
            return got
        return int(e.why)

    def _send(self, port: Port, burst: Burst) -> None:
        self._counters.segments_out += burst.count
        self._stack.passed(0, burst.count)
        port.tx_burst(burst)
        burst.count = 0

    # Time.

    def deadline(self) -> float | None:
        """Return when `expire` has something to do."""
        return lib.lane_deadline(self._lane) or None

    def expire(self, now: float) -> None:
        """Acknowledge what was delayed, take back what got no acknowledgement."""
        if self.switch.moved != self._moved:
            self._look_for_moved()
        made = self._made
        n = lib.lane_expire(
            self._lane, now, self._out.array, self._via, CAPACITY, made, self._ended, CAPACITY
        )
        ended = [self._flows[int(ffi.cast("uintptr_t", self._ended[i]))] for i in range(n)]
        for i in range(made[0]):
            lib.frame_alias(self._out[i], self._one[0])
            self._one.count = 1
            self._send(self._ports[self._via[i]], self._one)
        for flow in ended:
            self.recall(flow)

"""What `fuzz_stack` plays in: a stack in virtual time, the users above it, and what must hold.

Every octet of a stream is a function of its sequence number on the wire, in both directions, so
that whatever is delivered or sent can be checked without keeping it (`stream`).
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import dns.rcode
from vpnstack.core._core import ffi, lib

from vpnstack.core import access
from vpnstack.core.burst import Burst
from vpnstack.proto import dhcp, neighbour, ra, reassembly
from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.connection import Connection
from vpnstack.proto.tcp.scoreboard import LOST, OUT, SACKED
from vpnstack.proto.tcp.state import State
from vpnstack.services.dhcp import DhcpService
from vpnstack.services.dns import failure, readable
from vpnstack.stack import tcp, timers
from vpnstack.stack.interface import QUEUE_MAX, Interface, InterfaceConfig, addresses_of
from vpnstack.stack.stack import Stack
from vpnstack.wire import icmp, ip, ndp

HOST_MAC = b"\x02\0\0\0\0\x01"
HOST4, HOST6 = ip.parse_address("192.168.127.1"), ip.parse_address("fd00:127::1")
NET6 = ip.parse_address("fd00:127::")
CONFIG = {
    "rcv_buf": 24_000, "snd_buf": 24_000, "first_buf": 12_000, "max_gaps": 8, "keepalive": True,
    "keepalive_idle": 20.0, "retries": 4, "msl": 1.0, "fin_timeout": 5.0,
}  # fmt: skip
FLOWS_MAX, HELD_MAX, SYN_QUEUE = 24, 6, 4
NEIGHBOURS = neighbour.Config(capacity=8, pending=4)
FRAGMENTS = reassembly.Config(40_000, 20_000, 4, 2, 8)
BURSTS_MAX = 400  # of 64 frames, that one step may send
OWNED = 16  # buffers of earlier bursts that are kept, overwritten
MASK = 0xFFFFFFFF
_PERIOD = 251
_TABLE = bytes(range(_PERIOD)) * 300


def stream(seq: int, n: int) -> bytes:
    """Return the `n` octets that stand at sequence number `seq` in every stream."""
    seq &= MASK
    first = min(n, MASK + 1 - seq)
    made = _TABLE[seq % _PERIOD : seq % _PERIOD + first]
    return made + _TABLE[: n - first]


class Udp:
    """Sends every datagram back, and answers those to port 53 as a DNS server without names."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def datagram_received(self, remote: Any, local: Any, data: bytes, now: float) -> None:
        """Answer; `data` is ours."""
        if local[1] == 53:
            query = readable(data)
            if query is None:
                return
            data = failure(query, dns.rcode.NXDOMAIN).to_wire()
        if remote[1] and local[0] in self.stack.interface.local:
            self.stack.udp.send(local, remote, data, now)

    def icmp_received(self, remote: Any, local: Any, error: icmp.Error, now: float) -> None:
        """Take an error about one of our datagrams."""
        assert str(error)


class User:
    """Owns every flow; accepts or not, reads or not, as the script says."""

    def __init__(self) -> None:
        self.decision = "accept"
        self.reading = True
        self.consumed: dict[Connection, int] = {}
        self.written: dict[Connection, int] = {}
        self.held: deque[tcp.Flow] = deque(maxlen=64)

    def adopt(self, flow: tcp.Flow) -> None:
        """Become the owner of `flow`."""
        flow.owner = self
        self.consumed[flow.conn] = self.written[flow.conn] = 0

    def flow_arrived(self, flow: tcp.Flow, now: float) -> None:
        """Decide about a SYN."""
        self.adopt(flow)
        if self.decision == "hold":
            self.held.append(flow)
        else:
            getattr(flow, self.decision)()

    def flow_event(self, flow: tcp.Flow, now: float) -> None:
        """Drain the events and read."""
        while flow.conn.next_event() is not None:
            pass
        if self.reading:
            self.read(flow, 1 << 20)

    def read(self, flow: tcp.Flow, most: int) -> None:
        """Consume up to `most` bytes; they must be those that stand at their numbers."""
        conn = flow.conn
        data = b"".join(conn.received())
        at = conn.irs + 1 + self.consumed[conn]
        assert data == stream(at, len(data)), f"octets at {at} are not those that were sent there"
        n = min(len(data), most)
        conn.consume(n)
        self.consumed[conn] += n
        flow.touch()

    def write(self, flow: tcp.Flow, n: int) -> None:
        """Send up to `n` bytes, those that belong at their numbers."""
        conn = flow.conn
        if conn.fin_queued:
            return
        at = conn.iss + 1 + self.written[conn]
        self.written[conn] += conn.send(stream(at, min(n, conn.snd_space + 1)))
        flow.touch()


class World:
    """A stack with small bounds; frames queue in `pending` until `receive`."""

    def __init__(self, *, forwarding: bool, mtu: int) -> None:
        config = InterfaceConfig(
            HOST_MAC, addresses_of(["192.168.127.1/24", "fd00:127::1/64"]), mtu,
            ip.parse_address("192.168.127.254"), None,
        )  # fmt: skip
        interface = Interface(config, self, neighbours=neighbour.Cache(NEIGHBOURS))
        self.stack = Stack(interface, rng=random.Random(1), forwarding=forwarding,
                           tcp_config=tcp_config)  # fmt: skip
        self.stack.tcp.syn_queue.limit = SYN_QUEUE
        self.stack.fragments.reassembler = reassembly.Reassembler(FRAGMENTS)
        self.user = User()
        self.now = 1.0
        self.is_blocked = False
        self.pending: list[tuple[bytearray, bytes]] = []
        self.opened = 0  # flows that users opened: the bound is for the others
        self.ident = 1000  # of packets that come in fragments
        self._old: deque[bytearray] = deque(maxlen=OWNED)
        self._marks: dict[Connection, tuple[int, int, int]] = {}
        self._services(mtu)

    def _services(self, mtu: int) -> None:
        stack = self.stack
        stack.tcp.listeners[None, 80] = stack.tcp.forward = self.user
        stack.udp.forward = Udp(stack)
        first, last = ip.parse_address("192.168.127.10"), ip.parse_address("192.168.127.13")
        self.dhcp = dhcp.Server(dhcp.Config(HOST4, 24, first, last, HOST4, (HOST4,), "lab"))
        DhcpService(stack, self.dhcp)
        advertisement = ndp.RouterAdvertisement(
            slla=HOST_MAC, mtu=mtu, prefixes=(ndp.Prefix(NET6),)
        )
        router = stack.resolution.router = ra.Router(ra.Config(advertisement), random.Random(2))
        router.start(self.now)

    # The link.

    def blocked(self, mac: bytes) -> bool:
        """Tell the stack whether frames had better wait."""
        return self.is_blocked

    def egress(self, burst: Burst) -> None:
        """Check what leaves: each frame, cut and completed, is right in every checksum."""
        for f in burst:
            assert f.len, "a frame that could not be built"
            self._check_frame(f)

    def _check_frame(self, f: Any) -> None:
        out, cursor = Burst(64), ffi.new("uint32_t *")
        while True:
            out.count = lib.frame_soften(f, 0, cursor, out.array, 64)
            assert out.count, "a frame that could not be completed"
            for i in range(out.count):
                check_plain(out.octets(i), self.stack.interface.mtu)
            if not cursor[0]:
                return

    # Steps.

    def receive(self) -> None:
        """Give the pending frames to the stack as one burst, then take their memory away."""
        frames, self.pending = self.pending, []
        burst = Burst(max(len(frames), 1))
        for octets, vnet in frames:
            burst.append(octets, vnet)
        access.parse_burst(burst)
        self.stack.receive(burst, self.now)
        self.owners()
        self.stack.settle()
        for octets, _ in frames:
            octets[:] = b"\xee" * len(octets)
            self._old.append(octets)

    def owners(self) -> None:
        """Tell the users what happened."""
        while (event := self.stack.next_event()) is not None:
            owner, flow = event
            owner.flow_event(flow, self.now)

    def settle(self) -> None:
        """Transmit until there is nothing left, then check everything."""
        for _ in range(BURSTS_MAX):
            out = self.stack.transmit(self.now)
            self.owners()
            if out is not None:
                self.egress(out)
            elif not self.stack.tcp.pending:
                break
        else:
            raise AssertionError(f"expected rest within {BURSTS_MAX} bursts, found no end")
        due = self.stack.deadline()
        assert due is None or due > self.now, f"deadline {due} at {self.now} after transmit"
        self.check()

    def advance(self, seconds: float) -> None:
        """Let time pass, from deadline to deadline (at most 64 of them)."""
        end = self.now + seconds
        for _ in range(64):
            due = self.stack.deadline()
            if due is None or due > end:
                break
            self.now = due
            self.settle()
        self.now = max(self.now, end)

    # Invariants.

    def check(self) -> None:
        """Raise AssertionError where a bound or an order does not hold."""
        layer = self.stack.tcp
        flows = set(layer.flows.values())
        assert len(flows) <= FLOWS_MAX + self.opened
        assert len(layer.held) <= HELD_MAX
        assert len(layer.syn_queue._pending) <= SYN_QUEUE
        assert not layer._dirty
        assert not layer.events
        assert set(layer._ready) <= flows
        assert set(layer._blocked) <= flows, "a flow that is gone waits for the link"
        waiting = {flow for some in layer._waiting.values() for flow in some}
        assert waiting <= flows, "a flow that is gone waits for a neighbour"
        assert len(layer.timers) <= timers.SLACK + 2 * len(flows) + 1
        self._check_others()
        marks, self._marks = self._marks, {}
        for flow in flows:
            self._check_connection(flow.conn, marks.get(flow.conn))
        for table in (self.user.consumed, self.user.written):
            for conn in [c for c in table if c not in self._marks]:
                del table[conn]

    def _check_others(self) -> None:
        interface = self.stack.interface
        assert len(interface.queue) <= QUEUE_MAX
        assert len(interface.neighbours) <= NEIGHBOURS.capacity
        assert not interface.neighbours._events
        kept = self.stack.fragments.reassembler.statistics()
        assert kept.packets <= FRAGMENTS.packets
        assert kept.octets <= FRAGMENTS.octets
        assert len(self.dhcp.pool) <= 4
        router = self.stack.resolution.router
        assert router is not None
        assert len(router._unicast) <= router.config.unicast_pending

    def _check_connection(self, c: Connection, before: tuple[int, int, int] | None) -> None:
        self._marks[c] = now = (c.snd_una, c.rcv_nxt, c.rcv_adv)
        if c.state is State.CLOSED:
            return
        check_scoreboard(c)
        assert c.snd_una <= c.snd_nxt
        if before is not None and c.state >= State.ESTABLISHED:
            assert all(a <= b for a, b in zip(before, now, strict=True)), f"{before} then {now}"
        kept = c.queue.queued + (c.assembler.queued if c.assembler else 0)
        assert kept <= c.rcv_buf <= CONFIG["rcv_buf"]
        assert len(c.queue._pieces) <= 2 + c.queue.queued // 1024, "many small pieces"
        assert not c.queue._borrowed
        assert all(len(piece) for piece in c.queue._pieces), "a piece of nothing"
        assert len(c.snd_buf) <= CONFIG["snd_buf"]
        assert c.assembler is None or len(c.assembler.ranges) <= CONFIG["max_gaps"]
        assert c.cc.cwnd > 0
        if c.state >= State.ESTABLISHED:
            assert c.rcv_nxt <= c.rcv_adv + 1
            self._check_owners(c)

    def _check_owners(self, c: Connection) -> None:
        """Every octet is in one place: consumed, queued or to come; written, acknowledged, kept."""
        fin = 0 <= c.rcv_fin < c.rcv_nxt
        got = self.user.consumed[c] + c.queue.queued
        assert c.irs + 1 + got + fin == c.rcv_nxt, f"{got} octets for {c.rcv_nxt - c.irs - 1}"
        fin = 0 <= c.fin_seq < c.snd_una
        end = c.iss + 1 + self.user.written[c] + fin
        assert c.snd_una + len(c.snd_buf) == end, f"{len(c.snd_buf)} kept, {end - c.snd_una} not"


def tcp_config(version: int, mtu: int) -> Config:
    """Return small buffers and short times."""
    return Config(mss=mtu - (40 if version == 4 else 60), **CONFIG)  # type: ignore[arg-type]


def check_scoreboard(c: Connection) -> None:
    """The records are adjacent, cover what is in flight, and their sums are right."""
    sb = c.sb
    for state, total in ((OUT, sb.out), (LOST, sb.lost), (SACKED, sb.sacked)):
        found = sum(r.end - r.seq for r in sb.records if r.state == state)
        assert found == total, f"expected {found} bytes in state {state}, found {total}"
    for left, right in zip(sb.records, sb.records[1:], strict=False):
        assert left.end == right.seq, "records must be adjacent"
    if sb.records:
        assert (sb.records[0].seq, sb.records[-1].end) == (c.snd_una, c.snd_nxt)


def check_plain(octets: bytes, mtu: int) -> None:
    """Check a frame without offloads: its parse is OK, and TCP's data is what belongs there."""
    burst = Burst(1)
    f = burst.append(octets)
    access.parse_burst(burst)
    assert not f.verdict, f"verdict {f.verdict} about {octets.hex()}"
    assert f.len <= mtu + 14, f"{f.len} octets over an MTU of {mtu}"
    if f.ip_version and f.proto == ip.TCP and not f.is_frag and f.data_len:
        data = bytes(access.payload(f))
        assert data == stream(f.seq + (f.tcp_flags >> 1 & 1), len(data)), "wrong octets sent"

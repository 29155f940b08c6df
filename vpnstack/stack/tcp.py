"""Flows: which connection a segment belongs to, and when each has something to send.

The layer owns no policy.  A SYN that no listener wants goes to `forward`, which decides later
(`Flow.accept`, `Flow.refuse`, `Flow.drop`); events of connections go to their flow's owner
through `Stack.next_event`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from typing import Any

from ..core import access
from ..core.burst import Burst
from ..proto.tcp.block import Event
from ..proto.tcp.config import Config
from ..proto.tcp.connection import Connection, Icmp
from ..proto.tcp.isn import initial_sequence, sequence_beyond, timestamp_offset
from ..proto.tcp.ports import Ports
from ..proto.tcp.segment import ACK, FIN, RST, SYN, Segment, reset_for
from ..proto.tcp.state import Input, State
from ..wire import icmp, ip
from ..wire.icmp import Kind
from . import headers
from .flow import Acceptor, Flow, Lender
from .held import HELD_MAX, Held
from .interface import Interface, Packet
from .segments import emit, segment_of
from .synqueue import SynQueue
from .timers import Timers

FLOWS_MAX = 131072
TURN = 16  # segments of one flow before the next one's turn
RESOLVED = 1.0  # seconds for which a flow need not ask for its neighbour's address again


@dataclass(slots=True)
class TcpCounters:
    """Segments and flows since the stack was made."""

    segments_in: int = 0
    segments_out: int = 0
    flows_opened: int = 0
    syns_refused: int = 0  # no room in a table
    unroutable: int = 0  # SYNs from where no answer can go
    undelivered: int = 0  # segments for which no neighbour was found
    resets_out: int = 0


class TcpLayer:
    """The flow table of one interface."""

    def __init__(
        self, interface: Interface, config: Callable[[int], Config], secret: bytes
    ) -> None:
        self.interface = interface
        self.flows: dict[bytes, Flow] = {}
        self.listeners: dict[tuple[bytes | None, int], Acceptor] = {}
        self.forward: Acceptor | None = None
        self.counters = TcpCounters()
        self._config = config
        self._configs = {4: config(4), 6: config(6)}
        self._secret = secret
        self.ports = Ports(secret)
        self.syn_queue = SynQueue(secret)
        self.held = Held()
        self._ready: deque[Flow] = deque()
        self._dirty: list[Flow] = []
        self._waiting: dict[bytes, dict[Flow, None]] = {}  # by the next hop's address
        self._blocked: dict[Flow, None] = {}  # their port takes no frames
        self.timers = Timers(self.flows)
        self.events: deque[tuple[Any, Flow]] = deque()
        self.lender: Lender | None = None

    def reconfigure(self) -> None:
        """The interface's MTU changed: later connections have other parameters."""
        self._configs = {4: self._config(4), 6: self._config(6)}

    def _config_for(self, remote: bytes, now: float) -> Config:
        """Return the parameters of a connection, less what the path is known not to carry."""
        version = 4 if len(remote) == 4 else 6
        config, interface = self._configs[version], self.interface
        path = interface.path_mtu(remote, now)
        if path >= interface.mtu:
            return config
        return replace(config, send_mss=min(config.mss, path - (40 if version == 4 else 60)))

    # Receiving.

    def receive_known(self, f: Any, now: float) -> bool:
        """Give a parsed segment to its connection; False where there is none.

        The addresses of a flow were looked at when it was opened.  Those of no flow, and packets
        with IP options, take the longer way through `Stack.receive` to `receive`.
        """
        flow = self.flows.get(access.flow_key(f))
        if flow is None or f.l4 - f.l3 not in (20, 40) or f.ttl < 2:
            return False
        self._count(f)
        self._receive(flow, segment_of(f), now)
        return True

    def receive(self, f: Any, now: float) -> None:
        """Give a parsed TCP frame to its connection, or open one."""
        self._count(f)
        key = access.flow_key(f)
        flow = self.flows.get(key)
        seg = segment_of(f)
        if flow is not None:
            self._receive(flow, seg, now)
        elif not self.interface.framed_to_group(f):
            self._unknown(key, seg, now)

    def _count(self, f: Any) -> None:
        size = f.vnet.gso_size
        self.counters.segments_in += -(-f.data_len // size) if size else 1  # on the wire

    def _receive(self, flow: Flow, seg: Segment, now: float) -> None:
        if flow.lease is not None:
            self.recall(flow)
        if flow.conn.state is State.TIME_WAIT and flow.conn.reusable_by(seg):
            self.forget(flow)  # RFC 6191: the newer SYN opens the connection anew
            self._unknown(flow.key, seg, now, flow.conn.snd_nxt)
            return
        flow.conn.receive(seg, now)
        self._mark(flow)

    def _unknown(self, key: bytes, seg: Segment, now: float, old: int | None = None) -> None:
        """Take a segment without a flow; `old` is the SND.NXT of the flow that it replaces."""
        src, _, dst, dport = headers.unpack_key(key)
        if not self.interface.reachable(src):
            self.counters.unroutable += 1
            return
        if seg.flags & (SYN | FIN) == SYN | FIN:  # opens nothing and deserves no answer, as Linux
            return
        local = self.listeners.get((dst, dport)) or self.listeners.get((None, dport))
        if seg.flags & (SYN | ACK | RST) == SYN:
            self._opening(key, src, seg, local, now, old)
            return
        conn = None
        if local is not None and len(self.flows) < FLOWS_MAX:
            conn = self.syn_queue.restore(self._configs[4 if len(dst) == 4 else 6], key, seg, now)
        if local is None or conn is None:
            self._reset(key, seg, now)
            return
        flow = Flow(self, key, conn)
        self._mark(flow)
        self._enter(flow, local, now)

    def _opening(
        self, key: bytes, src: bytes, seg: Segment, local: Acceptor | None, now: float,
        old: int | None,
    ) -> None:  # fmt: skip
        """Hold a SYN for whoever decides on it, or answer it with a cookie."""
        acceptor = local or self.forward
        if acceptor is None:
            self._reset(key, seg, now)
            return
        config = self._config_for(src, now)
        if local is not None and old is None and self.syn_queue.full():
            self._answer(key, self.syn_queue.answer(config, key, seg, now), now)
            return
        if len(self.flows) >= FLOWS_MAX or not self._make_room(key, now):
            self.counters.syns_refused += 1
            return
        iss = initial_sequence(self._secret, key, now)
        if old is not None:
            iss = sequence_beyond(iss, old)
        flow = Flow(self, key, Connection.passive(config, seg, now, iss, hold=True))
        flow.conn.ts_offset = timestamp_offset(self._secret, key)
        self.held.add(flow, now)
        if local is not None:
            self.syn_queue.add(flow)
        self._enter(flow, acceptor, now)

    def _make_room(self, key: bytes, now: float) -> bool:
        """Tell whether one more SYN may be held."""
        held = self.held
        if held.full(headers.unpack_key(key)[2:]):
            return False
        if len(held) < HELD_MAX:
            return True
        oldest = held.in_the_way(now)
        if oldest is None:
            return False
        held.discard(oldest)
        oldest.conn.finish(Input.ABORT)
        self._after(oldest)
        return True

    def _enter(self, flow: Flow, acceptor: Acceptor, now: float) -> None:
        self.flows[flow.key] = flow
        self.counters.flows_opened += 1
        acceptor.flow_arrived(flow, now)

    def _reset(self, key: bytes, seg: Segment, now: float) -> None:
        answer = reset_for(seg)
        if answer is not None:
            self.counters.resets_out += 1
            self._answer(key, answer, now)

    def _answer(self, key: bytes, answer: Segment, now: float) -> None:
        """Send a segment that belongs to no connection."""
        self.counters.segments_out += 1
        src, sport, dst, dport = headers.unpack_key(key)
        ends = (dst, dport, src, sport)
        mac = self.interface.resolve(src, now, Packet(headers.packet(ends, answer)))
        if mac is not None:
            tmpl = headers.template(mac, self.interface.station, ends, headers.TCP)
            self.interface.send_queued((tmpl, answer))

    def sent(self, local: tuple[bytes, int], remote: tuple[bytes, int], seq: int) -> bool:
        """Tell whether `seq` is in flight from `local` to `remote` (RFC 5927 4.1)."""
        flow = self.flows.get(headers.key(*remote, *local, headers.TCP))
        if flow is None:
            return False
        self.recall(flow)
        conn = flow.conn
        return (seq - conn.snd_una) & 0xFFFFFFFF < max(conn.snd_nxt - conn.snd_una, 1)

    def icmp_received(
        self, local: tuple[bytes, int], remote: tuple[bytes, int], error: icmp.Error, now: float
    ) -> None:
        """Tell the flow that an ICMP error quotes (RFC 5927: the sequence number is checked)."""
        flow = self.flows.get(headers.key(*remote, *local, headers.TCP))
        where = ip.upper(error.quote)
        if flow is None or where is None:
            return
        seq = int.from_bytes(error.quote[where.offset + 4 : where.offset + 8], "big")
        self.recall(flow)
        if error.kind is Kind.TOO_BIG:
            room = (error.value & 0xFFFF) - (40 if error.version == 4 else 60)
            flow.conn.icmp_error(Icmp.PACKET_TOO_BIG, now, seq, max(room, 0))
        else:
            hard = error.kind in (Kind.PORT_UNREACHABLE, Kind.PROTOCOL_UNREACHABLE, Kind.PROHIBITED)
            flow.conn.icmp_error(Icmp.HARD if hard else Icmp.SOFT, now, seq)
        self._mark(flow)

    def recall(self, flow: Flow) -> None:
        """Take a lent connection back."""
        if self.lender is not None and flow.lease is not None:
            self.lender.recall(flow)

    def resolved(self, hop: bytes) -> None:
        """A neighbour answered: the flows that waited for its link address are ready."""
        for flow in self._waiting.pop(hop, ()):
            self.ready(flow)

    def unresolved(self, hop: bytes, now: float) -> None:
        """Nobody answers for a neighbour's address: tell the flows that waited.

        What they send is lost, so that their timers go on (RFC 1122 4.2.3.9: a soft error ends
        only a connection that is being opened).
        """
        for flow in self._waiting.pop(hop, ()):
            self.counters.undelivered += len(flow.conn.transmit(now, TURN))
            flow.conn.icmp_error(Icmp.SOFT, now, flow.conn.snd_una & 0xFFFFFFFF)
            if flow.conn.wants_transmit:
                self.ready(flow)
            self._after(flow)

    def lost(self, macs: Container[bytes]) -> None:
        """The stations `macs` are gone for good: end their flows."""
        for flow in [flow for flow in self.flows.values() if flow.mac in macs]:
            self.recall(flow)
            if flow.conn.state is not State.CLOSED:
                flow.conn.finish(Input.ABORT, Event.UNREACHABLE)
            self._after(flow)

    def _mark(self, flow: Flow) -> None:
        if not flow.dirty:
            flow.dirty = True
            self._dirty.append(flow)

    def settle(self) -> None:
        """End a burst: events of touched connections are queued for their owners."""
        for flow in self._dirty:
            if flow.conn.events:
                self.events.append((flow.owner, flow))

    def own(self) -> None:
        """After the owners ran: keep what still lies in the burst's memory, and get ready."""
        for flow in self._dirty:
            flow.dirty = False
            flow.conn.own()
            self.ready(flow)
        self._dirty.clear()

    # Local calls.

    def connect(self, local: tuple[bytes, int], remote: tuple[bytes, int], now: float) -> Flow:
        """Open a flow from `local` to `remote`; raises `KeyError` where one exists already."""
        key = headers.key(*remote, *local, headers.TCP)
        if key in self.flows:
            raise KeyError(key)
        config = self._config_for(remote[0], now)
        iss = initial_sequence(self._secret, key, now)
        flow = Flow(self, key, Connection.active(config, now, iss))
        flow.conn.ts_offset = timestamp_offset(self._secret, key)
        self.flows[key] = flow
        self.counters.flows_opened += 1
        self.ready(flow)
        return flow

    def choose_port(self, local: bytes, remote: tuple[bytes, int]) -> int:
        """Return a port of ours for a flow to `remote` (RFC 6056, algorithm 4), 0: none is free."""
        flows, listeners = self.flows, self.listeners

        def free(port: int) -> bool:
            if (local, port) in listeners or (None, port) in listeners:
                return False
            return headers.key(*remote, local, port, headers.TCP) not in flows

        return self.ports.choose(local + remote[0] + remote[1].to_bytes(2, "big"), free)

    def ready(self, flow: Flow) -> None:
        """Put a flow into the queue of those that may have something to send."""
        if not flow.ready:
            flow.ready = True
            self._ready.append(flow)

    def decided(self, flow: Flow) -> None:
        """Note that a held SYN got its answer."""
        self.held.discard(flow)

    def forget(self, flow: Flow) -> None:
        """Take a flow out of the table, where a newer one may have its place already."""
        self.recall(flow)
        if self.flows.get(flow.key) is flow:
            del self.flows[flow.key]
        self.held.discard(flow)
        self._blocked.pop(flow, None)
        if self._waiting:
            hop = self._hop(flow)
            waiting = self._waiting.get(hop, {})
            if waiting.pop(flow, flow) is None and not waiting:
                del self._waiting[hop]

    # Transmitting.

    @property
    def pending(self) -> bool:
        """True when `transmit` may have something to send."""
        return bool(self._ready)

    def transmit(self, burst: Burst, now: float) -> None:
        """Fill `burst` from the flows that are ready, in turn."""
        ready = self._ready
        while ready and not burst.full:
            flow = ready.popleft()
            flow.ready = False
            if flow.lease is not None:
                self.recall(flow)
            if self._transmit_flow(flow, burst, now):
                self._after(flow)
                if flow.fd >= 0 and not flow.ready and self.lender is not None:
                    self.lender.offer(flow, now)

    def _transmit_flow(self, flow: Flow, burst: Burst, now: float) -> bool:
        """Send a turn's worth; False when the flow has to wait, its timers with it."""
        conn = flow.conn
        due = conn.deadline()
        if not conn.wants_transmit and (due is None or due > now):
            return True
        if not self._resolve(flow, now):
            return False
        segments = conn.transmit(now, min(burst.capacity - burst.count, TURN))
        template = flow.template
        for seg in segments:
            emit(burst, template, seg)
        self.counters.segments_out += len(segments)
        if conn.state is State.CLOSED:
            self.counters.resets_out += sum(1 for seg in segments if seg.flags & RST)
        if conn.wants_transmit:
            self.ready(flow)  # its turn is over, it has more
        return True

    def _resolve(self, flow: Flow, now: float) -> bool:
        """Make sure of the template; False when the flow has to wait for a link address."""
        if now < flow.resolved_until and flow.resolved_by == self.interface.neighbours.generation:
            return not self._is_blocked(flow)
        mac = self.interface.resolve(flow.remote[0], now, None)
        if mac is None:
            if self.flows.get(flow.key) is flow:
                self._waiting.setdefault(self._hop(flow), {})[flow] = None
            return False
        if mac != flow.mac:
            ends = (*flow.local, *flow.remote)
            flow.mac = mac
            flow.template = headers.template(mac, self.interface.station, ends, headers.TCP)
        flow.resolved_until = now + RESOLVED
        flow.resolved_by = self.interface.neighbours.generation
        return not self._is_blocked(flow)

    def _is_blocked(self, flow: Flow) -> bool:
        if not self.interface.link.blocked(flow.mac):
            return False
        if self.flows.get(flow.key) is flow:  # its last words, if it is gone, are lost
            self._blocked[flow] = None
        return True

    def _hop(self, flow: Flow) -> bytes:
        return self.interface.next_hop(flow.remote[0]) or flow.remote[0]

    def unblock(self) -> None:
        """A port that took no frames takes them again: its flows are ready."""
        flows, self._blocked = self._blocked, {}
        for flow in flows:
            self.ready(flow)

    def _after(self, flow: Flow) -> None:
        """Keep the timer heap and the table in step with the connection."""
        conn = flow.conn
        if conn.events:
            self.events.append((flow.owner, flow))
        if conn.state is State.CLOSED and not conn.wants_transmit:
            self.forget(flow)
            flow.timer = None
            return
        at = conn.deadline()
        if at is not None and (flow.timer is None or at < flow.timer):
            self.timers.arm(flow, at)

    def expire(self, now: float) -> None:
        """Make the flows whose time has come ready."""
        for flow in self.timers.due(now):
            if flow.conn.state is State.CLOSED:
                continue
            due = flow.conn.deadline()
            if due is not None and due <= now:
                self.ready(flow)  # a lent connection is recalled then
            elif due is not None:
                self.timers.arm(flow, due)

    def deadline(self) -> float | None:
        """Return when `expire` has something to do next."""
        return self.timers.deadline()

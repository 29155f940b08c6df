"""A guest, a connection that is lent and taken back, and its host: what `fuzz_lane` plays with.

`World` is the loop glue in small: one connection, its lane in C, a socket pair as the host's.  Each
step is checked: every octet reaches the other side once and in order, nothing is acknowledged that
did not arrive, the window's right edge stays where it was promised, memory stays bounded.
"""

from __future__ import annotations

import random
import select
import socket
import struct
from typing import Any

from vpnstack.core._core import ffi, lib

from vpnstack.core import access
from vpnstack.core.burst import Burst
from vpnstack.core.puresend import Frame, Tcp, emit_tcp
from vpnstack.proto.tcp.block import Event
from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.connection import Connection
from vpnstack.proto.tcp.lease import in_flight, lend, lendable, let_go, take_back
from vpnstack.proto.tcp.segment import ACK, SYN, Segment
from vpnstack.stack.headers import key, template
from vpnstack.stack.segments import segment_of

MAC, PEER = b"\2" * 6, b"\4" * 6
ENDS = {
    4: (bytes([10, 0, 0, 2]), bytes([10, 0, 0, 1])),
    6: (bytes.fromhex("fd" + "00" * 14 + "02"), bytes.fromhex("fd" + "00" * 14 + "01")),
}
POOL = random.Random(3).randbytes(65521) * 3
RING_MAX, PORT, SCALE, MASK = 1 << 20, 1, 7, 0xFFFFFFFF
EDGES = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET


def pattern(at: int, n: int) -> bytes:
    """Return the octets [at, at + n) of either stream."""
    at %= 65521
    return POOL[at : at + n]


class World:
    """A guest, the connection with it, and the host's end of the socket."""

    def __init__(self, version: int = 4, *, ts: bool = True, isn: int = MASK - 2000,
                 iss: int = MASK - 3000, sndbuf: int = 0, cwnd: int = 0,
                 **config: Any) -> None:  # fmt: skip
        self.now, self.ts, self.isn, self.iss = 100.0, ts, isn, iss
        self.version = version
        src, dst = ENDS[version]
        self.to_us = template(MAC, PEER, (src, 4000, dst, 80), 6)
        self.to_guest = template(PEER, MAC, (dst, 80, src, 4000), 6)
        self.key = key(src, 4000, dst, 80, 6)
        self.lane = ffi.gc(lib.lane_new(2, 7), lib.lane_free)
        self.host, self.far = socket.socketpair()
        for sock in (self.host, self.far):
            sock.setblocking(False)
            if sndbuf:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
        self.lease: Any = None
        self.lent = self.carried = 0
        self.out = Burst()
        self.became = ffi.new("struct lane_burst *")
        self.edges = select.epoll()
        self.edges.register(self.host, EDGES)
        self.writing = self.paused = self.hungry = self.hup = self.stalled = False
        self.kept = self.flight = 0  # the most there was
        self.loaded = self.resumed = self.parked = 0  # what was reached
        self.g_nxt = self.g_una = 0  # offsets in the guest's stream: next to send, acknowledged
        self.g_rcv = 0  # what the guest has of the host's stream, in order
        self.g_late: list[tuple[int, int]] = []
        self.g_wnd = 60000 >> SCALE << SCALE
        self.edge = self.sent = self.got = 0  # window; octets given to and taken at the far end
        self.lossy = 0  # frames to the guest that are lost
        self.read_far = True
        self.g_fin = False
        self._open(Config(keepalive=True, nodelay=True, **config))
        self.conn.cc.cwnd = max(cwnd, self.conn.cc.cwnd)

    def _open(self, config: Config) -> None:
        stamp = (1000, 0) if self.ts else None
        syn = Segment(
            self.isn, 0, SYN, 60000, mss=1460, wscale=SCALE, sack_permitted=True, ts=stamp
        )
        self.conn = conn = Connection.passive(config, syn, self.now, self.iss, hold=False)
        conn.transmit(self.now)
        stamp = (1001, 0) if self.ts else None
        ack = Segment(self.isn + 1 & MASK, self.iss + 1 & MASK, ACK, self.g_wnd >> SCALE, ts=stamp)
        conn.receive(ack, self.now)
        self.edge = conn.rcv_adv - conn.rcv_nxt
        self.turn()

    # The guest.

    def segment(self, at: int, n: int, **facts: Any) -> Frame:
        """Make a frame of the guest: octets [at, at + n) of its stream, with what `facts` say."""
        opts = facts.pop("opts", None)
        if opts is None:
            stamp = facts.pop("tsval", int(self.now * 1000) & MASK)
            opts = b"\1\1\x08\x0a" + struct.pack(">II", stamp, 0) if self.ts else b""
        said = {
            "seq": (self.isn + 1 + at) & MASK,
            "ack": (self.iss + 1 + self.g_rcv + self.g_fin) & MASK,
            "flags": 16, "wnd": self.g_wnd >> SCALE, "opts": opts,
            "gso_size": 1448 if n > 1448 else 0,
        } | facts  # fmt: skip
        return emit_tcp(facts.pop("tmpl", self.to_us), Tcp(**{
            k: v for k, v in said.items() if k != "tmpl"}), pattern(at, n))  # fmt: skip

    def data(self, n: int, **facts: Any) -> Frame:
        """Make the guest's next data segment."""
        self.g_nxt += n
        return self.segment(self.g_nxt - n, n, **facts)

    def g_una_of(self, part: int) -> int:
        """Return an offset of the host's stream between what is acknowledged and what arrived."""
        una = (self.lease.snd_una if self.lease is not None else self.conn.snd_una) - self.iss - 1
        una = min(((una + (1 << 31)) & MASK) - (1 << 31), self.g_rcv)
        return una + max((self.g_rcv - una) * part // 256, self.g_rcv > una)

    def carry(self, *frames: Frame, port: int = PORT, merge: bool = True) -> tuple[int, Burst]:
        """Let frames arrive in one burst at the lane; return how many it left, and the burst."""
        burst = Burst()
        for frame in frames:
            burst.append(frame.octets, frame.vnet)
        access.parse_burst(burst)
        if merge:
            access.coalesce(burst, MAC)
        left = int(lib.lane_receive(
            self.lane, burst.array, burst.count, MAC, port, self.now, self.out.array, self.became
        ))  # fmt: skip
        self.carried += self.became.taken
        self._made(self.became.made)
        e = self.lease
        if e is not None:  # what is promised and what waits together fit into the buffer
            assert e.kept_n + ((e.rcv_adv - e.rcv_nxt) & MASK) <= e.rcv_max
            self.kept = max(self.kept, e.kept_n)
        self._looks()
        return left, burst

    def receive(self, *frames: Frame) -> int:
        """Let frames arrive in one burst; return how many the lane left to the connection."""
        left, burst = self.carry(*frames)
        for f in burst:
            if f.verdict == lib.FRAME_OK and access.flow_key(f) == self.key:
                assert f.len >= 14  # the switch passes no less
                self.recall()
                self.conn.receive(segment_of(f), self.now)
        self.to_host()
        self.conn.own()
        return left

    def _frame(self, f: Any) -> None:
        assert f.vnet.gso_size in (0, self.conn.mss)
        octets = b"".join(bytes(ffi.buffer(f.iov[i].iov_base, f.iov[i].iov_len))
                          for i in range(f.iovcnt))  # fmt: skip
        assert len(octets) == f.len
        self.arrive(f.seq, f.ack, f.tcp_flags, f.wnd, octets[f.head_len :])

    def arrive(self, seq: int, ack: int, flags: int, wnd: int, data: bytes) -> None:
        """Check a segment of ours, and let the guest have it unless it is lost."""
        acked = (ack - self.isn - 1) & MASK
        assert acked <= self.g_nxt, "acknowledged what never arrived"
        edge = acked + (wnd << self.conn.rcv_wscale)
        assert edge > self.edge - (1 << self.conn.rcv_wscale), "the right edge moved left"
        self.edge = max(edge, self.edge)
        if flags & 4:
            return
        at = (seq - self.iss - 1 + (1 << 31) & MASK) - (1 << 31)
        assert data == pattern(at, len(data)) if data else True
        assert at + len(data) <= self.sent + (self.conn.fin_seq >= 0)
        if self.lossy:
            self.lossy -= 1
            return
        self.g_una = max(self.g_una, acked)
        self.g_late = sorted([*self.g_late, (at, at + len(data))])
        while self.g_late and self.g_late[0][0] <= self.g_rcv:
            self.g_rcv = max(self.g_rcv, self.g_late.pop(0)[1])
        self.g_fin |= bool(flags & 1) and self.g_rcv == at + len(data)

    # The host.

    def give(self, n: int) -> int:
        """Write at the far end what the socket takes of `n` octets."""
        try:
            done = self.far.send(pattern(self.sent, min(n, 65521)))
        except BlockingIOError:
            return 0
        self.sent += done
        return done

    def take(self, n: int = 1 << 20) -> int:
        """Read at the far end and compare; return how much there was."""
        total = 0
        while total < n:
            try:
                data = self.far.recv(min(n - total, 65521))
            except BlockingIOError:
                break
            if not data:
                break
            assert data == pattern(self.got, len(data)), "the host got something else"
            self.got += len(data)
            total += len(data)
        assert self.got <= self.g_nxt
        return total

    def to_host(self) -> None:
        """Do what a bridge does: what the connection has goes to the host."""
        while (event := self.conn.next_event()) is not None:
            if event is Event.WRITABLE and self.paused:
                self.read()
        if self.lease is not None:
            return
        try:
            while views := self.conn.received():
                self.conn.consume(self.host.sendmsg(views[:512]))
            self.watch(False)
        except BlockingIOError:
            self.watch(True)
        if self.lease is None and self.conn.eof:
            self.conn.shutdown()

    def look(self) -> None:
        """Hear of the edges of the host's socket, each of which comes once, as a bridge does."""
        for _, mask in self.edges.poll(0):
            self.hup = self.hup or bool(mask & select.EPOLLRDHUP)
            if mask & select.EPOLLOUT and self.writing:
                self.drain()
            if self.hup:
                self.recall()
            self.readable()

    def watch(self, writing: bool) -> None:
        """Wait for the host's socket to take more, or stop."""
        if writing != self.writing:
            self.writing = writing
            self.edges.modify(self.host, EDGES | (select.EPOLLOUT if writing else 0))

    def drain(self) -> None:
        """Give the host what it did not take before."""
        if self.lease is None:
            self.to_host()
            return
        if lib.lane_drain(self.lane, self.lease, self.now, self.out.array) > 0:
            self._frame(self.out[0])
        if not self.lease.full:
            self.watch(False)

    def readable(self) -> None:
        """The host's socket may have something: carry or read it."""
        e = self.lease
        if e is not None:
            if self.stalled:
                lib.lane_wait(self.lane, e)
                self.parked += 1
            if e.hungry:
                return
            made = lib.lane_send(self.lane, e, self.now, self.out.array, 64)
            assert made <= 4
            self._made(made)
            if not e.why:
                return
            self.recall()
        self.read()

    def read(self) -> None:
        """Read the host's socket without the lane."""
        self.paused = False
        while not self.conn.fin_queued:
            room = self.conn.writable()
            if not len(room):
                self.paused = True
                return
            try:
                n = self.host.recv_into(room)
            except BlockingIOError:
                n = -1
            del room
            self.conn.commit(max(n, 0))
            if not n:
                self.conn.shutdown()
            if n <= 0:
                return

    # Between.

    def _made(self, count: int) -> None:
        for i in range(count):
            self._frame(self.out[i])

    def _looks(self) -> None:
        """Do what a lease that ended or became full asks for."""
        for i in range(self.became.n_look):
            assert self.became.look[i] == self.lease
            if self.lease.why:
                self.recall()
                self.read()
            else:
                assert self.lease.full
                self.watch(True)

    def offer(self) -> bool:
        """Lend the connection if that may be."""
        if self.lease is not None or self.hup or not lendable(self.conn):
            return False
        e = ffi.new("struct lease *")
        e.key, e.tmpl_len, e.fd, e.port = self.key, len(self.to_guest), self.host.fileno(), PORT
        ffi.memmove(e.tmpl, self.to_guest, len(self.to_guest))
        lend(self.conn, e)
        held = in_flight(self.conn)
        if len(held):
            assert lib.lease_load(self.lane, e, ffi.from_buffer(held), len(held)) == 0
            self.loaded += 1
        assert lib.lane_lend(self.lane, e) == 0
        let_go(self.conn)
        self.lease = e
        self.lent += 1
        return True

    def recall(self) -> int:
        """Take the connection back; return why the lease ended."""
        e, self.lease = self.lease, None
        if e is None:
            return 0
        owes, n = bool(e.owes), (e.snd_nxt - e.snd_una) & MASK
        self.flight = max(n, self.flight)
        lib.lane_recall(self.lane, e)
        assert n <= e.ring_cap <= RING_MAX
        assert bool(e.full) is bool(e.kept_n)
        held, kept = bytearray(n), bytearray(e.kept_n)
        lib.lease_flight(e, ffi.from_buffer(held))
        lib.lease_kept(e, ffi.from_buffer(kept))
        assert lib.lane_deadline(self.lane) == lib.lane_waiting(self.lane) == 0
        take_back(self.conn, e, owes, bytes(held), bytes(kept))
        left = lib.lane_octets(self.lane) - e.ring_cap - e.kept_cap
        lib.lease_free(self.lane, e)
        assert lib.lane_octets(self.lane) == left
        self.hungry |= bool(e.hungry)
        return int(e.why)

    def stall(self, stalled: bool) -> None:
        """The guest's port takes no frames now, or takes them again."""
        self.stalled = stalled
        lib.lane_stall(self.lane, PORT, stalled)

    def _carry_on(self) -> None:
        """Let the lane do what is due, and what waits for its turn."""
        at = lib.lane_deadline(self.lane)
        if at and at <= self.now:
            lib.lane_expire(self.lane, self.now, self.out.array, 64, self.became)
            self._made(self.became.made)
            self._looks()
        if lib.lane_waiting(self.lane):
            self.resumed += 1
            lib.lane_resume(self.lane, self.now, self.out.array, 64, self.became)
            assert not (self.stalled and self.became.made)
            assert all(self.became.ports[i] == PORT for i in range(self.became.made))
            self._made(self.became.made)
            self._looks()

    def turn(self) -> None:
        """Transmit what is due, as a flush does."""
        self._carry_on()
        if self.hungry:
            self.hungry = False
            if self.lease is None:
                self.read()
            else:
                self.readable()
        if self.lease is not None:
            return
        for _ in range(20):
            due = self.conn.deadline()
            if not self.conn.wants_transmit and (due is None or due > self.now):
                break
            for s in self.conn.transmit(self.now):
                self.arrive(s.seq, s.ack, s.flags, s.wnd, bytes(s.data))
        self.to_host()

    def owes(self) -> bool:
        """Tell whether something that arrived is not acknowledged yet."""
        if self.lease is not None:
            return bool(self.lease.rcv_nxt != self.lease.last_ack_sent)
        return self.conn.rcv_nxt != self.conn.last_ack_sent

    def deadline(self) -> float:
        """Return when something is due."""
        times = [lib.lane_deadline(self.lane) or 1e9]
        if self.lease is None:
            times.append(self.conn.deadline() or 1e9)
        return min(times)

    def advance(self, seconds: float) -> None:
        """Let time pass, no further than the next deadline."""
        self.now = min(max(self.now, self.deadline()), self.now + seconds)
        self.turn()

    def close(self) -> None:
        """End; no lease stays."""
        self.recall()
        self.edges.close()
        self.host.close()
        self.far.close()
        assert lib.lane_octets(self.lane) == 0

"""A guest, a connection that is lent and taken back, and its host: what `fuzz_lane` plays with.

`World` is the loop glue in small: one connection, its lane in C, a socket pair as the host's.  Each
step is checked: every octet reaches the other side once and in order, nothing is acknowledged that
did not arrive, the window's right edge stays where it was promised, memory stays bounded.
"""

from __future__ import annotations

import random
import socket
import struct
from typing import Any

from vpnstack.core._core import ffi, lib

from vpnstack.core import access
from vpnstack.core.burst import Burst
from vpnstack.core.puresend import Frame, Tcp, emit_tcp
from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.connection import Connection
from vpnstack.proto.tcp.lease import lend, lendable, take_back
from vpnstack.proto.tcp.segment import ACK, SYN, Segment
from vpnstack.stack.headers import key, template
from vpnstack.stack.segments import segment_of

MAC, PEER = b"\2" * 6, b"\4" * 6
ENDS = {
    4: (bytes([10, 0, 0, 2]), bytes([10, 0, 0, 1])),
    6: (bytes.fromhex("fd" + "00" * 14 + "02"), bytes.fromhex("fd" + "00" * 14 + "01")),
}
POOL = random.Random(3).randbytes(65521) * 3
HELD_MAX, PORT, SCALE, MASK = 65536, 1, 7, 0xFFFFFFFF


def pattern(at: int, n: int) -> bytes:
    """Return the octets [at, at + n) of either stream."""
    at %= 65521
    return POOL[at : at + n]


class World:
    """A guest, the connection with it, and the host's end of the socket."""

    def __init__(self, version: int = 4, *, ts: bool = True, isn: int = MASK - 2000,
                 iss: int = MASK - 3000, sndbuf: int = 0, **config: Any) -> None:  # fmt: skip
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
        self.out, self.made = Burst(), ffi.new("uint32_t *")
        self.became = ffi.new("struct lane_burst *")
        self.ports, self.ended = ffi.new("uint32_t[]", 64), ffi.new("struct lease *[]", 64)
        self.g_nxt = self.g_una = 0  # offsets in the guest's stream: next to send, acknowledged
        self.g_rcv = 0  # what the guest has of the host's stream, in order
        self.g_late: list[tuple[int, int]] = []
        self.g_wnd = 60000 >> SCALE << SCALE
        self.edge = self.sent = self.got = 0  # window; octets given to and taken at the far end
        self.lossy = 0  # frames to the guest that are lost
        self.read_far = True
        self._open(Config(keepalive=True, nodelay=True, **config))

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
        self.turn()

    # The guest.

    def segment(self, at: int, n: int, **facts: Any) -> Frame:
        """Make a frame of the guest: octets [at, at + n) of its stream, with what `facts` say."""
        opts = facts.pop("opts", None)
        if opts is None:
            stamp = facts.pop("tsval", int(self.now * 1000) & MASK)
            opts = b"\1\1\x08\x0a" + struct.pack(">II", stamp, 0) if self.ts else b""
        said = {
            "seq": (self.isn + 1 + at) & MASK, "ack": (self.iss + 1 + self.g_rcv) & MASK,
            "flags": 16, "wnd": self.g_wnd >> SCALE, "opts": opts,
            "gso_size": 1448 if n > 1448 else 0,
        } | facts  # fmt: skip
        return emit_tcp(facts.pop("tmpl", self.to_us), Tcp(**{
            k: v for k, v in said.items() if k != "tmpl"}), pattern(at, n))  # fmt: skip

    def data(self, n: int, **facts: Any) -> Frame:
        """Make the guest's next data segment."""
        self.g_nxt += n
        return self.segment(self.g_nxt - n, n, **facts)

    def carry(self, *frames: Frame, port: int = PORT) -> tuple[int, Burst]:
        """Let frames arrive in one burst at the lane; return how many it left, and the burst."""
        burst = Burst()
        for frame in frames:
            burst.append(frame.octets, frame.vnet)
        access.parse_burst(burst)
        access.coalesce(burst, MAC)
        left = int(lib.lane_receive(
            self.lane, burst.array, burst.count, MAC, port, self.now, self.out.array, self.became
        ))  # fmt: skip
        self.carried += self.became.taken
        for i in range(self.became.made):
            self._frame(self.out[i])
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
        assert at + len(data) <= self.sent
        if self.lossy:
            self.lossy -= 1
            return
        self.g_una = max(self.g_una, acked)
        self.g_late = sorted([*self.g_late, (at, at + len(data))])
        while self.g_late and self.g_late[0][0] <= self.g_rcv:
            self.g_rcv = max(self.g_rcv, self.g_late.pop(0)[1])

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
        while self.conn.next_event() is not None:
            pass
        try:
            while self.lease is None and (views := self.conn.received()):
                self.conn.consume(self.host.sendmsg(views[:512]))
        except BlockingIOError:
            pass
        if self.lease is None and self.conn.eof:
            self.conn.shutdown()

    def readable(self) -> None:
        """The host's socket may have something: carry or read it."""
        if self.lease is not None:
            got = lib.lane_send(self.lane, self.lease, self.now, self.out.array)
            assert self.lease.held_cap <= HELD_MAX
            if got > 0:
                self._frame(self.out[0])
            if not self.lease.why:
                return
            self.recall()
        while len(room := self.conn.writable()):
            try:
                n = self.host.recv_into(room)
            except BlockingIOError:
                n = 0
            self.conn.commit(n)
            if not n:
                break
        del room

    # Between.

    def offer(self) -> bool:
        """Lend the connection if that may be."""
        if self.lease is not None or not lendable(self.conn):
            return False
        e = self.lease = ffi.new("struct lease *")
        e.key, e.tmpl_len, e.fd, e.port = self.key, len(self.to_guest), self.host.fileno(), PORT
        ffi.memmove(e.tmpl, self.to_guest, len(self.to_guest))
        lend(self.conn, e)
        assert lib.lane_lend(self.lane, e) == 0
        self.lent += 1
        return True

    def recall(self) -> int:
        """Take the connection back; return why the lease ended."""
        e, self.lease = self.lease, None
        if e is None:
            return 0
        owes, n = bool(e.owes), (e.snd_nxt - e.snd_una) & MASK
        lib.lane_recall(self.lane, e)
        assert n <= HELD_MAX
        assert e.held_at + n <= e.held_cap
        held = bytes(ffi.buffer(e.held + e.held_at, n)) if n else b""
        assert lib.lane_deadline(self.lane) == 0
        take_back(self.conn, e, owes, held)
        lib.lease_free(e)
        return int(e.why)

    def turn(self) -> None:
        """Transmit what is due, as a flush does."""
        at = lib.lane_deadline(self.lane)
        if at and at <= self.now:
            n = lib.lane_expire(self.lane, self.now, self.out.array, self.ports, 64, self.made,
                                self.ended, 64)  # fmt: skip
            for i in range(self.made[0]):
                assert self.ports[i] == PORT
                self._frame(self.out[i])
            if n:
                assert self.ended[0] == self.lease
                self.recall()
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
        self.host.close()
        self.far.close()

"""Two connections joined by a link in virtual time: seeded loss, duplication, delay, reordering."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from vpnstack.proto.tcp.block import Event
from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.connection import Connection
from vpnstack.proto.tcp.segment import Segment
from vpnstack.proto.tcp.state import State


@dataclass
class Link:
    """One direction: what happens to each segment on its way."""

    delay: float = 0.01
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    late: float = 0.0  # the chance of a segment to be overtaken, by `late_by` seconds
    late_by: float = 0.004
    rate: float = 0.0  # bytes a second, 0: infinite
    queue: float = 0.1  # seconds of rate that may wait
    drop: Callable[[Segment], bool] | None = None
    busy: float = 0.0


@dataclass
class End:
    """One side: a connection, what it is to send, what it has got."""

    conn: Connection
    link: Link
    to_send: bytes | memoryview = b""
    got: bytearray = field(default_factory=bytearray)
    events: list[Event] = field(default_factory=list)
    finish: bool = True  # shut down when everything is sent
    read: bool = True
    sent: list[tuple[float, Segment]] = field(default_factory=list)


def cut(seg: Segment, fast: bool) -> list[Segment]:
    """Cut a super-segment as a link without TSO does."""
    size = seg.gso_size
    if not size or fast:
        return [seg]
    parts = []
    for at in range(0, len(seg.data), size):
        part = seg.data[at : at + size]
        last = at + size >= len(seg.data)
        flags = seg.flags if last else seg.flags & ~9  # FIN and PSH on the last only
        parts.append(
            seg._replace(seq=(seg.seq + at) & 0xFFFFFFFF, data=part, flags=flags, gso_size=0)
        )
    return parts


class Pair:
    """Client `a` and server `b`; `run` advances the clock until nothing is left to do."""

    def __init__(self, config_a: Config | None = None, config_b: Config | None = None, *,
                 seed: int = 0, iss_a: int = 1000, iss_b: int = 5000, whole: bool = True,
                 start: float = 100.0) -> None:  # fmt: skip
        self.now = start
        self.rng = random.Random(seed)
        self.whole = whole  # super-segments cross the link in one piece
        self.config_b = config_b or Config()
        self.iss_b = iss_b
        self.a = End(Connection.active(config_a or Config(), self.now, iss_a), Link())
        self.b: End | None = None
        self.link_b = Link()
        self.heap: list[tuple[float, int, bool, Segment]] = []
        self.count = 0
        self.on_deliver: Callable[[], None] | None = None

    def _post(self, end: End, to_b: bool, seg: Segment) -> None:
        link = end.link
        end.sent.append((self.now, seg))
        for part in cut(seg, self.whole):
            part = part._replace(data=bytes(part.data))
            if link.drop is not None and link.drop(part):
                continue
            if self.rng.random() < link.loss:
                continue
            at = self.now
            if link.rate:
                if link.busy - self.now > link.queue:
                    continue
                link.busy = max(link.busy, self.now) + (len(part.data) + 40) / link.rate
                at = link.busy
            copies = 2 if self.rng.random() < link.duplicate else 1
            for _ in range(copies):
                self.count += 1
                when = at + link.delay + self.rng.random() * link.jitter
                if link.late and self.rng.random() < link.late:
                    when += link.late_by
                heapq.heappush(self.heap, (when, self.count, to_b, part))

    def _serve(self, end: End, to_b: bool) -> None:
        conn = end.conn
        for _ in range(50):
            while (event := conn.next_event()) is not None:
                end.events.append(event)
            if end.read and conn.rcv_queued:
                for view in conn.received():
                    end.got += view
                conn.consume(conn.rcv_queued)
            if end.to_send and conn.state is not State.CLOSED:
                n = conn.send(end.to_send)
                end.to_send = memoryview(end.to_send)[n:]
            if not end.to_send and end.finish and conn.state >= State.ESTABLISHED:
                conn.shutdown()
            conn.own()
            due = conn.deadline()
            if not conn.wants_transmit and (due is None or due > self.now):
                return
            for seg in conn.transmit(self.now):
                self._post(end, to_b, seg)

    def step(self, until: float) -> bool:
        """Serve both ends and advance to the next happening; False when there is none."""
        self._serve(self.a, True)
        if self.b is not None:
            self._serve(self.b, False)
        times = [self.heap[0][0]] if self.heap else []
        for end in (self.a, self.b):
            if end is not None and (due := end.conn.deadline()) is not None:
                times.append(due)
        if not times or min(times) > until:
            self.now = max(self.now, until if until < 1e9 else self.now)
            return False
        self.now = max(self.now, min(times))
        while self.heap and self.heap[0][0] <= self.now:
            _, _, to_b, seg = heapq.heappop(self.heap)
            self._deliver(to_b, seg)
        return True

    def _deliver(self, to_b: bool, seg: Segment) -> None:
        if not to_b:
            self.a.conn.receive(seg, self.now)
            return
        if self.b is None:
            if seg.flags & 2 and not seg.flags & 16:
                conn = Connection.passive(self.config_b, seg, self.now, self.iss_b, hold=False)
                self.b = End(conn, self.link_b)
                self.prepare_b(self.b)
            return
        self.b.conn.receive(seg, self.now)

    def prepare_b(self, end: End) -> None:
        """Called when `b` comes into being; tests replace it."""

    def run(self, seconds: float = 1e9, steps: int = 200_000) -> None:
        """Advance until nothing is left to do, or for so many seconds."""
        until = self.now + seconds
        for _ in range(steps):
            if not self.step(until):
                return
        raise AssertionError(f"no end after {steps} steps at t={self.now}")


def connected(config_a: Config | None = None, config_b: Config | None = None, **kw) -> Pair:
    """Return a pair with the handshake done and nothing to send."""
    pair = Pair(config_a, config_b, **kw)
    pair.a.finish = False

    def quiet(end: End) -> None:
        end.finish = False

    pair.prepare_b = quiet
    pair.run(1.0)
    assert pair.a.conn.state is State.ESTABLISHED
    assert pair.b is not None
    assert pair.b.conn.state is State.ESTABLISHED
    return pair

"""A congestion control of your own: 30 lines of Python, tried on a link in virtual time.

    python examples/congestion.py

`Delay` grows by a segment a round trip while the path's queue is short and shrinks by a fifth when
it is long (additive increase, multiplicative decrease, on delay instead of loss).  Two connections
talk over 20 Mbit/s with 20 ms of delay and room for 200 ms of queue; CUBIC fills the queue, `Delay`
does not.
"""

from __future__ import annotations

import heapq

from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.congestion.base import Congestion
from vpnstack.proto.tcp.congestion.cubic import Cubic
from vpnstack.proto.tcp.connection import Connection
from vpnstack.proto.tcp.segment import Segment

RATE, DELAY, QUEUE = 2_500_000.0, 0.01, 0.2  # bytes a second, seconds one way, seconds of queue


class Delay(Congestion):
    """AIMD on delay: at most 5 ms of queue."""

    __slots__ = ("_base", "_next")
    name = "delay"

    def __init__(self, mss: int) -> None:
        super().__init__(mss)
        self._base = float("inf")
        self._next = 0.0  # at most one step back a round trip

    def on_ack(self, acked: int, rtt: float, now: float, in_flight: int) -> None:
        """Grow while the queue is short, shrink when it is long."""
        if not rtt:
            return
        self._base = min(self._base, rtt)
        if rtt < self._base + 0.005:
            self.cwnd += acked if self.cwnd < self.ssthresh else self.mss * acked // self.cwnd
        elif now >= self._next:
            self._next = now + rtt
            self.cwnd = self.ssthresh = max(self.cwnd * 4 // 5, 2 * self.mss)

    def on_loss(self, now: float, in_flight: int) -> None:
        """Halve: somebody else fills the queue."""
        self.cwnd = self.ssthresh = max(in_flight // 2, 2 * self.mss)


class Path:
    """Sender, receiver and the link between them; the clock jumps from event to event."""

    def __init__(self, congestion: type[Congestion]) -> None:
        self.now = self.busy = 1.0
        config = Config(congestion=congestion, tso=False)
        self.sender = Connection.active(config, self.now, 1)
        (syn,) = self.sender.transmit(self.now)
        self.receiver = Connection.passive(config, syn, self.now, 1, hold=False)
        self.wire: list[tuple[float, int, Connection, Segment]] = []
        self.count = self.received = 0

    def post(self, to: Connection, seg: Segment) -> None:
        """Put a segment on the wire, behind what waits; a full queue drops it."""
        at = max(self.now, self.busy) if to is self.receiver else self.now
        if at - self.now > QUEUE:
            return
        if to is self.receiver:
            self.busy = at = at + (len(seg.data) + 40) / RATE
        self.count += 1
        heapq.heappush(self.wire, (at + DELAY, self.count, to, seg))

    def serve(self) -> None:
        """Let both ends act: the one always has data, the other reads it all."""
        self.sender.send(bytes(100_000))
        self.received += (n := self.receiver.rcv_queued)
        self.receiver.consume(n)
        for conn, peer in ((self.sender, self.receiver), (self.receiver, self.sender)):
            due = conn.deadline()
            while conn.wants_transmit or (due is not None and due <= self.now):
                for seg in conn.transmit(self.now):
                    self.post(peer, seg._replace(data=bytes(seg.data)))
                due = conn.deadline()

    def run(self, until: float) -> None:
        """Advance the clock."""
        while self.now < until:
            self.serve()
            times = [self.wire[0][0]] if self.wire else []
            times += [t for c in (self.sender, self.receiver) if (t := c.deadline()) is not None]
            self.now = min(times)
            while self.wire and self.wire[0][0] <= self.now:
                _, _, conn, seg = heapq.heappop(self.wire)
                conn.receive(seg, self.now)


def main() -> None:
    """Compare the two."""
    print("10 seconds each over 20 Mbit/s, 20 ms there and back, room for 200 ms of queue:")
    for congestion in (Cubic, Delay):
        path = Path(congestion)
        path.run(11.0)
        info = path.sender.statistics(path.now)
        print(
            f"{congestion.name:6} {path.received * 8 / 10 / 1e6:5.1f} Mbit/s"
            f"  round trip {info.tcpi_rtt / 1000:5.1f} ms"
            f"  sent again {info.tcpi_total_retrans} segments"
        )


if __name__ == "__main__":
    main()

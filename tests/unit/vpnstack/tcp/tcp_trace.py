"""One connection driven segment by segment; numbers are relative, traces read like tcpdump's."""

from __future__ import annotations

from vpnstack.proto.tcp.block import Event
from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.connection import Connection
from vpnstack.proto.tcp.segment import Segment

BITS = {"F": 1, "S": 2, "R": 4, "P": 8, ".": 16, "U": 32, "E": 64, "W": 128}
MASK = 0xFFFFFFFF
ISS = 0xFFFFFF00  # ours: every longer trace wraps around
IRS = 0xFFFFFFF0  # the peer's
SYN_OPTIONS = {"mss": 1000, "wscale": 7, "sack_permitted": True, "ts": None}


def letters(flags: int) -> str:
    """Write flags as tcpdump does."""
    return "".join(name for name, bit in BITS.items() if flags & bit and name != ".") + (
        "." if flags & 16 else ""
    )


class Trace:
    """A connection, its clock and what it said; the peer is the test."""

    def __init__(self, conn: Connection, now: float = 10.0) -> None:
        self.conn = conn
        self.now = now

    def inject(self, flags: str, seq: int = 1, ack: int = 1, data: bytes = b"", wnd: int = 500,
               **options) -> None:  # fmt: skip
        """Let a segment arrive; `seq` counts from the peer's SYN, `ack` from ours.

        Where timestamps are agreed on and none is given it has the peer's last one.
        """
        if self.conn.ts_ok:
            options.setdefault("ts", (self.conn.ts_recent, 0))
        bits = sum(BITS[letter] for letter in flags)
        number = (ISS + ack) & MASK if bits & 16 else 0
        if "sacks" in options:
            options["sacks"] = tuple(
                ((ISS + a) & MASK, (ISS + b) & MASK) for a, b in options["sacks"]
            )
        self.conn.receive(Segment((IRS + seq) & MASK, number, bits, wnd, data, **options), self.now)

    def sent(self, budget: int = 64) -> list[Segment]:
        """Return what leaves now."""
        return self.conn.transmit(self.now, budget)

    def trace(self, budget: int = 64) -> list[str]:
        """Return what leaves now as text: flags, relative sequence range, relative ACK, SACKs."""
        out = []
        for seg in self.sent(budget):
            seq = (seg.seq - ISS) & MASK
            if seq > 0xF0000000:
                seq -= 1 << 32
            text = f"{letters(seg.flags)} {seq}:{seq + len(seg.data)}"
            if seg.flags & 16:
                text += f" ack {(seg.ack - IRS) & MASK}"
            for left, right in seg.sacks:
                text += f" sack {(left - IRS) & MASK}-{(right - IRS) & MASK}"
            out.append(text)
        return out

    def wait(self, seconds: float) -> None:
        """Advance the clock."""
        self.now += seconds

    def events(self) -> list[Event]:
        """Return and clear what happened."""
        out = []
        while (event := self.conn.next_event()) is not None:
            out.append(event)
        return out


def syn(**options) -> Segment:
    """Return the peer's SYN."""
    return Segment(IRS, 0, 2, 65535, **{**SYN_OPTIONS, **options})


def server(config: Config | None = None, hold: bool = False, **options) -> Trace:
    """A passive connection that has got the peer's SYN."""
    conn = Connection.passive(config or Config(), syn(**options), 10.0, ISS, hold)
    return Trace(conn)


def client(config: Config | None = None) -> Trace:
    """An active connection whose SYN has left."""
    trace = Trace(Connection.active(config or Config(), 10.0, ISS))
    assert trace.trace() == ["S 0:0"]
    return trace


def established(config: Config | None = None, wnd: int = 500, **options) -> Trace:
    """A server with the handshake done; the peer's MSS is 1000, its window `wnd` << 7."""
    trace = server(config, **options)
    assert trace.trace() == ["S. 0:0 ack 1"]
    trace.wait(0.01)
    trace.inject(".", wnd=wnd)
    assert trace.events() == [Event.CONNECTED]
    assert trace.trace() == []
    return trace

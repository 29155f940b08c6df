"""Fuzz target: any sequence of segments, user calls and timeouts against one connection.

Invariants: no exception, bounded memory, sequence variables in order, the scoreboard's sums right.
Run under atheris with `python tests/fuzz/fuzz_tcp.py CORPUS`.
"""

from __future__ import annotations

import sys

from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.connection import Connection, Icmp
from vpnstack.proto.tcp.scoreboard import LOST, OUT, SACKED
from vpnstack.proto.tcp.segment import Segment
from vpnstack.proto.tcp.state import State

ISS = 0xFFFFF000
IRS = 0xFFFFFF00
MASK = 0xFFFFFFFF
CONFIG = Config(rcv_buf=20_000, snd_buf=20_000, max_gaps=8, keepalive=True, retries=4, msl=1.0)
FLAGS = (16, 16, 16, 16, 16, 24, 24, 24, 24, 17, 48, 208)
RARE = (2, 18, 4, 20, 0, 1, 3, 6, 63, 255)
STEPS = (-70_000, -1000, -1, 0, 0, 0, 1, 10, 1000, 1460, 5000, 19_999, 20_000, 20_001, 1 << 31,
         70_000)  # fmt: skip
SIZES = (0, 0, 0, 1, 2, 100, 536, 1460, 2920, 19_999, 20_001, 60_000)
PAYLOAD = bytes(range(256)) * 240


class Input:
    """Bytes of the fuzzer as small choices; zeros when they run out."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.pos = 0

    def byte(self) -> int:
        """Return the next byte."""
        self.pos += 1
        return self.data[self.pos - 1] if self.pos <= len(self.data) else 0

    def choose(self, values: tuple[int, ...]) -> int:
        """Return one of `values`."""
        return values[self.byte() % len(values)]


def check(c: Connection) -> None:
    """Raise AssertionError when an invariant is broken."""
    sb = c.sb
    for state, total in ((OUT, sb.out), (LOST, sb.lost), (SACKED, sb.sacked)):
        found = sum(r.end - r.seq for r in sb.records if r.state == state)
        assert found == total, f"expected {found} bytes in state {state}, found {total}"
    for left, right in zip(sb.records, sb.records[1:], strict=False):
        assert left.end == right.seq, "records must be adjacent"
    if c.state is not State.CLOSED:
        assert c.snd_una <= c.snd_nxt
        if sb.records:
            assert (sb.records[0].seq, sb.records[-1].end) == (c.snd_una, c.snd_nxt)
            # One that waits for the window or for its turn has a timer or something to send.
            assert c.t_rtx < float("inf") or c.wants_transmit
    if c.state >= State.SYN_RECEIVED:
        assert c.rcv_nxt <= c.rcv_adv + 1
    kept = c.queue.queued + (c.assembler.queued if c.assembler else 0)
    assert kept <= CONFIG.rcv_buf, f"expected at most {CONFIG.rcv_buf} bytes kept, found {kept}"
    assert len(c.snd_buf) <= CONFIG.snd_buf
    assert c.assembler is None or len(c.assembler.ranges) <= CONFIG.max_gaps
    assert c.cc.cwnd >= c.cc.mss or c.cc.cwnd > 0


def segment(c: Connection, src: Input) -> Segment:
    """Make a segment near what the connection expects."""
    seq = (c.rcv_nxt or IRS) + src.choose(STEPS)
    ack = (c.snd_una, c.snd_una, c.snd_una, c.snd_nxt)[src.byte() & 3] + src.choose(STEPS)
    size = src.choose(SIZES)
    sacks = tuple(sack(c, src) for _ in range(src.byte() & 3))
    flags = src.choose(FLAGS) if src.byte() & 31 else src.choose(RARE)
    ts = (src.byte() << 24, src.byte() << 24) if src.byte() & 1 else None
    return Segment(seq & MASK, ack & MASK, flags, src.byte() << 4, PAYLOAD[:size],
                   src.byte(), src.byte() << 3, src.byte() % 16 - 1, bool(src.byte() & 1), ts,
                   sacks)  # fmt: skip


def sack(c: Connection, src: Input) -> tuple[int, int]:
    """Make a SACK block, mostly of what is in flight."""
    if not src.byte() & 15:
        return (c.snd_una + src.choose(STEPS)) & MASK, (c.snd_nxt + src.choose(STEPS)) & MASK
    flight = max(c.snd_nxt - c.snd_una, 1)
    left = c.snd_una + src.byte() * flight // 256
    return left & MASK, (left + src.byte() * flight // 256) & MASK


def user(c: Connection, src: Input) -> None:
    """Make one call that a user could make."""
    match src.byte() % 9:
        case 0 | 1 if not c.fin_queued:
            c.send(PAYLOAD[: src.choose(SIZES)])
        case 2:
            room = c.send_buffer.writable()
            c.send_buffer.commit(min(len(room), src.choose(SIZES)))
        case 3 | 4:
            c.consume(min(c.rcv_queued, src.choose(SIZES)))
        case 5 if src.byte() < 8:
            c.shutdown()
        case 6 if src.byte() < 2:
            c.close()
        case 7 if src.byte() < 2:
            c.abort()
        case 8:
            kind = tuple(Icmp)[src.byte() % 3]
            c.icmp_error(kind, 0.0, (c.snd_una + src.choose(STEPS)) & MASK, src.byte() << 3)


def TestOneInput(data: bytes) -> None:
    """Play one input against a connection of either side."""
    src = Input(data)
    now = 1.0
    if src.byte() & 1:
        c = Connection.active(CONFIG, now, ISS)
    else:
        syn = Segment(IRS, 0, 2, 9000, b"", 0, 1000, 3, bool(src.byte() & 1), (1, 0))
        c = Connection.passive(CONFIG, syn, now, ISS, hold=False)
    open_it(c, now)
    while src.pos < len(data):
        action = src.byte() % 8
        if action < 4:
            c.receive(segment(c, src), now)
        elif action < 6:
            user(c, src)
        elif action == 6:
            now += src.byte() / 16
        else:
            now = max(now, c.deadline() or now)
        for seg in c.transmit(now, 1 + (src.byte() & 15)):
            assert len(seg.data) <= 65435
        c.own()
        while c.next_event():
            pass
        check(c)


def open_it(c: Connection, now: float) -> None:
    """Complete the handshake, so that most inputs meet an established connection."""
    c.transmit(now)
    flags = 18 if c.state is State.SYN_SENT else 16
    seq = IRS if flags == 18 else IRS + 1
    c.receive(Segment(seq, (ISS + 1) & MASK, flags, 9000, b"", 0, 1000, 3, True, (2, 0)), now)


if __name__ == "__main__":
    import atheris

    atheris.Setup(sys.argv, TestOneInput)
    atheris.Fuzz()

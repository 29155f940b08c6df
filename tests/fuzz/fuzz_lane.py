"""Fuzz the express lane: a scripted guest, right and hostile, and a scripted host.

`laneworld` says what must hold after every step.
"""

from __future__ import annotations

import random
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from vpnstack.core.puresend import Frame
from vpnstack.proto.tcp.state import State
from vpnstack.stack.headers import template

sys.path[:0] = [str(Path(__file__).parent)] * (str(Path(__file__).parent) not in sys.path)

from laneworld import ENDS, MAC, MASK, SCALE, World  # noqa: E402


def octet(script: bytearray) -> int:
    """Take the next octet of the script, 0 behind its end."""
    return script.pop() if script else 0


def wrong(w: World, kind: int, n: int) -> Frame:
    """Make a segment that is not what comes next; none of them carries octets of its own."""
    at, un = w.g_nxt, min(n, w.g_nxt)
    cases: list[tuple[int, int, dict[str, Any]]] = [
        (at - un, un, {}), (at + 1, 0, {}), (max(at - 1, 0), 0, {}), (at, 0, {"flags": 0x50}),
        (at, 0, {"flags": 0x30}), (at, 0, {"ack": w.iss + 1 + w.sent + 9 & MASK}),
        (at, 0, {"ack": w.iss - n & MASK}), (at, 0, {"flags": 0x12}),
        (at + 70000, 0, {"flags": 0x14}), (at + 1, 0, {"flags": 0x14}),
        (at, 0, {"tsval": int(w.now * 1000) - 1000 & MASK}),
        (at, 0, {"opts": b""}), (at, 0, {"opts": b"\1\1\5\x0a" + bytes(8)}), (at, 0, {"flags": 0}),
        (at, 0, {"tmpl": template(MAC, b"\6" * 6, (ENDS[w.version][0], 4000, ENDS[w.version][1],
                                                  80), 6)}),
        (at, 0, {"opts": b"\x08\x20\0\0"}), (at, 0, {"flags": 0x110}), (at, 0, {"flags": 0x90}),
    ]  # fmt: skip
    start, length, facts = cases[kind % len(cases)]
    return w.segment(start, length, **facts)


def step(w: World, script: bytearray) -> None:
    """Do one thing of the script."""
    op, arg = octet(script) % 23, octet(script)
    size = (1, 7, 100, 536, 1448, 2896, 14480, 30000)[arg & 7]
    room = (w.edge - w.g_nxt) if w.edge > w.g_nxt else 0
    if op < 6:
        w.receive(w.data(min(size, room), flags=24 if arg & 8 else 16))
    elif op == 6:
        sizes = [min(size, 1448)] * min(arg >> 3, room // min(size, 1448))
        w.receive(*[w.data(n) for n in sizes] or [w.segment(w.g_nxt, 0)])
    elif op == 7:
        w.receive(w.segment(w.g_nxt, 0))
    elif op < 11:
        w.give(size)
    elif op == 11:
        for _ in range(1 + arg % 16):
            w.give(65521)
            w.look()
            w.turn()
    elif op == 12:
        w.read_far = bool(arg & 3)
    elif op < 15:
        w.advance(arg / 1000)
    elif op == 15:
        w.receive(wrong(w, arg, size), *([w.data(min(9, room))] if arg & 64 else []))
    elif op == 16:
        w.g_wnd = (60000, 1 << 21, 3000, 600, 0)[arg % 5] >> SCALE << SCALE
        w.receive(w.segment(w.g_nxt, 0))
    elif op == 17:
        w.lossy = arg & 3
    elif op == 18:  # one is lost on its way to us
        w.data(min(size, room))
        w.receive(w.data(min(size, w.edge - w.g_nxt)))
    elif op == 19:
        w.stall(bool(arg & 3 == 3))
    elif op == 20:  # much at once, in a burst of super-segments
        sizes = [min(30000, room >> 3)] * (arg & 7)
        w.receive(*[w.data(n) for n in sizes if n] or [w.segment(w.g_nxt, 0)])
    elif op == 21:  # a part of what is in flight is acknowledged
        w.receive(w.segment(w.g_nxt, 0, ack=w.iss + 1 + w.g_una_of(arg) & MASK))
    else:
        w.recall()
    if w.read_far:
        w.take(1 + arg * 16384)
    w.look()
    w.turn()
    w.offer()
    # What is owed is due: by ourselves, whoever has the connection.
    assert not w.owes() or w.deadline() <= w.now + w.conn.config.delayed_ack + 1e-6


def finish(w: World, end: bool) -> None:
    """Let both sides do everything that is left to do; all octets, and the end, have to arrive."""
    w.lossy, w.g_wnd = 0, 60000
    w.stall(False)
    if end:
        w.far.shutdown(socket.SHUT_WR)
    for turn in range(3000):
        w.take()
        w.look()
        if w.lease is None:
            w.to_host()
        if w.g_una < w.g_nxt:
            w.receive(w.segment(w.g_una, min(w.g_nxt - w.g_una, 1448)))
        # Once behind the acknowledgements from the future that it sent, or they keep SND.WL1.
        w.receive(w.data(2) if turn == 9 and w.g_nxt + 2 <= w.edge else w.segment(w.g_nxt, 0))
        w.turn()
        if turn > 9 and w.g_rcv == w.sent and w.got == w.g_una == w.g_nxt and w.g_fin == end:
            break
        w.advance(1.0)
    w.recall()
    w.turn()
    assert (w.g_rcv, w.got, w.g_una, w.g_fin) == (w.sent, w.g_nxt, w.g_nxt, end)


def check(script: bytearray) -> Counter[str]:
    """Play one script; return what was reached, and how often."""
    head = octet(script)
    near = octet(script) * 401
    w = World(
        6 if head & 1 else 4, ts=bool(head & 2), isn=(-near if head & 4 else near) & MASK,
        iss=(near * 2 if head & 8 else -near) & MASK, sndbuf=4096 if head & 16 else 0,
        delayed_ack=0.0 if head & 96 == 96 else 0.04, cwnd=0 if head & 128 else 1 << 18 + near % 3,
        first_buf=1 << (16 if head & 192 else 20),
    )  # fmt: skip
    if not head & 192:
        w.g_wnd = 1 << 21
        w.receive(w.segment(0, 0))
    try:
        while script and w.conn.state is State.ESTABLISHED:
            step(w, script)
        if w.conn.state is State.ESTABLISHED:
            finish(w, bool(near & 1))
    finally:
        w.close()
    return Counter(
        lent=w.lent, carried=w.carried, loaded=w.loaded, resumed=w.resumed, kept=w.kept > 0,
        kept_much=w.kept > 1 << 17, parked=w.parked, flight=w.flight > 1 << 18,
    )  # fmt: skip


def TestOneInput(data: bytes) -> None:
    """Check one input."""
    check(bytearray(data))


def run(count: int, first: int = 0) -> Counter[str]:
    """Check seeded scripts; return what was reached, and how often."""
    seen: Counter[str] = Counter()
    for seed in range(first, first + count):
        rng = random.Random(seed)
        script = bytearray(rng.randbytes(rng.randrange(40, 500)))
        try:
            seen += check(script)
        except BaseException:
            print("seed", seed, file=sys.stderr)
            raise
    return seen


if __name__ == "__main__":
    count = int(sys.argv[1]) // 20 if len(sys.argv) > 1 else 10_000
    print(run(count, int(sys.argv[2]) if len(sys.argv) > 2 else 0))

"""Fuzz coalescing: C and the pure reference agree on bursts of segments that nearly follow."""

from __future__ import annotations

import random
import struct
import sys

from vpnstack.core._core import lib

from vpnstack.core import access, puregro
from vpnstack.core.burst import Burst
from vpnstack.core.puresend import Frame, Tcp, emit_tcp, soften
from vpnstack.stack.headers import template

MAC, PEER = b"\2" * 6, b"\4" * 6
ENDS = {
    4: (bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])),
    6: (bytes.fromhex("fd" + "00" * 14 + "01"), bytes.fromhex("fd" + "00" * 14 + "02")),
}
STAMP = b"\1\1\x08\x0a"


def octet(data: bytearray) -> int:
    """Take the next octet of the script, 0 behind its end."""
    return data.pop() if data else 0


def segment(script: bytearray, seqs: dict[tuple[int, int], int]) -> Frame:
    """Make the next segment of one of a few flows, mostly in order and alike."""
    version = 6 if octet(script) & 7 == 7 else 4
    port = 4000 + octet(script) % 10
    odd = octet(script)
    size = octet(script) % 3 + 1
    n = 0 if odd == 1 else size if odd == 2 else 3
    seq = seqs.setdefault((version, port), octet(script) << 24)
    seqs[version, port] = seq + n
    src, dst = ENDS[version]
    tmpl = template(
        PEER if odd == 3 else MAC, PEER, (src, port, dst, 80), 6, 63 if odd == 4 else 64
    )
    opts = b"" if odd & 64 else STAMP + struct.pack(">II", 7 + (odd == 5), 9)
    if odd == 6:
        opts += b"\1\1\5\x0a" + bytes(8)
    tcp = Tcp(
        seq=(seq + 1 if odd == 7 else seq) & 0xFFFFFFFF, ack=1 + (odd == 8),
        flags=16 | (8 if odd & 63 == 9 else 0) | (odd if odd in (1, 2, 4, 32, 64, 128) else 0),
        wnd=100 + (odd == 10), opts=opts, gso_size=2 if odd == 11 else 0,
    )  # fmt: skip
    made = emit_tcp(tmpl, tcp, b"abcdefgh"[: n * 2 if odd == 11 else n])
    if odd == 12:
        return Frame(made.vnet, made.octets + b"\0")  # padding
    return made if odd & 128 else soften(made, 0)[0]


def c_coalesce(frames: list[Frame]) -> list[tuple[object, ...]]:
    """Coalesce in C; return what is left as `facts` has it."""
    burst = Burst()
    for frame in frames:
        burst.append(frame.octets, frame.vnet)
    access.parse_burst(burst)
    access.coalesce(burst, MAC)
    out: list[tuple[object, ...]] = []
    for i, f in enumerate(burst):
        if f.verdict == lib.FRAME_MERGED:
            continue
        assert f.len == sum(f.iov[k].iov_len for k in range(f.iovcnt))
        payload = access.octets(f, f.data, f.data_len) if f.data_len else b""
        out.append((i, f.seq, payload, f.tcp_flags, burst.vnet(i)))
    return out


def check(script: bytearray) -> int:
    """Compare on one burst; return how many frames were merged."""
    seqs: dict[tuple[int, int], int] = {}
    frames = [segment(script, seqs) for _ in range(octet(script) % 64 + 1)]
    want = [
        (r.index, r.parsed.seq, r.payload, r.flags, r.vnet) for r in puregro.coalesce(frames, MAC)
    ]
    assert c_coalesce(frames) == want
    return len(frames) - len(want)


def TestOneInput(data: bytes) -> None:
    """Check one input."""
    check(bytearray(data))


def run(count: int) -> int:
    """Check seeded scripts; return how many frames were merged."""
    rng = random.Random(5)
    merged = 0
    for _ in range(count):
        weights = [8 if v > 12 else 1 for v in range(256)]
        script = bytearray(rng.choices(range(256), weights, k=330))
        for i in range(len(script) - 2, -1, -5):
            script[i] = rng.choice((0, 0, 0, 1))  # few flows
        merged += check(script)
    return merged


if __name__ == "__main__":
    print(run(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))

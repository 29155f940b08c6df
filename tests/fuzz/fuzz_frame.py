"""Fuzz the frame parser and softener: C and the pure reference must agree on every input."""

from __future__ import annotations

import itertools
import random
import struct
from typing import Any

from vpnstack.core._core import ffi, lib

from vpnstack.core import pure, puresend
from vpnstack.core.burst import Burst
from vpnstack.core.puresend import Frame


def exact(data: bytes) -> Any:
    """Copy `data` to where a sanitizer sees the first byte behind it (cffi would add a zero)."""
    piece = ffi.new("uint8_t[]", len(data))
    ffi.memmove(piece, data, len(data))
    return piece


def c_parse(vnet: bytes, data: bytes, cuts: list[int]) -> tuple[Burst, Any]:
    """Parse `data` in C, split into pieces at `cuts` (at most 19)."""
    burst = Burst(1)
    frame = burst.append(data, vnet)
    edges = [0, *sorted(min(c, len(data)) for c in cuts[:19]), len(data)]
    frame.iovcnt = len(edges) - 1
    for i, (a, b) in enumerate(itertools.pairwise(edges)):
        piece = exact(data[a:b])
        burst.keep(piece)
        frame.iov[i].iov_base, frame.iov[i].iov_len = piece, b - a
    lib.frame_parse_burst(burst.array, 1)
    return burst, frame


def fields(frame: Any) -> dict[str, Any]:
    """Read what `pure.Parsed` has from a C frame."""
    out: dict[str, Any] = {n: getattr(frame, n) for n in pure.FIELDS[:-3]}
    out["src"], out["dst"] = bytes(ffi.buffer(frame.src)), bytes(ffi.buffer(frame.dst))
    out["sack"] = tuple(frame.sack[i] for i in range(2 * frame.sack_n))
    return out


def check(vnet: bytes, data: bytes, cuts: list[int]) -> int:
    """Compare both parsers on one frame, then soften it; returns the verdict."""
    burst, frame = c_parse(vnet, data, cuts)
    want = pure.parse(vnet, data)
    got = fields(frame)
    assert got == {n: getattr(want, n) for n in pure.FIELDS}, (vnet.hex(), data.hex())
    if frame.verdict == pure.Verdict.OK:
        made = soften(burst)
        if len(cuts) < 10:  # with more, C may run out of pieces
            assert made == puresend.soften(Frame(vnet, data), 0), (vnet.hex(), data.hex())
    return int(frame.verdict)


def soften(burst: Burst) -> list[Frame]:
    """Every softened frame is whole and asks the link for nothing; returns them."""
    out, cursor, total = Burst(8), ffi.new("uint32_t *"), 0
    frames: list[Frame] = []
    while True:
        out.count = made = lib.frame_soften(burst.array, 0, cursor, out.array, 8)
        total += made
        for i in range(made):
            assert not lib.frame_needs(out[i], 1, 0)
            assert len(out.octets(i)) == out[i].len
            frames.append(Frame(out.vnet(i), out.octets(i)))
        assert total <= pure.SEGMENTS_MAX + 1
        if not made or not cursor[0]:
            return frames


def seeds() -> list[tuple[bytes, bytes]]:
    """Valid frames to mutate: TCP and UDP over both IPs, with extensions, VLAN and offloads."""
    eth = bytes(12)
    a4, b4 = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
    a6, b6 = bytes.fromhex("fd" + "00" * 14 + "01"), bytes.fromhex("fd" + "00" * 14 + "02")
    opts = bytes.fromhex("020405b40402080a00000001000000020103030a"[:40])
    tcp = struct.pack(">HHIIHHHH", 1000, 80, 1, 2, (5 + len(opts) // 4) << 12 | 0x18, 99, 0, 0)
    tcp += opts + bytes(range(200)) * 3
    udp = struct.pack(">HHHH", 1000, 53, 108, 1) + bytes(100)
    echo = lambda t: struct.pack(">BBHHH", t, 0, 0, 7, 1) + b"ping"  # noqa: E731
    hop = bytes([60, 0, 5, 2, 0, 0, 1, 0])
    out = []
    for proto, l4, field, gso in ((6, tcp, 16, 1), (17, udp, 6, 5), (1, echo(8), 2, 0)):
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(l4), 1, 0, 64, proto, 0) + a4 + b4
        ip = ip[:10] + struct.pack(">H", 0xFFFF - pure.checksum(ip)) + ip[12:]
        p6 = 58 if proto == 1 else proto
        ext = hop + bytes([44, 0, 1, 4, 0, 0, 0, 0]) + bytes([p6, 0, 0, 0, 0, 0, 0, 9])
        six = struct.pack(">IHBB", 6 << 28, len(ext) + len(l4), 0, 64) + a6 + b6 + ext
        pairs = ((eth + b"\x08\x00" + ip, gso), (eth + b"\x81\x00\0\5\x86\xdd" + six, gso * 4))
        for head, kind in pairs:
            at, kind = len(head), 5 if gso == 5 else kind
            size = 50 if gso else 0
            src, dst = (a4, b4) if kind == gso and b"\x86\xdd" not in head[:18] else (a6, b6)
            vouch = struct.pack("<BBHHHHH", 1, kind, 0, size, at, field, 0)
            p = p6 if len(src) == 16 else proto
            front = b"" if p == 1 else src + dst + struct.pack(">II", len(l4), p)
            zero = l4[:field] + b"\0\0" + l4[field + 2 :]
            good = struct.pack(">H", 0xFFFF - pure.checksum(front + zero))
            out += [(vouch, head + l4), (bytes(12), head + zero[:field] + good + zero[field + 2 :])]
    return out


def mutate(rng: random.Random) -> tuple[bytes, bytes, list[int]]:
    """One frame: a seed, often with a few bytes changed, cut or padded."""
    vnet, data = rng.choice(seeds_once)
    v, d = bytearray(vnet), bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 2, 8))):
        d[rng.randrange(min(len(d), 100))] = rng.choice((0, 1, 255, rng.randrange(256)))
    if rng.random() < 0.2:
        v[rng.randrange(12)] = rng.randrange(256)
    if rng.random() < 0.5 and d[12:14] == b"\x08\x00":
        head = d[14 : 14 + max(20, (d[14] & 15) * 4)]
        head[10:12] = b"\0\0"
        d[24:26] = struct.pack(">H", 0xFFFF - pure.checksum(bytes(head)))
    if rng.random() < 0.2:
        d = d[: rng.randrange(len(d))]
    elif rng.random() < 0.2:
        d += bytes(rng.randrange(40))
    cuts = [rng.randrange(len(d) + 1) for _ in range(rng.randrange(20))]
    return bytes(v), bytes(d), cuts


def TestOneInput(data: bytes) -> None:
    """First 12 bytes: the virtio-net header; then the frame."""
    if len(data) >= 12:
        check(data[:12], data[12:], [len(data) // 3, len(data) // 2])


def run(count: int, seed: int = 1) -> dict[int, int]:
    """Check `count` mutated frames; returns how often each verdict came."""
    rng, seen = random.Random(seed), dict[int, int]()
    for _ in range(count):
        verdict = check(*mutate(rng))
        seen[verdict] = seen.get(verdict, 0) + 1
    return seen


seeds_once = seeds()

if __name__ == "__main__":
    import sys

    print(run(int(sys.argv[1]) if len(sys.argv) > 1 else 20000))

"""Fuzz what transmits: C and the reference emit and soften the same, whatever they are given."""

from __future__ import annotations

import random
import struct
import sys
from typing import Any

from vpnstack.core._core import ffi, lib

from vpnstack.core import pure, puresend
from vpnstack.core.burst import Burst
from vpnstack.core.puresend import Frame, Tcp
from vpnstack.link.soft import Softener

TCP4 = bytes.fromhex("02020202020204040404040408004500000000004000400600000a0000010a000002")
TCP6 = bytes.fromhex("02020202020204040404040486dd6000000000000640") + b"\xfd" * 31 + b"\xfe"
PORTS = b"\x12\x34\0\x50"
PAYLOAD = bytes(range(256)) * 257


def templates() -> list[bytes]:
    """Return templates of TCP over both IPs, plain, tagged and with IPv4 options."""
    options = TCP4[:14] + b"\x47" + TCP4[15:] + b"\x94\4\0\0\1\1\1\0"
    plain = [TCP4, TCP6, options]
    return [t + PORTS for t in (*plain, *(t[:12] + b"\x81\0\0\5" + t[12:] for t in plain))]


def exact(data: bytes) -> Any:
    """Copy `data` to where a sanitizer sees the first byte behind it (cffi would add a zero)."""
    piece = ffi.new("uint8_t[]", len(data))
    ffi.memmove(piece, data, len(data))
    return piece


def check(tmpl: bytes, tcp: Tcp | None, data: bytes, offload: int) -> int:
    """Emit a segment, or a datagram where `tcp` is None, and soften it; returns frames made."""
    burst = Burst(1)
    raw, kept = exact(tmpl), exact(data)
    burst.keep(raw, kept)
    if tcp is None:
        lib.frame_emit_udp(burst[0], raw, len(tmpl), kept, len(data))
        want = puresend.emit_udp(tmpl, data)
    else:
        lib.frame_emit_tcp(
            burst[0], raw, len(tmpl), tcp.seq, tcp.ack, tcp.flags, tcp.wnd, tcp.urg,
            tcp.opts or ffi.NULL, len(tcp.opts), kept, len(data), tcp.gso_size,
        )  # fmt: skip
        want = puresend.emit_tcp(tmpl, tcp, data)
    burst.count = 1
    assert Frame(burst.vnet(0), burst.octets(0)) == want, tmpl.hex()
    if want.octets and pure.parse(want.vnet, want.octets).verdict != pure.Verdict.OK:
        return 0  # a template that says nonsense; it is the caller's
    soft = Softener()
    made = [Frame(b.vnet(i), b.octets(i)) for b in soft(burst, offload) for i in range(b.count)]
    assert made == puresend.soften(want, offload), (tmpl.hex(), tcp, len(data), offload)
    assert soft.dropped == (not made)
    return len(made)


def TestOneInput(data: bytes) -> None:
    """24 octets choose the numbers, what follows is a template or, if short, one of ours."""
    if len(data) < 24:
        return
    seq, ack, flags, wnd, urg, size, gso, opts, pick = struct.unpack(">IIHHHHHBB4x", data[:24])
    ours = templates()
    tmpl = data[24:] if len(data) > 60 else ours[pick % len(ours)]
    gso = gso if size // max(gso, 1) <= pure.SEGMENTS_MAX else 0
    tcp = Tcp(seq, ack, flags, wnd, urg, b"\1" * opts, gso)
    check(tmpl, tcp if pick & 64 else None, PAYLOAD[:size], pick >> 2 & 15)


def run(count: int, seed: int = 1) -> int:
    """Check `count` frames; returns how many came out of softening."""
    rng, made = random.Random(seed), 0
    ours = templates()
    for _ in range(count):
        tmpl = bytearray(rng.choice(ours))
        udp = rng.random() < 0.3
        if udp:
            at = puresend.network_offset(tmpl)
            tmpl[at + (9 if tmpl[at] >> 4 == 4 else 6)] = 17
        if rng.random() < 0.2:
            tmpl[rng.randrange(len(tmpl))] = rng.randrange(256)
        if rng.random() < 0.1:
            tmpl = tmpl[: rng.randrange(len(tmpl))]
        data = PAYLOAD[: rng.choice((0, 1, 7, 1460, 3001, rng.randrange(65536)))]
        opts = b"\1" * rng.choice((0, 0, 4, 12, 40, 44, 3))
        gso = rng.choice((0, len(data) // 7, 1460, 65535))
        tcp = Tcp(rng.getrandbits(32), rng.getrandbits(32), rng.getrandbits(16),
                  rng.getrandbits(16), rng.getrandbits(16), opts, gso)  # fmt: skip
        made += check(bytes(tmpl), None if udp else tcp, data, rng.randrange(16))
    return made


if __name__ == "__main__":
    print(run(int(sys.argv[1]) if len(sys.argv) > 1 else 20000))

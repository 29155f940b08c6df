"""Fuzz target: any octets can be described in a line, and captured, and both say nothing wrong."""

from __future__ import annotations

import io
import random
import sys

from vpnstack.link.capture import OUTBOUND, PcapngWriter
from vpnstack.link.text import describe
from vpnstack.proto.impair import mark_ce
from vpnstack.wire import dhcp, icmp, ip, ndp

A, B = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
A6, B6 = bytes.fromhex("fd00") + bytes(13) + b"\1", bytes.fromhex("fd00") + bytes(13) + b"\2"


def TestOneInput(data: bytes) -> None:
    """Describe, capture and mark one frame."""
    line = describe(data)
    assert line
    assert "\n" not in line
    file = io.BytesIO()
    writer = PcapngWriter(file)
    writer.frame(writer.interface("x"), OUTBOUND, data, 1.0)
    assert len(file.getvalue()) % 4 == 0
    marked = mark_ce(data)
    assert marked is None or len(marked) == len(data)


def seeds() -> list[bytes]:
    """Frames of every kind that a line has words for."""
    v4, v6 = bytes(12) + b"\x08\x00", bytes(12) + b"\x86\xdd"
    echo = icmp.emit(icmp.Echo(False, 1, 2, b"data"), A, B)
    ns = ndp.emit(ndp.NeighbourSolicitation(B6, b"\2" * 6), A6, B6)
    udp = b"\0\x43\0\x44\x01\x08\0\0" + dhcp.COOKIE * 64
    tcp = (
        bytes.fromhex("03e807d00000000100000001a0120fff00000000020405b4") + b"\4\2\5\x0a" + bytes(8)
    )
    return [
        v4 + ip.emit(ip.Repr(A, B, ip.ICMP), echo),
        v6 + ip.emit(ip.Repr(A6, B6, ip.ICMPV6, 255), ns),
        v4 + ip.emit(ip.Repr(A, B, ip.UDP), udp),
        v4 + ip.emit(ip.Repr(A, B, ip.TCP, tos=1), tcp),
        v6 + ip.emit(ip.Repr(A6, B6, ip.TCP, tos=2), tcp),
        v4 + ip.emit(ip.Repr(A, B, 253, more=True), bytes(16)),
        bytes(12) + b"\x08\x06" + bytes.fromhex("0001080006040001") + bytes(20),
        bytes(12) + b"\x81\x00\x00\x05\x08\x00" + ip.emit(ip.Repr(A, B, 253, tos=1), b"tagged"),
    ]


def run(count: int, seed: int = 1) -> None:
    """Feed `count` mutations of the seeds."""
    rng = random.Random(seed)
    corpus = seeds()
    for _ in range(count):
        data = bytearray(rng.choice(corpus))
        for _ in range(rng.randrange(6)):
            data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
        TestOneInput(bytes(data[: rng.randrange(len(data) + 1)] if rng.random() < 0.3 else data))


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1].isdigit():
        run(int(sys.argv[1]))
    else:
        import atheris

        atheris.Setup(sys.argv, TestOneInput)
        atheris.Fuzz()

"""Fuzz the framed stream: C and the reference take the same frames, a port sends what it was given.

`TestOneInput` takes the first octet as the size of the chunks in which the rest arrives.
"""

from __future__ import annotations

import errno
import random
import socket
import sys

from vpnstack.core._core import ffi, lib

from vpnstack.core import puresend
from vpnstack.core.burst import Burst
from vpnstack.link.framed import FramedPort

CAP = 2 * 65589
CAPACITY = 3


def c_take(data: bytes, chunk: int) -> tuple[list[bytes], int]:
    """Let `data` arrive in chunks; return the frames and the error that ended it, else 0."""
    frames: list[bytes] = []
    burst, buf = Burst(CAPACITY), ffi.new("uint8_t[]", CAP)
    start, end = ffi.new("uint32_t *"), ffi.new("uint32_t *")
    a, b = socket.socketpair()
    with a, b:
        for at in range(0, len(data), chunk):
            a.sendall(data[at : at + chunk])
            while True:
                n = lib.framed_rx_burst(b.fileno(), burst.array, CAPACITY, buf, CAP, start, end)
                if n < 0:
                    return frames, -int(n)
                assert start[0] <= end[0] <= CAP
                frames += [burst.octets(i) for i in range(n)]
                if n == 0:
                    break
    return frames, 0


def p_take(data: bytes) -> tuple[list[bytes], int]:
    """Do the same with the reference."""
    frames: list[bytes] = []
    try:
        while True:
            some, data = puresend.take(data, CAPACITY)
            if not some:
                return frames, 0
            frames += some
    except puresend.ProtocolError:
        return frames, errno.EPROTO


def check_send(sizes: list[int], drain: int) -> int:
    """Send frames of `sizes` to a reader that takes `drain` bytes now and then; returns waits."""
    rng, want, got, waits = random.Random(len(sizes)), b"", b"", 0
    a, b = socket.socketpair()
    a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    port, burst = FramedPort(a), Burst(4)
    b.setblocking(False)
    with b:
        for i, size in enumerate(sizes):
            data = rng.randbytes(size)
            want += len(data).to_bytes(4, "big") + data if data else b""
            burst.append(data)
            if burst.full or i == len(sizes) - 1:
                port.tx_burst(burst)
                burst.clear()
                waits += port.stalled
                got += _read(b, drain)
                port.flush()
        while port.stalled or (part := _read(b, 1 << 20)):
            got += _read(b, 1 << 20) if port.stalled else part
            port.flush()
        port.close()
    assert got == want
    assert port.statistics().tx_frames + port.statistics().tx_dropped == len(sizes)
    return waits


def _read(sock: socket.socket, most: int) -> bytes:
    try:
        return sock.recv(most)
    except BlockingIOError:
        return b""


def TestOneInput(data: bytes) -> None:
    """Take the octets as a stream, then their values as sizes of frames to send."""
    if data:
        assert c_take(data[1:], data[0] or 300) == p_take(data[1:])
        check_send([b * b // 8 for b in data[1:20]], data[0] * 8 + 1)


def stream(rng: random.Random) -> bytes:
    """Make a stream: frames, sometimes with a length that is wrong or an end that is missing."""
    out = b""
    for _ in range(rng.randrange(12)):
        size = rng.choice((0, 1, 13, 14, rng.randrange(1600)))
        said = size if rng.random() < 0.9 else rng.choice((65590, 2**32 - 1, size + 1, 65589))
        out += said.to_bytes(4, "big") + rng.randbytes(size)
    return out[: rng.randrange(len(out) + 1)] if rng.random() < 0.3 else out


def run(count: int, seed: int = 1) -> dict[str, int]:
    """Check `count` streams; returns how many frames came, streams ended and sends waited."""
    rng, seen = random.Random(seed), {"frames": 0, "ended": 0, "waits": 0}
    for _ in range(count):
        data, chunk = stream(rng), rng.choice((1, 3, 64, 2000)) + 300 * (rng.random() < 0.8)
        got = c_take(data, chunk)
        assert got == p_take(data), data.hex()
        seen["frames"] += len(got[0])
        seen["ended"] += got[1] == errno.EPROTO
        if rng.random() < 0.1:
            sizes = [rng.choice((0, 14, 1514, 9000)) for _ in range(rng.randrange(1, 24))]
            seen["waits"] += check_send(sizes, rng.choice((1, 1000, 30000)))
    return seen


if __name__ == "__main__":
    print(run(int(sys.argv[1]) if len(sys.argv) > 1 else 20000))

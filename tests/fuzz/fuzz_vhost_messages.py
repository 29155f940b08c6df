"""Malformed vhost-user messages: the port closes or goes on, and nothing of it is left behind.

`TestOneInput` is an atheris target; run this file to fuzz, or `fuzz(seed, count)` for a fixed run.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "unit" / "hypervisor"))

import inputs
from vhost_driver import FrontEnd, Guest

from hypervisor.vhost import messages as wire
from hypervisor.vhost.port import VhostUserPort
from vpnstack.core.burst import Burst
from vpnstack.link.port import PortClosed

MESSAGES = 24
PAYLOADS = (b"", bytes(8), struct.pack("=II", 0, 16), bytes(40), bytes(264))


def _message(rng: random.Random, front: FrontEnd) -> tuple[bytes, tuple[int, ...]]:
    kind = rng.random()
    request = rng.choice(list(wire.Request)) if kind < 0.9 else rng.getrandbits(32)
    payload = bytearray(rng.choice(PAYLOADS) if rng.random() < 0.6 else rng.randbytes(
        rng.choice((1, 8, 8, 8, 16, 40, 72, 300))))  # fmt: skip
    if payload and rng.random() < 0.5:
        payload[rng.randrange(len(payload))] = rng.getrandbits(8)
    if request == wire.Request.SET_MEM_TABLE and rng.random() < 0.7:
        payload = bytearray(wire.emit_table((front.guest.region,)))
        payload[rng.randrange(len(payload))] ^= rng.choice((0, 0, 1, 0x80))
    data = bytearray(wire.emit(request, bytes(payload), rng.choice((0, 0, 0, 8))))
    if rng.random() < 0.1:
        data[rng.randrange(12)] ^= 1 << rng.randrange(8)
    if rng.random() < 0.05:
        del data[rng.randrange(len(data)) :]
    pool = (front.guest.fd, *front.kick, *front.call)
    fds = tuple(rng.choice(pool) for _ in range(rng.choice((0, 0, 1, 1, 1, 2, 9))))
    return bytes(data), fds


def _send(front: FrontEnd, data: bytes, fds: tuple[int, ...]) -> None:
    if data:
        socket.send_fds(front.sock, [data], list(fds))


def TestOneInput(data: bytes) -> None:
    """One connection with a few messages; descriptors are counted before and after."""
    rng = random.Random(data)
    before = len(os.listdir("/proc/self/fd"))
    guest = Guest(1 << 16)
    ours, theirs = socket.socketpair()
    port, front = VhostUserPort(ours), FrontEnd(theirs, guest)
    burst = Burst()
    try:
        if rng.random() < 0.7:
            front.start_qemu()
        for _ in range(MESSAGES):
            _send(front, *_message(rng, front))
            port.rx_burst(burst)
            port.rx_done(burst)
            burst.append(bytes(60))
            port.tx_burst(burst)
        front.sock.shutdown(socket.SHUT_WR)
    except (PortClosed, BrokenPipeError):
        pass
    finally:
        port.close()
        front.close()
        guest.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def fuzz(seed: int, count: int) -> None:
    """Run `count` connections from `seed`."""
    inputs.seeded(TestOneInput, seed, count)


if __name__ == "__main__":
    inputs.main(TestOneInput, fuzz)

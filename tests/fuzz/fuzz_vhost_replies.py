"""Fuzz target: what a vhost-user back-end says to our front-end, while a driver starts and resets.

Whatever it says ends its connection at most: no exception but by design, no descriptor left.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

sys.path += [
    str(Path(__file__).parents[1] / "unit" / "hypervisor" / part) for part in ("", "devices")
]

import inputs
from mmio_driver import Bench

from hypervisor.devices.registers import Register
from hypervisor.devices.vhost_net import VhostUserNet
from hypervisor.queue.layout import Feature
from hypervisor.vhost import messages as wire
from hypervisor.vhost.dial import Dialer
from hypervisor.vhost.messages import Request

STEPS = 24
FEATURES = int(
    Feature.VERSION_1 | Feature.NET_MQ | Feature.RING_EVENT_IDX | Feature.VHOST_PROTOCOL_FEATURES
)
HONEST = {
    Request.GET_FEATURES: struct.pack("=Q", FEATURES),
    Request.GET_PROTOCOL_FEATURES: struct.pack("=Q", 0x1F),
    Request.GET_QUEUE_NUM: struct.pack("=Q", 2),
    Request.SET_MEM_TABLE: bytes(8),
    Request.NET_SET_MTU: bytes(8),
}


class Pairs(Dialer):
    """Gives connections to the fuzzer, at once."""

    def __init__(self, connected: Callable[[socket.socket], None]) -> None:
        super().__init__("fuzz", connected)
        self.other: socket.socket | None = None
        self.over = False

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Connect soon."""
        self._loop = loop
        self.again()

    def again(self) -> None:
        """Connect soon, the earlier end being gone."""
        if self.over:
            return
        if self.other is not None:
            self.other.close()
        ours, self.other = socket.socketpair()
        self.other.setblocking(False)
        assert self._loop is not None
        self._loop.call_soon(self._connected, ours)


def _answer(rng: random.Random, request: int, payload: bytes) -> bytes:
    """Answer as asked, or nearly so, or not at all."""
    body = bytearray(HONEST.get(Request(request), bytes(8)))
    if request == Request.GET_VRING_BASE:
        body = bytearray(payload)
    kind = rng.random()
    if kind < 0.1 and body:
        body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    elif kind < 0.13:
        body = bytearray(rng.randbytes(rng.randrange(40)))
    elif kind < 0.16:
        request = rng.choice(list(Request))
    data = bytearray(wire.emit(request, bytes(body), wire.REPLY))
    if rng.random() < 0.04:
        data[rng.randrange(12)] ^= 1 << rng.randrange(8)
    return bytes(data)


def _serve(rng: random.Random, peer: socket.socket) -> None:
    """Read what the front-end asked, and answer in order."""
    data = b""
    while True:
        try:  # a message with descriptors ends what one call reads
            more, fds, _, _ = socket.recv_fds(peer, 1 << 16, 64)
        except OSError:
            break
        for fd in fds:
            os.close(fd)
        if not more:
            break
        data += more
    while len(data) >= wire.HEADER.size:
        request, flags, size = wire.HEADER.unpack_from(data)
        payload, data = data[12 : 12 + size], data[12 + size :]
        asks = request in (1, 11, 15, 17, 24) or flags & wire.NEED_REPLY
        if not asks or rng.random() < 0.02:
            continue
        try:
            socket.send_fds(peer, [_answer(rng, request, payload)], [1] * (rng.random() < 0.05))
        except OSError:
            return


def TestOneInput(data: bytes) -> None:
    """A driver and a back-end take turns at random."""
    rng = random.Random(data)
    before = len(os.listdir("/proc/self/fd"))
    loop = asyncio.new_event_loop()
    device = VhostUserNet("fuzz", bytes((2, 0, 0, 0, 0, 1)), pairs=rng.choice((1, 2)))
    pairs = device._dialer = Pairs(device._on_connected)
    device._loop = loop
    device._err = os.eventfd(0, os.EFD_NONBLOCK)
    loop.add_reader(device._err, device._on_error)
    pairs.open(loop)
    bench = Bench(device, 1 << 18, loop=loop)
    for _ in range(STEPS):
        step = rng.random()
        if step < 0.2 and bench.write(Register.STATUS, 0) is None:
            bench.guest.clear()
            bench.start()
        elif step < 0.3:
            bench.write(Register.STATUS, rng.choice((0, 128)))
        elif step < 0.4:
            bench.write(Register.QUEUE_SEL, rng.randrange(4))
            bench.write(Register.QUEUE_READY, 0)
        elif step < 0.43:
            os.eventfd_write(device._err, 1)
        else:
            assert pairs.other is not None
            _serve(rng, pairs.other)
        bench.turn()
    assert pairs.other is not None
    pairs.over = True
    bench.transport.close()
    pairs.other.close()
    bench.turn()
    bench.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def fuzz(seed: int, count: int) -> None:
    """Run `count` inputs from `seed`."""
    inputs.seeded(TestOneInput, seed, count)


if __name__ == "__main__":
    inputs.main(TestOneInput, fuzz)

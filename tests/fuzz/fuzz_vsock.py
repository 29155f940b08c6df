"""A hostile vsock driver: any packets in any chains, ends that come and go; nothing raises, every
table stays bounded, and an honest connection works afterwards.

`TestOneInput` is an atheris target; run this file to fuzz, or `fuzz(seed, count)` for a fixed run.
"""

from __future__ import annotations

import os
import random
import socket
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "unit" / "hypervisor"))
sys.path.append(str(Path(__file__).parents[1] / "unit" / "hypervisor" / "devices"))

import inputs
from mmio_driver import Bench
from vsock_guest import CID, VsockGuest

from hypervisor.aio.vsock_socket import SocketEnd
from hypervisor.devices.vsock import RECEIVE, TRANSMIT, VsockDevice
from hypervisor.vsock.connection import Connection, State
from hypervisor.vsock.table import RESETS_MAX
from hypervisor.vsock.wire import Op, Repr, emit

STEPS = 60
LIMIT = 8
BUFFER = 2048
PORTS = (80, 81, 82, 1 << 30, (1 << 30) + 1)


class World:
    """A device whose ends are socket pairs, in the hands of a driver that follows no rule."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.device = VsockDevice(CID, self.offered, limit=LIMIT, buf_alloc=BUFFER)
        self.bench = Bench(self.device, 1 << 18)
        self.device.bind(self.bench.loop)
        self.peers: list[socket.socket] = []
        self.ends: list[SocketEnd] = []
        self.bench.start(size=8)

    def offered(self, connection: Connection) -> None:
        if connection.host_port == 82:
            self.device.abort(connection)
            return
        self.device.accept(connection)
        self.end(connection).established()

    def end(self, connection: Connection) -> SocketEnd:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        self.peers.append(theirs)
        end = SocketEnd(self.device, connection, ours, self.bench.loop, self.ends.remove)
        self.ends.append(end)
        return end

    def step(self) -> None:
        rng, act = self.rng, self.rng.random()
        if act < 0.55:
            self.packet()
        elif act < 0.7:
            self.buffers()
        elif act < 0.76:
            connection = self.device.table.connect(rng.choice(PORTS), self.device.now + 5)
            if connection is not None:
                self.end(connection)
                self.device.pump()
        elif act < 0.95:
            self.host()
        elif act < 0.97:
            rng.choice((self.device.pause, self.device.resume))()
        elif act < 0.98:
            self.device.transport_reset()
        else:
            self.bench.guest.clear()
            self.bench.start(size=8)
        self.bench.turn()

    def packet(self) -> None:
        rng = self.rng
        size = rng.choice((0, 0, 1, 100, BUFFER, BUFFER + 1))
        header = emit(
            Repr(
                rng.choice((CID, CID, CID, CID, CID, CID, rng.getrandbits(64))),
                rng.choice((2, 2, 2, 2, 2, 2, rng.getrandbits(64))),
                rng.choice(PORTS),
                rng.choice(PORTS),
                rng.choice((size, size, size, 0, rng.getrandbits(32))),
                rng.choice((1, 1, 1, 1, 1, 2, 0xFFFF)),
                rng.choice((*Op, Op.REQUEST, Op.RESPONSE, Op.RW, Op.RW, rng.getrandbits(16))),
                rng.getrandbits(2) if rng.random() < 0.9 else rng.getrandbits(32),
                rng.choice((0, 1, 4096, 1 << 18, 0xFFFFFFFF)),
                rng.choice((0, 0, 0, 1, 100, 0xFFFFFFFF, rng.getrandbits(32))),
            )
        )
        data = header + rng.randbytes(size)
        ring = self.bench.rings[TRANSMIT]
        if rng.random() < 0.1:
            data = data[: rng.randrange(60)] or b"x"
        at = rng.randrange(len(data)) or len(data)
        parts = [part for part in (data[:at], data[at:]) if part]
        if self.room(sum(map(len, parts))):
            ring.add(*(self.bench.readable(part) for part in parts))
        self.bench.kick(TRANSMIT)

    def buffers(self) -> None:
        ring = self.bench.rings[RECEIVE]
        for _ in range(self.rng.randrange(4)):
            size = self.rng.choice((1, 44, 45, 600, 5000))
            if self.room(size):
                ring.add(self.bench.writable(size))
        self.bench.kick(RECEIVE)

    def room(self, size: int) -> bool:
        """Say whether the guest's memory has room; else begin it anew, as after a reset."""
        if self.bench.guest._free + size + 64 < self.bench.guest.size:
            return True
        self.bench.guest.clear()
        self.bench.start(size=8)
        return False

    def host(self) -> None:
        """Do something with the other end of a socket."""
        if not self.peers:
            return
        peer, act = self.rng.choice(self.peers), self.rng.random()
        try:
            if act < 0.4:
                peer.send(self.rng.randbytes(self.rng.choice((1, 3000))))
            elif act < 0.7:
                peer.recv(4096)
            elif act < 0.85:
                peer.shutdown(self.rng.choice((socket.SHUT_RD, socket.SHUT_WR)))
            else:
                self.peers.remove(peer)
                peer.close()
        except OSError:
            return

    def check(self) -> None:
        table = self.device.table
        assert len(table) <= LIMIT
        assert len(table._resets) <= RESETS_MAX + LIMIT + 1
        assert all(c.held <= BUFFER for c in table._connections.values())
        assert all(c.state is not State.CLOSED for c in table._connections.values())
        assert set(self.device._ready) <= set(table._connections.values())

    def honest(self) -> None:
        """Connect as Linux would, and send something."""
        self.device.resume()
        for connection in list(self.device.table._connections.values()):
            self.device.abort(connection)  # requests of the host's that a driver is still to get
        self.bench.guest.clear()
        self.bench.start(size=8)
        guest = VsockGuest(self.bench)
        guest.give(4)
        guest.send(Op.REQUEST)
        assert Op.RESPONSE in guest.ops()
        guest.send(Op.RW, b"after all that")
        assert self.peers[-1].recv(99) == b"after all that"

    def close(self) -> None:
        for end in list(self.ends):
            end.close()
        self.bench.close()
        for peer in self.peers:
            peer.close()


def TestOneInput(data: bytes) -> None:
    """One device and a few packets; descriptors are counted before and after."""
    rng = random.Random(data)
    before = len(os.listdir("/proc/self/fd"))
    world = World(rng)
    try:
        for _ in range(STEPS):
            world.step()
            world.check()
        world.honest()
    finally:
        world.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def fuzz(seed: int, count: int) -> None:
    """Run `count` devices from `seed`."""
    inputs.seeded(TestOneInput, seed, count)


if __name__ == "__main__":
    inputs.main(TestOneInput, fuzz)

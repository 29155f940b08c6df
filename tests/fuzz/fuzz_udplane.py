"""Fuzz the datagrams' lane: what it takes arrives, apart and in order; what it does not, does not.

The input is a script of routes entered and ended, bursts from two guests, and answers, over
sockets on loopback and a table that is too small.
"""

from __future__ import annotations

import contextlib
import random
import socket
import sys
from typing import Any

from vpnstack.core._core import ffi, lib

from vpnstack.core.access import parse_burst
from vpnstack.core.burst import Burst
from vpnstack.core.puresend import emit_udp
from vpnstack.stack import headers

MAC, GUEST = b"\2" * 6, b"\4" * 6
SRC, DST = bytes([10, 0, 0, 2]), bytes([10, 0, 0, 9])
HERE = b"\0" * 10 + b"\xff\xff" + bytes([127, 0, 0, 1])
PORTS = 12
VALID, GSO = bytes([2]) + bytes(11), 5
SIZES = (0, 1, 8, 8, 8, 40, 40, 1200)


def bound() -> socket.socket:
    """Make a socket on loopback."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(("127.0.0.1", 0))
    return sock


def drain(sock: socket.socket) -> list[bytes]:
    """Take everything that arrived."""
    out: list[bytes] = []
    with contextlib.suppress(BlockingIOError):
        while True:
            out.append(sock.recv(65535))
    return out


class World:
    """A lane of 16 routes, at most 5 a mapping; two mappings; one server."""

    def __init__(self, server: socket.socket, guests: list[socket.socket]) -> None:
        self.server, self.guests = server, guests
        self.port = server.getsockname()[1]
        self.lane = ffi.gc(lib.udplane_new(16, 5, 9), lib.udplane_free)
        self.mappings: list[Any] = []
        for sock in guests:
            mapping = ffi.new("struct udp_mapping *")
            mapping.fd, mapping.port, mapping.mac = sock.fileno(), 1, GUEST
            lib.udplane_admit(self.lane, mapping)
            self.mappings.append(mapping)
        self.entered: set[tuple[int, int]] = set()
        self.n = ffi.new("uint32_t[3]")
        self.strays = ffi.new("struct udp_stray[]", 64)
        self.taken = 0

    def route(self, who: int, port: int) -> None:
        """Enter a route up, and one down."""
        key = headers.key(SRC, 100 + who, DST, port, headers.UDP)
        lib.udplane_up(self.lane, self.mappings[who], key, HERE, self.port)
        self.entered.add((who, port))
        tmpl = headers.template(GUEST, MAC, (DST, port, SRC, 100 + who), headers.UDP)
        lib.udplane_down(self.lane, self.mappings[who], HERE, self.port, tmpl, len(tmpl))
        assert all(m.routes <= 5 for m in self.mappings)

    def burst(self, script: bytearray) -> None:
        """Send up to 16 frames, and compare what arrives."""
        burst, sent = Burst(), []
        for i in range(octet(script) % 16 + 1):
            who, port, odd = octet(script) & 1, octet(script) % PORTS + 1, octet(script)
            size = SIZES[octet(script) % len(SIZES)]
            mark = bytes([who, port, i])
            data = (mark * (size // 3 + 1))[:size]
            ends = (SRC, 100 + who, DST, port)
            mac = GUEST if odd != 1 else MAC
            tmpl = headers.template(MAC, mac, ends, headers.UDP, 1 if odd == 2 else 64)
            made = emit_udp(tmpl, data)
            vnet = bytearray(made.vnet)
            cut = size // 9 * 3 if odd > 128 and size > 8 else size  # parts begin with a mark
            if cut != size:
                vnet[1], vnet[4:6] = GSO, cut.to_bytes(2, "little")
            burst.append(made.octets, bytes(vnet))
            sent.append(
                (who, port, odd, [data[k : k + cut] for k in range(0, size or 1, cut or 1)])
            )
        parse_burst(burst)
        left = lib.udplane_receive(self.lane, burst.array, burst.count, MAC, 1, 1.0, self.n)
        want: list[bytes] = []
        for f, (who, port, odd, parts) in zip(burst, sent, strict=True):
            if f.verdict == lib.FRAME_TAKEN:
                assert (who, port) in self.entered
                assert odd not in (1, 2)
                want += parts
        assert left == sum(f.verdict == lib.FRAME_OK for f in burst)
        got = drain(self.server)
        assert sorted(got) == sorted(want)
        assert self.n[0] == len(want)
        for flow in {d[:2] for d in want}:
            assert [d for d in got if d[:2] == flow] == [d for d in want if d[:2] == flow]
        self.taken += len(want)

    def answers(self, who: int, script: bytearray) -> None:
        """Have the server send a few datagrams; each is a frame or a stray."""
        to = self.guests[who].getsockname()
        for _ in range(octet(script) % 4):
            self.server.sendto(bytes(SIZES[octet(script) % len(SIZES)]), to)
        out = Burst()
        mtu = (0, 68, 1500)[octet(script) % 3]
        got = lib.udplane_read(
            self.lane, self.mappings[who], mtu, 1.0, out.array, self.n, self.strays,
            self.n + 1, self.n + 2,
        )  # fmt: skip
        assert got == self.n[0] + self.n[1]
        out.count = self.n[0]
        assert all(28 + f.data_len <= mtu for f in out)
        assert len([out.octets(i) for i in range(out.count)]) == self.n[2]


def octet(script: bytearray) -> int:
    """Take the next octet of the script, 0 behind its end."""
    return script.pop() if script else 0


def check(script: bytearray) -> int:
    """Run one script; return how many datagrams were carried up."""
    with bound() as server, bound() as one, bound() as two:
        world = World(server, [one, two])
        while script:
            what = octet(script) % 8
            who, port = octet(script) & 1, octet(script) % PORTS + 1
            if what < 3:
                world.route(who, port)
            elif what == 3:
                lib.udplane_bound(world.lane, ffi.NULL, port)
                world.entered -= {(0, port), (1, port)}
            elif what == 4 and port == 1:
                lib.udplane_drop(world.lane, world.mappings[who])
                world.entered = {e for e in world.entered if e[0] != who}
            elif what == 5:
                world.answers(who, script)
            else:
                world.burst(script)
        return world.taken


def TestOneInput(data: bytes) -> None:
    """Check one input."""
    check(bytearray(data[:1000]))


def run(count: int) -> int:
    """Check seeded scripts; return how many datagrams were carried."""
    rng = random.Random(5)
    return sum(check(bytearray(rng.randbytes(300))) for _ in range(count))


if __name__ == "__main__":
    print(run((int(sys.argv[1]) if len(sys.argv) > 1 else 20_000) // 5))  # system calls are slow

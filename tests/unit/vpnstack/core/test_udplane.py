"""Routes of datagrams in C: the table and its bounds, both directions over sockets on loopback."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from vpnstack.core._core import ffi, lib

from vpnstack.core.access import octets, parse_burst
from vpnstack.core.burst import Burst
from vpnstack.core.puresend import emit_udp
from vpnstack.stack import headers
from vpnstack.wire import ip

ROUTER, GUEST = b"\2" * 6, b"\4" * 6
ENDS = {
    4: (ip.parse_address("10.0.0.2"), ip.parse_address("10.0.0.9")),
    6: (ip.parse_address("fd00::2"), ip.parse_address("fd00::9")),
}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
GSO_UDP_L4 = 5
TAKEN, OK = lib.FRAME_TAKEN, lib.FRAME_OK
UDP_SEGMENT, UDP_GRO, SO_NO_CHECK = 103, 104, 11


def wide(text: str) -> bytes:
    addr = ip.parse_address(text)
    return b"\0" * 10 + b"\xff\xff" + addr if len(addr) == 4 else addr


class Bench:
    """A lane, and one mapping whose socket speaks with `server` on loopback."""

    def __init__(self, version: int = 4, routes: int = 16, per_mapping: int = 8) -> None:
        self.version = version
        self.lane = ffi.gc(lib.udplane_new(routes, per_mapping, 7), lib.udplane_free)
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        self.sockets = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(2)]
        self.sock, self.server = self.sockets
        for sock in self.sockets:
            sock.setblocking(False)
            sock.bind((LOOPBACK[version], 0))
        self.port = self.server.getsockname()[1]
        self.n = ffi.new("uint32_t[3]")
        self.strays = ffi.new("struct udp_stray[]", 64)
        self.mapping = self.admit()

    def admit(self, sock: socket.socket | None = None) -> Any:
        mapping = ffi.new("struct udp_mapping *")
        mapping.fd, mapping.port, mapping.mac = (sock or self.sock).fileno(), 3, GUEST
        lib.udplane_admit(self.lane, mapping)
        return mapping

    def up(self, dport: int = 53, sport: int = 7, mapping: Any = None, to: int = 0) -> None:
        src, dst = ENDS[self.version]
        key = headers.key(src, sport, dst, dport, headers.UDP)
        target = wide(LOOPBACK[self.version])
        lib.udplane_up(self.lane, mapping or self.mapping, key, target, to or self.port)

    def down(self, port: int = 0) -> None:
        src, dst = ENDS[self.version]
        tmpl = headers.template(GUEST, ROUTER, (dst, 53, src, 7), headers.UDP)
        peer = wide(LOOPBACK[self.version])
        assert not lib.udplane_down(
            self.lane, self.mapping, peer, port or self.port, tmpl, len(tmpl)
        )

    def frame(self, burst: Burst, data: bytes, gso: int = 0, **odd: Any) -> None:
        src, dst = ENDS[self.version]
        ends = (src, odd.get("sport", 7), dst, odd.get("dport", 53))
        ethernet = (odd.get("dst", ROUTER), odd.get("src", GUEST))
        made = emit_udp(headers.template(*ethernet, ends, headers.UDP, odd.get("ttl", 64)), data)
        vnet = bytearray(made.vnet)
        if gso:
            vnet[1], vnet[4:6] = GSO_UDP_L4, gso.to_bytes(2, "little")
        burst.append(made.octets, bytes(vnet))

    def send(self, burst: Burst, now: float = 5.0, port: int = 3) -> list[int]:
        """Carry a burst up; return the verdicts."""
        parse_burst(burst)
        left = lib.udplane_receive(self.lane, burst.array, burst.count, ROUTER, port, now, self.n)
        verdicts = [f.verdict for f in burst]
        assert left == verdicts.count(OK)
        return verdicts

    def arrived(self) -> list[bytes]:
        """Take what the server got."""
        out = []
        with contextlib.suppress(BlockingIOError):
            while True:
                out.append(self.server.recv(65535))
        return out

    def read(self, out: Burst, mtu: int = 1500, now: float = 6.0) -> int:
        got: int = lib.udplane_read(
            self.lane, self.mapping, mtu, now, out.array, self.n, self.strays,
            self.n + 1, self.n + 2,
        )  # fmt: skip
        out.count = self.n[0]
        return got

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


@pytest.fixture(params=[4, 6])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(request.param)
    yield made
    made.close()


# Up.


def test_up_batches_keep_their_borders(bench: Bench) -> None:
    """Equal sizes, a smaller last, another size, nothing at all: all arrive apart."""
    bench.up()
    sent = [b"a" * 64, b"b" * 64, b"c" * 10, b"d" * 64, b"", b"e" * 64, b"f" * 65, b"g" * 1400]
    burst = Burst()
    for data in sent:
        bench.frame(burst, data)
    assert bench.send(burst) == [TAKEN] * len(sent)
    assert bench.arrived() == sent
    assert (bench.n[0], bench.mapping.questions, bench.mapping.used) == (8, 8, 5.0)


def test_up_full_burst(bench: Bench) -> None:
    bench.up()
    burst = Burst()
    for i in range(64):
        bench.frame(burst, bytes([i]) * 1200)
    assert bench.send(burst) == [TAKEN] * 64
    assert bench.arrived() == [bytes([i]) * 1200 for i in range(64)]


def test_up_flows_interleaved(bench: Bench) -> None:
    """Two destinations and two sockets in turns: in order on each, nothing is mixed up."""
    bench.up(dport=53)
    bench.up(dport=54)
    other = bench.admit(bench.server)
    bench.up(sport=8, mapping=other)
    burst = Burst()
    for i in range(21):
        odd = ({"dport": 53}, {"dport": 54}, {"sport": 8})[i % 3]
        bench.frame(burst, bytes([i]) * 20, **odd)
    assert bench.send(burst) == [TAKEN] * 21
    firsts = [data[0] for data in bench.arrived()]
    assert sorted(firsts) == list(range(21))
    for k in range(3):
        assert [i for i in firsts if i % 3 == k] == list(range(k, 21, 3))
    assert (bench.mapping.questions, other.questions) == (14, 7)


def test_up_super_datagram(bench: Bench) -> None:
    bench.up()
    burst = Burst()
    bench.frame(burst, b"a" * 100 + b"b" * 100 + b"c" * 50, gso=100)
    bench.frame(burst, b"d" * 100)
    assert bench.send(burst) == [TAKEN] * 2
    assert bench.arrived() == [b"a" * 100, b"b" * 100, b"c" * 50, b"d" * 100]
    assert bench.mapping.questions == 4


def test_up_super_datagram_of_too_many(bench: Bench) -> None:
    bench.up()
    burst = Burst()
    bench.frame(burst, b"a" * 650, gso=10)
    assert bench.send(burst) == [OK]
    assert not bench.arrived()


@pytest.mark.parametrize("odd", [
    {"src": b"\6" * 6}, {"dst": b"\6" * 6}, {"ttl": 1}, {"sport": 8}, {"dport": 54}, {"sport": 0},
])  # fmt: skip
def test_up_not_plain_is_left(bench: Bench, odd: dict[str, Any]) -> None:
    bench.up()
    burst = Burst()
    bench.frame(burst, b"x")
    bench.frame(burst, b"y", **odd)
    assert bench.send(burst) == [TAKEN, OK]
    assert bench.arrived() == [b"x"]


def test_up_other_port(bench: Bench) -> None:
    bench.up()
    burst = Burst()
    bench.frame(burst, b"x")
    assert bench.send(burst, port=4) == [OK]
    assert bench.send(burst, port=0) == [OK]


VALID = bytes([2]) + bytes(11)  # VNET_DATA_VALID: the checksum was looked at


def test_up_tagged_is_left(bench: Bench) -> None:
    bench.up()
    burst = Burst()
    bench.frame(burst, b"x")
    frame = burst.octets(0)
    burst.append(frame[:12] + b"\x81\0\0\5" + frame[12:], VALID)
    assert bench.send(burst) == [TAKEN, OK]
    assert bench.arrived() == [b"x"]


@pytest.mark.parametrize(("word", "more"), [(0x4600, b"\1\1\1\0"), (0x4500, b"")])
def test_up_options_and_fragments_are_left(word: int, more: bytes) -> None:
    bench = Bench()
    bench.up()
    burst = Burst()
    bench.frame(burst, b"x")
    frame = burst.octets(0)
    flags = 0x4000 if more else 0x2000  # the first fragment of several
    head = struct.pack("!HHHHBBH", word, 29 + len(more), 9, flags, 64, 17, 0) + frame[26:34] + more
    right = ip.checksum(head)
    head = head[:10] + right.to_bytes(2, "big") + head[12:]
    burst.append(frame[:14] + head + frame[34:], VALID)
    assert bench.send(burst) == [TAKEN, OK]
    assert bench.arrived() == [b"x"]
    bench.close()


def test_up_refused_is_left() -> None:
    """An ICMP error that waits on the socket fails a send: that message is Python's, no other."""
    bench = Bench()
    bench.sock.setsockopt(socket.IPPROTO_IP, 11, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        nobody = gone.getsockname()[1]
    bench.up(dport=53)
    bench.up(dport=54, to=nobody)
    burst = Burst()
    bench.frame(burst, b"x", dport=54)
    assert bench.send(burst) == [TAKEN]
    burst.clear()
    bench.frame(burst, b"y" * 9)
    bench.frame(burst, b"z" * 9)
    bench.frame(burst, b"x", dport=54)
    assert bench.send(burst) == [OK, OK, TAKEN]
    assert not bench.arrived()
    bench.close()


def test_up_way_that_does_not_segment() -> None:
    """After one refusal of UDP_SEGMENT, here as checksums are off, a route goes without."""
    bench = Bench()
    bench.sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    bench.up()
    burst = Burst()
    for i in range(3):
        bench.frame(burst, bytes([i]) * 100)
    assert bench.send(burst) == [OK] * 3
    assert bench.send(burst) == [TAKEN] * 3
    assert bench.arrived() == [bytes([i]) * 100 for i in range(3)]
    burst.clear()
    bench.up()  # Python sent something itself
    bench.frame(burst, b"x" * 200, gso=100)
    assert bench.send(burst) == [OK]
    bench.close()


# The table.


def test_table_is_bounded() -> None:
    """Over the bound of a mapping its own oldest route goes, over that of all the oldest of all."""
    bench = Bench(routes=16, per_mapping=8)
    others = [bench.admit() for _ in range(3)]
    for dport in range(1, 101):
        bench.up(dport=dport)
    assert bench.mapping.routes == 8
    burst = Burst()
    for dport in (92, 93, 100):
        bench.frame(burst, b"x", dport=dport)
    assert bench.send(burst) == [OK, TAKEN, TAKEN]
    for k, other in enumerate(others):
        for dport in range(1, 9):
            bench.up(dport=dport, sport=100 + k, mapping=other)
    assert [m.routes for m in (bench.mapping, *others)] == [0, 0, 8, 8]
    bench.close()


def test_table_use_keeps_a_route() -> None:
    bench = Bench(per_mapping=2)
    bench.up(dport=1)
    bench.up(dport=2)
    burst = Burst()
    bench.frame(burst, b"x", dport=1)
    assert bench.send(burst) == [TAKEN]
    bench.up(dport=3)
    bench.frame(burst, b"x", dport=2)
    assert bench.send(burst)[1] == OK
    bench.close()


def test_table_entering_again_replaces(bench: Bench) -> None:
    for _ in range(40):
        bench.up()
        bench.down()
    assert bench.mapping.routes == 2
    lib.udplane_drop(bench.lane, bench.mapping)
    assert bench.mapping.routes == 0
    burst = Burst()
    bench.frame(burst, b"x")
    assert bench.send(burst) == [OK]


def test_table_bound_port_ends_routes(bench: Bench) -> None:
    for dport in (53, 54, 55):
        bench.up(dport=dport)
    bench.down()
    lib.udplane_bound(bench.lane, ffi.NULL, 53)
    dst = ENDS[bench.version][1]
    lib.udplane_bound(bench.lane, wide(ip.format_address(dst)), 54)
    lib.udplane_bound(bench.lane, wide("10.9.9.9"), 55)
    assert bench.mapping.routes == 2
    burst = Burst()
    for dport in (53, 54, 55):
        bench.frame(burst, b"x", dport=dport)
    assert bench.send(burst) == [OK, OK, TAKEN]


def test_table_refuses_nonsense() -> None:
    assert lib.udplane_new(0, 1, 1) == ffi.NULL
    assert lib.udplane_new(12, 1, 1) == ffi.NULL
    assert lib.udplane_new(16, 0, 1) == ffi.NULL
    bench = Bench()
    assert lib.udplane_down(bench.lane, bench.mapping, bytes(16), 1, bytes(105), 105) < 0
    assert bench.mapping.routes == 0
    bench.close()


# Down.


def payloads(out: Burst) -> list[bytes]:
    parse_burst(out)
    assert all(f.verdict == OK for f in out)
    return [octets(f, f.data, f.data_len) for f in out]


def test_down_frames_behind_the_template(bench: Bench) -> None:
    bench.down()
    sent = [b"one", b"", b"x" * 1400]
    for data in sent:
        bench.server.sendto(data, bench.sock.getsockname())
    out = Burst()
    assert bench.read(out) == 3
    assert payloads(out) == sent
    src, dst = ENDS[bench.version]
    for f in out:
        assert headers.unpack_key(bytes(ffi.buffer(f.src, 40))) == (dst, 53, src, 7)
        assert bytes(f.head)[:12] == GUEST + ROUTER
    assert (bench.mapping.answers, bench.mapping.used, bench.n[1]) == (3, 6.0, 0)
    assert bench.read(out) == 0


def test_down_stranger_and_long_are_left(bench: Bench) -> None:
    """What has no route, or does not fit the path, is told with its peer."""
    bench.down()
    bench.server.sendto(b"x" * 2000, bench.sock.getsockname())
    bench.sock.sendto(b"stranger", bench.sock.getsockname())
    bench.server.sendto(b"y", bench.sock.getsockname())
    out = Burst()
    assert bench.read(out) == 3
    assert payloads(out) == [b"y"]
    told = [
        (bytes(s.addr), s.port, bytes(ffi.buffer(s.data, s.len)), s.size)
        for s in bench.strays[0 : bench.n[1]]
    ]
    here = wide(LOOPBACK[bench.version])
    assert told == [
        (here, bench.port, b"x" * 2000, 2000),
        (here, bench.sock.getsockname()[1], b"stranger", 8),
    ]


def test_down_fits_exactly(bench: Bench) -> None:
    room = 1500 - (28 if bench.version == 4 else 48)
    bench.down()
    for n in (room, room + 1):
        bench.server.sendto(b"x" * n, bench.sock.getsockname())
    out = Burst()
    assert bench.read(out) == 2
    assert [len(data) for data in payloads(out)] == [room]


def test_down_nowhere_to_go(bench: Bench) -> None:
    """With an MTU of 0 nothing is carried: the guest's port is stalled, or gone."""
    bench.down()
    bench.server.sendto(b"x", bench.sock.getsockname())
    out = Burst()
    assert bench.read(out, mtu=0) == 1
    assert (out.count, bench.n[1], bench.mapping.answers) == (0, 1, 0)


def test_down_other_mapping_has_no_route() -> None:
    """A route is one mapping's: what its peer sends to another guest's socket is decided about."""
    bench = Bench()
    bench.down()
    mine = bench.mapping
    bench.mapping = bench.admit()
    bench.server.sendto(b"x", bench.sock.getsockname())
    out = Burst()
    assert (bench.read(out), out.count, bench.n[1]) == (1, 0, 1)
    assert mine.answers == 0
    bench.close()


def test_down_joined_datagrams(bench: Bench) -> None:
    """What the kernel joined (UDP_GRO) leaves as one frame that says how to part it."""
    bench.down()
    bench.sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    size = [(socket.IPPROTO_UDP, UDP_SEGMENT, (100).to_bytes(2, "little"))]
    bench.server.sendmsg([b"x" * 250], size, 0, bench.sock.getsockname())
    out = Burst()
    assert bench.read(out) == 1
    assert payloads(out) == [b"x" * 250]
    assert (out[0].vnet.gso_type, out[0].vnet.gso_size) == (GSO_UDP_L4, 100)
    assert bench.mapping.answers == 3


def test_down_error_is_told() -> None:
    bench = Bench()
    bench.sock.setsockopt(socket.IPPROTO_IP, 11, 1)
    bench.server.close()
    bench.sock.sendto(b"x", ("127.0.0.1", bench.port))
    out = Burst()
    assert bench.read(out) < 0
    assert bench.read(out) == 0
    bench.close()

"""tap.c against the Linux kernel's TAP in a namespace of its own."""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator

import pytest
from pyroute2 import netns
from vpnstack.core._core import ffi, lib

from vpnstack.core import pure
from vpnstack.core.burst import Burst

NAME = "vpnstack-core"
MAC = bytes.fromhex("020000000002")
TUNSETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
pytestmark = [
    pytest.mark.compat,
    pytest.mark.skipif(
        os.geteuid() != 0 or not os.path.exists("/dev/net/tun") or not shutil.which("ip"),
        reason="needs root, /dev/net/tun and iproute2",
    ),
]


def ip(*args: str) -> str:
    done = subprocess.run(["ip", *args], check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def tap() -> Iterator[int]:
    """A TAP descriptor; the kernel's side is 10.9.0.1/24, ours 10.9.0.2 with `MAC`."""
    ip("netns", "add", NAME)
    netns.pushns(NAME)
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"tap0", 0x0002 | 0x1000 | 0x4000))
        fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", 12))
        fcntl.ioctl(fd, TUNSETOFFLOAD, 1 | 2 | 4)
        ip("link", "set", "tap0", "address", "02:00:00:00:00:01", "up")
        ip("addr", "add", "10.9.0.1/24", "dev", "tap0")
        ip("neigh", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:02", "dev", "tap0")
        yield fd
        os.close(fd)
    finally:
        netns.popns()
        ip("netns", "del", NAME)


def receive(fd: int, proto: int, at_least: int = 0) -> tuple[Burst, int]:
    """The next frame from the kernel with an IPv4 packet of `proto`."""
    burst, slots = Burst(8), ffi.new("uint8_t[]", 8 * 65589)
    octets = ffi.new("uint64_t *")
    burst.keep(slots)
    while select.select([fd], [], [], 5)[0]:
        burst.count = lib.tap_rx_burst(fd, burst.array, 8, slots, 65589, octets)
        assert octets[0] >= sum(f.len for f in burst)
        lib.frame_parse_burst(burst.array, burst.count)
        for i in range(burst.count):
            f = burst[i]
            if f.ip_version == 4 and f.proto == proto and f.data_len >= at_least:
                return burst, i
    raise AssertionError(f"no frame of protocol {proto} within 5 s")


def packet(proto: int, l4: bytes) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(l4), 0, 0x4000, 64, proto, 0)
    head += bytes([10, 9, 0, 2, 10, 9, 0, 1])
    head = head[:10] + struct.pack(">H", 0xFFFF - pure.checksum(head)) + head[12:]
    return bytes.fromhex("020000000001") + MAC + b"\x08\x00" + head + l4


def send(fd: int, burst: Burst) -> None:
    dropped, octets = ffi.new("uint32_t *"), ffi.new("uint64_t *")
    assert lib.tap_tx_burst(fd, burst.array, 1, dropped, octets) == 1
    assert (dropped[0], octets[0]) == (0, burst[0].len)


def test_kernel_answers_echo(tap: int) -> None:
    echo = struct.pack(">BBHHH", 8, 0, 0, 77, 1) + b"payload"
    echo = echo[:2] + struct.pack(">H", 0xFFFF - pure.checksum(echo)) + echo[4:]
    burst = Burst(1)
    burst.append(packet(1, echo))
    send(tap, burst)
    got, i = receive(tap, 1)
    assert (got[i].verdict, got[i].sport, got[i].dport) == (pure.Verdict.OK, 0, 77)


def test_kernel_tcp_both_ways_with_offloads(tap: int) -> None:
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.connect_ex(("10.9.0.2", 80))
        got, i = receive(tap, 6)
        syn = got[i]
        assert (syn.verdict, syn.tcp_flags, syn.vnet.flags & 1) == (pure.Verdict.OK, 2, 1)
        tmpl = packet(6, b"") + struct.pack(">HH", 80, syn.sport)
        seq, ack, out = 1000, syn.seq + 1, Burst(1)
        mss = ffi.from_buffer(b"\x02\x04\x05\xb4")
        lib.frame_emit_tcp(
            out[0], tmpl, len(tmpl), seq, ack, 0x12, 65535, 0, mss, 4, ffi.NULL, 0, 0
        )
        send(tap, out)
        data = bytes(range(250)) * 80
        kept = ffi.from_buffer(data)
        lib.frame_emit_tcp(
            out[0], tmpl, len(tmpl), seq + 1, ack, 0x18, 65535, 0, ffi.NULL, 0, kept, 20000, 1460
        )
        send(tap, out)
        sock.setblocking(True)
        sock.settimeout(5)
        assert sock.recv(20000, socket.MSG_WAITALL) == data
        sock.sendall(bytes(14000))
        got, i = receive(tap, 6, at_least=1461)
        assert (got[i].verdict, got[i].vnet.gso_type) == (pure.Verdict.OK, 1)

"""The framed byte stream over a socketpair."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest
from vpnstack.core._core import ffi, lib

from vpnstack.core.burst import Burst


class Reader:
    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.burst = sock, Burst(4)
        self.buf = ffi.new("uint8_t[]", 2 * 65589)
        self.start, self.end = ffi.new("uint32_t *"), ffi.new("uint32_t *")

    def read(self) -> int | list[bytes]:
        n = lib.framed_rx_burst(
            self.sock.fileno(), self.burst.array, 4, self.buf, 2 * 65589, self.start, self.end
        )
        return n if n <= 0 else [self.burst.octets(i) for i in range(n)]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, Reader]]:
    a, b = socket.socketpair()
    with a, b:
        yield a, Reader(b)


def test_split_header_and_body(pair: tuple[socket.socket, Reader]) -> None:
    peer, reader = pair
    for part in (b"\0", b"\0\0", b"\x03a", b"b"):
        peer.send(part)
        assert reader.read() == 0
    peer.send(b"c\0\0\0\0")
    assert reader.read() == [b"abc", b""]
    peer.close()
    assert reader.read() == -errno.EPIPE


@pytest.mark.parametrize("length", [65590, 2**32 - 1])
def test_length_too_large(pair: tuple[socket.socket, Reader], length: int) -> None:
    peer, reader = pair
    peer.send(b"\0\0\0\1x" + length.to_bytes(4, "big"))
    assert reader.read() == [b"x"]
    assert reader.read() == -errno.EPROTO


def test_largest_frame_and_short_send(pair: tuple[socket.socket, Reader]) -> None:
    peer, reader = pair
    data, burst = bytes(range(256)) * 256, Burst(64)
    for _ in range(64):
        burst.append(data)
    sent = lib.framed_tx_burst(peer.fileno(), burst.array, 64)
    assert 0 < sent < 64 * (4 + len(data))
    got: list[bytes] = []
    while isinstance(frames := reader.read(), list) or reader.end[0] - reader.start[0] > 65540:
        got += frames if isinstance(frames, list) else []
        if len(got) == sent // (4 + len(data)):
            break
    assert got == [data] * (sent // (4 + len(data)))


def test_frame_larger_than_the_buffer_is_an_error_and_no_end(
    pair: tuple[socket.socket, Reader],
) -> None:
    peer, reader = pair
    peer.send(b"\0\0\0\x20" + bytes(20))

    def read() -> int:
        return int(
            lib.framed_rx_burst(
                peer_end, reader.burst.array, 4, reader.buf, 16, reader.start, reader.end
            )
        )

    peer_end = reader.sock.fileno()
    assert read() == 0
    assert (reader.start[0], reader.end[0]) == (0, 16)
    assert read() == -errno.ENOBUFS

"""What the stack reads from and writes into frames, over the C core."""

from __future__ import annotations

from typing import Any

from ._core import ffi, lib

_buffer = ffi.buffer
_payload = lib.frame_payload

KEY_LEN = 40


def parse_burst(burst: Any) -> None:
    """Parse all frames of a `Burst` in place (frame.h says what becomes of them)."""
    lib.frame_parse_burst(burst.array, burst.count)


def coalesce(burst: Any, mac: bytes) -> None:
    """Join consecutive segments of flows to the station `mac` (gro.c)."""
    lib.frame_coalesce(burst.array, burst.count, mac)


def parse_frame(f: Any) -> None:
    """Parse one frame in place."""
    lib.frame_parse_burst(f, 1)


def flow_key(f: Any) -> bytes:
    """Return the 40 bytes that name the frame's flow: source first, ports in host order."""
    return bytes(_buffer(f.src, KEY_LEN))


def payload(f: Any) -> bytes | memoryview:
    """Return the payload: a view into the frame where it lies in one piece, else a copy."""
    n = f.data_len
    if not n:
        return b""
    p = _payload(f)
    if p:
        return memoryview(_buffer(p, n))
    return octets(f, f.data, n)


def octets(f: Any, off: int, n: int) -> bytes:
    """Copy `n` bytes from offset `off` of the Ethernet frame."""
    out = bytearray(n)
    got = lib.frame_read(f, off, ffi.from_buffer(out), n)
    return bytes(out[:got])


def source(f: Any) -> bytes:
    """Return the network source address, 4 or 16 bytes."""
    return bytes(_buffer(f.src, 16))[12:] if f.ip_version == 4 else bytes(_buffer(f.src, 16))


def destination(f: Any) -> bytes:
    """Return the network destination address, 4 or 16 bytes."""
    return bytes(_buffer(f.dst, 16))[12:] if f.ip_version == 4 else bytes(_buffer(f.dst, 16))


def macs(f: Any) -> tuple[bytes, bytes]:
    """Return destination and source of the Ethernet header."""
    head = bytes(_buffer(f.head, 12))
    return head[:6], head[6:]

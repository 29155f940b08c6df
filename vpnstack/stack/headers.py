"""Header templates of flows: what core/emit.c starts from."""

from __future__ import annotations

import struct

from ..core.access import KEY_LEN

_KEY = struct.Struct("=16s16sHHB3x")
_V4_MAPPED = b"\0" * 10 + b"\xff\xff"
TCP, UDP = 6, 17

assert _KEY.size == KEY_LEN


def key(src: bytes, sport: int, dst: bytes, dport: int, proto: int) -> bytes:
    """Return the key under which frames from `src` to `dst` are looked up (frame.h)."""
    if len(src) == 4:
        src, dst = _V4_MAPPED + src, _V4_MAPPED + dst
    return _KEY.pack(src, dst, sport, dport, proto)


def unpack_key(octets: bytes) -> tuple[bytes, int, bytes, int]:
    """Return source address, source port, destination address and port of a key."""
    src, dst, sport, dport, _ = _KEY.unpack(octets)
    if src.startswith(_V4_MAPPED):
        src, dst = src[12:], dst[12:]
    return src, sport, dst, dport


def with_ect(octets: bytes) -> bytes:
    """Return a template whose IP header says ECN-capable transport, ECT(0) (RFC 3168, 5)."""
    at = 18 if octets[12:14] == b"\x81\x00" else 14
    second = octets[at + 1] | (0x02 if octets[at] >> 4 == 4 else 0x20)
    return octets[: at + 1] + bytes((second,)) + octets[at + 2 :]


def template(
    dst_mac: bytes, src_mac: bytes, ends: tuple[bytes, int, bytes, int], proto: int, ttl: int = 64
) -> bytes:
    """Build Ethernet and IP headers and the ports for (source, port, destination, port)."""
    src, sport, dst, dport = ends
    ports = struct.pack("!HH", sport, dport)
    if len(src) == 4:
        # RFC 6864: an atomic datagram (DF set) needs no identification.
        network = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0x4000, ttl, proto, 0, src, dst)
        return dst_mac + src_mac + b"\x08\x00" + network + ports
    network = struct.pack("!IHBB16s16s", 6 << 28, 0, proto, ttl, src, dst)
    return dst_mac + src_mac + b"\x86\xdd" + network + ports

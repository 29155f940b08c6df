"""Frames from port to port through the switch, in this process, with many idle ports."""

from __future__ import annotations

import asyncio
import struct
import time

from vpnstack.core.access import parse_burst
from vpnstack.core.burst import Burst
from vpnstack.gateway import Gateway
from vpnstack.link.pair import PairPort, pair
from vpnstack.wire import ip

PAYLOAD = bytes(56)


def ports_rate(count: int, seconds: float) -> float:
    """Return frames a second between two of `count` ports."""
    return asyncio.run(_measure(count, seconds))


async def _measure(count: int, seconds: float) -> float:
    async with Gateway("10.0.0.1/16") as gateway:
        near = []
        for i in range(count):
            ours, far = pair(f"a{i}", f"b{i}")
            gateway.attach(far)
            near.append(ours)
        for i, port in enumerate(near):  # everybody is heard once
            await _send(port, _burst(i, gateway.switch.mac, 1))
        return await _rate(near[0], near[1], _burst(0, _mac(1), 64), seconds)


def _mac(i: int) -> bytes:
    return b"\x02\x10" + struct.pack("!I", i + 1)


def _burst(i: int, dst: bytes, frames: int) -> Burst:
    """Return echo requests of station `i` to the gateway's address."""
    src = bytes([10, 0, 1 + i // 200, 1 + i % 200])
    packet = ip.emit(ip.Repr(src, bytes([10, 0, 0, 1]), ip.ICMP), _echo())
    burst = Burst()
    for _ in range(frames):
        burst.append(dst + _mac(i) + b"\x08\x00" + packet)
    return burst


def _echo() -> bytes:
    """Build an ICMP echo request (RFC 792)."""
    head = struct.pack("!BBHHH", 8, 0, 0, 1, 1) + PAYLOAD
    total = sum(struct.unpack(f"!{len(head) // 2}H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:2] + struct.pack("!H", ~total & 0xFFFF) + head[4:]


async def _send(port: PairPort, burst: Burst) -> None:
    port.tx_burst(burst)
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def _rate(source: PairPort, sink: PairPort, burst: Burst, seconds: float) -> float:
    """Send bursts as fast as the switch takes them; return what arrives a second."""
    got = Burst()
    first = _drained(sink, got)
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        if not source.stalled:
            source.tx_burst(burst)
        await asyncio.sleep(0)
        _drained(sink, got)
    return (_drained(sink, got) - first) / (time.perf_counter() - began)


def _drained(port: PairPort, burst: Burst) -> int:
    while port.rx_burst(burst):
        parse_burst(burst)
        port.rx_done(burst)
    return port.statistics().rx_frames

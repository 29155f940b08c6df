"""A cable between two ports: frames both ways, each side holding back the other, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from hypervisor.aio.cable import Cable
from vpnstack.core.burst import Burst
from vpnstack.link.pair import PairPort, pair
from vpnstack.link.port import Port, PortClosed

FRAME = bytes(range(60))


class Wire:
    """Two pairs; the cable joins their near ends."""

    def __init__(self) -> None:
        self.left, self.near_left = pair()
        self.right, self.near_right = pair()
        self.why: list[str] = []
        loop = asyncio.get_running_loop()
        self.cable = Cable(loop, self.near_left, self.near_right, self.why.append)

    def close(self) -> None:
        self.cable.close()
        self.left.close()
        self.right.close()


def send(port: Port, *frames: bytes) -> None:
    burst = Burst()
    for frame in frames:
        burst.append(frame, bytes(12))
    port.tx_burst(burst)


def receive(port: Port) -> list[bytes]:
    burst = Burst()
    port.rx_burst(burst)
    frames = [burst.octets(i) for i in range(burst.count)]
    port.rx_done(burst)
    return frames


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - a port has no event
            await asyncio.sleep(0)


async def arrived(port: PairPort, count: int) -> list[bytes]:
    frames: list[bytes] = []

    def enough() -> bool:
        frames.extend(receive(port))
        return len(frames) >= count

    await until(enough)
    return frames


async def test_frames_both_ways() -> None:
    wire = Wire()
    send(wire.left, FRAME)
    assert await arrived(wire.right, 1) == [FRAME]
    send(wire.right, FRAME, FRAME)
    assert await arrived(wire.left, 2) == [FRAME, FRAME]
    wire.close()


async def test_one_side_holds_back_the_other() -> None:
    """What the far end does not take stays with the sender: nothing is dropped, nothing spins."""
    wire = Wire()
    large = bytes(60_000)
    sent = 0
    while not wire.left.stalled:
        send(wire.left, large)
        sent += 1
        await asyncio.sleep(0)
    await until(lambda: wire.near_right.stalled and wire.near_left not in wire.cable._reading)
    before = wire.cable.wakeups
    for _ in range(5):
        await asyncio.sleep(0)
    assert wire.cable.wakeups == before
    assert len(await arrived(wire.right, sent)) == sent
    assert wire.left.statistics().tx_dropped == wire.near_right.statistics().tx_dropped == 0
    wire.close()


async def test_the_end_of_one_port_is_the_end_of_both() -> None:
    wire = Wire()
    wire.right.close()
    await until(lambda: wire.why)
    assert len(wire.why) == 1
    with pytest.raises(PortClosed):
        receive(wire.left)
    wire.close()

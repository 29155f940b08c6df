"""Ports on imperfect links: what is cut, what is delayed, and ports without descriptors."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest

from vpnstack.aio import virtual
from vpnstack.aio.host import Host
from vpnstack.aio.relay import Relay
from vpnstack.core import pure
from vpnstack.core.access import parse_burst
from vpnstack.core.burst import Burst
from vpnstack.link.impair import Impaired, Impairment
from vpnstack.link.pair import pair
from vpnstack.link.port import Notifying, Port, PortClosed
from vpnstack.link.virtual import QUEUE_OCTETS, VirtualPort, cable
from vpnstack.proto.tcp.segment import ACK, Segment
from vpnstack.stack import headers, tcp

ENDS = (bytes([10, 0, 0, 1]), 1000, bytes([10, 0, 0, 2]), 2000)


def segments(n: int = 10_000, gso: int = 1448) -> Burst:
    """A burst with one super-segment."""
    burst = Burst(4)
    template = headers.template(b"\2" * 6, b"\4" * 6, ENDS, headers.TCP)
    tcp.emit(burst, template, Segment(1, 1, ACK, 100, bytes(n), gso_size=gso))
    return burst


def frames(port: Port) -> Iterator[bytes]:
    burst = Burst()
    while port.rx_burst(burst):
        parse_burst(burst)
        for i in range(burst.count):
            assert not burst[i].verdict
            yield burst.octets(i)
        port.rx_done(burst)


def ends(loop: Any, **options: Any) -> tuple[Impaired, VirtualPort]:
    left, right = cable(loop)
    return Impaired(left, loop, tx=Impairment(**options), rng=random.Random(1)), right


@pytest.mark.parametrize(
    ("options", "count"),
    [({"latency": 0.1}, 1), ({"loss": 1e-9}, 7), ({"rate": "1gbit"}, 7), ({"mtu": 1500}, 7)],
)
def test_super_segments_are_cut_only_where_packets_count(
    options: dict[str, Any], count: int
) -> None:
    async def main() -> list[bytes]:
        a, b = ends(asyncio.get_running_loop(), **options)
        a.tx_burst(segments())
        await asyncio.sleep(1)
        return list(frames(b))

    got = virtual.run(main())
    assert len(got) == count
    assert sum(len(f) - 54 for f in got) == 10_000


def test_corruption_shows_in_a_checksum() -> None:
    async def main() -> list[bytes]:
        a, b = ends(asyncio.get_running_loop(), corrupt=1.0)
        a.tx_burst(segments())
        await asyncio.sleep(1)
        burst = Burst()
        b.rx_burst(burst)
        return [burst.octets(i) for i in range(burst.count) if not burst.vnet(i)[0]]

    got = virtual.run(main())
    assert len(got) == 7
    assert all(pure.parse(bytes(12), f).verdict for f in got)


def test_received_frames_are_impaired_as_well() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        left, right = cable(loop)
        port = Impaired(left, loop, rx=Impairment(latency=0.25))
        assert isinstance(port, Notifying)
        got: list[tuple[float, int]] = []

        def ready() -> None:
            if n := len(list(frames(port))):
                got.append((loop.time(), n))

        port.notify(ready)
        start = loop.time()
        right.tx_burst(segments())
        await asyncio.sleep(1)
        assert got == [(pytest.approx(start + 0.25), 1)]
        port.sever()
        right.tx_burst(segments())
        await asyncio.sleep(1)
        port.heal()
        assert len(got) == 1
        assert port.link_statistics().rx.passed == 1

    virtual.run(main())


def test_a_full_cable_stalls_and_says_when_it_does_no_more() -> None:
    async def main() -> None:
        a, b = cable(asyncio.get_running_loop())
        calls: list[bool] = []
        a.notify(lambda: calls.append(a.stalled))
        burst = segments(65_000)
        for _ in range(QUEUE_OCTETS // 65_000 + 1):
            a.tx_burst(burst)
        assert a.stalled
        assert len(list(frames(b))) == QUEUE_OCTETS // 65_000 + 1
        await asyncio.sleep(1)
        assert calls == [False]
        for _ in range(3 * QUEUE_OCTETS // 65_000):
            a.tx_burst(burst)
        assert a.statistics().tx_dropped > 0

    virtual.run(main())


def test_a_closed_end_is_reported_behind_what_is_queued() -> None:
    async def main() -> None:
        a, b = cable(asyncio.get_running_loop())
        a.tx_burst(segments())
        a.close()
        a.close()
        burst = Burst()
        assert b.rx_burst(burst) == 1
        with pytest.raises(PortClosed, match="b: the other end was closed"):
            b.rx_burst(burst)
        b.tx_burst(segments())
        assert b.statistics().tx_dropped == 1

    virtual.run(main())


@pytest.mark.parametrize("kind", ["pair", "cable"])
async def test_two_hosts_in_real_time(kind: str) -> None:
    left, right = pair() if kind == "pair" else cable(asyncio.get_running_loop())
    data = bytes(range(256)) * 40_000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        writer.close()

    async with Host(left, ["10.0.0.1/24"], name="a") as a, Host(right, ["10.0.0.2/24"]) as b:
        await b.start_server(serve, 7)
        reader, writer = await a.open_connection("10.0.0.2", 7)
        assert await reader.read() == data
        writer.close()


async def test_a_relay_joins_two_hosts_in_real_time() -> None:
    loop = asyncio.get_running_loop()
    (a, near), (far, b) = pair(), cable(loop)
    link = Impairment(latency=0.002, loss=0.02, rate="50mbit")
    relay = Relay(loop, near, far, link, link, seed=3)
    data = bytes(range(256)) * 2_000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(len(data)))
        writer.close()

    async with Host(a, ["10.0.0.1/24"], name="a") as left, Host(b, ["10.0.0.2/24"]) as right:
        await right.start_server(serve, 7)
        reader, writer = await left.open_connection("10.0.0.2", 7)
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        writer.close()
        assert relay.b.link_statistics().tx.lost > 0
    relay.close()
    await asyncio.sleep(0)

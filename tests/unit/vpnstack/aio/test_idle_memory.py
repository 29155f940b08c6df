"""What an idle connection costs, with the flow, the transport and the tables around it."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

from vpnstack.aio import virtual
from vpnstack.aio.host import Host
from vpnstack.link.virtual import cable

COUNT = 100
STOCK = tracemalloc.Filter(False, "*core/memory.py")  # bounded, of the process


class Echo(asyncio.Protocol):
    __slots__ = ("transport",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def cost(octets: int) -> float:
    """Return the octets of an end after `octets` were echoed on each connection."""
    loop = asyncio.get_running_loop()
    left, right = cable(loop)
    a = Host(left, ["10.0.0.1/24"], seed=1)
    b = Host(right, ["10.0.0.2/24"], name="b", seed=2)
    async with a, b:
        await b.create_server(Echo, 80)
        keep = [await a.create_connection(asyncio.Protocol, "10.0.0.2", 80)]
        gc.collect()
        tracemalloc.start()
        for _ in range(COUNT):
            keep.append(await a.create_connection(asyncio.Protocol, "10.0.0.2", 80))
            keep[-1][0].write(bytes(octets))
        await asyncio.sleep(60)  # of virtual time: all timers have passed
        gc.collect()
        snapshot = tracemalloc.take_snapshot().filter_traces([STOCK])
        tracemalloc.stop()
        assert len(b.stack.tcp.flows) == len(keep)
        assert all(t.get_extra_info("flow").conn.n_bytes_received == octets for t, _ in keep[1:])
    return sum(line.size for line in snapshot.statistics("filename")) / (2 * COUNT)


def test_a_connection_that_was_never_used_is_small() -> None:
    assert virtual.run(cost(0)) < 3000


def test_a_connection_that_went_idle_is_small_again() -> None:
    assert virtual.run(cost(100_000)) < 4096

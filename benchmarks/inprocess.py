"""Two hosts of one process without a link between them: speed on one core, and memory."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from dataclasses import dataclass

from vpnstack.aio.host import Host
from vpnstack.link.port import Offload
from vpnstack.link.virtual import WHOLE, cable

CHUNK = 1 << 18
CONNECTS = 64  # at a time
PER_PORT = 10_000  # connections to one port of the server
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one flow: Gbit/s of payload, and frames with data a second."""

    gbit: float
    segments: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Of `held` idle connections: octets for each end, and connections opened a second."""

    held: int
    octets: float
    connects: float


class Sink(asyncio.BufferedProtocol):
    """Counts what arrives."""

    def __init__(self) -> None:
        self.n = 0
        self._buffer = bytearray(CHUNK)

    def get_buffer(self, sizehint: int) -> bytearray:
        """Return where the next octets go."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Count them."""
        self.n += nbytes


async def joined(offload: Offload = WHOLE) -> tuple[Host, Host]:
    """Return two hosts back to back."""
    left, right = cable(asyncio.get_running_loop(), offload=offload)
    a = Host(left, ["10.0.0.1/24"], name="a", seed=1)
    b = Host(right, ["10.0.0.2/24"], name="b", seed=2)
    a.start()
    b.start()
    return a, b


async def speed(seconds: float, offload: Offload = WHOLE) -> Speed:
    """Send one flow for a while, over a link that takes `offload`.

    Seconds are this process's on its one core: other work on the machine does not count.
    """
    a, b = await joined(offload)
    sink = Sink()
    await b.create_server(lambda: sink, 9)
    _, writer = await a.open_connection("10.0.0.2", 9)
    chunk = bytes(CHUNK)
    end = time.process_time() + seconds / 4  # slow start
    while time.process_time() < end:
        writer.write(chunk)
        await writer.drain()
    start, before, segments = time.process_time(), sink.n, b.statistics().stack.segments_in
    while time.process_time() < start + seconds:
        writer.write(chunk)
        await writer.drain()
    took = time.process_time() - start
    out = Speed(
        (sink.n - before) * 8 / took / 1e9,
        (b.statistics().stack.segments_in - segments) / took,
    )
    writer.transport.abort()
    a.close()
    b.close()
    return out


def resident() -> int:
    """Return the octets of this process that are in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE


async def memory(held: int) -> Memory:
    """Open idle connections and hold them; both ends are in this process."""
    a, b = await joined()
    for i in range(-(-held // PER_PORT)):
        await b.create_server(asyncio.Protocol, 1000 + i)
    await asyncio.gather(*(a.create_connection(asyncio.Protocol, "10.0.0.2", 1000) for _ in "12"))
    gc.collect()
    before, start = resident(), time.perf_counter()
    transports = []
    for i in range(0, held, CONNECTS):
        calls = (
            a.create_connection(asyncio.Protocol, "10.0.0.2", 1000 + n // PER_PORT)
            for n in range(i, min(i + CONNECTS, held))
        )
        transports += [transport for transport, _ in await asyncio.gather(*calls)]
    took = time.perf_counter() - start
    gc.collect()
    established = len(b.stack.tcp.flows)
    if established < held:
        raise RuntimeError(f"expected {held} connections, found {established}")
    out = Memory(held, (resident() - before) / (2 * held), held / took)
    a.driver.close()  # no farewell to each: the process ends here
    b.driver.close()
    return out

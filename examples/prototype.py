"""A transport protocol of our own, next to TCP on the same imperfect link, in virtual time.

    python examples/prototype.py [BYTES]

"Tally" sends numbered packets as IP protocol 253 (RFC 3692) with a window of a fixed size; the
receiver answers each with a cumulative number and a bitmap of what came after it.  It is a page
long and knows nothing of congestion: it does not slow down for loss, nor for anybody else.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable
from dataclasses import replace

import dpkt
from rich.console import Console
from rich.table import Table

from vpnstack.aio.host import Host
from vpnstack.aio.network import Network
from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.congestion.cubic import Cubic
from vpnstack.stack.protocol import Handler
from vpnstack.stack.stack import default_tcp_config

TALLY = 253
ROOM = 1400


class Packet(dpkt.Packet):  # type: ignore[misc]
    """The header: what it is, its number, and what the receiver has beyond `number`."""

    __hdr__ = (("kind", "B", 0), ("pad", "3s", b""), ("number", "I", 0), ("seen", "Q", 0))


DATA, ACK = 0, 1


class Receiver(Handler):
    """Puts numbered packets in order and answers each."""

    def __init__(self) -> None:
        self.got: dict[int, bytes] = {}
        self.next = self.octets = 0
        self.answers: list[tuple[bytes, bytes]] = []

    def receive(self, src: bytes, packet: bytes, now: float) -> None:
        message = Packet(packet)
        if message.number >= self.next:
            self.got.setdefault(message.number, message.data)
        while self.next in self.got:
            self.octets += len(self.got.pop(self.next))
            self.next += 1
        seen = sum(1 << i for i in range(64) if self.next + i in self.got)
        self.answers.append((src, bytes(Packet(kind=ACK, number=self.next, seen=seen))))

    def transmit(self, now: float) -> Iterable[tuple[bytes, bytes]]:
        out, self.answers = self.answers, []
        return out


class Sender(Handler):
    """Keeps `window` packets under way and repeats those that stay without an answer."""

    def __init__(self, peer: bytes, data: bytes, window: int, timeout: float) -> None:
        self.peer, self.window, self.timeout = peer, window, timeout
        self.parts = [data[i : i + ROOM] for i in range(0, len(data), ROOM)]
        self.waiting: dict[int, float] = {}  # when to send each packet (again)
        self.next = self.base = self.repeats = 0
        self.done = asyncio.Event()

    def receive(self, src: bytes, packet: bytes, now: float) -> None:
        message = Packet(packet)
        self.base = max(self.base, message.number)
        for number in [n for n in self.waiting if n < message.number]:
            del self.waiting[number]
        for i in range(64):
            if message.seen >> i & 1:
                self.waiting.pop(message.number + i, None)
        if self.base == len(self.parts):
            self.done.set()

    def transmit(self, now: float) -> Iterable[tuple[bytes, bytes]]:
        due = [n for n, at in self.waiting.items() if at <= now]
        self.repeats += len(due)
        end = min(self.base + self.window, len(self.parts))
        due += range(self.next, end)
        self.next = max(self.next, end)
        for number in due:
            self.waiting[number] = now + self.timeout
            yield self.peer, bytes(Packet(number=number)) + self.parts[number]

    def deadline(self) -> float | None:
        return min(self.waiting.values(), default=None)


async def tally(a: Host, b: Host, data: bytes, window: int) -> tuple[float, int]:
    """Send `data` with Tally; return the seconds and the packets repeated."""
    receiver = Receiver()
    sender = Sender(a.resolve("b"), data, window, timeout=0.12)
    start = a.loop.time()
    b.stack.protocols[TALLY] = receiver
    a.stack.protocols[TALLY] = sender
    a.driver.wake()
    await sender.done.wait()
    if receiver.octets != len(data):
        raise RuntimeError(f"expected {len(data)} bytes to arrive, found {receiver.octets}")
    return a.loop.time() - start, sender.repeats


async def tcp(a: Host, b: Host, data: bytes) -> tuple[float, int]:
    """Send `data` with TCP; return the seconds and the segments repeated."""

    async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):
            pass
        writer.close()

    await b.start_server(sink, 7)
    start = a.loop.time()
    reader, writer = await a.open_connection("b", 7)
    writer.write(data)
    writer.write_eof()
    await reader.read()
    repeated = a.statistics().connections[0].tcp.tcpi_total_retrans
    writer.close()
    return a.loop.time() - start, repeated


def cubic(version: int, mtu: int) -> Config:
    """Return TCP's parameters, with CUBIC."""
    return replace(default_tcp_config(version, mtu), congestion=Cubic)


def measure(data: bytes, window: int | None, loss: float) -> tuple[float, int]:
    """Run one transfer in a network of its own: the link is the same every time."""

    async def main(lan: Network) -> tuple[float, int]:
        a, b = lan.host("a", tcp=cubic), lan.host("b", tcp=cubic)
        lan.link(a, b, latency=0.02, rate="20mbit", queue=100, loss=loss)
        return await (tcp(a, b, data) if window is None else tally(a, b, data, window))

    return Network(seed=7).run(main)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Compare a transport of our own with TCP.")
    parser.add_argument("bytes", type=int, nargs="?", default=2_000_000, help="how much to send")
    data = bytes(range(256)) * max(parser.parse_args().bytes // 256, 1)
    screen = Console()
    screen.print(
        f"{len(data):,} bytes over 20 Mbit/s, 40 ms round trip, a queue of 100 packets, in virtual "
        "time.\nTally's number is its window; repeated are packets that were sent again.",
        highlight=False,
    )
    table = Table()
    for column in ("loss", "transport", "seconds", "Mbit/s", "repeated"):
        table.add_column(column, justify="left" if column == "transport" else "right")
    for loss in (0.0, 0.01, 0.05):
        for name, window in (("TCP, CUBIC", None), ("Tally, 40", 40), ("Tally, 70", 70)):
            seconds, repeated = measure(data, window, loss)
            speed = len(data) * 8 / seconds / 1e6
            row = (f"{loss:.0%}", name, f"{seconds:.3f}", f"{speed:.2f}", f"{repeated}")
            table.add_row(*row)
        table.add_section()
    screen.print(table)


if __name__ == "__main__":
    main()

"""The DNS forwarder's place in a stack: port 53 of the gateway's addresses, UDP and TCP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from ..stack.stack import Stack
from ..stack.udp import Endpoint
from ..wire import icmp
from . import dnstcp
from .dns import Forwarder

PORT = 53
TASKS_MAX = 512  # queries that are being answered at once


class DnsService:
    """Answers datagrams; `serve_stream` answers TCP clients."""

    def __init__(
        self,
        stack: Stack,
        forwarder: Forwarder,
        addresses: Iterable[bytes],
        loop: asyncio.AbstractEventLoop,
        wake: Callable[[], None],
    ) -> None:
        self.stack = stack
        self.forwarder = forwarder
        self.loop = loop
        self.wake = wake
        self.dropped = 0
        self._tasks: set[asyncio.Task[None]] = set()
        for addr in addresses:
            stack.udp.ports[addr, PORT] = self

    def datagram_received(self, remote: Endpoint, local: Endpoint, data: bytes, now: float) -> None:
        """Answer one query in a task of its own."""
        if len(self._tasks) >= TASKS_MAX:
            self.dropped += 1
            return
        task = self.loop.create_task(self._answer(remote, local, data))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, remote: Endpoint, local: Endpoint, data: bytes) -> None:
        answer = await self.forwarder.answer(data, tcp=False)
        if answer is not None:
            self.stack.udp.send(local, remote, answer, self.loop.time())
            self.wake()

    def icmp_received(
        self, remote: Endpoint, local: Endpoint, error: icmp.Error, now: float
    ) -> None:
        """The client did not wait for its answer."""

    async def serve_stream(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer the queries of one TCP client."""
        await dnstcp.serve(self.forwarder, reader, writer)

    async def close(self) -> None:
        """Give up the queries under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.forwarder.close()

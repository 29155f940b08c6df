"""A flow of a gateway on the express lane, for tests of it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from gatewaypair import HOST, LOOPBACK, GuestNode, network, until

from vpnstack.gateway import Gateway

VERSIONS = pytest.mark.parametrize("version", [4, 6])
LINGER = b"\1\0\0\0\0\0\0\0"


class Talk:
    """A flow that is lent: the guest's streams, the host's socket, the bridge between them."""

    def __init__(self, gateway: Gateway, guest: GuestNode) -> None:
        self.gateway, self.guest = gateway, guest
        self.loop = asyncio.get_running_loop()
        assert gateway.driver.lane is not None
        self.lane = gateway.driver.lane

    async def open(self, version: int) -> None:
        server = socket.create_server(
            (LOOPBACK[version], 0), family=socket.AF_INET6 if version == 6 else socket.AF_INET
        )
        server.setblocking(False)
        port = server.getsockname()[1]
        self.reader, self.writer = await self.guest.open(HOST[version], port)
        self.sock, _ = await self.loop.sock_accept(server)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server.close()
        [self.bridge] = self.gateway.tcp.bridges
        for _ in range(5):
            await self.exchange(b"hello", b"world")
        await self.settled()

    async def settled(self) -> None:
        """Wait until the flow is lent and nothing is under way."""
        lease = self.bridge.flow
        await until(lambda: lease.lease is not None and lease.lease.snd_una == lease.lease.snd_nxt)

    async def exchange(self, up: bytes, down: bytes) -> None:
        """Carry a request and its answer."""
        self.writer.write(up)
        assert await self.take(len(up)) == up
        await self.loop.sock_sendall(self.sock, down)
        assert await self.reader.readexactly(len(down)) == down

    async def take(self, n: int) -> bytes:
        got = bytearray()
        while len(got) < n:
            data = await self.loop.sock_recv(self.sock, n - len(got))
            if not data:
                break
            got += data
        return bytes(got)

    async def gone(self) -> None:
        """Wait until nothing is left of it."""
        await until(lambda: not self.gateway.tcp.bridges)
        assert len(self.lane) == 0
        assert self.lane.deadline() is None
        assert self.bridge.flow.lease is None
        assert self.bridge.flow.fd == -1
        assert len(self.gateway.driver.poller) == 0


@contextlib.asynccontextmanager
async def talk(version: int = 4, **options: Any) -> AsyncIterator[Talk]:
    """A network with a flow that is lent."""
    async with network(**options) as (gateway, guest):
        t = Talk(gateway, guest)
        await t.open(version)
        yield t
        t.writer.close()
        t.sock.close()


BLOB = random.Random(5).randbytes(2 << 20)

"""Fixtures: a server and a client joined by a socket pair, no network."""

import asyncio
import contextlib
import socket

import pytest

from dataflow.aio.client import connect
from dataflow.aio.server import Server
from dataflow.p9.const import Dialect


class Pair:
    """Makes clients of one server."""

    def __init__(self, stack):
        self._stack = stack

    async def server(self, root, **options):
        return await self._stack.enter_async_context(Server(root, **options))

    async def client(self, server, dialect=Dialect.LINUX, **options):
        ours, theirs = socket.socketpair()
        task = asyncio.ensure_future(server.serve_socket(theirs))
        self._stack.push_async_callback(asyncio.wait, [task])
        return await self._stack.enter_async_context(connect(ours, dialect=dialect, **options))


@pytest.fixture
async def pair():
    async with contextlib.AsyncExitStack() as stack:
        yield Pair(stack)


@pytest.fixture(params=list(Dialect), ids=[d.value for d in Dialect])
def dialect(request):
    return request.param

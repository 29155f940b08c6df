"""An asyncio server on the stack: a protocol for each connection to some of its ports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Self

from ..stack.flow import Flow
from .streams import StackTransport

CLIENTS_MAX = 1024  # of the gateway's own services; `Host` sets its own


class StackServer(asyncio.AbstractServer):
    """Listens on addresses of the stack; `sockets` is empty, as there are none.

    `addresses` are the (address, port) pairs it listens on, address None for all.  `clients_max`
    bounds the connections at a time; more are not answered and counted in `refused`.
    """

    sockets: Sequence[Any] = ()

    def __init__(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        loop: asyncio.AbstractEventLoop,
        wake: Callable[[], None],
        closed: Callable[[], None],
        addresses: Sequence[tuple[bytes | None, int]] = (),
        clients_max: int = CLIENTS_MAX,
    ) -> None:
        self._factory = factory
        self._loop = loop
        self._wake = wake
        self._closed = closed
        self._serving = True
        self._ended = loop.create_future()
        self._clients: dict[StackTransport, None] = {}  # ordered: runs shall be repeatable
        self._lost = self._client_lost  # one for all: each look at a method makes an object
        self.addresses = tuple(addresses)
        self.clients_max = clients_max
        self.refused = 0

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self.addresses[0][1]

    def flow_arrived(self, flow: Flow, now: float) -> None:
        """Accept a SYN, unless too many connections are open."""
        if len(self._clients) >= self.clients_max:
            self.refused += 1
            flow.drop()
            return
        transport = StackTransport(flow, self._factory(), self._loop, self._wake, lost=self._lost)
        self._clients[transport] = None
        flow.accept()

    def _client_lost(self, transport: StackTransport) -> None:
        self._clients.pop(transport, None)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop of the server."""
        return self._loop

    def is_serving(self) -> bool:
        """Tell whether it listens."""
        return self._serving

    async def start_serving(self) -> None:
        """It listens from the start."""

    async def serve_forever(self) -> None:
        """Wait until the server is closed; cancelling closes it."""
        try:
            await self._ended
        finally:
            self.close()

    def close(self) -> None:
        """Stop listening; connections go on."""
        if self._serving:
            self._serving = False
            self._closed()
            if not self._ended.done():
                self._ended.set_result(None)

    async def wait_closed(self) -> None:
        """Return once the server is closed."""
        await asyncio.shield(self._ended)

    def abort_clients(self) -> None:
        """Reset every connection."""
        for transport in list(self._clients):
            transport.abort()

    def close_clients(self) -> None:
        """Close every connection behind what is queued on it."""
        for transport in list(self._clients):
            transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

"""virtio-9p (device 9, driven by Linux's net/9p/trans_virtio.c): 9P messages to any server.

A chain is one request: its readable part a T-message, its writable part room for the R-message.
Requests go to the server in the ring's order, as private copies; their answers go by tag into the
chains.  In which order those come and what a Tflush does is the server's, but no driver is left
waiting:

- a Tversion begins a conversation with the server where there is none (any more),
- when a Tflush is answered, the request that it ended goes back with nothing written (flush(5)),
- so do older requests when a Tversion is answered (version(5)),
- when the server is lost, everything in flight is answered with EIO, and so is what comes until
  the next Tversion.

A chain that is no message or has no room for an answer breaks the device; an answer larger than
its room becomes EMSGSIZE.
"""

from __future__ import annotations

import asyncio
import struct
from functools import partial

from ..errors import PeerError, UsageError
from .base import Device, Line
from .p9exchange import Exchange, Server, Statistics, close, read_message
from .p9wire import HEADER, Kind
from .queue import Chain

DEVICE_ID = 9
QUEUE_SIZE = 128  # Linux fills no more: 500 KiB of pages, and headers
MOUNT_TAG = 1 << 0  # feature: the configuration space holds the tag
TAG_MAX = 255  # octets: our limit
TURN_MAX = 4 << 20  # octets of requests and answers after which others on the loop have a turn


class P9(Device):
    """Shows `server` to the guest under the name `tag`: `mount -t 9p -o trans=virtio TAG DIR`."""

    device_id = DEVICE_ID
    queue_sizes = (QUEUE_SIZE,)
    features = MOUNT_TAG

    def __init__(self, tag: str, server: Server) -> None:
        super().__init__()
        self.tag = check_tag(tag)
        self._server = server
        self._counters = dict.fromkeys(Statistics.__slots__, 0)
        self._line: Line | None = None
        self._exchange: Exchange | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._ending: asyncio.Task[None] | None = None  # the last of them

    def config(self) -> bytes:
        """Return the tag with its length."""
        name = self.tag.encode()
        return struct.pack("<H", len(name)) + name

    def statistics(self) -> Statistics:
        """Return counters."""
        return Statistics(**self._counters)

    def activate(self, line: Line) -> None:
        """Serve the queue of `line`; the server hears of it with the first Tversion."""
        self._line = line

    def notified(self, index: int) -> None:
        """Take the requests that wait."""
        if self._line is not None:
            self._serve(self._line)

    def _serve(self, line: Line) -> None:
        """Take requests until there are none, the server wants none, or it is others' turn."""
        if self._line is not line or self._throttled:
            return
        begin = self._octets
        for chain in line.queues[0].chains():
            self._take(line, chain)
            if self._line is not line or self._throttled:
                return
            if self._octets - begin > TURN_MAX:
                line.loop.call_soon(self._serve, line)
                return

    @property
    def _throttled(self) -> bool:
        return self._exchange is not None and self._exchange.throttled

    @property
    def _octets(self) -> int:
        return self._counters["octets_in"] + self._counters["octets_out"]

    def _take(self, line: Line, chain: Chain) -> None:
        try:
            message = read_message(chain)
        except PeerError as exc:
            self._stop()
            line.failed(str(exc))
            return
        exchange = self._exchange
        if exchange is None or (exchange.ended and HEADER.unpack_from(message)[1] == Kind.TVERSION):
            exchange = self._begin(line)
        exchange.take(chain, message)

    def _begin(self, line: Line) -> Exchange:
        """Begin a conversation, in the place of one that the server ended."""
        self._end(line)
        # Not at once: whoever says that it goes on may be called by `_serve`.
        resumed = partial(line.loop.call_soon, self._serve, line)
        self._exchange = Exchange(line.queues[0], self._counters, resumed)
        self._exchange.connect(self._server)
        return self._exchange

    def _end(self, line: Line) -> None:
        """Let go of the conversation; the server may take its time."""
        exchange, self._exchange = self._exchange, None
        conversation = exchange.end() if exchange is not None else None
        if conversation is not None:
            self._ending = line.loop.create_task(close(conversation))
            self._closing.add(self._ending)
            self._ending.add_done_callback(self._closing.discard)

    def _stop(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            self._end(line)

    def stopped(self, index: int) -> None:
        """Forget what is in flight."""
        self._stop()

    def reset(self) -> asyncio.Future[None] | None:
        """Forget what is in flight; done when the server let go of the conversation."""
        self._stop()
        return self._ending if self._ending in self._closing else None

    async def close(self) -> None:
        """Wait for the ends of conversations."""
        while self._closing:
            await asyncio.wait(self._closing)


def check_tag(tag: str) -> str:
    """Return a share's name; raises `UsageError` for one that no guest could mount."""
    size = len(tag.encode(errors="replace"))
    if not 0 < size <= TAG_MAX or "\0" in tag:
        raise UsageError(f"share {tag!r}: expected a name of 1 to {TAG_MAX} octets")
    return tag

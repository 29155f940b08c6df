"""DNS over a TCP connection of a client (RFC 1035 4.2.2, RFC 7766): messages behind a length."""

from __future__ import annotations

import asyncio
from typing import Protocol

from .dns import HEADER_LEN, Forwarder

IDLE = 10.0  # seconds that a connection may be without a query, RFC 7766 6.2.3
QUERIES_MAX = 1000  # per connection


class Reader(Protocol):
    """What is needed of a reader; `asyncio.StreamReader` is one."""

    async def readexactly(self, n: int, /) -> bytes:
        """Return `n` octets; raises EOFError at an earlier end."""


class Writer(Protocol):
    """What is needed of a writer; `asyncio.StreamWriter` is one."""

    def write(self, data: bytes, /) -> None:
        """Queue `data`."""

    async def drain(self) -> None:
        """Wait for room."""

    def close(self) -> None:
        """End the connection behind what is queued."""


async def serve(
    forwarder: Forwarder, reader: Reader, writer: Writer, *, idle: float = IDLE
) -> None:
    """Answer the queries of one connection in order, until it ends, idles or misbehaves.

    One query at a time is taken, so a client that does not read its answers stops itself.
    """
    try:
        for _ in range(QUERIES_MAX):
            async with asyncio.timeout(idle):
                query = await read_message(reader)
            answer = await forwarder.answer(query, tcp=True)
            if answer is None:
                return
            async with asyncio.timeout(idle):
                writer.write(len(answer).to_bytes(2) + answer)
                await writer.drain()
    except (EOFError, OSError, TimeoutError):
        pass  # the client went away
    finally:
        writer.close()


async def read_message(reader: Reader) -> bytes:
    """Return the next message; a length that no header fits into ends the connection."""
    length = int.from_bytes(await reader.readexactly(2))
    if length < HEADER_LEN:
        raise EOFError(f"dns: expected a length of at least {HEADER_LEN}, found {length}")
    return await reader.readexactly(length)

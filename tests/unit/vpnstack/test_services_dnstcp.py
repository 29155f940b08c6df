"""DNS over TCP; row 10 of the defence checklist."""

from __future__ import annotations

import asyncio

import dns.message
import pytest

from vpnstack.services.dns import Forwarder
from vpnstack.services.dnstcp import serve


class Writer:
    """Collects what is written."""

    def __init__(self) -> None:
        self.data = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.data += data

    async def drain(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(2) + data


async def answers(data: bytes, *, end: bool = True, idle: float = 5.0) -> list[dns.message.Message]:
    reader, writer = asyncio.StreamReader(), Writer()
    reader.feed_data(data)
    if end:
        reader.feed_eof()
    forwarder = Forwarder({"host.internal": (b"\x0a\0\0\x01",)}, None, hosts=None)
    await serve(forwarder, reader, writer, idle=idle)
    assert writer.closed
    found, rest = [], writer.data
    while rest:
        length = int.from_bytes(rest[:2])
        found.append(dns.message.from_wire(rest[2 : 2 + length]))
        rest = rest[2 + length :]
    return found


QUERY = framed(dns.message.make_query("host.internal", "A", id=7).to_wire())


async def test_queries_are_answered_in_order() -> None:
    other = framed(dns.message.make_query("host.internal", "AAAA", id=8).to_wire())
    assert [message.id for message in await answers(QUERY + other + QUERY)] == [7, 8, 7]


@pytest.mark.parametrize(
    "bad",
    [
        b"\0\0",
        b"\0\x0b" + bytes(11),
        b"\0",
        b"\xff\xff",
        QUERY[:-1],
        framed(b"\0\0\x80" + bytes(9)),
    ],
)
async def test_row10_tcp_length_zero_or_short(bad: bytes) -> None:
    assert [message.id for message in await answers(QUERY + bad)] == [7]


async def test_row10_tcp_idle_connection_is_closed() -> None:
    assert len(await answers(QUERY + b"\0", end=False, idle=0.01)) == 1

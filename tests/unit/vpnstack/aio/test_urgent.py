"""The urgent mark, as asyncio protocols see it (RFC 9293 3.8.5, RFC 6093)."""

from __future__ import annotations

import asyncio

import pytest

from vpnstack.aio.network import Network
from vpnstack.aio.streams import StackTransport


class Listener(asyncio.Protocol):
    """Notes marks and data in the order in which they are told."""

    def __init__(self) -> None:
        self.told: list[int | bytes] = []
        self.marks: list[int] = []
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def urgent_received(self, mark: int) -> None:
        self.told.append(mark)

    def data_received(self, data: bytes) -> None:
        self.told.append(data)
        self.marks.append(self.transport.get_extra_info("urgent_mark"))

    def eof_received(self) -> None:
        self.ended.set_result(None)


async def connected(
    lan: Network, factory: type[asyncio.Protocol]
) -> tuple[StackTransport, asyncio.Protocol]:
    a, b = lan.host("a"), lan.host("b")
    lan.link(a, b, latency=0.01)
    made: list[asyncio.Protocol] = []

    def make() -> asyncio.Protocol:
        made.append(factory())
        return made[-1]

    await b.create_server(make, 7)
    transport, _ = await a.create_connection(asyncio.Protocol, "b", 7)
    await asyncio.sleep(0.1)
    return transport, made[0]


def test_mark_is_told_before_its_data() -> None:
    async def main(lan: Network) -> None:
        transport, protocol = await connected(lan, Listener)
        assert isinstance(protocol, Listener)
        transport.write(b"one")
        await asyncio.sleep(1)
        transport.send_urgent(b"stop!")
        transport.write(b"two")
        transport.write_eof()
        await protocol.ended
        assert protocol.told == [b"one", 5, b"stop!two"]
        assert protocol.marks == [0, 0]

    Network(seed=1).run(main)


@pytest.mark.parametrize("size", [30_000, 3_000_000])
def test_mark_lies_behind_what_waits_in_the_transport(size: int) -> None:
    """More than the connection takes at once: the mark is where the urgent data ends."""

    async def main(lan: Network) -> None:
        transport, protocol = await connected(lan, Listener)
        assert isinstance(protocol, Listener)
        transport.set_write_buffer_limits(1)
        transport.write(bytes(size))
        assert (transport.get_write_buffer_size() > 0) == (size > 1_000_000)
        transport.send_urgent(b"!")
        transport.write(b"behind")
        transport.write_eof()
        await protocol.ended
        done, ends = 0, set[int]()
        for one in protocol.told:
            if isinstance(one, int):
                ends.add(done + one)
            else:
                done += len(one)
        assert (done, max(ends)) == (size + 7, size + 1)

    Network(seed=1).run(main)


def test_protocol_without_the_callback_gets_the_data_in_line() -> None:
    class Plain(asyncio.Protocol):
        def __init__(self) -> None:
            self.got = b""

        def data_received(self, data: bytes) -> None:
            self.got += data

    async def main(lan: Network) -> None:
        transport, protocol = await connected(lan, Plain)
        assert isinstance(protocol, Plain)
        transport.send_urgent(b"stop!")
        transport.write(b" go")
        await asyncio.sleep(1)
        assert protocol.got == b"stop! go"
        transport.close()
        transport.send_urgent(b"too late")

    Network(seed=1).run(main)


def test_a_callback_that_fails_ends_the_connection() -> None:
    class Failing(Listener):
        def urgent_received(self, mark: int) -> None:
            raise ValueError(mark)

    async def main(lan: Network) -> None:
        found = []
        lan.loop.set_exception_handler(lambda loop, context: found.append(context["exception"]))
        transport, _ = await connected(lan, Failing)
        transport.send_urgent(b"stop!")
        await asyncio.sleep(1)
        assert transport.is_closing()
        assert [type(e) for e in found] == [ValueError]

    Network(seed=1).run(main)

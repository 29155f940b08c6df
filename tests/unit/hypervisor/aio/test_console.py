"""The console: lines, bounds, ends."""

import asyncio
import io
import socket

import pytest

from hypervisor.aio.console import Console
from hypervisor.errors import UsageError


def wired(**options: object) -> tuple[Console, socket.socket]:
    ours, guest = socket.socketpair()
    console = Console(**options)  # type: ignore[arg-type]
    console.attach(ours)
    return console, guest


async def test_lines_until_the_end() -> None:
    console, guest = wired()
    with guest:
        guest.sendall(b"one\r\ntwo\nlast")
    assert [line async for line in console] == ["one", "two", "last"]
    console.close()


async def test_line_in_pieces() -> None:
    console, guest = wired()
    with guest:
        guest.sendall(b"on")
        reading = asyncio.create_task(console.readline())
        await asyncio.sleep(0)
        guest.sendall(b"e\nrest")
        assert await reading == b"one\n"
    console.close()
    assert await console.read() == b"rest"
    assert await console.read() == b""


async def test_unread_output_is_bounded_and_counted() -> None:
    log = io.BytesIO()
    console, guest = wired(capacity=10, log=log)
    with guest:
        guest.sendall(b"0123456789abcde")
    assert await console.read() != b""
    console.close()
    assert console.dropped == 5
    assert log.getvalue() == b"0123456789abcde"


async def test_write_reaches_the_guest() -> None:
    console, guest = wired()
    with guest:
        console.write(b"hello\n")
        await console.drain()
        assert guest.recv(100) == b"hello\n"
    console.close()


async def test_write_is_bounded() -> None:
    console, guest = wired()
    with guest, pytest.raises(UsageError, match="await drain"):
        console.write(bytes(2 << 20))
    console.close()


async def test_drain_ends_when_the_guest_is_gone() -> None:
    console, guest = wired()
    console.write(bytes(1 << 20))
    guest.close()
    await asyncio.wait_for(console.drain(), 5)
    console.close()


async def test_write_after_the_end() -> None:
    console, guest = wired()
    guest.close()
    console.close()
    with pytest.raises(UsageError, match="closed"):
        console.write(b"x")


async def test_a_serial_port_of_this_process() -> None:
    """Input goes as far as the port has room; `flush` sends the rest."""
    room, taken = 3, bytearray()

    def send(data: bytes) -> int:
        part = data[: room - len(taken)]
        taken.extend(part)
        return len(part)

    console = Console()
    console.connect(send)
    console.receive(b"login: ")
    assert await console.read() == b"login: "
    console.write(b"root\n")
    assert bytes(taken) == b"roo"
    room = 100
    console.flush()
    assert bytes(taken) == b"root\n"
    await console.drain()
    console.close()
    assert await console.read() == b""
    with pytest.raises(UsageError, match="closed"):
        console.write(b"x")

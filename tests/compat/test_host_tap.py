"""An in-process host on a TAP device: streams, datagrams and errors with the Linux kernel."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
from pyroute2 import netns

from vpnstack.aio.host import Host
from vpnstack.link.impair import Impaired, Impairment
from vpnstack.link.tap import TapPort, open_tap

NAME = "vpnstack-host"
T = TypeVar("T")
pytestmark = [
    pytest.mark.compat,
    pytest.mark.skipif(
        os.geteuid() != 0 or not os.path.exists("/dev/net/tun") or not shutil.which("ip"),
        reason="needs root, /dev/net/tun and iproute2",
    ),
]


def inside(call: Callable[[], T]) -> T:
    netns.pushns(NAME)
    try:
        return call()
    finally:
        netns.popns()


def run(*argv: str) -> str:
    argv = ("ip", "netns", "exec", NAME, *argv)
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout


@pytest.fixture
def tap() -> Iterator[TapPort]:
    """A TAP port; the kernel's side is 10.9.0.1/24 and fd09::1/64."""
    netns.create(NAME)
    try:
        fd, name = inside(lambda: open_tap("tap0"))
        run("ip", "addr", "add", "10.9.0.1/24", "dev", name)
        run("ip", "addr", "add", "fd09::1/64", "dev", name, "nodad")
        run("ip", "link", "set", name, "up")
        yield TapPort(fd, name)
    finally:
        netns.remove(NAME)


def host(port: Any) -> Host:
    return Host(port, ["10.9.0.2/24", "fd09::2/64"])


def listening(family: int, kind: int, address: str) -> socket.socket:
    def make() -> socket.socket:
        sock = socket.socket(family, kind)
        sock.bind((address, 0))
        sock.setblocking(False)
        return sock

    return inside(make)


@pytest.mark.parametrize(
    ("family", "kernel"), [(socket.AF_INET, "10.9.0.1"), (socket.AF_INET6, "fd09::1")]
)
async def test_streams_to_the_kernel(tap: TapPort, family: int, kernel: str) -> None:
    loop = asyncio.get_running_loop()
    listener = listening(family, socket.SOCK_STREAM, kernel)
    listener.listen()
    data = os.urandom(3_000_000)

    async def echo() -> None:
        sock, _ = await loop.sock_accept(listener)
        reader, writer = await asyncio.open_connection(sock=sock)
        writer.write(await reader.readexactly(len(data)))
        await writer.drain()
        writer.close()

    async with host(tap) as ours:
        serving = asyncio.ensure_future(echo())
        reader, writer = await ours.open_connection(kernel, listener.getsockname()[1])
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        assert await reader.read() == b""
        (connection,) = ours.statistics().connections
        assert connection.tcp.tcpi_bytes_acked >= len(data)
        writer.close()
        await serving
    listener.close()


@pytest.mark.parametrize(
    ("family", "us"), [(socket.AF_INET, "10.9.0.2"), (socket.AF_INET6, "fd09::2")]
)
async def test_streams_from_the_kernel(tap: TapPort, family: int, us: str) -> None:
    loop = asyncio.get_running_loop()

    async def upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data.upper())
        writer.close()

    async with host(tap) as ours:
        server = await ours.start_server(upper, 0)
        sock = inside(lambda: socket.socket(family, socket.SOCK_STREAM))
        sock.setblocking(False)
        await loop.sock_connect(sock, (us, server.port))
        reader, writer = await asyncio.open_connection(sock=sock)
        writer.write(b"abc" * 100_000)
        writer.write_eof()
        assert await reader.read() == b"ABC" * 100_000
        writer.close()


class Inbox(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: asyncio.Queue[Any] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.got.put_nowait((data, addr))

    def error_received(self, exc: Exception) -> None:
        self.got.put_nowait(exc)


async def test_datagrams_and_errors_both_ways(tap: TapPort) -> None:
    loop = asyncio.get_running_loop()
    kernel = listening(socket.AF_INET, socket.SOCK_DGRAM, "10.9.0.1")
    port = kernel.getsockname()[1]
    async with host(tap) as ours:
        here, inbox = await ours.create_datagram_endpoint(Inbox, remote_addr=("10.9.0.1", port))
        for size in (0, 100, 9000):
            here.sendto(bytes(size))
            data, addr = await loop.sock_recvfrom(kernel, 65536)
            assert (len(data), addr[0]) == (size, "10.9.0.2")
            await loop.sock_sendto(kernel, data, addr)
            assert await inbox.got.get() == (data, ("10.9.0.1", port))
        kernel.close()
        here.sendto(b"anybody?")
        assert isinstance(await inbox.got.get(), ConnectionRefusedError)
        with pytest.raises(ConnectionRefusedError):
            await ours.open_connection("10.9.0.1", port)
        sock = listening(socket.AF_INET, socket.SOCK_DGRAM, "10.9.0.1")
        sock.connect(("10.9.0.2", 9))
        sock.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.wait_for(loop.sock_recv(sock, 10), 5)
        sock.close()


async def test_nobody_at_an_address(tap: TapPort) -> None:
    async with host(tap) as ours:
        with pytest.raises(OSError) as caught:
            await ours.open_connection("10.9.0.77", 7)
        assert caught.value.errno == errno.EHOSTUNREACH


async def test_the_kernel_pings_through_an_imperfect_link(tap: TapPort) -> None:
    loop = asyncio.get_running_loop()
    link = Impairment(latency=0.05)
    async with host(Impaired(tap, loop, tx=link, rx=link)):
        argv = ("ping", "-c", "3", "-i", "0.2", "10.9.0.2")
        out = await asyncio.to_thread(run, *argv)
    assert "3 received" in out
    best = float(out.rsplit("=", 1)[1].split("/")[0])
    assert 100 <= best < 130


class Marks(asyncio.Protocol):
    """Notes urgent marks and how much came."""

    def __init__(self) -> None:
        self.got = b""
        self.ends: set[int] = set()  # where urgent data ends, in all that was sent
        self.lost = asyncio.get_running_loop().create_future()

    def urgent_received(self, mark: int) -> None:
        self.ends.add(len(self.got) + mark)

    def data_received(self, data: bytes) -> None:
        self.got += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


async def test_urgent_marks_to_and_from_the_kernel(tap: TapPort) -> None:
    """Linux takes the pointer to name the octet behind, as RFC 6093 4 does."""
    loop = asyncio.get_running_loop()
    listener = listening(socket.AF_INET, socket.SOCK_STREAM, "10.9.0.1")
    listener.listen()
    async with host(tap) as ours, asyncio.timeout(20):
        opening = asyncio.ensure_future(loop.sock_accept(listener))
        transport, protocol = await ours.create_connection(
            Marks, "10.9.0.1", listener.getsockname()[1]
        )
        sock, _ = await opening
        sock.send(b"abc")
        sock.send(b"d!", socket.MSG_OOB)
        sock.send(b"ef")
        transport.send_urgent(b"stop!")
        transport.write(b"more")
        before = await loop.sock_recv(sock, 100)
        assert before == b"stop"  # a read ends at the mark
        assert sock.recv(1, socket.MSG_OOB) == b"!"
        assert await loop.sock_recv(sock, 100) == b"more"
        sock.close()
        await protocol.lost
        assert (protocol.got, protocol.ends) == (b"abcd!ef", {5})
    listener.close()


@pytest.mark.parametrize(
    ("family", "addr"), [(socket.AF_INET, "10.9.0.9"), (socket.AF_INET6, "fd09::9")]
)
async def test_answers_come_from_the_address_that_was_asked(
    tap: TapPort, family: int, addr: str
) -> None:
    """A connected socket of the kernel takes no other answer."""

    class Answering(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
            mine, port = self.transport.get_extra_info("destination")
            self.transport.sendto(f"{mine} {port}".encode(), peer, source=mine)

    addresses = ["10.9.0.2/24", "10.9.0.9/24", "fd09::2/64", "fd09::9/64"]
    loop = asyncio.get_running_loop()
    asking = listening(family, socket.SOCK_DGRAM, "10.9.0.1" if family == 2 else "fd09::1")
    async with Host(tap, addresses) as ours, asyncio.timeout(20):
        await ours.create_datagram_endpoint(Answering, ("", 53))
        asking.connect((addr, 53))
        await loop.sock_sendall(asking, b"?")
        assert await loop.sock_recv(asking, 100) == f"{addr} 53".encode()
    asking.close()

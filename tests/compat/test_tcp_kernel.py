"""Opening and closing connections with the Linux kernel, in both roles, over IPv4 and IPv6."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest
from kernel_peer import KERNEL, OURS, Ends, Kernel, carry, kernel, needs_root, until, wire

from vpnstack.aio.host import Host
from vpnstack.link.impair import Impairment
from vpnstack.proto.tcp.state import State

__all__ = ["kernel"]
pytestmark = [pytest.mark.compat, needs_root]
both_families = pytest.mark.parametrize("version", [4, 6])
both_roles = pytest.mark.parametrize("role", ["active", "passive"])
OPTIONS = {"timestamps": 1, "sack": 2, "window_scaling": 4}  # bits of tcpi_options
WORDS = {"timestamps": "ts", "sack": "sack", "window_scaling": "wscale"}  # ss's
SLOW = Impairment(latency=0.05)


def agreed(ends: Ends, kernel: Kernel, version: int, missing: str) -> None:
    """Both ends tell of the same options, window scales and segment sizes."""
    theirs, ours = kernel.ss(ends.sock), ends.info
    expected = {name: missing not in (name, "all") for name in OPTIONS}
    assert {name: bool(ours.tcpi_options & bit) for name, bit in OPTIONS.items()} == expected
    assert {name: word in theirs for name, word in WORDS.items()} == expected, theirs
    if expected["window_scaling"]:
        assert theirs["wscale"] == f"{ours.tcpi_rcv_wscale},{ours.tcpi_snd_wscale}"
    mss = (1460 if version == 4 else 1440) - 12 * expected["timestamps"]
    assert ours.tcpi_snd_mss == int(theirs["mss"]) == mss
    assert int(theirs["advmss"]) == mss


@both_families
@both_roles
@pytest.mark.parametrize("refuses", ["nobody", "kernel", "ours"])
async def test_options_agreed(kernel: Kernel, version: int, role: str, refuses: str) -> None:
    for missing in ("none",) if refuses == "nobody" else (*OPTIONS, "all"):
        off = [name for name in OPTIONS if missing in (name, "all")]
        if refuses == "kernel":
            kernel.sysctl(**{f"tcp_{name}": int(name not in off) for name in OPTIONS})
        config = dict.fromkeys(off, False) if refuses == "ours" else {}
        async with wire(kernel, **config) as net:
            ends = await net.connect(version, role)
            agreed(ends, kernel, version, missing)
            await carry(ends.ours, ends.theirs, 300_000)
            await carry(ends.theirs, ends.ours, 300_000)


@both_families
@both_roles
async def test_half_close_by_us(kernel: Kernel, version: int, role: str) -> None:
    async with wire(kernel) as net:
        ends = await net.connect(version, role)
        await carry(ends.ours, ends.theirs, 10_000)
        assert kernel.ss(ends.sock)["state"] == "CLOSE-WAIT"
        assert ends.info.state is State.FIN_WAIT_2
        await carry(ends.theirs, ends.ours, 500_000)
        await until(lambda: ends.info.state is State.TIME_WAIT)


@both_families
@both_roles
async def test_half_close_by_the_kernel(kernel: Kernel, version: int, role: str) -> None:
    async with wire(kernel) as net:
        ends = await net.connect(version, role)
        await carry(ends.theirs, ends.ours, 10_000)
        assert kernel.ss(ends.sock)["state"] == "FIN-WAIT-2"
        assert ends.info.state is State.CLOSE_WAIT
        await carry(ends.ours, ends.theirs, 500_000)
        await until(lambda: ends.info.state is State.CLOSED)


@both_families
async def test_simultaneous_close(kernel: Kernel, version: int) -> None:
    async with wire(kernel, tx=SLOW, rx=SLOW) as net:
        ends = await net.connect(version, "active")
        ends.ours[1].write_eof()
        ends.sock.shutdown(socket.SHUT_WR)
        await until(lambda: ends.info.state is State.CLOSING)
        await until(lambda: ends.info.state is State.TIME_WAIT)
        assert await ends.ours[0].read() == b"" == await ends.theirs[0].read()
        await until(lambda: "TIME-WAIT" in kernel.run("ss", "-tanH"))


@both_families
async def test_reset_by_us(kernel: Kernel, version: int) -> None:
    async with wire(kernel) as net:
        ends = await net.connect(version, "active")
        ends.ours[1].transport.abort()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(ends.theirs[0].read(), 5)
        assert kernel.run("ss", "-tanH") == ""


@both_families
@pytest.mark.parametrize("how", ["linger", "unread data"])
async def test_reset_by_the_kernel(kernel: Kernel, version: int, how: str) -> None:
    async with wire(kernel) as net:
        ends = await net.connect(version, "passive")
        sock = socket.socket(fileno=ends.sock.dup().detach())
        if how == "linger":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            ends.theirs[1].transport.pause_reading()  # type: ignore[attr-defined]
            ends.ours[1].write(b"nobody reads this")
            await until(lambda: not ends.info.tcpi_unacked)
        ends.theirs[1].close()
        await asyncio.sleep(0)
        sock.close()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(ends.ours[0].read(), 5)


@both_families
async def test_refused_both_ways(kernel: Kernel, version: int) -> None:
    loop = asyncio.get_running_loop()
    async with wire(kernel) as net:
        with pytest.raises(ConnectionRefusedError):
            await net.host.open_connection(KERNEL[version], 9)
        sock = kernel.socket(version, socket.SOCK_STREAM)
        with sock, pytest.raises(ConnectionRefusedError):
            await asyncio.wait_for(loop.sock_connect(sock, (OURS[version], 9)), 5)


def states(host: Host) -> list[State]:
    """Return the states of our connections."""
    return [connection.tcp.state for connection in host.statistics().connections]


@both_families
async def test_time_wait_of_ours_is_reused(kernel: Kernel, version: int) -> None:
    loop = asyncio.get_running_loop()
    async with wire(kernel) as net:

        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello")
            writer.close()
            await reader.read()

        server = await net.host.start_server(greet, 0)
        for _ in range(3):
            sock = kernel.socket(version, socket.SOCK_STREAM, KERNEL[version], 40_000)
            await asyncio.wait_for(loop.sock_connect(sock, (OURS[version], server.port)), 20)
            assert await loop.sock_recv(sock, 99) == b"hello"
            assert await loop.sock_recv(sock, 99) == b""
            sock.close()
            await until(lambda: states(net.host) == [State.TIME_WAIT])  # one, each time


@both_families
async def test_time_wait_of_the_kernel_is_reused(kernel: Kernel, version: int) -> None:
    loop = asyncio.get_running_loop()
    async with wire(kernel) as net:
        listener = kernel.socket(version, socket.SOCK_STREAM, KERNEL[version])
        listener.listen()
        local, remote = (OURS[version], 40_000), listener.getsockname()[:2]
        for _ in range(3):
            async with asyncio.timeout(20):
                reader, writer = await net.host.open_connection(*remote, local_addr=local)
                sock, _ = await loop.sock_accept(listener)
                sock.close()
                assert await reader.read() == b""
                writer.close()
                await until(lambda: "TIME-WAIT" in kernel.run("ss", "-tanH"))
                await until(lambda: not net.host.statistics().connections)
        listener.close()

"""Options of a connection through `get_extra_info("socket")`."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct

import pytest

from vpnstack.aio.host import Host
from vpnstack.link.virtual import cable

TCP = socket.IPPROTO_TCP


async def opened() -> tuple[Host, Host, asyncio.StreamWriter, asyncio.Future]:
    left, right = cable(asyncio.get_running_loop())
    a, b = Host(left, ["10.0.0.1/24"], seed=1), Host(right, ["10.0.0.2/24"], name="b", seed=2)
    a.start()
    b.start()
    lost = asyncio.get_running_loop().create_future()

    class Peer(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            lost.set_result(exc)

    await b.create_server(Peer, 80)
    _, writer = await a.open_connection("10.0.0.2", 80)
    return a, b, writer, lost


async def test_options_are_the_connections_own() -> None:
    a, b, writer, _ = await opened()
    sock = writer.get_extra_info("socket")
    assert (sock.family, sock.type, sock.proto, sock.fileno()) == (
        socket.AF_INET, socket.SOCK_STREAM, TCP, -1,
    )  # fmt: skip
    assert sock.getpeername() == ("10.0.0.2", 80)
    assert sock.getsockname() == writer.get_extra_info("sockname")
    conn = writer.get_extra_info("flow").conn
    sock.setsockopt(TCP, socket.TCP_KEEPIDLE, 20)
    assert conn.deadline() is None
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    assert conn.deadline() == pytest.approx(conn.last_recv + 20)
    sock.setsockopt(TCP, socket.TCP_NODELAY, True)
    sock.setsockopt(TCP, socket.TCP_USER_TIMEOUT, 1500)
    sock.setsockopt(TCP, socket.TCP_CONGESTION, b"reno")
    assert sock.getsockopt(TCP, socket.TCP_CONGESTION, 16) == b"reno"
    assert sock.getsockopt(TCP, socket.TCP_NODELAY) == 1
    assert sock.getsockopt(TCP, socket.TCP_USER_TIMEOUT) == 1500
    assert conn.config.user_timeout == 1.5
    assert not next(iter(b.stack.tcp.flows.values())).conn.config.nodelay
    for level, name, value, number in (
        (TCP, socket.TCP_KEEPIDLE, 0, errno.EINVAL),
        (TCP, socket.TCP_CONGESTION, b"none", errno.ENOENT),
        (TCP, 9999, 1, errno.ENOPROTOOPT),
    ):
        with pytest.raises(OSError) as found:
            sock.setsockopt(level, name, value)
        assert found.value.errno == number
    writer.transport.abort()
    a.close()
    b.close()
    await asyncio.sleep(0)


async def test_no_linger_resets() -> None:
    a, b, writer, lost = await opened()
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()
    assert isinstance(await lost, ConnectionResetError)
    a.close()
    b.close()
    await asyncio.sleep(0)


async def test_tcp_info_has_the_kernels_layout() -> None:
    """Offsets of `struct tcp_info` in linux/tcp.h."""
    a, b, writer, _ = await opened()
    writer.write(bytes(100_000))
    await asyncio.sleep(0)
    sock = writer.get_extra_info("socket")
    said = {s.remote[1]: s.tcp for s in a.connections()}[80]
    info = sock.getsockopt(TCP, socket.TCP_INFO, 1000)
    assert len(info) == 248
    assert sock.getsockopt(TCP, socket.TCP_INFO, 44) == info[:44]  # ages follow
    assert (info[0], info[5], info[6]) == (1, 7, said.tcpi_snd_wscale | said.tcpi_rcv_wscale << 4)
    for at, name in (
        (8, "rto"), (16, "snd_mss"), (68, "rtt"), (80, "snd_cwnd"), (100, "total_retrans"),
        (136, "segs_out"), (148, "min_rtt"), (192, "delivered"), (228, "snd_wnd"),
    ):  # fmt: skip
        assert struct.unpack_from("=I", info, at)[0] == getattr(said, f"tcpi_{name}"), name
    for at, name in ((104, "pacing_rate"), (120, "bytes_acked"), (200, "bytes_sent")):
        assert struct.unpack_from("=Q", info, at)[0] == getattr(said, f"tcpi_{name}"), name
    assert said.tcpi_bytes_sent > 0
    writer.transport.abort()
    a.close()
    b.close()
    await asyncio.sleep(0)

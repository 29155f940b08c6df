"""Flows of a gateway on the express lane: lent while all goes well, and right whatever happens."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from gatewaypair import until
from lanetalk import LINGER, VERSIONS, talk
from vpnstack.core._core import lib

from vpnstack.aio.lane import REASONS
from vpnstack.core.burst import Burst
from vpnstack.link.impair import Impaired
from vpnstack.link.pair import pair
from vpnstack.stack import headers
from vpnstack.wire import ip
from vpnstack.wire.icmp import Kind


@VERSIONS
async def test_requests_are_lent(version: int) -> None:
    async with talk(version) as t:
        lent, segments = t.lane.lent, t.bridge.flow.conn.n_segs_in
        for i in range(1, 100):
            await t.exchange(b"q" * i, b"a" * (3 * i))
        assert t.lane.lent == lent
        assert t.bridge.flow.conn.n_segs_in == segments
        assert t.bridge.bytes_out == 25 + 99 * 50
        assert t.bridge.bytes_in == 25 + 3 * 99 * 50


async def test_counters() -> None:
    """Statistics do not tell what was lent from what was not."""
    async with talk() as t:
        stack = t.gateway.stack
        jack = t.gateway.port("guest")
        for _ in range(20):
            await t.exchange(b"x" * 3000, b"y" * 100)
        await until(lambda: t.lane.deadline() is None)
        before = stack.tcp.counters.segments_in
        port, seen = jack._port.statistics(), stack.statistics()  # type: ignore[union-attr]
        assert (seen.frames_in, seen.frames_out) == (port.rx_frames, port.tx_frames)
        t.bridge.flow.recall()
        info = t.bridge.flow.conn.statistics()
        assert info.tcpi_bytes_received == 25 + 20 * 3000
        assert info.tcpi_bytes_sent == 25 + 20 * 100
        assert before == stack.tcp.counters.segments_in


async def test_guest_ends_first() -> None:
    async with talk() as t:
        t.writer.write(b"last")
        t.writer.write_eof()
        assert await t.take(100) == b"last"
        t.sock.sendall(b"and more")
        t.sock.shutdown(socket.SHUT_WR)
        assert await t.reader.read() == b"and more"
        await t.gone()


async def test_host_ends_first() -> None:
    async with talk() as t:
        t.sock.sendall(b"last")
        t.sock.shutdown(socket.SHUT_WR)
        assert await t.reader.read() == b"last"
        t.writer.write(b"and more")
        t.writer.write_eof()
        assert await t.take(100) == b"and more"
        await t.gone()


async def test_guest_resets() -> None:
    async with talk() as t:
        t.writer.transport.abort()
        with pytest.raises(ConnectionResetError):
            await t.loop.sock_recv(t.sock, 1)
        await t.gone()
        assert not t.gateway.stack.tcp.flows


@pytest.mark.parametrize("writing", [False, True])
async def test_host_resets(writing: bool) -> None:
    """Found by the edge, or by the guest's data that comes in the same moment."""
    async with talk() as t:
        t.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
        t.sock.close()
        if writing:
            t.writer.write(b"x" * 100)
        with pytest.raises(ConnectionResetError):
            await t.reader.read()
        await t.gone()


async def test_port_detached() -> None:
    """The guest is gone for good, and so is its flow on the host's side."""
    async with talk() as t:
        t.gateway.port("guest").unplug()
        with pytest.raises(ConnectionResetError):
            await t.loop.sock_recv(t.sock, 1)
        await t.gone()
        assert not t.gateway.stack.tcp.flows


async def test_gateway_closed() -> None:
    async with talk() as t:
        t.writer.write(b"x")
        await t.take(1)  # an acknowledgement is owed
        await t.gateway.__aexit__()
        with pytest.raises(ConnectionResetError):
            await t.loop.sock_recv(t.sock, 1)
        assert len(t.lane) == 0


async def test_driver_closed() -> None:
    """Without a word to anybody: the lane is empty all the same."""
    async with talk() as t:
        t.gateway.driver.close()
        assert len(t.lane) == 0
        assert t.bridge.flow.lease is None
        t.bridge.close()


@pytest.mark.parametrize("kind", [Kind.HOST_UNREACHABLE, Kind.PORT_UNREACHABLE])
async def test_icmp_error(kind: Kind) -> None:
    """RFC 5927: no error ends an established connection, lent or not."""
    async with talk() as t:
        flow = t.bridge.flow
        seq = flow.lease.snd_una.to_bytes(4, "big")
        ports = flow.local[1].to_bytes(2, "big") + flow.remote[1].to_bytes(2, "big")
        quote = ip.emit(
            ip.Repr(flow.local[0], flow.remote[0], headers.TCP), ports + seq + bytes(12)
        )
        lent = t.lane.lent
        t.guest.stack.icmp.report_packet(quote, kind, t.guest.driver.now())
        t.guest.driver.wake()
        await until(lambda: t.lane.lent > lent)
        await t.exchange(b"still", b"here")


async def test_station_moves() -> None:
    """What the host says goes to the port where the guest was seen last."""
    async with talk() as t:
        near, far = pair()
        t.gateway.attach(far)
        hello, got = Burst(), Burst()
        mac = t.gateway.port("guest").mac
        hello.append(b"\xff" * 6 + mac + b"\x08\x06" + bytes(28))
        near.tx_burst(hello)
        await until(lambda: t.gateway.switch.port_of(mac) is far)
        got.clear()
        near.rx_burst(got)  # what was flooded
        await t.loop.sock_sendall(t.sock, b"where are you")
        await until(lambda: near.rx_burst(got))
        assert any(got.octets(i).endswith(b"where are you") for i in range(got.count))
        assert t.lane.lent == 1 or t.bridge.flow.lease is None
        near.close()
        await until(lambda: far not in t.gateway.switch.ports)


async def test_link_address_changes() -> None:
    """A neighbour's new address is asked for before the host's next octets leave."""
    async with talk() as t:
        flow, lent = t.bridge.flow, t.lane.lent
        t.gateway.stack.interface.neighbours.generation += 1
        await t.exchange(b"", b"where are you")
        assert flow.resolved_by == t.gateway.stack.interface.neighbours.generation
        await t.settled()
        assert t.lane.lent > lent


async def test_urgent_data_of_the_host_hides_nothing() -> None:
    """A read stops at the mark; what is behind it must not wait for another edge."""
    async with talk() as t:
        t.sock.sendall(b"abc")
        t.sock.send(b"!", socket.MSG_OOB)
        t.sock.sendall(b"def")
        assert await t.reader.readexactly(6) == b"abcdef"
        await t.exchange(b"go", b"on")


async def test_what_the_lane_gives_back_in_a_burst_is_flushed() -> None:
    """All frames were taken, a lease came back: its acknowledgement must not wait for others."""
    async with talk() as t:
        driver, flow = t.gateway.driver, t.bridge.flow
        t.gateway.switch.moved += 1
        flow.lease.port = 4000  # as if the station had moved
        await t.exchange(b"q", b"a")
        assert t.lane.reasons[0] >= 1
        await t.settled()
        assert not driver.stack.tcp.pending


async def test_a_flow_that_is_dropped_leaves_no_lease() -> None:
    async with talk() as t:
        t.bridge.flow.drop()
        assert len(t.lane) == 0
        t.bridge.close()


async def test_silent_guest() -> None:
    """No acknowledgement comes: the lease ends, and the connection probes by itself."""
    links: list[Impaired] = []

    def wrap(port: Any) -> Any:
        links.append(Impaired(port, asyncio.get_running_loop()))
        return links[0]

    async with talk(wrap=wrap) as t:
        links[0].sever()
        await t.loop.sock_sendall(t.sock, b"anybody")
        conn = t.bridge.flow.conn
        await until(lambda: conn.n_retrans)
        assert t.bridge.flow.lease is None
        links[0].heal()
        assert await t.reader.readexactly(7) == b"anybody"


def test_names_of_reasons() -> None:
    assert [getattr(lib, f"LEASE_{name.upper()}") for name in REASONS] == list(range(len(REASONS)))

"""Hosts, links and switches in virtual time: streams, datagrams, errors, and repeatable runs."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from typing import Any

import pytest

from vpnstack.aio import virtual
from vpnstack.aio.host import Host
from vpnstack.aio.network import Network
from vpnstack.aio.virtual import Deadlock
from vpnstack.errors import UsageError
from vpnstack.link.virtual import cable


async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    n = 0
    while data := await reader.read(65536):
        n += len(data)
    writer.write(str(n).encode())
    writer.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


class Inbox(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: asyncio.Queue[Any] = asyncio.Queue()
        self.lost = False

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.got.put_nowait((data, addr))

    def error_received(self, exc: Exception) -> None:
        self.got.put_nowait(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


async def transfer(lan: Network, n: int, **options: Any) -> float:
    """Send n bytes from a to b; return the seconds it took."""
    a, b = lan.host("a"), lan.host("b")
    lan.link(a, b, **options)
    await b.start_server(sink, 7)
    start = lan.loop.time()
    reader, writer = await a.open_connection("b", 7)
    writer.write(bytes(n))
    writer.write_eof()
    assert await reader.read() == str(n).encode()
    writer.close()
    return lan.loop.time() - start


def test_transfer_takes_the_time_of_the_link() -> None:
    took = Network(seed=7).run(
        lambda lan: transfer(lan, 1_000_000, latency=0.02, rate="10mbit", queue=100)
    )
    # 8 Mbit and their headers at 10 Mbit/s, ARP, handshake and slow start.
    assert 0.84 < took < 1.3


def test_transfer_over_a_perfect_link() -> None:
    assert Network().run(lambda lan: transfer(lan, 20_000_000)) < 0.2


@pytest.mark.parametrize(
    "options",
    [
        {"loss": 0.03},
        {"reorder": 0.05, "reorder_delay": 0.005},
        {"duplicate": 0.1},
        {"corrupt": 0.02},
        {"jitter": 0.005},
        {"rate": "20mbit", "queue": 20},
    ],
)
def test_data_survives_an_imperfect_link(options: dict[str, Any]) -> None:
    async def main(lan: Network) -> None:
        a, b = lan.host("a"), lan.host("b")
        lan.link(a, b, latency=0.005, **options)
        await b.start_server(echo, 7)
        reader, writer = await a.open_connection("b", 7)
        data = os.urandom(300_000)
        writer.write(data)
        writer.write_eof()
        assert await reader.read() == data
        writer.close()

    Network(seed=2).run(main)


def test_switches_carry_frames_of_many_hosts() -> None:
    async def main(lan: Network) -> list[bytes]:
        left, right = lan.switch(), lan.switch("right")
        lan.link(left, right, latency=0.001)
        hosts = [lan.host(f"h{i}") for i in range(6)]
        for i, host in enumerate(hosts):
            lan.link(host, left if i % 2 else right, latency=0.001)
            await host.start_server(echo, 7)
        out = []
        for i, host in enumerate(hosts):
            reader, writer = await host.open_connection(f"h{(i + 1) % 6}", 7)
            writer.write(host.name.encode())
            writer.write_eof()
            out.append(await reader.read())
            writer.close()
        return out

    assert Network().run(main) == [f"h{i}".encode() for i in range(6)]


def test_connection_refused_and_no_route() -> None:
    async def main(lan: Network) -> None:
        a, b = lan.host("a"), lan.host("b")
        lan.link(a, b, latency=0.01)
        with pytest.raises(ConnectionRefusedError):
            await a.open_connection("b", 7)
        with pytest.raises(OSError) as caught:
            await a.open_connection("192.0.2.1", 7)
        assert caught.value.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)
        with pytest.raises(UsageError, match="no host 'c': expected an address or one of: a, b"):
            await a.open_connection("c", 7)
        await b.start_server(echo, 7)
        with pytest.raises(OSError, match="port 7 is in use"):
            await b.start_server(echo, 7)

    Network().run(main)


def test_ipv6_by_address() -> None:
    async def main(lan: Network) -> tuple[str, int]:
        a, b = lan.host("a"), lan.host("b")
        lan.link(a, b)
        seen: asyncio.Future[tuple[str, int]] = lan.loop.create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.set_result(writer.get_extra_info("peername"))
            writer.close()

        async with await b.start_server(serve, 0) as server:
            reader, writer = await a.open_connection("fd00::2", server.port)
            assert await reader.read() == b""
            assert writer.get_extra_info("sockname") == await seen
            writer.close()
        assert not server.is_serving()
        return await seen

    assert Network().run(main)[0] == "fd00::1"


def test_datagrams_both_ways_and_fragmented() -> None:
    async def main(lan: Network) -> None:
        a, b = lan.host("a"), lan.host("b")
        lan.link(a, b, latency=0.01)
        there, inbox = await b.create_datagram_endpoint(Inbox, ("", 9))
        here, answers = await a.create_datagram_endpoint(Inbox, remote_addr=("b", 9))
        for data in (b"", b"one", bytes(20_000)):
            here.sendto(data)
            got, addr = await inbox.got.get()
            assert (got, addr) == (data, ("10.0.0.1", here.get_extra_info("sockname")[1]))
            there.sendto(got[::-1], addr)
            assert await answers.got.get() == (data[::-1], ("10.0.0.2", 9))
        here.close()
        await asyncio.sleep(0)
        assert answers.lost

    Network().run(main)


def test_datagram_errors_reach_the_protocol() -> None:
    async def main(lan: Network) -> None:
        a, b = lan.host("a"), lan.host("b")
        lan.link(a, b, latency=0.01)
        here, inbox = await a.create_datagram_endpoint(Inbox, remote_addr=("b", 9))
        here.sendto(b"?")
        assert isinstance(await inbox.got.get(), ConnectionRefusedError)
        here.sendto(bytes(70_000))
        assert (await inbox.got.get()).errno == errno.EMSGSIZE
        loose, errors = await a.create_datagram_endpoint(Inbox)
        loose.sendto(b"?", ("b", 9))
        assert isinstance(await errors.got.get(), ConnectionRefusedError)
        with pytest.raises(ValueError, match="expected an address"):
            loose.sendto(b"?")

    Network().run(main)


def test_a_cut_cable_times_out_and_a_mended_one_recovers() -> None:
    async def main(lan: Network) -> None:
        a, b = lan.host("a"), lan.host("b")
        link = lan.link(a, b, latency=0.01)
        await b.start_server(echo, 7)
        reader, writer = await a.open_connection("b", 7)
        link.sever()
        writer.write(b"hello")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 5)
        link.heal()
        assert await reader.read(5) == b"hello"
        link.sever()
        writer.write(b"gone")
        with pytest.raises(TimeoutError, match="stopped answering"):
            await reader.read()

    Network().run(main)


def test_statistics_have_tcp_info() -> None:
    async def main(lan: Network) -> None:
        a, b = lan.host("a"), lan.host("b")
        link = lan.link(a, b, latency=0.05)
        await b.start_server(echo, 7)
        _, writer = await a.open_connection("b", 7)
        (connection,) = a.statistics().connections
        assert connection.remote[1] == 7
        assert 100_000 <= connection.tcp.tcpi_rtt < 101_000
        link.change(latency=0.2)
        writer.write(b"x" * 10)
        await asyncio.sleep(1)
        assert a.statistics().connections[0].tcp.tcpi_rtt > 110_000
        assert link.statistics().tx.passed > 3
        writer.close()

    Network().run(main)


def test_loops_and_strangers_are_refused() -> None:
    async def main(lan: Network) -> None:
        a, b = lan.host("a"), lan.host("b")
        switch = lan.switch()
        lan.link(a, switch)
        lan.link(b, switch)
        with pytest.raises(UsageError, match="a link between a and b would close a loop"):
            lan.link(a, b)
        with pytest.raises(UsageError, match="expected a new name"):
            lan.host("a")

    Network().run(main)


def test_forgotten_server_is_a_deadlock() -> None:
    async def main(lan: Network) -> None:
        a, b = lan.host("a"), lan.host("b")
        lan.link(a, b)
        await b.start_server(lambda r, w: None, 7)
        reader, _ = await a.open_connection("b", 7)
        await reader.read()  # nobody will ever write

    with pytest.raises(Deadlock, match=r"waiting: .* in main \(test_network.py:\d+\)"):
        Network().run(main)


async def test_virtual_time_needs_its_loop_and_real_time_is_said() -> None:
    with pytest.raises(UsageError, match="expected a VirtualLoop"):
        async with Network():
            pass
    async with Network(realtime=True) as lan:
        assert await transfer(lan, 2_000_000) < 10


def test_as_a_context_manager_on_a_virtual_loop() -> None:
    async def main() -> bytes:
        async with Network(seed=7) as lan:
            a, b = lan.host("a"), lan.host("b")
            lan.link(a, b, latency=0.04, loss=0.01, rate="10mbit")
            await b.start_server(echo, 7)
            reader, writer = await a.open_connection("b", 7)
            writer.write(b"hello")
            writer.write_eof()
            return await reader.read()

    assert virtual.run(main()) == b"hello"


TRACE = """
import asyncio, hashlib
from vpnstack.aio.network import Network

async def main(lan):
    a, b, c = (lan.host(n) for n in "abc")
    switch = lan.switch()
    for host in (a, b, c):
        lan.link(host, switch, latency=0.01, jitter=0.002, loss=0.02, rate="5mbit", reorder=0.01)
    async def sink(reader, writer):
        while await reader.read(1000): pass
        writer.close()
    for host in (a, b, c):
        await host.start_server(sink, 7)
    async def send(host, to):
        reader, writer = await host.open_connection(to, 7)
        writer.write(bytes(100_000)); writer.write_eof()
        await reader.read(); writer.close()
    await asyncio.gather(*(send(h, t) for h in (a, b, c) for t in "abc" if t != h.name))

class Hash:
    def __init__(self, port, digest):
        self.__dict__.update(port=port, digest=digest)
    def __getattr__(self, name):
        return getattr(self.port, name)
    def notify(self, ready):
        self.port.notify(ready)
    def tx_burst(self, burst):
        for i in range(burst.count):
            self.digest.update(repr(lan.loop.time()).encode() + burst.vnet(i) + burst.octets(i))
        self.port.tx_burst(burst)

digest = hashlib.sha256()
lan = Network(seed=SEED, wrap=lambda port: Hash(port, digest))
lan.run(main)
print(digest.hexdigest(), lan.loop.time())
"""


def trace(seed: int, hash_seed: int) -> str:
    env = os.environ | {"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", TRACE.replace("SEED", str(seed))],
        env=env, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout


def test_runs_repeat_whatever_the_hash_seed() -> None:
    first = trace(7, 1)
    assert trace(7, 2) == first
    assert trace(8, 1) != first


@pytest.mark.parametrize(("other", "answers"), [(5, True), (6, False), (None, False)])
def test_hosts_on_a_vlan_hear_only_their_own(other: int | None, answers: bool) -> None:
    async def main() -> None:
        near, far = cable(asyncio.get_running_loop())
        a = Host(near, ["10.0.0.1/24"], name="a", vlan=5)
        b = Host(far, ["10.0.0.2/24"], name="b", vlan=other)
        async with a, b:
            await b.start_server(echo, 7)
            try:
                _, writer = await a.open_connection("10.0.0.2", 7)
            except OSError:
                assert not answers
                assert b.statistics().stack.wrong_vlan > 0
            else:
                assert answers
                writer.close()

    virtual.run(main())

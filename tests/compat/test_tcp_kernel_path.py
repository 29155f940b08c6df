"""ECN, path MTUs, black holes and keepalive between our TCP and the Linux kernel's."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from kernel_peer import Far, Kernel, carry, kernel, needs_root, until, wire

from vpnstack.core.burst import Burst
from vpnstack.link.impair import Impairment
from vpnstack.link.tap import TapPort
from vpnstack.proto.tcp.segment import CWR, ECE, SYN

__all__ = ["kernel"]
pytestmark = [pytest.mark.compat, needs_root]
both_families = pytest.mark.parametrize("version", [4, 6])
both_roles = pytest.mark.parametrize("role", ["active", "passive"])
ECN_BIT, CE_SEEN = 8, 16  # of tcpi_options
MARKING = Impairment(latency=0.002, rate="50mbit", queue=1000, ecn=20)
NARROW = 1300


class Spy:
    """A TAP port that counts the ECN flags of the segments that pass, but for SYNs."""

    def __init__(self, port: TapPort) -> None:
        self.port = port
        self.sent: Counter[str] = Counter()
        self.received: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.port, name)

    def rx_burst(self, burst: Burst) -> int:
        count = self.port.rx_burst(burst)
        note(burst, self.received)
        return count

    def tx_burst(self, burst: Burst) -> None:
        note(burst, self.sent)
        self.port.tx_burst(burst)


def note(burst: Burst, into: Counter[str]) -> None:
    for i in range(burst.count):
        octets = burst.octets(i)
        if octets[12:14] == b"\x08\x00" and octets[23] == 6:
            flags = octets[14 + (octets[14] & 15) * 4 + 13]
        elif octets[12:14] == b"\x86\xdd" and octets[20] == 6:
            flags = octets[54 + 13]
        else:
            continue
        if not flags & SYN:
            into["ECE"] += bool(flags & ECE)
            into["CWR"] += bool(flags & CWR)


@both_families
@both_roles
async def test_the_kernel_marks_our_congestion(kernel: Kernel, version: int, role: str) -> None:
    """A router marks what we send: the kernel echoes, we slow down, nothing is sent again."""
    kernel.sysctl(tcp_ecn=1)
    spies: list[Spy] = []

    def spy(tap: TapPort) -> Spy:
        spies.append(Spy(tap))
        return spies[0]

    async with wire(kernel, tx=MARKING, rx=Impairment(latency=0.002), port=spy, ecn=1) as net:
        ends = await net.connect(version, role)
        await carry(ends.ours, ends.theirs, 3_000_000)
        link, info, told = net.link.link_statistics().tx, ends.info, kernel.counters()
        assert info.tcpi_options & ECN_BIT
        assert link.marked > 0
        assert told["InCEPkts" if version == 4 else "Ip6InCEPkts"] == link.marked
        assert link.lost == link.queue_full == info.tcpi_total_retrans == 0
        assert info.tcpi_delivered_ce > 0
        assert spies[0].received["ECE"] > 0 < spies[0].sent["CWR"]


@both_families
@both_roles
async def test_we_echo_the_kernels_congestion(kernel: Kernel, version: int, role: str) -> None:
    """A router marks what the kernel sends: we echo until its CWR, it sends nothing again."""
    kernel.sysctl(tcp_ecn=1)
    spies: list[Spy] = []

    def spy(tap: TapPort) -> Spy:
        spies.append(Spy(tap))
        return spies[0]

    async with wire(kernel, rx=MARKING, tx=Impairment(latency=0.002), port=spy, ecn=1) as net:
        ends = await net.connect(version, role)
        await carry(ends.theirs, ends.ours, 3_000_000)
        link, told = net.link.link_statistics().rx, kernel.counters()
        assert ends.info.tcpi_options & (ECN_BIT | CE_SEEN) == ECN_BIT | CE_SEEN
        assert link.marked > 0
        assert link.lost == link.queue_full == told["RetransSegs"] == 0
        assert told["TCPDeliveredCE"] > 0
        assert spies[0].sent["ECE"] > 0 < spies[0].received["CWR"]


@pytest.mark.parametrize("role", ["active", "passive"])
@pytest.mark.parametrize(
    ("kernels", "ours"), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2)]
)
async def test_ecn_agreed(kernel: Kernel, role: str, kernels: int, ours: int) -> None:
    """Who connects has to ask (1), who is asked has to accept (1 or 2)."""
    kernel.sysctl(tcp_ecn=kernels)
    asker, asked = (ours, kernels) if role == "active" else (kernels, ours)
    async with wire(kernel, ecn=ours) as net:
        ends = await net.connect(4, role)
        await carry(ends.ours, ends.theirs, 10_000)
        agreed = asker == 1 and asked != 0
        assert bool(ends.info.tcpi_options & ECN_BIT) == agreed
        assert ("ecn" in kernel.ss(ends.sock)) == agreed


# The path's MTU.


@pytest.fixture
def far(kernel: Kernel, request: pytest.FixtureRequest) -> Iterator[Far]:
    """A kernel behind a link whose MTU is the test's, or the usual."""
    peer = Far(kernel, getattr(request, "param", 1500))
    try:
        yield peer
    finally:
        peer.close()


@both_families
@both_roles
@pytest.mark.parametrize("far", [NARROW], indirect=True)
async def test_we_learn_the_paths_mtu(kernel: Kernel, far: Far, version: int, role: str) -> None:
    """A router says that our packets are too big: smaller ones follow at once."""
    async with wire(kernel, gateway=True) as net:
        ends = await net.connect(version, role, far)
        assert ends.info.tcpi_pmtu == 1500
        await carry(ends.ours, ends.theirs, 2_000_000)
        assert ends.info.tcpi_pmtu == NARROW
        assert ends.info.tcpi_total_rto == 0
        told = kernel.counters()
        name = "OutDestUnreachs" if version == 4 else "Icmp6OutPktTooBigs"
        assert 1 <= told[name] <= 64
        again = await net.connect(version, "active", far)
        assert again.info.tcpi_pmtu == NARROW  # RFC 8201 5.2: kept for the destination


@both_families
@both_roles
async def test_the_kernel_learns_the_paths_mtu(
    kernel: Kernel, far: Far, version: int, role: str
) -> None:
    """The last link before us is narrow, and the router says so to the kernel behind it."""
    kernel.ip("link", "set", "tap0", "mtu", str(NARROW))
    async with wire(kernel, gateway=True) as net:
        ends = await net.connect(version, role, far)
        await carry(ends.theirs, ends.ours, 2_000_000)
        assert str(NARROW) in far.ip("route", "get", "10.11.0.2" if version == 4 else "fd11::2")
        assert far.counters()["TCPTimeouts"] == 0


HOLE = Impairment(latency=0.002, mtu=NARROW)


@both_families
@both_roles
async def test_we_find_a_black_hole(kernel: Kernel, version: int, role: str) -> None:
    """Large packets vanish without a word: we find out what passes (RFC 4821)."""
    async with wire(kernel, tx=HOLE, rx=Impairment(latency=0.002)) as net:
        ends = await net.connect(version, role)
        await carry(ends.ours, ends.theirs, 1_000_000)
        too_big = net.link.link_statistics().tx.too_big
        assert too_big > 0
        assert 1024 <= ends.info.tcpi_pmtu <= NARROW
        ends = await net.connect(version, role)
        await carry(ends.theirs, ends.ours, 100_000)


@both_families
async def test_the_kernel_finds_a_black_hole(kernel: Kernel, version: int) -> None:
    """With `tcp_mtu_probing` the kernel does; our end acknowledges whatever passes."""
    kernel.sysctl(tcp_mtu_probing=1)
    async with wire(kernel, rx=HOLE, tx=Impairment(latency=0.002)) as net:
        ends = await net.connect(version, "passive")
        await carry(ends.theirs, ends.ours, 1_000_000)
        assert net.link.link_statistics().rx.too_big > 0


# Keepalive.


async def test_we_answer_keepalives(kernel: Kernel) -> None:
    async with wire(kernel) as net:
        every = [await net.connect(v, role) for v in (4, 6) for role in ("active", "passive")]
        for ends in every:
            sock = ends.sock
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        await until(lambda: kernel.counters()["TCPKeepAlive"] >= 3 * len(every))
        for ends in every:
            await carry(ends.ours, ends.theirs, 100)


@both_families
async def test_the_kernel_answers_keepalives_until_it_is_gone(kernel: Kernel, version: int) -> None:
    timing = {"keepalive_idle": 0.2, "keepalive_interval": 0.1, "keepalive_probes": 3}
    async with wire(kernel, keepalive=True, **timing) as net:
        ends = await net.connect(version, "active")
        before = kernel.counters()["InSegs"]
        await until(lambda: kernel.counters()["InSegs"] >= before + 3)
        assert not ends.ours[0].at_eof()
        net.link.sever()
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(10):
                await ends.ours[0].read()
        assert caught.value.errno

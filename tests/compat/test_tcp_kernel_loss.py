"""Loss, reordering and closed windows between our TCP and the Linux kernel's, in both roles.

The link's counters say what was lost; the kernel's say what it did about it, and which of our
retransmissions it had already (it answers those with a DSACK, RFC 2883).
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from dataclasses import replace

import pytest
from kernel_peer import Ends, Kernel, carry, digest, kernel, needs_root, send, until, wire

from vpnstack.link.impair import GilbertElliott, Impairment
from vpnstack.proto.tcp.state import State

__all__ = ["kernel"]
pytestmark = [pytest.mark.compat, needs_root]
both_families = pytest.mark.parametrize("version", [4, 6])
both_roles = pytest.mark.parametrize("role", ["active", "passive"])
LINK = Impairment(latency=0.003, rate="200mbit", queue=2000)
LOSSES = {
    "1 %": replace(LINK, loss=0.01),
    "3 %": replace(LINK, loss=0.03),
    "bursts": replace(LINK, loss=GilbertElliott(0.004, 0.3)),
}
SIZE = 2_000_000
losses = pytest.mark.parametrize("loss", LOSSES)


def again(ends: Ends) -> int:
    """Return how many segments' worth of data we sent more than once."""
    return round(ends.info.tcpi_bytes_retrans / ends.info.tcpi_snd_mss)


@both_families
@both_roles
@losses
async def test_we_recover(kernel: Kernel, version: int, role: str, loss: str) -> None:
    """Every octet arrives, and we send again hardly more than what was lost."""
    async with wire(kernel, tx=LINK, rx=LINK, seed=version) as net:
        ends = await net.connect(version, role)
        net.link.tx = LOSSES[loss]  # not before: a burst may cost all tries to resolve the peer
        await carry(ends.ours, ends.theirs, SIZE)
        lost = net.link.link_statistics().tx.lost
        told = kernel.counters()
        spurious = told["TCPDSACKOldSent"] + told["TCPDSACKOfoSent"]
        assert lost >= 2
        assert spurious <= 3  # tail probes
        assert again(ends) <= lost + spurious
        assert told["TCPOFOQueue"] > 0
        assert ends.info.tcpi_total_rto <= 2


@both_families
@both_roles
@losses
async def test_the_kernel_recovers(kernel: Kernel, version: int, role: str, loss: str) -> None:
    """Every octet arrives; the kernel used our SACKs and seldom its timer."""
    async with wire(kernel, tx=LINK, rx=LINK, seed=version) as net:
        ends = await net.connect(version, role)
        net.link.rx = LOSSES[loss]
        await carry(ends.theirs, ends.ours, SIZE)
        lost, told = net.link.link_statistics().rx.lost, kernel.counters()
        assert lost >= 2
        assert told["TCPSackRecovery"] > 0
        assert told["TCPSACKReneging"] == told["TCPSackFailures"] == told["TCPRenoRecovery"] == 0
        assert told["TCPSACKDiscard"] == told["TCPDSACKIgnoredOld"] == 0
        assert told["TCPTimeouts"] <= told["TCPLossProbes"] + 2
        assert told["RetransSegs"] <= lost + told["TCPLossProbes"] + told["TCPSpuriousRTOs"] + 3
        assert ends.info.tcpi_rcv_ooopack > 0


@both_families
async def test_both_directions_lose(kernel: Kernel, version: int) -> None:
    """Data and acknowledgements are lost both ways while both ends send."""
    lossy = LOSSES["3 %"]
    async with wire(kernel, tx=LINK, rx=LINK, seed=7) as net:
        ends = await net.connect(version, "active")
        net.link.tx = net.link.rx = lossy
        await asyncio.gather(
            carry(ends.ours, ends.theirs, SIZE // 2), carry(ends.theirs, ends.ours, SIZE // 2)
        )
        await until(lambda: ends.info.state in (State.CLOSED, State.TIME_WAIT))


@both_families
async def test_our_tail_probe(kernel: Kernel, version: int) -> None:
    """The last segment is lost: our probe repairs it, not our timer (RFC 8985 7)."""
    async with wire(kernel, tx=Impairment(latency=0.02), rx=Impairment(latency=0.02)) as net:
        ends = await net.connect(version, "active")
        await warm(ends)
        net.link.tx = Impairment(latency=0.02, loss=1.0)
        ends.ours[1].write(b"tail")
        await until(lambda: net.link.link_statistics().tx.lost == 1)
        net.link.tx = Impairment(latency=0.02)
        assert await asyncio.wait_for(ends.theirs[0].readexactly(4), 20) == b"tail"
        await until(lambda: not ends.info.tcpi_unacked)
        assert (ends.info.tcpi_total_retrans, ends.info.tcpi_total_rto) == (1, 0)


@both_families
async def test_the_kernels_tail_probe(kernel: Kernel, version: int) -> None:
    async with wire(kernel, tx=Impairment(latency=0.02), rx=Impairment(latency=0.02)) as net:
        ends = await net.connect(version, "active")
        await warm(ends)
        net.link.rx = Impairment(latency=0.02, loss=1.0)
        ends.theirs[1].write(b"tail")
        await until(lambda: net.link.link_statistics().rx.lost == 1)
        net.link.rx = Impairment(latency=0.02)
        assert await asyncio.wait_for(ends.ours[0].readexactly(4), 20) == b"tail"
        told = kernel.counters()
        assert (told["TCPLossProbes"], told["TCPTimeouts"]) == (1, 0)


async def warm(ends: Ends) -> None:
    """Exchange a few segments, so that both ends know the round trip."""
    for one, other in ((ends.ours, ends.theirs), (ends.theirs, ends.ours)) * 3:
        one[1].write(b"warm")
        assert await asyncio.wait_for(other[0].readexactly(4), 5) == b"warm"
    await until(lambda: not ends.info.tcpi_unacked)


REORDERED = replace(LINK, latency=0.01, reorder=0.02, reorder_delay=0.003)


@both_families
async def test_we_bear_reordering(kernel: Kernel, version: int) -> None:
    """Late segments are no losses: few are sent again, none by the timer, the window stays."""
    async with wire(kernel, tx=REORDERED, rx=replace(LINK, latency=0.01), seed=version) as net:
        ends = await net.connect(version, "active")
        await carry(ends.ours, ends.theirs, 2 * SIZE)
        info, link = ends.info, net.link.link_statistics().tx
        assert link.reordered >= 20
        assert link.lost == link.queue_full == 0
        assert info.tcpi_reord_seen > 0
        assert again(ends) <= link.reordered // 4
        assert info.tcpi_total_rto == 0
        assert info.tcpi_snd_cwnd >= 50


@both_families
async def test_the_kernel_bears_reordering(kernel: Kernel, version: int) -> None:
    """Our SACKs and DSACKs tell the kernel that late segments were no losses."""
    async with wire(kernel, tx=replace(LINK, latency=0.01), rx=REORDERED, seed=version) as net:
        ends = await net.connect(version, "active")
        await carry(ends.theirs, ends.ours, 2 * SIZE)
        told, link = kernel.counters(), net.link.link_statistics().rx
        assert link.reordered >= 20
        assert told["TCPSACKReorder"] + told["TCPTSReorder"] > 0
        assert told["TCPTimeouts"] == 0
        assert told["RetransSegs"] <= link.reordered // 4 + told["TCPDSACKRecv"]


@both_families
async def test_duplicates_and_corruption(kernel: Kernel, version: int) -> None:
    bad = replace(LINK, duplicate=0.02, corrupt=0.01)
    async with wire(kernel, tx=bad, rx=bad, seed=3) as net:
        ends = await net.connect(version, "passive")
        await carry(ends.ours, ends.theirs, SIZE // 2)
        await carry(ends.theirs, ends.ours, SIZE // 2)
        stack = net.host.statistics().stack
        assert stack.dropped["bad_l4_csum"] + stack.dropped.get("bad_ip_csum", 0) > 0
        assert kernel.counters()["Tcp:InCsumErrors"] > 0


# Closed windows.


@both_families
async def test_the_kernels_application_stops_reading(kernel: Kernel, version: int) -> None:
    async with wire(kernel) as net:
        ends = await net.connect(version, "active")
        ends.theirs[1].transport.pause_reading()  # type: ignore[attr-defined]
        data = random.Random(version).randbytes(8 * SIZE)
        sending = asyncio.ensure_future(send(ends.ours, data))
        await until(lambda: not ends.info.tcpi_snd_wnd and ends.info.tcpi_backoff >= 3, 20)
        assert kernel.counters()["TCPToZeroWindowAdv"] > 0
        assert ends.info.state is State.ESTABLISHED
        ends.theirs[1].transport.resume_reading()  # type: ignore[attr-defined]
        await finish(sending, ends.theirs, data)


@both_families
async def test_our_application_stops_reading(kernel: Kernel, version: int) -> None:
    async with wire(kernel, rcv_buf=1 << 18) as net:
        ends = await net.connect(version, "passive")
        ends.ours[1].transport.pause_reading()  # type: ignore[attr-defined]
        data = random.Random(version).randbytes(4 * SIZE)
        sending = asyncio.ensure_future(send(ends.theirs, data))
        await until(lambda: kernel.counters()["TCPWinProbe"] >= 2, 20)
        assert kernel.ss(ends.sock).get("snd_wnd", "0") == "0"
        assert ends.info.tcpi_rcv_wnd < 8  # less than a unit of the scaled window
        ends.ours[1].transport.resume_reading()  # type: ignore[attr-defined]
        await finish(sending, ends.ours, data)


async def finish(sending: asyncio.Future[None], target: object, data: bytes) -> None:
    async with asyncio.timeout(20):
        _, found = await asyncio.gather(sending, digest(target))  # type: ignore[arg-type]
    assert found == hashlib.sha256(data).hexdigest()

"""Fragments and neighbours between our stack and the Linux kernel, IPv4 and IPv6."""

from __future__ import annotations

import asyncio
import random
import shutil
import socket
from collections.abc import Iterator

import pytest
from kernel_peer import (
    FAMILY,
    FAR,
    KERNEL,
    OURS,
    Far,
    Kernel,
    Wire,
    carry,
    kernel,
    needs_root,
    until,
    wire,
)

from vpnstack.link.impair import Impairment
from vpnstack.proto.neighbour import Cache, Config

__all__ = ["kernel"]
pytestmark = [pytest.mark.compat, needs_root]
both_families = pytest.mark.parametrize("version", [4, 6])
OTHER_MAC = "02:00:00:00:00:77"
LARGEST = {4: 65507, 6: 65527}
REASM = {4: "ReasmOKs", 6: "Ip6ReasmOKs"}
CREATED = {4: "FragCreates", 6: "Ip6FragCreates"}


class Inbox(asyncio.DatagramProtocol):
    """Keeps what arrives."""

    def __init__(self) -> None:
        self.got: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.got.put_nowait(data)


@pytest.fixture
def far(kernel: Kernel) -> Iterator[Far]:
    """A kernel behind a link that is narrower than ours."""
    peer = Far(kernel, 1300)
    try:
        yield peer
    finally:
        peer.close()


# Fragments.


@both_families
async def test_datagrams_in_fragments(kernel: Kernel, version: int) -> None:
    """Sizes around the limits cross both ways, and each end puts together what the other cut."""
    loop = asyncio.get_running_loop()
    fits = 1472 if version == 4 else 1452
    sizes = (fits, fits + 1, fits + 8, 4096, LARGEST[version])
    async with wire(kernel) as net:
        sock = kernel.socket(version, socket.SOCK_DGRAM, KERNEL[version])
        peer = sock.getsockname()[:2]
        here, inbox = await net.host.create_datagram_endpoint(Inbox, remote_addr=peer)
        for size in sizes:
            data = random.Random(size).randbytes(size)
            here.sendto(data)
            found, addr = await asyncio.wait_for(loop.sock_recvfrom(sock, 1 << 17), 5)
            assert found == data
            await loop.sock_sendto(sock, data, addr)
            assert await asyncio.wait_for(inbox.got.get(), 5) == data
        sock.close()
        told = kernel.counters()
        assert told[REASM[version]] == net.host.statistics().stack.packets_reassembled == 4
        assert told[CREATED[version]] >= 2 + 2 + 3 + 45


@both_families
async def test_fragments_in_disorder(kernel: Kernel, version: int) -> None:
    """Fragments late and twice: the datagrams are what was sent, or they are not there."""
    loop = asyncio.get_running_loop()
    bad = Impairment(latency=0.001, reorder=0.3, reorder_delay=0.002, duplicate=0.2)
    async with wire(kernel, tx=bad, rx=bad, seed=11) as net:
        sock = kernel.socket(version, socket.SOCK_DGRAM, KERNEL[version])
        peer = sock.getsockname()[:2]
        here, inbox = await net.host.create_datagram_endpoint(Inbox, remote_addr=peer)
        for size in range(3000, 9000, 500):
            data = random.Random(size).randbytes(size)
            here.sendto(data)
            found, addr = await asyncio.wait_for(loop.sock_recvfrom(sock, 1 << 17), 5)
            assert found == data
            await loop.sock_sendto(sock, data, addr)
            assert await asyncio.wait_for(inbox.got.get(), 5) == data
        sock.close()
        link = net.link.link_statistics()
        assert min(link.tx.reordered, link.rx.reordered, link.tx.duplicated) > 5


@both_families
async def test_datagrams_through_a_narrow_link(kernel: Kernel, far: Far, version: int) -> None:
    """A router says that our fragments are too big: the next ones fit."""
    loop = asyncio.get_running_loop()
    async with wire(kernel, gateway=True) as net:
        sock = far.socket(version, socket.SOCK_DGRAM, FAR[version])
        peer = sock.getsockname()[:2]
        here, inbox = await net.host.create_datagram_endpoint(Inbox, remote_addr=peer)
        data = random.Random(version).randbytes(10_000)
        for _ in range(20):
            here.sendto(data)
            try:
                found, addr = await asyncio.wait_for(loop.sock_recvfrom(sock, 1 << 17), 0.5)
                break
            except TimeoutError:
                continue
        else:
            pytest.fail("no datagram arrived")
        assert found == data
        await loop.sock_sendto(sock, data, addr)
        assert await asyncio.wait_for(inbox.got.get(), 5) == data
        sock.close()


# Neighbours.


def entry(kernel: Kernel, version: int) -> str:
    """Return what the kernel knows of our link address."""
    return kernel.ip("neigh", "show", OURS[version], "dev", "tap0").strip()


async def spoken(net: Wire, version: int) -> None:
    """Make both ends know each other, by an echo of UDP."""
    ends = await net.connect(version, "active")
    ends.ours[1].write(b"hello")
    assert await asyncio.wait_for(ends.theirs[0].readexactly(5), 15) == b"hello"


def change_mac(kernel: Kernel) -> None:
    """Give the kernel's end another link address."""
    kernel.ip("link", "set", "tap0", "address", OTHER_MAC)


@both_families
async def test_the_kernel_announces_another_address(kernel: Kernel, version: int) -> None:
    """A gratuitous ARP or an unsolicited advertisement moves an established connection."""
    kernel.sysctl(
        ipv4__conf__tap0__arp_notify=1,
        ipv6__conf__tap0__ndisc_notify=1,
        ipv6__conf__tap0__keep_addr_on_down=1,
    )
    async with wire(kernel) as net:
        ends = await net.connect(version, "active")
        kernel.ip("link", "set", "tap0", "down")
        change_mac(kernel)
        kernel.ip("link", "set", "tap0", "up")
        await until(lambda: known(net, version) == bytes.fromhex(OTHER_MAC.replace(":", "")), 5)
        await carry(ends.ours, ends.theirs, 100_000, seconds=10)


def known(net: Wire, version: int) -> bytes | None:
    """Return the link address that we have for the kernel."""
    addr = socket.inet_pton(FAMILY[version], KERNEL[version])
    now = asyncio.get_running_loop().time()
    return net.host.stack.interface.neighbours.resolve(addr, now)


@both_families
async def test_the_kernel_asks_from_another_address(kernel: Kernel, version: int) -> None:
    """It says nothing of its change; its next request for our address tells us."""
    async with wire(kernel) as net:
        ends = await net.connect(version, "active")
        change_mac(kernel)
        kernel.ip("neigh", "flush", "dev", "tap0")
        ends.theirs[1].write(b"hello")
        assert await asyncio.wait_for(ends.ours[0].readexactly(5), 5) == b"hello"
        await carry(ends.ours, ends.theirs, 100_000, seconds=10)


@both_families
async def test_we_find_out_that_the_kernel_moved(kernel: Kernel, version: int) -> None:
    """It is silent; nobody answers at the old address, so we ask again (RFC 4861 7.3)."""
    quick = Config(
        retrans_timer=0.1, reachable_time=0.2, delay_first_probe=0.1, max_unicast_solicit=2
    )
    kernel.sysctl(ipv4__conf__tap0__arp_notify=0, ipv6__conf__tap0__ndisc_notify=0)
    async with wire(kernel) as net:
        net.host.stack.interface.neighbours = Cache(quick)
        ends = await net.connect(version, "active")
        change_mac(kernel)
        await carry(ends.ours, ends.theirs, 100_000, seconds=10)


@both_families
async def test_the_kernel_confirms_us(kernel: Kernel, version: int) -> None:
    """Its probes of us, unicast, are answered: from STALE to REACHABLE again."""
    quicken(kernel, version)
    async with wire(kernel) as net:
        await spoken(net, version)
        kernel.ip("neigh", "change", OURS[version], "dev", "tap0", "nud", "probe")
        await until(lambda: "REACHABLE" in entry(kernel, version), 5)


@both_families
async def test_the_kernel_finds_us_at_another_address(kernel: Kernel, version: int) -> None:
    """Our host is replaced by one with another link address: the kernel finds out and goes on."""
    quicken(kernel, version)
    async with wire(kernel) as net:
        await spoken(net, version)
        before = entry(kernel, version)
    async with wire(kernel, mac=OTHER_MAC) as net:
        await net.connect(version, "passive")
        assert OTHER_MAC not in before
        assert OTHER_MAC in entry(kernel, version)


def quicken(kernel: Kernel, version: int) -> None:
    """Shorten the kernel's timers of neighbour unreachability detection."""
    at = f"ipv{version}__neigh__tap0__"
    kernel.sysctl(
        **{
            f"{at}base_reachable_time_ms": 500,
            f"{at}delay_first_probe_time": 1,
            f"{at}retrans_time_ms": 100,
            f"{at}ucast_solicit": 2,
        }
    )


async def test_we_defend_our_address_against_the_kernels_dad(kernel: Kernel) -> None:
    """The kernel wants our IPv6 address: its detection of duplicates fails (RFC 4862 5.4)."""
    kernel.sysctl(ipv6__conf__tap0__accept_dad=1)
    async with wire(kernel):
        kernel.ip("addr", "add", f"{OURS[6]}/64", "dev", "tap0")
        show = ("-6", "addr", "show", "dev", "tap0", "to", OURS[6])
        await until(lambda: "dadfailed" in kernel.ip(*show), 10)


@pytest.mark.skipif(not shutil.which("busybox"), reason="needs busybox, for its arping")
async def test_we_defend_our_address_against_a_probe(kernel: Kernel) -> None:
    """Somebody probes for our IPv4 address (RFC 5227 2.1.1), and for one that is nobody's."""
    async with wire(kernel):
        ask = "busybox arping -D -c 2 -w 3 -I tap0 {} > /dev/null; echo $?"
        for address, code in ((OURS[4], "1"), ("10.11.0.99", "0")):
            out = await asyncio.to_thread(kernel.run, "sh", "-c", ask.format(address))
            assert out.strip() == code


@both_families
async def test_nobody_there(kernel: Kernel, version: int) -> None:
    """An address of the link that nobody has is unreachable, to the kernel and to us."""
    quicken(kernel, version)
    loop = asyncio.get_running_loop()
    nobody = "10.11.0.77" if version == 4 else "fd11::77"
    async with wire(kernel) as net:
        sock = kernel.socket(version, socket.SOCK_STREAM)
        with pytest.raises(OSError, match="reach"):
            await asyncio.wait_for(net.host.open_connection(nobody, 7), 10)
        with pytest.raises(OSError, match="Errno 113"):  # EHOSTUNREACH
            await asyncio.wait_for(loop.sock_connect(sock, (nobody, 7)), 10)
        sock.close()

"""802.1Q with a real peer: a stock kernel in a guest puts an address on a VLAN interface.

The guest's NIC has checksum and segmentation offload, so tagged super-segments go both ways.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import shutil
from collections.abc import AsyncIterator

import pytest
import uvloop

from hypervisor import Machine
from hypervisor.engine.host import QEMU
from hypervisor.errors import UsageError
from hypervisor.image.build import Image, Spec, build
from hypervisor.image.cache import Cache, default_directory
from vpnstack.aio.host import Host
from vpnstack.link.port import Port

pytestmark = [
    pytest.mark.compat,
    pytest.mark.timeout(240),
    pytest.mark.skipif(shutil.which(QEMU) is None, reason="QEMU is not installed"),
]

BOOT = 120.0  # seconds
SIZE = 4 << 20
DATA = random.Random(5).randbytes(SIZE)


@pytest.fixture(scope="module")
def image() -> Image:
    try:
        return build(Spec(modules=("8021q",)), Cache(default_directory(os.environ)))
    except UsageError as error:
        pytest.skip(f"no image: {error}")


class Jack:
    """Plugs the guest's NIC into the switch of a host in this process."""

    name = "vm1"
    mac = bytes.fromhex("5a94ef123456")
    mtu = 1500

    def __init__(self, host: Host) -> None:
        self.host = host
        self.port: Port | None = None

    def plug(self, port: Port) -> None:
        self.port = port
        self.host.attach(port)

    def unplug(self) -> None:
        if self.port is not None:
            port, self.port = self.port, None
            self.host.driver.detach(port)


class Guest:
    """The shell on a guest's console."""

    def __init__(self, vm: Machine) -> None:
        self.vm = vm

    async def until(self, text: bytes) -> str:
        """Read the console up to `text`."""
        seen = b""
        async with asyncio.timeout(BOOT):
            while text not in seen:
                data = await self.vm.console.read()
                assert data, f"the console ended: {seen[-500:]!r}"
                seen += data
        return seen.decode(errors="replace")

    async def run(self, line: str) -> str:
        """Type a command; return what it printed, its status at the end."""
        self.vm.console.write(line.encode() + b"; echo '=''end'$?'=''.'\n")
        return await self.until(b"=.")


@contextlib.asynccontextmanager
async def guest_on(image: Image, host: Host) -> AsyncIterator[Guest]:
    async with Machine(image.kernel, image.initrd, nics=[Jack(host)]) as vm:
        guest = Guest(vm)
        await guest.until(b"/ # ")
        yield guest
        await vm.kill()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer any HTTP request with the data."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
    writer.write(DATA)
    writer.close()


def test_vlan_of_a_stock_kernel(image: Image) -> None:
    async def go() -> None:
        host = Host(None, ["10.5.0.1/24", "fd00:5::1/64"], vlan=5, name="vlan5")
        async with host:
            await host.start_server(serve, 80)
            async with guest_on(image, host) as guest:
                await talk(guest, host)

    uvloop.run(go())


async def talk(guest: Guest, host: Host) -> None:
    await guest.run("ip link set eth0 up; ip addr add 10.5.0.2/24 dev eth0")
    assert "100% packet loss" in await guest.run("ping -c 2 -W 1 10.5.0.1")
    assert host.statistics().stack.wrong_vlan > 0  # untagged
    said = await guest.run(
        "ip addr flush dev eth0; modprobe 8021q; "
        "ip link add link eth0 name eth0.5 type vlan id 5 && ip link set eth0.5 up && "
        "ip addr add 10.5.0.2/24 dev eth0.5 && ip addr add fd00:5::2/64 dev eth0.5"
    )
    assert "=end0" in said, said
    for addr in ("10.5.0.1", "fd00:5::1"):
        said = await guest.run(f"ping -c 3 -W 5 -s 3000 {addr}")  # in fragments, tagged too
        assert " 0% packet loss" in said, said
    said = await guest.run("wget -q -O /data http://10.5.0.1/; md5sum /data")
    assert hashlib.md5(DATA).hexdigest() in said, said
    await guest.run("httpd -p 80 -h /")
    for addr in ("10.5.0.2", "fd00:5::2"):
        before = host.statistics().stack.frames_in
        assert await fetch(host, addr) == DATA
        assert host.statistics().stack.frames_in - before < SIZE / 1500  # super-segments


async def fetch(host: Host, addr: str) -> bytes:
    reader, writer = await host.open_connection(addr, 80)
    writer.write(b"GET /data HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(60):
        answer = await reader.read()
    writer.close()
    return answer.partition(b"\r\n\r\n")[2]

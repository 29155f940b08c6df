"""Super-datagrams (UDP_SEGMENT, udp(7)) of the Linux kernel through TAP and gateway, both ways."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from vpnstack.gateway import Gateway
from vpnstack.host.namespace import Target
from vpnstack.host.spawn import open_tap
from vpnstack.link.port import Offload
from vpnstack.link.tap import TapPort
from vpnstack.programs import namespace_config

NAMES = map("vpnstack-uso-{}-{}".format, itertools.repeat(os.getpid()), itertools.count())
UDP_SEGMENT = 103
SIZE = [(socket.IPPROTO_UDP, UDP_SEGMENT, (100).to_bytes(2, "little"))]
WHOLE = b"a" * 100 + b"b" * 100 + b"c" * 50
PARTS = [WHOLE[:100], WHOLE[100:200], WHOLE[200:]]
# Sends four super-datagrams and says how long the datagrams of the answers are.
GUEST = f"""
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
sock = socket.socket(family, socket.SOCK_DGRAM)
sock.settimeout(5)
for _ in range(4):
    sock.sendmsg([{WHOLE!r}], {SIZE!r}, 0, (sys.argv[1], int(sys.argv[2])))
    print(*(len(sock.recv(65535)) for _ in range(3)))
"""

pytestmark = pytest.mark.compat


@pytest.fixture(autouse=True)
def _needs(require: Callable[..., None]) -> None:
    require("root", "/dev/net/tun", "ip")


@pytest.fixture
def netns() -> Iterator[str]:
    name = next(NAMES)
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.parametrize(("host", "loopback"), [
    ("192.168.127.254", "127.0.0.1"), ("fd00:127::fe", "::1"),
])  # fmt: skip
async def test_super_datagrams(netns: str, host: str, loopback: str) -> None:
    """Each crosses the TAP as one frame (Linux 6.2), and arrives as three datagrams."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        server.bind((loopback, 0))
        server.setblocking(False)
        async with Gateway() as gateway:
            tap = await open_tap(
                Target.parse(netns), namespace_config(gateway, "tap0", configure=True)
            )
            port = TapPort(tap, "tap0", gateway.config.mtu)
            gateway.port("guest").plug(port)
            line = ["ip", "netns", "exec", netns, sys.executable, "-c", GUEST, host]
            process = await asyncio.create_subprocess_exec(
                *line, str(server.getsockname()[1]), stdout=subprocess.PIPE
            )
            frames = []
            for _ in range(4):
                got, peer = await loop.sock_recvfrom(server, 65535)
                parts = [got, *[await loop.sock_recv(server, 65535) for _ in range(2)]]
                assert parts == PARTS
                frames.append(port.statistics())
                server.sendmsg([WHOLE], SIZE, 0, peer)
            said = (await process.communicate())[0].decode()
            assert said == "100 100 50\n" * 4
            (mapping,) = gateway.udp._mappings.values()
            assert mapping.carried.state.questions >= 6
            assert mapping.carried.state.answers >= 6
            rx = min(b.rx_frames - a.rx_frames for a, b in itertools.pairwise(frames))
            tx = min(b.tx_frames - a.tx_frames for a, b in itertools.pairwise(frames))
            assert (rx, tx) == ((1, 1) if Offload.USO in port.offload else (3, 3))

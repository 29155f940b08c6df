"""An in-process host that dnsmasq configures, on the kernel's link: names, families, leases."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vpnstack.aio.host import Host
from vpnstack.host import spawn
from vpnstack.host.namespace import NamespaceConfig, Target
from vpnstack.link.tap import TapPort
from vpnstack.proto import acd, dhcp_client
from vpnstack.stack.autoconf import Config

pytestmark = [pytest.mark.compat]
CONFIG = Config(
    dhcp=dhcp_client.Config(hostname="box", first_wait=1.0),
    claims=acd.Config(0.1, 3, 0.1, 0.2, 0.3, 2, 0.2, 10.0),
)
SERVER = """
import socket, sys, threading
def serve(family, address):
    s = socket.socket(family); s.setsockopt(1, 2, 1); s.bind((address, 80)); s.listen()
    while True:
        c, peer = s.accept(); c.sendall(peer[0].encode()); c.close()
threading.Thread(target=serve, args=(socket.AF_INET, "10.9.0.1"), daemon=True).start()
serve(socket.AF_INET6, "fd00:7::1")
"""


@pytest.fixture
def ns(require: Callable[..., None]) -> Iterator[str]:
    require("root", "/dev/net/tun", "ip", "dnsmasq", "python3")
    name = f"hd{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


def sh(ns: str, command: str) -> None:
    subprocess.run(["ip", "netns", "exec", ns, "sh", "-c", command], check=True, timeout=20)


async def test_names_and_both_families_from_dnsmasq(ns: str, tmp_path: Path) -> None:
    fd = await spawn.open_tap(Target(netns=ns), NamespaceConfig(configure=False))
    sh(ns, "ip link set tap0 up; ip addr add 10.9.0.1/24 dev tap0;"
           "ip addr add fd00:7::1/64 dev tap0 nodad")  # fmt: skip
    argv = (
        "dnsmasq", "-k", "-C", "/dev/null", "-i", "tap0", "--bind-dynamic", "-R", "-h",
        f"--pid-file={tmp_path}/pid", f"--dhcp-leasefile={tmp_path}/leases", "-u", "root",
        f"--log-facility={tmp_path}/log", "--no-ping", "--dhcp-authoritative",
        "--dhcp-range=10.9.0.10,10.9.0.20,255.255.255.0,2m", "--enable-ra",
        "--dhcp-range=fd00:7::,ra-stateless", "--ra-param=tap0,5,600", "--domain=lab.example",
        "--dhcp-option=option6:dns-server,[fd00:7::1]", "--address=/both.example/10.9.0.1",
        "--address=/both.example/fd00:7::1", "--address=/half.example/10.9.0.1",
        "--address=/half.example/2001:db8::dead",
    )  # fmt: skip
    quiet = asyncio.subprocess.DEVNULL
    prefix = ("ip", "netns", "exec", ns)
    daemons = [
        await asyncio.create_subprocess_exec(*prefix, *line, stdout=quiet, stderr=quiet)
        for line in (argv, ("python3", "-c", SERVER))
    ]
    try:
        async with Host(TapPort(fd), autoconf=CONFIG, seed=1) as host:
            mine = {a.version: a.ip for a in host.addresses}
            assert mine[4] in ipaddress.ip_network("10.9.0.0/24")
            assert mine[6] in ipaddress.ip_network("fd00:7::/64")
            assert await host.lookup("both.example") == ["10.9.0.1", "fd00:7::1"]  # RFC 6724
            reader, writer = await host.open_connection("both.example", 80)
            assert (await reader.read()).decode() == str(mine[4])
            writer.close()
            reader, writer = await host.open_connection("fd00:7::1", 80)
            assert (await reader.read()).decode() in map(str, mine.values())
            writer.close()
            # One family leads nowhere: the other one wins all the same.
            start = host.loop.time()
            reader, writer = await host.open_connection("half.example", 80)
            assert writer.get_extra_info("peername")[0] == "10.9.0.1"
            assert await reader.read()
            assert host.loop.time() - start < 2
            writer.close()
            # A name that the lease itself made, below the search domain.
            found = await host.getaddrinfo("box", 1, family=2, type=1)
            assert [info[4][0] for info in found] == [str(mine[4])]
            assert " box " in (tmp_path / "leases").read_text()
        async with asyncio.timeout(5):
            while " box " in (tmp_path / "leases").read_text():  # noqa: ASYNC110 (a file)
                await asyncio.sleep(0.05)
    finally:
        for daemon in daemons:
            daemon.terminate()
            await daemon.wait()

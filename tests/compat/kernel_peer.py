"""A Linux kernel in a namespace as the peer of a `Host` of ours, an imperfect TAP between the two.

Sockets of the kernel's end are opened inside the namespace and then driven by the test's own loop,
so that both ends of a connection live in one process and every wait has a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pyroute2 import netns

from vpnstack.aio.host import Host
from vpnstack.link.impair import Impaired, Impairment
from vpnstack.link.tap import TapPort, open_tap
from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.statistics import Statistics
from vpnstack.stack.stack import default_tcp_config

KERNEL = {4: "10.11.0.1", 6: "fd11::1"}
OURS = {4: "10.11.0.2", 6: "fd11::2"}
PREFIX = {4: 24, 6: 64}
ROUTER = {4: "10.12.0.1", 6: "fd12::1"}
FAR = {4: "10.12.0.2", 6: "fd12::2"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
T = TypeVar("T")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

needs_root = pytest.mark.skipif(
    os.geteuid() != 0
    or not os.path.exists("/dev/net/tun")
    or not all(map(shutil.which, ("ip", "ss"))),
    reason="needs root, /dev/net/tun and iproute2",
)


class Namespace:
    """A network namespace: commands, sockets, settings and counters in it."""

    def __init__(self, name: str) -> None:
        self.name = f"{name}-{os.getpid()}"
        netns.create(self.name)
        self.ip("link", "set", "lo", "up")

    def inside(self, call: Callable[[], T]) -> T:
        """Call in the namespace; what is opened there stays there."""
        netns.pushns(self.name)
        try:
            return call()
        finally:
            netns.popns()

    def run(self, *argv: str) -> str:
        """Run a command inside; its output."""
        argv = ("ip", "netns", "exec", self.name, *argv)
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout

    def ip(self, *argv: str) -> str:
        """Run ip(8) in the namespace."""
        argv = ("ip", "-n", self.name, *argv)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    def sysctl(self, **values: object) -> None:
        """Set `net.ipv4.*`; `__` is a dot, as in `conf__all__forwarding`."""
        for name, value in values.items():
            path = Path(
                "/proc/sys/net", (name if "__" in name else f"ipv4__{name}").replace("__", "/")
            )
            self.inside(lambda path=path, value=value: path.write_text(str(value)))

    def counters(self) -> dict[str, int]:
        """Return what nstat shows: the names of TcpExt, IpExt, Tcp, Ip and Icmp, and of Ip6."""
        found: dict[str, int] = {}
        for name in ("netstat", "snmp"):
            text = self.inside(lambda name=name: Path("/proc/thread-self/net", name).read_text())
            lines = [line.split() for line in text.splitlines()]
            for heads, values in zip(lines[::2], lines[1::2], strict=True):
                found.update(zip(heads[1:], map(int, values[1:]), strict=True))
        text = self.inside(lambda: Path("/proc/thread-self/net/snmp6").read_text())
        found.update((name, int(n)) for name, n in map(str.split, text.splitlines()))
        return found

    def socket(self, version: int, kind: int, address: str = "", port: int = 0) -> socket.socket:
        """Open a non-blocking socket inside, bound where `address` is given."""

        def make() -> socket.socket:
            sock = socket.socket(FAMILY[version], kind)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if address:
                sock.bind((address, port))
            return sock

        return self.inside(make)

    def ss(self, sock: socket.socket) -> dict[str, str]:
        """Return what `ss -tino` tells of a connection: words, with what is behind a colon."""
        port = sock.getsockname()[1]
        text = self.run("ss", "-tinoHO", "sport", "=", f":{port}")
        lines = [line for line in text.splitlines() if "LISTEN" not in line]
        assert len(lines) == 1, text
        words = re.sub(r"(\w+) (\d+[kMG]?bps)", r"\1:\2", lines[0]).split()
        return dict(word.partition(":")[::2] for word in words[5:]) | {"state": words[0]}

    def close(self) -> None:
        """Remove the namespace and what is in it."""
        netns.remove(self.name)


class Kernel(Namespace):
    """A namespace with a TAP device; whoever holds `fd` is its only neighbour."""

    def __init__(self, name: str = "kpeer", mtu: int = 1500) -> None:
        super().__init__(name)
        self.fd, self.ifname = self.inside(lambda: open_tap("tap0"))
        self.sysctl(tcp_no_metrics_save=1, tcp_congestion_control="cubic")
        self.sysctl(ipv6__conf__tap0__accept_dad=0)
        for version in (4, 6):
            address = f"{KERNEL[version]}/{PREFIX[version]}"
            self.ip("addr", "add", address, "dev", "tap0", *(["nodad"] if version == 6 else []))
        self.ip("link", "set", "tap0", "mtu", str(mtu), "up")

    def close(self) -> None:
        """Remove the device and the namespace."""
        os.close(self.fd)
        super().close()

    @property
    def mac(self) -> bytes:
        """The link address of the kernel's end."""
        return bytes.fromhex(self.inside(Path("/sys/class/net/tap0/address").read_text))


class Far(Namespace):
    """A kernel behind the kernel on the TAP, which forwards to it over a link with an MTU."""

    def __init__(self, router: Kernel, mtu: int) -> None:
        super().__init__("kpeer-far")
        router.sysctl(ip_forward=1, ipv6__conf__all__forwarding=1)
        for ns in (router, self):
            ns.sysctl(ipv6__conf__default__accept_dad=0)
        router.ip("link", "add", "veth0", "type", "veth", "peer", "veth0", "netns", self.name)
        for ns, addresses in ((router, ROUTER), (self, FAR)):
            for version, address in addresses.items():
                nodad = ["nodad"] if version == 6 else []
                ns.ip("addr", "add", f"{address}/{PREFIX[version]}", "dev", "veth0", *nodad)
            ns.ip("link", "set", "veth0", "mtu", str(mtu), "up")
        for version, mss in ((4, "1460"), (6, "1440")):  # the narrow place is not to be guessed
            self.ip(f"-{version}", "route", "add", "default", "via", ROUTER[version], "advmss", mss)
        self.sysctl(tcp_no_metrics_save=1, tcp_congestion_control="cubic")


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """A kernel's end, with CUBIC as its congestion control."""
    before = ALLOWED.read_text()
    if "cubic" not in before.split():
        ALLOWED.write_text(before.strip() + " cubic")
    try:
        peer = Kernel()
        try:
            yield peer
        finally:
            peer.close()
    finally:
        ALLOWED.write_text(before)


@dataclass(frozen=True, slots=True)
class Ends:
    """A connection, both ends: streams, the kernel's socket, and ours as a flow."""

    ours: Streams
    theirs: Streams
    sock: socket.socket

    @property
    def flow(self) -> Any:
        """Our connection, as the stack has it."""
        return self.ours[1].get_extra_info("flow")

    @property
    def info(self) -> Statistics:
        """Our TCP_INFO."""
        return self.flow.conn.statistics()  # type: ignore[no-any-return]

    def close(self) -> None:
        """Forget both ends at once."""
        self.ours[1].transport.abort()
        self.theirs[1].transport.abort()


@dataclass(frozen=True, slots=True)
class Wire:
    """Our host, the imperfect link and the kernel behind it."""

    kernel: Kernel
    host: Host
    link: Impaired
    made: list[Ends]

    async def connect(self, version: int, role: str, far: Namespace | None = None) -> Ends:
        """Connect with our end `active` or `passive`, to the kernel or to the one behind it."""
        peer, address = (self.kernel, KERNEL[version]) if far is None else (far, FAR[version])
        async with asyncio.timeout(20):
            connect = self._active if role == "active" else self._passive
            ends = await connect(version, peer, address)
        self.made.append(ends)
        return ends

    async def _active(self, version: int, peer: Namespace, address: str) -> Ends:
        loop = asyncio.get_running_loop()
        with peer.socket(version, socket.SOCK_STREAM, address) as listener:
            listener.listen()
            ours = await self.host.open_connection(address, listener.getsockname()[1])
            sock, _ = await loop.sock_accept(listener)
        return Ends(ours, await asyncio.open_connection(sock=sock), sock)

    async def _passive(self, version: int, peer: Namespace, address: str) -> Ends:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[Streams] = loop.create_future()
        server = await self.host.start_server(lambda r, w: arrived.set_result((r, w)), 0)
        sock = peer.socket(version, socket.SOCK_STREAM, address)
        await loop.sock_connect(sock, (OURS[version], server.port))
        ends = Ends(await arrived, await asyncio.open_connection(sock=sock), sock)
        server.close()
        return ends


@contextlib.asynccontextmanager
async def wire(
    kernel: Kernel,
    *,
    tx: Impairment | None = None,
    rx: Impairment | None = None,
    seed: int = 1,
    gateway: bool = False,
    mac: str | None = None,
    port: Callable[[TapPort], Any] = lambda tap: tap,
    **config: Any,
) -> AsyncIterator[Wire]:
    """Put a host of ours on a kernel's TAP; `config` are fields of our connections' `Config`."""

    def tcp(version: int, mtu: int) -> Config:
        return replace(default_tcp_config(version, mtu), **config)

    loop = asyncio.get_running_loop()
    tap = port(TapPort(os.dup(kernel.fd), "tap0"))  # the device outlives our host
    link = Impaired(tap, loop, tx=tx, rx=rx, rng=random.Random(seed))
    addresses = [f"{a}/{PREFIX[v]}" for v, a in OURS.items()]
    routers = list(KERNEL.values()) if gateway else []
    async with Host(link, addresses, gateway=routers, mac=mac, tcp=tcp, seed=seed) as host:
        net = Wire(kernel, host, link, [])
        try:
            yield net
        finally:
            for ends in net.made:
                ends.close()


async def until(what: Callable[[], object], seconds: float = 10) -> None:
    """Wait until `what` holds; fail after `seconds`."""
    async with asyncio.timeout(seconds):
        while not what():  # noqa: ASYNC110  (the kernel has no event to wait for)
            await asyncio.sleep(0.005)


async def send(streams: Streams, data: bytes) -> None:
    """Write all of `data` and end the stream."""
    streams[1].write(data)
    await streams[1].drain()
    streams[1].write_eof()


async def digest(streams: Streams) -> str:
    """Read to the end; return the SHA-256 of what came."""
    sha = hashlib.sha256()
    while data := await streams[0].read(1 << 16):
        sha.update(data)
    return sha.hexdigest()


async def carry(source: Streams, target: Streams, size: int, *, seconds: float = 30) -> None:
    """Move `size` random octets and the end of the stream, and prove that they arrived."""
    data = random.Random(size).randbytes(size)
    async with asyncio.timeout(seconds):
        _, found = await asyncio.gather(send(source, data), digest(target))
    assert found == hashlib.sha256(data).hexdigest()

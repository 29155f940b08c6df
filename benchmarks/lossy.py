"""Goodput of one flow over an imperfect link between two TAP devices, each in a namespace.

Kernel to kernel, the link relays between the two; where an end is ours, a `Host` stands in the
place of that TAP and its kernel.  The far end is a process of its own either way.  Super-segments
are cut into wire segments before the link acts on them, whoever sent them, and one seed loses the
same packets of every sender: a loss in slow start decides over much of a short run.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import selectors
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace

from pyroute2 import netns

from vpnstack.aio.host import Host
from vpnstack.aio.relay import Fabric
from vpnstack.link.impair import Impaired, Impairment
from vpnstack.link.tap import TapPort, open_tap
from vpnstack.proto.tcp.config import Config
from vpnstack.proto.tcp.congestion.cubic import Cubic
from vpnstack.stack.stack import default_tcp_config

LINK = Impairment(latency=0.02, rate="100mbit", queue=400)  # the queue is a bit over one BDP
CONDITIONS = {
    "no loss": LINK,
    "loss 0.1 %": replace(LINK, loss=0.001),
    "loss 1 %": replace(LINK, loss=0.01),
    "loss 3 %": replace(LINK, loss=0.03),
    "reordering": replace(LINK, reorder=0.02, reorder_delay=0.004),
}
MODES = ("kernel to kernel", "ours to kernel", "kernel to ours")
PORT = 5001
CHUNK = 1 << 18
ADDRESS = {"left": "10.99.0.1", "right": "10.99.0.2"}
TICK = 0.0002  # seconds; two packets of the link
ALLOWED = "/proc/sys/net/ipv4/tcp_allowed_congestion_control"

PEER = """
import socket, sys, time
mode, address, port, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
CUBIC = b"cubic"
if mode == "receive":
    listener = socket.create_server((address, port))
    print("ready", flush=True)
    sock, _ = listener.accept()
    start, n = time.monotonic(), 0
    sock.settimeout(seconds)
    while (left := start + seconds - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            data = sock.recv(1 << 18)
        except TimeoutError:
            break
        if not data:
            break
        n += len(data)
    print(n / seconds, flush=True)
else:
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, CUBIC)
    print("ready", flush=True)
    sys.stdin.readline()
    sock.connect((address, port))
    chunk, end = bytes(1 << 18), time.monotonic() + seconds + 5
    try:
        while time.monotonic() < end:
            sock.sendall(chunk)
    except OSError:
        pass
"""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace with a TAP device whose other side is `fd`."""

    name: str
    address: str
    fd: int

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Start a peer inside and wait until it is ready."""
        argv = ["ip", "netns", "exec", self.name, sys.executable, "-c", PEER, *args]
        child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        if child.stdout.readline() != "ready\n":
            raise RuntimeError("the peer did not start")
        return child


def allow_cubic() -> None:
    """Let namespaces use CUBIC; without this they have the initial one's list."""
    with open(ALLOWED, "r+") as file:
        names = file.read().split()
        if "cubic" not in names:
            file.seek(0)
            file.write(" ".join([*names, "cubic"]))


@contextlib.contextmanager
def namespace(side: str) -> Iterator[Namespace]:
    """Make a namespace with a TAP device that is up, and remove it."""
    name = f"bench-tcp-{side}-{os.getpid()}"
    netns.create(name)
    try:
        netns.pushns(name)
        try:
            fd, _ = open_tap("tap0")
            run("sysctl", "-q", "net.ipv4.tcp_no_metrics_save=1")
            run("sysctl", "-q", "net.ipv6.conf.all.disable_ipv6=1")
            run("ip", "addr", "add", f"{ADDRESS[side]}/24", "dev", "tap0")
            run("ip", "link", "set", "tap0", "up")
        finally:
            netns.popns()
        yield Namespace(name, ADDRESS[side], fd)
    finally:
        netns.remove(name)


def run(*argv: str) -> None:
    """Run a command that has to work."""
    subprocess.run(argv, check=True, capture_output=True)


def cubic(version: int, mtu: int) -> Config:
    """Return our parameters: CUBIC, and buffers as large as the kernel lets them grow."""
    config = default_tcp_config(version, mtu)
    return replace(config, congestion=Cubic, snd_buf=4 << 20, rcv_buf=6 << 20)


def imperfect(ns: Namespace, link: Impairment, seed: int, *, sends: bool) -> Impaired:
    """A namespace's TAP behind the link; `sends`: its kernel is the sender.

    `Impaired` draws chances for `tx`, then for `rx`: the data always has the second stream.
    """
    rng = random.Random(seed)
    if not sends:
        rng.getrandbits(64)
    loop = asyncio.get_running_loop()
    return Impaired(TapPort(ns.fd, ns.name), loop, tx=link, rx=link, rng=rng)


@contextlib.asynccontextmanager
async def host(ns: Namespace, side: str, link: Impairment, seed: int) -> AsyncIterator[Host]:
    """A host of ours on the far side of an imperfect link into a namespace."""
    port = imperfect(ns, link, seed, sends=side == "right")
    async with Host(port, [f"{ADDRESS[side]}/24"], name=side, tcp=cubic, seed=seed) as ours:
        yield ours


async def kernel_to_kernel(link: Impairment, seconds: float, seed: int) -> float:
    """Return the receiver's octets a second."""
    with namespace("left") as left, namespace("right") as right:
        fabric = Fabric(asyncio.get_running_loop(), "relay")
        fabric.attach(imperfect(left, link, seed, sends=True))
        fabric.attach(TapPort(right.fd, "right"))
        try:
            return await between(left, right, seconds)
        finally:
            fabric.close()


async def between(left: Namespace, right: Namespace, seconds: float) -> float:
    """Send from one namespace to another."""
    receiver = right.start("receive", right.address, str(PORT), str(seconds))
    sender = left.start("send", right.address, str(PORT), str(seconds))
    try:
        return await result(sender, receiver)
    finally:
        end(sender, receiver)


async def result(sender: subprocess.Popen[str] | None, receiver: subprocess.Popen[str]) -> float:
    """Let the sender go and wait for the receiver's figure."""
    go(sender)
    assert receiver.stdout is not None
    return float(await asyncio.to_thread(receiver.stdout.readline))


def go(sender: subprocess.Popen[str] | None) -> None:
    """Let a sender start."""
    if sender is not None and sender.stdin is not None:
        sender.stdin.write("go\n")
        sender.stdin.flush()


def end(*children: subprocess.Popen[str]) -> None:
    """End what was started."""
    for child in children:
        child.kill()
        child.communicate()


async def ours_to_kernel(link: Impairment, seconds: float, seed: int) -> float:
    """Our stack sends."""
    with namespace("right") as ns:
        async with host(ns, "left", link, seed) as ours:
            receiver = ns.start("receive", ns.address, str(PORT), str(seconds))
            try:
                sending = asyncio.ensure_future(send(ours, ns.address))
                figure = await result(None, receiver)
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
                return figure
            finally:
                end(receiver)


async def send(ours: Host, address: str) -> None:
    """Send until cancelled."""
    _, writer = await ours.open_connection(address, PORT)
    chunk = bytes(CHUNK)
    try:
        while True:
            writer.write(chunk)
            await writer.drain()
    finally:
        writer.transport.abort()


async def kernel_to_ours(link: Impairment, seconds: float, seed: int) -> float:
    """Our stack receives."""
    with namespace("left") as ns:
        async with host(ns, "right", link, seed) as ours:
            figure: asyncio.Future[float] = asyncio.get_running_loop().create_future()

            async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                figure.set_result(await count(reader, seconds))
                writer.transport.abort()

            await ours.start_server(receive, PORT)
            sender = ns.start("send", ADDRESS["right"], str(PORT), str(seconds))
            try:
                go(sender)
                return await asyncio.wait_for(figure, seconds + 10)
            finally:
                end(sender)


async def count(reader: asyncio.StreamReader, seconds: float) -> float:
    """Read for a while; return octets a second."""
    start, n = time.monotonic(), 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while data := await reader.read(CHUNK):
                n += len(data)
    assert time.monotonic() >= start
    return n / seconds


MEASURE = dict(zip(MODES, (kernel_to_kernel, ours_to_kernel, kernel_to_ours), strict=True))


class Fine(selectors.SelectSelector):
    """A selector that waits as long as it is asked to, `TICK` at least.

    epoll's timeout is whole milliseconds, rounded up: packets of the link would leave in clumps of
    eight and more, and senders judge by the gaps between ACKs and by round trips (HyStart).
    """

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for descriptors."""
        if timeout is not None and timeout > 0:
            timeout = max(timeout, TICK)
        return super().select(timeout)


def loop() -> asyncio.AbstractEventLoop:
    """Make the loop that every mode runs on."""
    return asyncio.SelectorEventLoop(Fine())


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Run before others on this machine, without pauses for garbage of the past.

    The link is a process: where it waits for a processor for five milliseconds, a sender sees a
    queue that is not there and leaves slow start.  The peers inherit the priority; a nice value
    would count only within the session where the kernel groups by sessions.
    """
    before = os.sched_getscheduler(0)
    with contextlib.suppress(PermissionError):  # a container may forbid it; then it is noisier
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        os.sched_setscheduler(0, before, os.sched_param(0))


def measure(condition: str, mode: str, seconds: float, seed: int) -> float:
    """Run one flow; return Mbit/s."""
    with undisturbed(), asyncio.Runner(loop_factory=loop) as runner:
        octets = runner.run(MEASURE[mode](CONDITIONS[condition], seconds, seed))
    return octets * 8 / 1e6

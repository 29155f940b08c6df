"""The gateway with the Linux kernel as its guest: real clients, crowds, deaths and rubbish."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio
from gateway_peers import blob

from vpnstack.gateway import Gateway
from vpnstack.host.namespace import NamespaceConfig, Target
from vpnstack.host.spawn import open_tap
from vpnstack.link.tap import TapPort
from vpnstack.programs import namespace_config

PEERS = Path(__file__).with_name("gateway_peers.py")
CLI = [sys.executable, "-c", "from vpnstack.cli import main; main()"]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(PEERS.parents[2]), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
}  # fmt: skip
NAMES = map("vpnstack-{}-{}".format, itertools.repeat(os.getpid()), itertools.count())


@pytest.fixture(autouse=True)
def _needs(require: Callable[..., None]) -> None:
    require("root", "/dev/net/tun", "ip", "ping", "curl")


class Origin(NamedTuple):
    """Ports of the servers on the host's loopback."""

    web: int
    swap: int


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    command = [sys.executable, str(PEERS), "origin"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        yield Origin(*map(int, server.stdout.readline().split()))
        assert server.stdin is not None
        server.stdin.close()


@pytest.fixture
def netns() -> Iterator[str]:
    name = next(NAMES)
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


def run(
    *argv: str, options: tuple[str, ...] = (), **kw: object
) -> subprocess.CompletedProcess[str]:
    """`vpnstack run` to its end."""
    line = [*CLI, "run", *options, "--", *argv]
    return subprocess.run(
        line, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False, **kw
    )  # type: ignore[call-overload,no-any-return]


def said(*argv: str, options: tuple[str, ...] = ()) -> str:
    done = run(*argv, options=options)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


@contextlib.contextmanager
def started(*argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command of ours that says when it is ready; ended by SIGTERM, cleanly."""
    read, write = os.pipe()
    line = [*CLI, *argv, "--ready-fd", str(write)]
    process = subprocess.Popen(line, env=ENVIRONMENT, pass_fds=[write], stderr=subprocess.PIPE)
    os.close(write)
    try:
        ready = os.read(read, 16)
        if ready != b"ready\n":
            process.kill()
            raise AssertionError(process.communicate()[1].decode())
        yield process
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=10)[1].decode()
        assert process.returncode == 0, errors
        assert "Traceback" not in errors, errors
    finally:
        os.close(read)
        if process.poll() is None:
            process.kill()
            process.communicate()


def inside(netns: str, *argv: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    line = ["ip", "netns", "exec", netns, *argv]
    return subprocess.run(line, capture_output=True, text=True, timeout=timeout, check=False)


# One command.


@pytest.mark.parametrize("mtu", ["1500", "65520"])
@pytest.mark.parametrize("family", ["-4", "-6"])
def test_curl_both_ways(family: str, mtu: str, origin: Origin, tmp_path: Path) -> None:
    size = 16 << 20
    (tmp_path / "up").write_bytes(blob(size, 1))
    url = f"http://host.internal:{origin.web}/{size}"
    script = f"curl -s {family} {url} | sha256sum; curl -s {family} -T {tmp_path}/up {url}"
    down, up = said("sh", "-c", script, options=("--mtu", mtu)).split("-\n")
    assert down.strip() == up == hashlib.sha256(blob(size, 1)).hexdigest()


@pytest.mark.parametrize("family", [4, 6])
def test_refused_and_unreachable(netns: str, family: int) -> None:
    """The guest sees what the host saw, at once: RST, and the ICMP error (no route from there)."""
    hosts = ("192.168.127.254", "198.51.100.1") if family == 4 else ("fd00:127::fe", "2001:db8::1")
    script = (
        "import errno, socket, time\n"
        f"for host in {hosts}:\n"
        "    began = time.monotonic()\n"
        f"    s = socket.socket({2 if family == 4 else 10}); s.settimeout(20)\n"
        "    code = errno.errorcode.get(s.connect_ex((host, 1)), '?')\n"
        "    print(code, time.monotonic() - began < 10)\n"
    )
    line = [*CLI, "run", "--", sys.executable, "-c", script]
    done = subprocess.run(
        ["ip", "netns", "exec", netns, *line],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["ECONNREFUSED True", "ENETUNREACH True"], done


@pytest.mark.parametrize("target", ["192.168.127.1", "fd00:127::1", "host.internal"])
@pytest.mark.parametrize("size", ["56", "3000", "20000"])
def test_ping(target: str, size: str) -> None:
    out = said("ping", "-c", "3", "-i", "0.05", "-s", size, target, options=("--mtu", "1500"))
    assert "3 received, 0% packet loss" in out


def test_large_datagrams_both_ways() -> None:
    """8 KiB over a link of 1,500: fragments up and down, IPv4 and IPv6."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind(("::", 0))
        server.settimeout(20)
        port = server.getsockname()[1]
        script = (
            "import socket\n"
            "for family, host in ((2, '192.168.127.254'), (10, 'fd00:127::fe')):\n"
            "    s = socket.socket(family, 2); s.settimeout(5)\n"
            f"    s.sendto(bytes(range(256)) * 32, (host, {port}))\n"
            "    print(s.recv(65535) == bytes(range(256)) * 32)\n"
        )
        line = [*CLI, "run", "--mtu", "1500", "--", sys.executable, "-c", script]
        with subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as guest:
            for _ in range(2):
                data, peer = server.recvfrom(65535)
                server.sendto(data, peer)
            assert guest.communicate(timeout=20)[0] == "True\nTrue\n"


def test_dns(require: Callable[..., None]) -> None:
    require("dig")
    out = said("sh", "-c", "dig +short host.internal A; dig +tcp +short gateway.internal AAAA")
    assert out.split() == ["192.168.127.254", "fd00:127::1"]


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 42", 42), ("kill -9 $$", 137)])
def test_exit_codes(script: str, code: int) -> None:
    assert run("sh", "-c", script).returncode == code


def test_command_not_found() -> None:
    assert run("/no/such/command").returncode == 127


def test_no_host_loopback(origin: Origin) -> None:
    script = f"curl -s -m 5 http://192.168.127.254:{origin.web}/1; echo $?; ip a > /dev/null"
    out = said("sh", "-c", script, options=("--no-host-loopback",))
    assert out.split() == ["7"]


# An existing namespace.


def test_attach_and_publish(netns: str, origin: Origin) -> None:
    resolver = Path("/etc/netns") / netns / "resolv.conf"
    with started("attach", "--netns", netns, "-p", "0:8080"):
        assert "192.168.127.1" in resolver.read_text()
        done = inside(netns, "curl", "-s", f"http://host.internal:{origin.web}/text/1000")
        assert len(done.stdout) == 1000
    assert not resolver.exists()
    assert "tap0" not in inside(netns, "ip", "link").stdout


def test_publish(netns: str) -> None:
    """A connection to the host's port reaches the guest; its source is `host.internal`."""
    port = free_port()
    with started("attach", "--netns", netns, "-p", f"{port}:8080"):
        script = (
            "import socket\n"
            "s = socket.create_server(('', 8080)); print('up', flush=True)\n"
            "c, peer = s.accept(); print(peer[0], flush=True)\n"
            "while data := c.recv(65536): c.sendall(data.upper())\n"
        )
        line = ["ip", "netns", "exec", netns, sys.executable, "-c", script]
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as guest:
            assert guest.stdout is not None
            assert guest.stdout.readline() == "up\n"
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                client.sendall(b"published" * 1000)
                client.shutdown(socket.SHUT_WR)
                got = b"".join(iter(lambda: client.recv(65536), b""))
            assert guest.stdout.readline() == "192.168.127.254\n"
    assert got == b"PUBLISHED" * 1000


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_dhcp_and_router_advertisement(netns: str, require: Callable[..., None]) -> None:
    """Nothing configured by us: the kernel takes the prefix, busybox's client the lease."""
    require("busybox")
    with started("attach", "--netns", netns, "--no-configure", "--mtu", "1500"):
        assert inside(netns, "ip", "link", "set", "tap0", "up").returncode == 0
        script = Path("/tmp") / f"{netns}.sh"
        script.write_text('#!/bin/sh\n[ "$1" = bound ] && echo $ip $router $dns $mtu\nexit 0\n')
        script.chmod(0o755)
        done = inside(
            netns, "busybox", "udhcpc", "-f", "-q", "-n", "-i", "tap0", "-O", "mtu",
            "-s", str(script), timeout=20,
        )  # fmt: skip
        script.unlink()
        address, *rest = done.stdout.split()[-4:]
        assert address.startswith("192.168.127."), done
        assert rest == ["192.168.127.1", "192.168.127.1", "1500"]
        for _ in range(100):
            links = inside(netns, "ip", "-6", "addr", "show", "tap0").stdout
            if "fd00:127::" in links:
                break
            time.sleep(0.05)
        assert "fd00:127::" in links
        assert "default via fe80::" in inside(netns, "ip", "-6", "route").stdout


# Crowds and deaths, with the gateway in this process.


class Guest(NamedTuple):
    """A gateway of this process and the namespace that is its guest."""

    gateway: Gateway
    netns: str
    tap: int

    async def run(self, *argv: str) -> str:
        process = await asyncio.create_subprocess_exec(
            "ip", "netns", "exec", self.netns, *argv, stdout=subprocess.PIPE
        )
        return (await process.communicate())[0].decode()


@pytest_asyncio.fixture
async def guest(netns: str, request: pytest.FixtureRequest) -> AsyncIterator[Guest]:
    async with Gateway(mtu=getattr(request, "param", 1500)) as gateway:
        wanted: NamespaceConfig = namespace_config(gateway, "tap0", configure=True)
        tap = await open_tap(Target.parse(netns), wanted)
        gateway.port("guest").plug(TapPort(tap, "tap0", gateway.config.mtu))
        yield Guest(gateway, netns, tap)


def rss(pid: str = "self") -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def descriptors(pid: str = "self") -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def settled(condition: Callable[[], bool], limit: float = 20.0) -> bool:
    """Wait for real peers to finish what they do."""
    for _ in range(int(limit / 0.02)):
        if condition():
            return True
        await asyncio.sleep(0.02)
    return False


@pytest.mark.parametrize("guest", [1500, 65520], indirect=True)
@pytest.mark.parametrize("host", ["192.168.127.254", "fd00:127::fe"])
async def test_200_flows(guest: Guest, origin: Origin, host: str) -> None:
    """Each moves 1 MiB both ways; nothing is lost, and no flow or descriptor stays."""
    gateway, fds = guest.gateway, descriptors()
    assert await guest.run(*crowd(host, origin)) == "200\n"
    assert await settled(lambda: not gateway.tcp.bridges)
    assert descriptors() <= fds  # fewer: garbage of earlier tests may go meanwhile
    assert {f.conn.state.name for f in gateway.stack.tcp.flows.values()} <= {"TIME_WAIT"}
    assert gateway.statistics().dropped == {}


def crowd(host: str, origin: Origin, count: int = 200) -> list[str]:
    return [sys.executable, str(PEERS), "flows", host, str(origin.swap), str(count), str(1 << 20)]


@pytest.mark.parametrize("mtu", ["1500", "65520"])
def test_200_flows_give_their_memory_back(netns: str, origin: Origin, mtu: str) -> None:
    with started("attach", "--netns", netns, "--mtu", mtu) as process:
        pid = str(process.pid)
        assert inside(netns, *crowd("192.168.127.254", origin, 1)).stdout == "1\n"
        memory, fds = rss(pid), descriptors(pid)
        for _ in range(2):
            assert inside(netns, *crowd("192.168.127.254", origin)).stdout == "200\n"
            time.sleep(0.5)
            assert descriptors(pid) <= fds
        assert rss(pid) - memory < 64 << 20  # of 400 flows that held up to 2 MiB each
        print(f"RSS before {memory >> 20} MiB, after 400 flows {rss(pid) >> 20} MiB")


async def test_client_killed_in_mid_transfer(guest: Guest, origin: Origin) -> None:
    """SIGKILL in the guest: its kernel resets, the flow goes; the next client is served."""
    url = f"http://192.168.127.254:{origin.web}/{64 << 20}"
    slow = ("curl", "-s", "--limit-rate", "20M", "-o", "/dev/null", url)
    for _ in range(3):
        process = await asyncio.create_subprocess_exec("ip", "netns", "exec", guest.netns, *slow)
        assert await settled(lambda: any(b.bytes_in > 1 << 20 for b in guest.gateway.tcp.bridges))
        process.send_signal(signal.SIGKILL)
        await process.wait()
        assert await settled(lambda: not guest.gateway.tcp.bridges)
    small = url.rpartition("/")[0] + "/5"
    assert (await guest.run("sh", "-c", f"curl -s {small} | wc -c")).strip() == "5"


def rubbish(count: int, seed: int = 1) -> Iterator[bytes]:
    """Random frames, and real ones that were cut or had bytes changed."""
    rng = random.Random(seed)
    gateway = b"\x02" + hashlib.blake2s(b"trikit:gateway", digest_size=5).digest()
    mac = b"\x02\x00\x00\x00\x00\x09"
    v4 = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 60, 1, 0, 64, 6, 0,
                     bytes([192, 168, 127, 2]), bytes([192, 168, 127, 1]))  # fmt: skip
    v6 = (
        struct.pack("!IHBB", 6 << 28, 40, 6, 64)
        + bytes.fromhex("fd000127" + "00" * 11 + "02")
        + (bytes.fromhex("fd000127" + "00" * 11 + "01"))
    )
    for i in range(count):
        kind, head = rng.choice(
            [(b"\x08\x00", v4), (b"\x86\xdd", v6), (b"\x08\x06", b""), (b"", b"")]
        )
        frame = bytearray(gateway + mac + kind + head + rng.randbytes(rng.randrange(1, 200)))
        for _ in range(rng.randrange(4)):
            frame[rng.randrange(14, len(frame)) if len(frame) > 14 else 0] = rng.randrange(256)
        cut = rng.randrange(15, len(frame) + 1) if i % 3 == 0 and len(frame) > 15 else len(frame)
        yield bytes(frame[:cut])


async def test_10000_frames_of_rubbish(guest: Guest, origin: Origin) -> None:
    """Sent by the guest through a packet socket on its side of the TAP; it is served afterwards."""
    script = (
        "import socket, sys, importlib.util as u\n"
        f"spec = u.spec_from_file_location('t', {str(Path(__file__))!r})\n"
        "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('tap0', 0))\n"
        "n = 0\n"
        "for line in sys.stdin:\n"
        "    try: s.send(bytes.fromhex(line)); n += 1\n"
        "    except OSError: pass\n"
        "print(n)\n"
    )
    process = await asyncio.create_subprocess_exec(
        "ip", "netns", "exec", guest.netns, sys.executable, "-c", script,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    lines = "\n".join(frame.hex() for frame in rubbish(10_000)).encode()
    before = guest.gateway.statistics().frames_in
    sent = int((await process.communicate(lines))[0])
    assert sent > 9000
    assert await settled(lambda: guest.gateway.statistics().frames_in - before > sent * 0.5)
    url = f"http://192.168.127.254:{origin.web}/1000000"
    assert (await guest.run("sh", "-c", f"curl -s {url} | wc -c")).strip() == "1000000"
    stats = guest.gateway.statistics()
    assert sum(stats.dropped.values()) > 1000, stats
    print(sent, stats)


# Machines on framed streams.


class Framed:
    """A machine's side of `-netdev stream`."""

    def __init__(self, path: Path, mac: bytes) -> None:
        self.mac = mac
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(str(path))

    def send(self, frame: bytes) -> None:
        self.sock.sendall(len(frame).to_bytes(4) + frame)

    def receive(self) -> bytes:
        size = int.from_bytes(self._exactly(4))
        return self._exactly(size)

    def _exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            more = self.sock.recv(n - len(data))
            assert more, "the gateway closed the stream"
            data += more
        return data

    def until(self, wanted: Callable[[bytes], bool]) -> bytes:
        while not wanted(frame := self.receive()):
            pass
        return frame

    def __enter__(self) -> Framed:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def ask(self, address: bytes = bytes([192, 168, 127, 1])) -> None:
        """ARP for the gateway and take its answer."""
        mine = bytes([192, 168, 127, self.mac[5]])
        body = struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, self.mac, mine, bytes(6), address)
        self.send(b"\xff" * 6 + self.mac + b"\x08\x06" + body)
        answer = self.until(lambda f: f[12:14] == b"\x08\x06" and f[20:22] == b"\0\2")
        assert answer[:6] == self.mac


def test_serve_two_machines_and_deaths(tmp_path: Path) -> None:
    """They reach each other; a machine that dies in mid-frame or sends rubbish harms nobody."""
    path = tmp_path / "vm.sock"
    with (
        started("serve", "--listen", f"qemu:{path}") as process,
        Framed(path, b"\x02\0\0\0\0\x11") as one,
        Framed(path, b"\x02\0\0\0\0\x12") as two,
    ):
        one.ask()
        two.ask()
        hello = two.mac + one.mac + b"\x88\xb5" + b"hello, neighbour" * 4
        one.send(hello)
        assert two.until(lambda f: f[12:14] == b"\x88\xb5") == hello
        for death in (b"", b"\0\0", (1000).to_bytes(4) + bytes(17), b"\xff" * 64, bytes(64)):
            with Framed(path, b"\x02\0\0\0\0\x13") as dying:
                dying.ask()
                dying.sock.sendall(death)
            two.ask()
        for frame in rubbish(10_000):
            two.send(frame)
        two.send(one.mac + two.mac + b"\x88\xb5" + b"still here")
        one.until(lambda f: f[14:] == b"still here")
        two.ask()
        with Framed(path, b"\x02\0\0\0\0\x14") as three:
            three.ask()
        assert process.poll() is None
    assert not path.exists()

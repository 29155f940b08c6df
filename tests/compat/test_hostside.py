"""The host side of the stack against the Linux kernel, radvd and dnsmasq over a TAP device.

The kernel is the router in a namespace of its own; our stack is the machine on its link.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from vpnstack.aio.driver import Driver
from vpnstack.host import spawn
from vpnstack.host.namespace import NamespaceConfig, Target
from vpnstack.link.switch import Switch
from vpnstack.link.tap import TapPort
from vpnstack.proto import acd, dhcp_client, dhcpv6_client, slaac
from vpnstack.stack import configured
from vpnstack.stack.autoconf import Autoconf, Config
from vpnstack.stack.interface import Interface, InterfaceConfig, addresses_of
from vpnstack.stack.stack import Stack
from vpnstack.wire import igmp, ip, mld

pytestmark = [pytest.mark.compat]
MAC = bytes.fromhex("020000000099")
QUICK = acd.Config(0.1, 3, 0.1, 0.2, 0.3, 2, 0.2, 10.0)


class Node:
    """Our machine and the kernel's namespace at the other end of its link."""

    def __init__(self, ns: str, driver: Driver, stack: Stack) -> None:
        self.ns = ns
        self.driver = driver
        self.stack = stack
        self.events: list[configured.Event] = []
        self.auto: Autoconf | None = None

    def sh(self, command: str, *, check: bool = True) -> str:
        done = subprocess.run(
            ["ip", "netns", "exec", self.ns, "sh", "-c", command],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    async def run(self, command: str) -> str:
        return await asyncio.to_thread(self.sh, command, check=False)

    def configure(self, config: Config) -> None:
        self.auto = Autoconf(self.stack, config, random.Random(os.getpid()))
        self.auto.start(self.driver.now())
        self.driver.wake()

    async def until(self, what: Callable[[], object], seconds: float = 15) -> None:
        async with asyncio.timeout(seconds):
            while not what():
                await asyncio.sleep(0.05)
                while self.auto is not None and (event := self.auto.next_event()) is not None:
                    self.events.append(event)

    def added(self, origin: str) -> list[bytes]:
        kinds = (e for e in self.events if isinstance(e, configured.AddressAdded))
        return [e.addr for e in kinds if e.origin == origin]


def run_ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True)


@contextlib.asynccontextmanager
async def node(*addresses: str, vlan: int | None = None) -> AsyncIterator[Node]:
    ns = f"hs{os.getpid() % 100000}"
    run_ip("netns", "add", ns)
    try:
        run_ip("-n", ns, "link", "set", "lo", "up")
        config = NamespaceConfig(configure=False)
        fd = await spawn.open_tap(Target(netns=ns), config)
        switch = Switch(MAC)
        interface = Interface(InterfaceConfig(MAC, addresses_of(addresses), vlan=vlan), switch)
        stack = Stack(interface, rng=random.Random(1))
        driver = Driver(stack, switch, asyncio.get_running_loop())
        made = Node(ns, driver, stack)
        made.sh("sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv6.conf.tap0.accept_dad=1")
        made.sh("ip link set tap0 up")
        try:
            driver.attach(TapPort(fd))
            yield made
        finally:
            driver.close()
    finally:
        run_ip("netns", "del", ns)


@contextlib.asynccontextmanager
async def daemon(peer: Node, *argv: str) -> AsyncIterator[None]:
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        "ip", "netns", "exec", peer.ns, *argv, stdout=quiet, stderr=quiet
    )
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


RADVD = """
interface tap0 {
  AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 5; AdvLinkMTU 1380;
  prefix fd00:5::/64 { AdvOnLink on; AdvAutonomous on; AdvValidLifetime 600;
    AdvPreferredLifetime 300; };
  RDNSS fd00:5::53 { AdvRDNSSLifetime 300; };
  DNSSL lab.example { AdvDNSSLLifetime 300; };
};
"""


async def test_slaac_from_radvd(require: Any, tmp_path: Path) -> None:
    require("root", "ip", "radvd", "ping")
    conf = tmp_path / "radvd.conf"
    conf.write_text(RADVD)
    conf.chmod(0o644)
    async with node() as peer:
        peer.sh("ip addr add fd00:5::1/64 dev tap0 nodad; ip addr add fd00:6::1/64 dev lo nodad")
        argv = ("radvd", "-n", "-C", str(conf), "-p", str(tmp_path / "pid"), "-u", "root")
        async with daemon(peer, *argv):
            addresses = slaac.Config(secret=b"secret", temporary=True)
            peer.configure(Config(ipv4=False, addresses=addresses))
            await peer.until(lambda: peer.added("STABLE") and peer.added("TEMPORARY"))
            auto, interface = peer.auto, peer.stack.interface
            assert auto is not None
            assert auto.dns.servers == (ip.parse_address("fd00:5::53"),)
            assert auto.dns.search == ("lab.example",)
            assert interface.mtu == 1380
            (stable,), (temporary,) = peer.added("STABLE"), peer.added("TEMPORARY")
            for addr in (stable, temporary, interface.link_local):
                text = ip.format_address(addr) + ("%tap0" if ip.is_link_local(addr) else "")
                assert " 0% packet loss" in await peer.run(f"ping -6 -c 2 -i 0.2 {text}")
            # From one of the router's other networks: the answer goes by the default route.
            out = await peer.run(f"ping -6 -c 2 -i 0.2 -I fd00:6::1 {ip.format_address(stable)}")
            assert " 0% packet loss" in out
            assert interface.source_for(ip.parse_address("fd00:6::1")) == temporary


def dnsmasq(tmp_path: Path, *options: str) -> tuple[str, ...]:
    return (
        "dnsmasq", "-k", "-C", "/dev/null", "-i", "tap0", "--bind-dynamic", "-R", "-h",
        f"--pid-file={tmp_path}/pid", f"--dhcp-leasefile={tmp_path}/leases", "-p", "0",
        "-u", "root", f"--log-facility={tmp_path}/log", "--log-dhcp", *options,
    )  # fmt: skip


V4 = ("--dhcp-range=10.9.0.10,10.9.0.20,255.255.255.0,2m", "--dhcp-option=6,10.9.0.53",
      "--dhcp-option=26,1400", "--dhcp-option=119,lab.example,b.lab.example",
      "--dhcp-option=121,10.0.0.0/8,10.9.0.1,0.0.0.0/0,10.9.0.1", "--dhcp-authoritative",
      "--no-ping")  # fmt: skip


async def test_dhcp_from_dnsmasq_to_release(require: Any, tmp_path: Path) -> None:
    require("root", "ip", "dnsmasq", "ping")
    async with node() as peer:
        peer.sh("ip addr add 10.9.0.1/24 dev tap0")
        async with daemon(peer, *dnsmasq(tmp_path, *V4)):
            dhcp = dhcp_client.Config(hostname="box", first_wait=1.0)
            peer.configure(Config(ipv6=False, dhcp=dhcp, claims=QUICK))
            await peer.until(lambda: peer.added("DHCP"))
            (addr,) = peer.added("DHCP")
            auto = peer.auto
            assert auto is not None
            assert auto.v4 is not None
            lease = auto.v4.lease
            assert lease is not None
            assert lease.search == ("lab.example", "b.lab.example")
            assert lease.routes == ((bytes([10, 0, 0, 0]), 8, bytes([10, 9, 0, 1])),)
            assert (lease.prefix_len, lease.mtu, lease.until - lease.t1) == (24, 1400, 60)
            assert peer.stack.interface.gateway4 == bytes([10, 9, 0, 1])
            text = ip.format_address(addr)
            assert " 0% packet loss" in await peer.run(f"ping -c 2 -i 0.2 {text}")
            assert " box " in (tmp_path / "leases").read_text()
            renewed = auto.v4.client
            renewed.lease = type(lease)(**{
                name: getattr(lease, name) for name in lease.__slots__
            } | {"t1": peer.driver.now()})  # fmt: skip
            peer.driver.wake()
            await peer.until(lambda: renewed.lease and renewed.lease.t1 > peer.driver.now() + 30)
            auto.stop(peer.driver.now())
            peer.driver.wake()
            await peer.until(lambda: "box" not in (tmp_path / "leases").read_text())


async def test_dhcp_conflict_with_the_kernel_is_declined(require: Any, tmp_path: Path) -> None:
    require("root", "ip", "dnsmasq")
    async with node() as peer:
        peer.sh("ip addr add 10.9.0.1/24 dev tap0")
        for last in range(10, 21):
            peer.sh(f"ip addr add 10.9.0.{last}/24 dev tap0")
        async with daemon(peer, *dnsmasq(tmp_path, *V4)):
            peer.configure(Config(ipv6=False, dhcp=dhcp_client.Config(first_wait=1), claims=QUICK))
            conflict = configured.Conflict
            await peer.until(lambda: any(isinstance(e, conflict) for e in peer.events))
            await peer.until(lambda: "DHCPDECLINE" in (tmp_path / "log").read_text())
            assert peer.added("DHCP") == []


async def test_dhcpv6_from_dnsmasq(require: Any, tmp_path: Path) -> None:
    require("root", "ip", "dnsmasq", "ping")
    options = (
        "--dhcp-range=fd00:7::100,fd00:7::1ff,64,10m", "--enable-ra", "--ra-param=tap0,5,600",
        "--dhcp-option=option6:dns-server,[fd00:7::53]",
        "--dhcp-option=option6:domain-search,six.example", "--dhcp-authoritative",
    )  # fmt: skip
    async with node() as peer:
        peer.sh("ip addr add fd00:7::1/64 dev tap0 nodad")
        async with daemon(peer, *dnsmasq(tmp_path, *options)):
            for rapid in (False, True):
                dhcp = dhcpv6_client.Config(rapid_commit=rapid)
                peer.events.clear()
                peer.configure(Config(ipv4=False, dhcpv6=dhcp))
                await peer.until(lambda: peer.added("MANAGED"))
                auto = peer.auto
                assert auto is not None
                (addr,) = peer.added("MANAGED")
                assert addr[:14] == ip.parse_address("fd00:7::100")[:14]
                assert ip.parse_address("fd00:7::53") in auto.dns.servers
                assert "six.example" in auto.dns.search
                text = ip.format_address(addr)
                assert " 0% packet loss" in await peer.run(f"ping -6 -c 2 -i 0.2 {text}")
                assert text in (tmp_path / "leases").read_text()
                auto.stop(peer.driver.now())
                peer.driver.wake()
                await peer.until(lambda t=text: t not in (tmp_path / "leases").read_text())
        log = (tmp_path / "log").read_text()
        for message in ("DHCPSOLICIT", "DHCPADVERTISE", "DHCPREQUEST", "DHCPREPLY", "DHCPRELEASE"):
            assert f"{message}(tap0)" in log
        assert "rapid" in log.lower()


async def test_dad_conflict_both_ways(require: Any) -> None:
    require("root", "ip")
    async with node("fd00:8::5/64", "fd00:8::6/64") as peer:
        peer.sh("ip addr add fd00:8::5/64 dev tap0 nodad")
        peer.configure(Config(ipv4=False))
        conflict = configured.Conflict(ip.parse_address("fd00:8::5"))
        await peer.until(lambda: conflict in peer.events and peer.added("MANUAL"))
        assert peer.added("MANUAL") == [ip.parse_address("fd00:8::6")]
        peer.sh("ip addr add fd00:8::6/64 dev tap0")
        await peer.until(lambda: "dadfailed" in peer.sh("ip -6 addr show dev tap0"))


class Inbox:
    """Keeps the datagrams of a port."""

    def __init__(self) -> None:
        self.got: list[tuple[Any, Any, bytes]] = []

    def datagram_received(self, remote: Any, local: Any, data: bytes, now: float) -> None:
        self.got.append((remote, local, data))

    def icmp_received(self, remote: Any, local: Any, error: Any, now: float) -> None:
        pass


SEND = """
import socket, sys
group, text = sys.argv[1:]
six = ":" in group
s = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
if six: s.setsockopt(41, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("tap0"))
s.sendto(text.encode(), (group, 4000))
"""
JOIN = """
import socket, struct, sys
group = sys.argv[1]
six = ":" in group
s = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 4001))
raw = socket.inet_pton(s.family, group)
index = socket.if_nametoindex("tap0")
if six: s.setsockopt(41, socket.IPV6_JOIN_GROUP, raw + struct.pack("I", index))
else: s.setsockopt(0, socket.IP_ADD_MEMBERSHIP, raw + struct.pack("4sI", bytes(4), index))
s.settimeout(5)
print(s.recv(100).decode())
"""


@pytest.mark.parametrize("group", ["239.1.2.3", "ff15::1:2"])
async def test_multicast_both_ways(require: Any, tmp_path: Path, group: str) -> None:
    require("root", "ip", "python3")
    (tmp_path / "send.py").write_text(SEND)
    (tmp_path / "join.py").write_text(JOIN)
    async with node("10.9.0.2/24", "fd00:9::2/64") as peer:
        peer.sh("ip addr add 10.9.0.1/24 dev tap0; ip addr add fd00:9::1/64 dev tap0 nodad")
        peer.sh("ip route add 224.0.0.0/4 dev tap0")
        stack, addr, now = peer.stack, ip.parse_address(group), peer.driver.now
        inbox = Inbox()
        stack.udp.ports[None, 4000] = inbox
        send = f"python3 {tmp_path}/send.py {group}"
        await peer.run(f"{send} early")
        assert stack.groups.join(addr, now())
        peer.driver.wake()
        await peer.run(f"{send} late")
        await peer.until(lambda: inbox.got)
        assert [data for _, _, data in inbox.got] == [b"late"]
        assert inbox.got[0][1] == (addr, 4000)
        joining = asyncio.create_task(peer.run(f"python3 {tmp_path}/join.py {group}"))
        heard = stack.groups.igmp if len(addr) == 4 else stack.groups.mld
        source = stack.interface.source_for(addr)
        assert source is not None

        def send_now() -> bool:
            stack.udp.send((source, 4000), (addr, 4001), b"hello", now())
            peer.driver.wake()
            return joining.done()

        await peer.until(send_now)
        assert await joining == "hello\n"
        assert heard.groups.statistics().reports >= 1


@pytest.mark.parametrize("family", [4, 6])
async def test_kernel_reports_to_our_query(require: Any, tmp_path: Path, family: int) -> None:
    """Our codecs write a query that the kernel answers, and read its answer."""
    require("root", "ip", "python3")
    (tmp_path / "join.py").write_text(JOIN)
    group = ip.parse_address("239.1.2.4" if family == 4 else "ff15::77")
    async with node("10.9.0.2/24") as peer:
        peer.sh("ip addr add 10.9.0.1/24 dev tap0")
        seen: list[Any] = []
        layer = peer.stack.groups
        take = layer.igmp.receive if family == 4 else layer.mld.receive

        def receive(message: Any, dst: bytes, now: float) -> None:
            seen.append(message)
            take(message, dst, now)

        setattr(layer.igmp if family == 4 else layer.mld, "receive", receive)  # noqa: B010
        joining = asyncio.create_task(
            peer.run(f"timeout 6 python3 {tmp_path}/join.py {ip.format_address(group)}")
        )
        local, interface = peer.stack.interface.link_local, peer.stack.interface
        if family == 4:
            query = igmp.Query(code=5)
            packet = igmp.packet(bytes([10, 9, 0, 2]), igmp.ALL_HOSTS, query)
        else:
            packet = mld.packet(local, ip.ALL_NODES, mld.Query(code=500))

        def reported() -> bool:
            records = [r for m in seen for r in getattr(m, "records", ())]
            return any(r.group == group and r.mode.name == "IS_EXCLUDE" for r in records)

        def ask() -> bool:
            interface.send_packet(packet, peer.driver.now())
            peer.driver.wake()
            return reported()

        await peer.until(ask)
        joining.cancel()


TAGGED = """
import socket, struct
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(("tap0", 0)); s.settimeout(5); s.setsockopt(263, 8, 1)  # PACKET_AUXDATA
mac = bytes.fromhex("020000000055")
for vid in (78, 77):
    ask = bytes.fromhex("0001080006040001") + mac + bytes([10, 8, 0, 1])
    ask += bytes(6) + bytes([10, 8, 0, 2])
    s.send(b"\\xff" * 6 + mac + struct.pack("!HHH", 0x8100, vid, 0x806) + ask)
while True:
    frame, extra, _, _ = s.recvmsg(2000, 100)
    if frame[:6] == mac:
        break
tci = struct.unpack_from("IIIHHHH", extra[0][2])[5]
print(frame[12:14].hex(), tci & 0xfff, frame[28:32].hex())
"""


async def test_kernel_reads_our_tag(require: Any, tmp_path: Path) -> None:
    """The kernel takes the tag off our answer and tells its number; VLAN 78 gets no answer."""
    require("root", "ip", "python3")
    (tmp_path / "tagged.py").write_text(TAGGED)
    async with node("10.8.0.2/24", vlan=77) as peer:
        assert await peer.run(f"python3 {tmp_path}/tagged.py") == "0806 77 0a080002\n"
        assert peer.stack.statistics().wrong_vlan >= 1

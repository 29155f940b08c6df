"""ARP, NDP, ICMP errors, DHCP and router advertisements against the Linux kernel and its clients.

A network namespace holds one end of a veth pair; on the other end a loop of 100 lines moves
frames between a packet socket and the sans-IO machines, with nothing of the stack in between.
"""

from __future__ import annotations

import os
import queue
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vpnstack.proto import dhcp as dhcp_server
from vpnstack.proto import neighbour, ra
from vpnstack.proto.icmp import Errors
from vpnstack.wire import arp, ethernet, icmp, ip, ndp
from vpnstack.wire.malformed import Malformed

pytestmark = [
    pytest.mark.compat,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="needs iproute2"),
]

US4, NET = ip.parse_address("192.168.127.1"), ip.parse_address("192.168.127.0")
PREFIX = ip.parse_address("fd00:127::")
US6 = ip.parse_address("fd00:127::1")
MAC = ethernet.parse_mac("02:00:00:00:00:01")
LL6 = ip.eui64(MAC)
SEARCH = ("lab.example", "corp.example")


class Gateway:
    """The machines of one link behind a packet socket; `run` ends when `stop` is set."""

    def __init__(self, ifname: str) -> None:
        self.stop = threading.Event()
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.bind((ifname, 0))
        self.socket.settimeout(0.05)
        self.calls: queue.SimpleQueue[Callable[[float], object]] = queue.SimpleQueue()
        self.cache = neighbour.Cache(neighbour.Config(reachable_time=0.3, delay_first_probe=0.1))
        self.errors = Errors()
        pool = ip.parse_address("192.168.127.10"), ip.parse_address("192.168.127.20")
        self.dhcp = dhcp_server.Server(
            dhcp_server.Config(
                US4, 24, *pool, router=US4, dns=(US4,), domain="lab.example", search=SEARCH,
                mtu=1400, routes=((ip.parse_address("10.0.0.0"), 8, US4),), lease_time=6,
            )
        )  # fmt: skip
        advertisement = ndp.RouterAdvertisement(
            slla=MAC, mtu=1400, prefixes=(ndp.Prefix(PREFIX),),
            rdnss=(ndp.Rdnss(600, (US6,)),), dnssl=(ndp.Dnssl(600, SEARCH),),
        )  # fmt: skip
        self.router = ra.Router(ra.Config(advertisement, max_ra_delay=0), random.Random(1))
        self.router.start(time.monotonic())
        self.seen: list[object] = []

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                self.receive(self.socket.recv(65536), time.monotonic())
            except (TimeoutError, Malformed):
                pass
            while not self.calls.empty():
                self.calls.get()(time.monotonic())
            self.transmit(time.monotonic())
        self.socket.close()

    def receive(self, frame: bytes, now: float) -> None:
        header, body = ethernet.parse(frame)
        if header.src == MAC:
            return
        if header.ethertype == ethernet.TYPE_ARP:
            self.receive_arp(arp.parse(body), now)
        elif header.ethertype in (ethernet.TYPE_IPV4, ethernet.TYPE_IPV6):
            self.receive_ip(body, now)

    def receive_arp(self, message: arp.Repr, now: float) -> None:
        if message.op is arp.Op.REPLY:
            self.cache.receive_advertisement(message.spa, message.sha, now, solicited=True)
        elif message.tpa == US4:
            self.cache.receive_solicitation(message.spa, message.sha, now)
            self.frame(message.sha, ethernet.TYPE_ARP, arp.emit(arp.reply(message, MAC)))

    def receive_ip(self, packet: bytes, now: float) -> None:
        header, body = ip.parse(packet)
        if header.proto == ip.UDP and body[2:4] == b"\0\x43":
            reply = self.dhcp.receive(body[8:], now)
            if reply:
                udp = b"\0\x43\0\x44" + (8 + len(reply.payload)).to_bytes(2) + b"\0\0"
                out = ip.emit(ip.Repr(US4, reply.dst, ip.UDP), udp + reply.payload)
                self.frame(reply.mac, ethernet.TYPE_IPV4, out)
        elif header.proto == ip.ICMPV6 and 133 <= body[0] <= 136:
            self.receive_ndp(header, ndp.parse(body, header.src, header.dst, header.ttl), now)
        elif header.dst in (US4, US6) and header.proto in (ip.ICMP, ip.ICMPV6):
            message = icmp.parse(body, header.src, header.dst)
            if isinstance(message, icmp.Echo) and not message.reply:
                echo = icmp.Echo(True, message.ident, message.seq, message.data)
                self.packet(header.dst, header.src, header.proto, echo, now)
        elif header.dst in (US4, US6):
            error = self.errors.build(packet, icmp.Kind.PORT_UNREACHABLE, header.dst, now)
            if error:
                self.send(header.src, error, now)

    def receive_ndp(self, header: ip.Repr, message: ndp.Repr, now: float) -> None:
        self.seen.append(message)
        if isinstance(message, ndp.RouterSolicitation):
            self.router.receive_rs(header.src, message, now)
        elif isinstance(message, ndp.NeighbourSolicitation) and message.target in (US6, LL6):
            if message.slla and header.src != ip.UNSPECIFIED_V6:
                self.cache.receive_solicitation(header.src, message.slla, now)
                answer = ndp.NeighbourAdvertisement(message.target, MAC, True, True)
                self.packet(message.target, header.src, ip.ICMPV6, answer, now)
        elif isinstance(message, ndp.NeighbourAdvertisement):
            self.cache.receive_advertisement(
                message.target, message.tlla, now,
                solicited=message.solicited, override=message.override,
            )  # fmt: skip

    def transmit(self, now: float) -> None:
        for out in self.router.transmit(now):
            self.packet(LL6, out.dst, ip.ICMPV6, out.message, now)
        for solicit in self.cache.transmit(now):
            if len(solicit.addr) == 4:
                request = arp.emit(arp.request(MAC, US4, solicit.addr))
                self.frame(solicit.mac or ethernet.BROADCAST, ethernet.TYPE_ARP, request)
            else:
                group = ip.solicited_node(solicit.addr)
                ask = ndp.NeighbourSolicitation(solicit.addr, MAC)
                self.packet(LL6, solicit.addr if solicit.mac else group, ip.ICMPV6, ask, now)
        while event := self.cache.next_event():
            self.seen.append(event)
            if isinstance(event, neighbour.Resolved):
                for packet in event.pending:
                    self.send(event.addr, packet, now)

    def packet(
        self, src: bytes, dst: bytes, proto: int, message: icmp.Repr | ndp.Repr, now: float
    ) -> None:
        if isinstance(message, icmp.Echo | icmp.Error):
            body = icmp.emit(message, src, dst)
        else:
            body = ndp.emit(message, src, dst)
        self.send(dst, ip.emit(ip.Repr(src, dst, proto, ttl=255), body), now)

    def send(self, dst: bytes, packet: bytes, now: float) -> None:
        ethertype = ethernet.TYPE_IPV4 if len(dst) == 4 else ethernet.TYPE_IPV6
        group = ip.multicast_mac(dst) if ip.is_multicast(dst) else None
        mac = group or self.cache.resolve(dst, now, packet)
        if mac:
            self.frame(mac, ethertype, packet)

    def frame(self, dst: bytes, ethertype: int, payload: bytes) -> None:
        self.socket.send(ethernet.emit(ethernet.Repr(dst, MAC, ethertype), payload))


def sh(command: str, timeout: float = 20) -> str:
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def link() -> Iterator[tuple[str, Gateway]]:
    """Yield the name of a namespace whose eth0 leads to a running `Gateway`."""
    ns, outer = f"svc{os.getpid()}", f"svc{os.getpid() % 10000}"
    sh(f"ip netns add {ns}")
    try:
        sh(f"ip link add {outer} type veth peer name eth0 netns {ns}")
        sh(f"sysctl -qw net.ipv6.conf.{outer}.disable_ipv6=1")
        sh(f"ip netns exec {ns} sysctl -qw net.ipv6.conf.eth0.accept_dad=0")
        sh(f"ip link set {outer} arp off up")
        gateway = Gateway(outer)
        thread = threading.Thread(target=gateway.run)
        thread.start()
        try:
            sh(f"ip -n {ns} link set lo up")
            sh(f"ip -n {ns} link set eth0 up")
            yield ns, gateway
        finally:
            gateway.stop.set()
            thread.join()
    finally:
        sh(f"ip netns del {ns}")


def until(what: str, command: str, expected: str) -> str:
    for _ in range(100):
        out = sh(command)
        if expected in out:
            return out
        time.sleep(0.1)
    pytest.fail(f"{what}: expected {expected!r}, found {out!r}")


UDP_PROBE = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5); s.connect((sys.argv[1], 9)); s.send(b"x")
try: s.recv(1)
except ConnectionRefusedError: print("refused")
"""


def test_kernel_arp_ping_and_port_unreachable(link: tuple[str, Gateway], tmp_path: Path) -> None:
    ns, gateway = link
    sh(f"ip -n {ns} addr add 192.168.127.2/24 dev eth0")
    assert " 0% packet loss" in sh(f"ip netns exec {ns} ping -c 3 -i 0.2 -s 1400 192.168.127.1")
    neigh = sh(f"ip -n {ns} neigh show 192.168.127.1")
    assert "02:00:00:00:00:01" in neigh
    probe = tmp_path / "probe.py"
    probe.write_text(UDP_PROBE)
    assert sh(f"ip netns exec {ns} python3 {probe} 192.168.127.1") == "refused\n"
    assert gateway.errors.statistics().sent == 1


def in_use(gateway: Gateway, peer: bytes) -> list[neighbour.State | None]:
    """Use `peer`'s entry all the time, so that it is checked again and again."""
    states = list[neighbour.State | None]()

    def use(now: float) -> None:
        gateway.cache.resolve(peer, now)
        states.append(gateway.cache.state(peer))

    for _ in range(30):
        gateway.calls.put(use)
        time.sleep(0.05)
    return states


def test_kernel_answers_our_arp_and_probes(link: tuple[str, Gateway]) -> None:
    ns, gateway = link
    sh(f"ip -n {ns} addr add 192.168.127.2/24 dev eth0")
    sh(f"ip -n {ns} addr add fd00:127::2/64 dev eth0 nodad")
    for peer in map(ip.parse_address, ("192.168.127.2", "fd00:127::2")):
        states = in_use(gateway, peer)
        assert states[0] is neighbour.State.INCOMPLETE
        assert states.count(neighbour.State.DELAY) >= 2
        assert neighbour.State.REACHABLE in states[states.index(neighbour.State.DELAY) :]
    assert gateway.cache.statistics().failed == 0
    gateway.calls.put(lambda now: gateway.cache.resolve(b"\xc0\xa8\x7f\x63", now, "lost"))
    time.sleep(3.5)
    assert neighbour.Failed(b"\xc0\xa8\x7f\x63", ("lost",)) in gateway.seen


def test_kernel_takes_our_router_advertisement(link: tuple[str, Gateway], tmp_path: Path) -> None:
    ns, gateway = link
    inside = f"ip netns exec {ns}"
    addresses = until("SLAAC", f"ip -n {ns} -6 addr show dev eth0 scope global", "fd00:127::")
    assert "dynamic" in addresses
    routes = sh(f"ip -n {ns} -6 route show default")
    assert f"via {ip.format_address(LL6)}" in routes
    assert sh(f"{inside} cat /proc/sys/net/ipv6/conf/eth0/mtu").strip() == "1400"
    assert " 0% packet loss" in sh(f"{inside} ping -c 3 -i 0.2 -s 1300 fd00:127::1")
    probe = tmp_path / "probe.py"
    probe.write_text(UDP_PROBE)
    assert sh(f"{inside} python3 {probe} fd00:127::1") == "refused\n"
    assert any(isinstance(seen, ndp.RouterSolicitation) for seen in gateway.seen)


def script(path: Path) -> Path:
    path.write_text(
        '#!/bin/sh\n[ "$1$reason" = deconfig ] && exit 0\nenv > "$OUT.$1$reason"\n'
        'a=${ip:-$new_ip_address}; [ -n "$a" ] && ip addr replace $a/24 dev eth0; exit 0\n'
    )
    path.chmod(0o755)
    return path


@pytest.mark.skipif(shutil.which("busybox") is None, reason="needs busybox")
def test_udhcpc_gets_and_renews_a_lease(link: tuple[str, Gateway], tmp_path: Path) -> None:
    ns, gateway = link
    out = tmp_path / "env"
    options = f"-f -i eth0 -t 3 -T 1 -x hostname:vm1 -s {script(tmp_path / 'script')}"
    asked = "-O mtu -O search -O staticroutes -O broadcast"
    sh(
        "wait_for() { for i in $(seq 100); do [ -e $1 ] && return; sleep 0.1; done; };"
        f"OUT={out} ip netns exec {ns} busybox udhcpc {options} {asked} & P=$!;"
        f" wait_for {out}.bound; kill -USR1 $P; wait_for {out}.renew; kill $P; wait $P; true"
    )
    env = (tmp_path / "env.bound").read_text()
    for line in (
        "ip=192.168.127.10", "router=192.168.127.1", "dns=192.168.127.1", "subnet=255.255.255.0",
        "domain=lab.example", "mtu=1400", "lease=6", "search=lab.example corp.example",
        "broadcast=192.168.127.255", "serverid=192.168.127.1",
        "staticroutes=10.0.0.0/8 192.168.127.1 0.0.0.0/0 192.168.127.1",
    ):  # fmt: skip
        assert f"{line}\n" in env
    assert (tmp_path / "env.renew").exists()
    assert [lease.hostname for lease in gateway.dhcp.leases(time.monotonic())] == ["vm1"]
    assert dict(gateway.dhcp.statistics().received)["REQUEST"] >= 2


@pytest.mark.skipif(shutil.which("dhclient") is None, reason="needs isc-dhcp-client")
def test_dhclient_gets_reboots_and_releases(link: tuple[str, Gateway], tmp_path: Path) -> None:
    ns, gateway = link
    config = tmp_path / "conf"
    config.write_text(
        'option rfc3442 code 121 = array of unsigned integer 8;\nsend host-name "vm2";\n'
        "request subnet-mask, routers, domain-name-servers, domain-search, interface-mtu,\n"
        " broadcast-address, rfc3442, domain-name;\n"
    )
    files = f"-cf {config} -lf {tmp_path}/leases -pf {tmp_path}/pid -sf {script(tmp_path / 'sf')}"
    client = f"ip netns exec {ns} dhclient -v -e OUT={tmp_path}/env {files}"
    foreground = f"{client} -d -1 eth0 2>&1 & P=$!; sleep 2; kill $P; wait $P; true"
    sh(foreground)
    env = (tmp_path / "env.BOUND").read_text()
    for line in (
        "new_ip_address=192.168.127.10", "new_interface_mtu=1400", "new_routers=192.168.127.1",
        "new_domain_search=lab.example. corp.example.", "new_dhcp_lease_time=6",
        "new_domain_name_servers=192.168.127.1", "new_domain_name=lab.example",
    ):  # fmt: skip
        assert f"{line}\n" in env
    sh(foreground)  # INIT-REBOOT with the lease file
    assert "new_ip_address=192.168.127.10" in (tmp_path / "env.REBOOT").read_text()
    sh(f"{client} -r eth0 2>&1")
    time.sleep(0.2)
    assert gateway.dhcp.leases(time.monotonic()) == ()
    assert dict(gateway.dhcp.statistics().received) == {"DISCOVER": 1, "REQUEST": 2, "RELEASE": 1}
    assert gateway.dhcp.statistics().malformed == 0

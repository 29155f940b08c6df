"""Two stacks, or a stack and a scripted station, on the ends of a pair; time is set by hand."""

from __future__ import annotations

import random
from typing import Any

from vpnstack.core import pure, puresend
from vpnstack.core.access import parse_burst
from vpnstack.core.burst import Burst
from vpnstack.core.puresend import Tcp as Fields
from vpnstack.link.pair import PairPort, pair
from vpnstack.proto.tcp.block import Event
from vpnstack.stack import headers
from vpnstack.stack.flow import Flow
from vpnstack.stack.interface import Interface, InterfaceConfig, Wire, addresses_of
from vpnstack.stack.stack import Stack
from vpnstack.wire import arp, icmp, ip, ndp

HOST_MAC, GUEST_MAC = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"
HOST4, GUEST4 = ip.parse_address("192.168.127.1"), ip.parse_address("192.168.127.2")
HOST6, GUEST6 = ip.parse_address("fd00:127::1"), ip.parse_address("fd00:127::2")
SYN, FIN, RST, ACK = 2, 1, 4, 16
ENDS = {4: (GUEST4, HOST4), 6: (GUEST6, HOST6)}


class Udp:
    """Collects datagrams and errors."""

    def __init__(self) -> None:
        self.got: list[tuple[Any, Any, bytes]] = []
        self.errors: list[icmp.Error] = []

    def datagram_received(self, remote: Any, local: Any, data: bytes, now: float) -> None:
        self.got.append((remote, local, data))

    def icmp_received(self, remote: Any, local: Any, error: icmp.Error, now: float) -> None:
        self.errors.append(error)


class Tcp:
    """Owns flows: notes events, collects data unless `reading` is off."""

    def __init__(self, decide: str = "accept") -> None:
        self.decide = decide
        self.flows: list[Flow] = []
        self.events: list[Event] = []
        self.data = b""
        self.reading = True

    def flow_arrived(self, flow: Flow, now: float) -> None:
        flow.owner = self
        self.flows.append(flow)
        if self.decide != "hold":
            getattr(flow, self.decide)()

    def flow_event(self, flow: Flow, now: float) -> None:
        while (event := flow.conn.next_event()) is not None:
            self.events.append(event)
        self.read(flow)

    def read(self, flow: Flow) -> None:
        while self.reading and (views := flow.conn.received()):
            data = b"".join(views)
            self.data += data
            flow.conn.consume(len(data))
            flow.touch()


class Side:
    """A stack with its port."""

    def __init__(self, port: PairPort, mac: bytes, addresses: list[str], **options: Any) -> None:
        mtu = options.pop("mtu", 1500)
        config = InterfaceConfig(mac, addresses_of(addresses), mtu, HOST4, HOST6)
        if mac == HOST_MAC:
            config = InterfaceConfig(mac, addresses_of(addresses), mtu)
        self.port = port
        self.wire = Wire(port)
        self.stack = Stack(Interface(config, self.wire), rng=random.Random(3), **options)
        self.burst = Burst()

    def step(self, now: float) -> bool:
        """Take one burst and send everything; tell whether anything moved."""
        moved = bool(self.port.rx_burst(self.burst))
        parse_burst(self.burst)
        self.stack.receive(self.burst, now)
        self._owners(now)
        self.stack.settle()
        self.port.rx_done(self.burst)
        while (out := self.stack.transmit(now)) is not None:
            moved = True
            self.wire.egress(out)
        self._owners(now)
        return moved

    def _owners(self, now: float) -> None:
        while (event := self.stack.next_event()) is not None:
            event[0].flow_event(event[1], now)


class Net:
    """The host's stack and a guest's; without `guest` the guest's port is driven by the test."""

    def __init__(self, *, guest: bool = True, mtu: int = 1500, **options: Any) -> None:
        left, self.port = pair(mtu=mtu)
        self.now = 1.0
        self.host = Side(left, HOST_MAC, ["192.168.127.1/24", "fd00:127::1/64"], mtu=mtu, **options)
        self.sides = [self.host]
        if guest:
            addresses = ["192.168.127.2/24", "fd00:127::2/64"]
            self.guest = Side(self.port, GUEST_MAC, addresses, mtu=mtu)
            self.sides.append(self.guest)

    def run(self, seconds: float = 0.0) -> None:
        """Let time pass from deadline to deadline, until nothing moves."""
        end = self.now + seconds
        for _ in range(100_000):
            while sum(side.step(self.now) for side in self.sides):
                pass
            times = [at for side in self.sides if (at := side.stack.deadline()) is not None]
            if not times or min(times) > end:
                self.now = end
                return
            assert min(times) > self.now - 1e-9, "a deadline in the past after transmit"
            self.now = max(self.now, min(times))
        raise AssertionError("the stacks never come to rest")

    # A scripted guest.

    def send(self, *frames: bytes) -> list[bytes]:
        """Send frames as the guest; return the host's answers."""
        for frame in frames:
            burst = Burst()
            burst.append(frame)
            self.port.tx_burst(burst)
        self.run()
        return self.frames()

    def packet(self, octets: bytes, dst: bytes = HOST_MAC) -> list[bytes]:
        """Send an IP packet as the guest."""
        kind = b"\x08\x00" if octets[0] >> 4 == 4 else b"\x86\xdd"
        return self.send(dst + GUEST_MAC + kind + octets)

    def frames(self) -> list[bytes]:
        """Take what the host sent."""
        burst = Burst()
        out: list[bytes] = []
        while self.port.rx_burst(burst):
            out += [burst.octets(i) for i in range(burst.count)]
        return out

    def introduce(self, version: int = 4) -> None:
        """Have the host know the guest's link address."""
        guest, host = ENDS[version]
        if version == 4:
            assert self.send(ask_arp(host))
        else:
            assert self.send(ask_ndp(guest, host))
        self.frames()


def ask_arp(target: bytes, sender: bytes = GUEST4) -> bytes:
    question = arp.emit(arp.request(GUEST_MAC, sender, target))
    return b"\xff" * 6 + GUEST_MAC + b"\x08\x06" + question


def ask_ndp(src: bytes, target: bytes) -> bytes:
    dst = ip.solicited_node(target)
    slla = None if src == ip.UNSPECIFIED_V6 else GUEST_MAC
    body = ndp.emit(ndp.NeighbourSolicitation(target, slla), src, dst)
    octets = ip.emit(ip.Repr(src, dst, ip.ICMPV6, ttl=255), body)
    return ip.multicast_mac(dst) + GUEST_MAC + b"\x86\xdd" + octets


def echo(src: bytes, dst: bytes, data: bytes = b"x" * 56) -> bytes:
    body = icmp.emit(icmp.Echo(False, 7, 1, data), src, dst)
    return ip.emit(ip.Repr(src, dst, ip.ICMP if len(src) == 4 else ip.ICMPV6), body)


def message(frame: bytes) -> icmp.Repr:
    """Return the ICMP message of a frame."""
    header, body = ip.parse(frame[14:])
    return icmp.parse(body, header.src, header.dst)


def segment(
    fields: Fields, data: bytes = b"", *, src: bytes = GUEST4, dst: bytes = HOST4,
    ports: tuple[int, int] = (4000, 80),
) -> bytes:  # fmt: skip
    tmpl = headers.template(HOST_MAC, GUEST_MAC, (src, ports[0], dst, ports[1]), headers.TCP)
    return puresend.soften(puresend.emit_tcp(tmpl, fields, data), 0)[0].octets


def parsed(frames: list[bytes]) -> list[pure.Parsed]:
    found = [pure.parse(b"\2" + bytes(11), frame) for frame in frames]
    return [one for one in found if one.proto == ip.TCP and one.ip_version]


def listening(**options: object) -> tuple[Net, Tcp]:
    net, owner = Net(guest=False, **options), Tcp()
    net.host.stack.tcp.listeners[None, 80] = owner
    net.introduce()
    return net, owner


def here() -> bytes:
    """The guest's answer to a question about its link address."""
    answer = arp.Repr(arp.Op.REPLY, GUEST_MAC, GUEST4, HOST_MAC, HOST4)
    return HOST_MAC + GUEST_MAC + b"\x08\x06" + arp.emit(answer)


def opened(net: Net) -> pure.Parsed:
    """Open a flow from port 4000; return the stack's SYN-ACK."""
    syn = Fields(100, 0, SYN, 60000, opts=bytes.fromhex("020405b4"))
    [answer] = parsed(net.send(segment(syn)))
    net.send(segment(Fields(101, (answer.seq + 1) & 0xFFFFFFFF, ACK, 60000)))
    return answer

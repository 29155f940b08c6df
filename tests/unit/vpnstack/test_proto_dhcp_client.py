"""A DHCP client against our own server, under virtual time."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from vpnstack.proto import dhcp as servers
from vpnstack.proto import dhcp_client as client
from vpnstack.proto.dhcp_client import State
from vpnstack.proto.dhcp_lease import lease_of
from vpnstack.wire import dhcp, ip

MAC = b"\x02\0\0\0\0\x01"
US, FIRST, LAST = (ip.parse_address(f"10.0.0.{n}") for n in (1, 10, 20))


class Link:
    def __init__(self, **options: Any) -> None:
        self.client = client.Client(MAC, client.Config(**options), random.Random(1))
        self.server = servers.Server(
            servers.Config(US, 24, FIRST, LAST, router=US, dns=(US,), lease_time=1000)
        )
        self.now = 0.0
        self.sent: list[tuple[float, client.Transmit, dhcp.Repr]] = []
        self.events: list[client.Event] = []
        self.answers = self.unique = True

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (at := self.client.deadline()) is not None and at <= end:
            self.now = max(at, self.now)
            self.step()
        self.now = end

    def step(self) -> None:
        for out in self.client.transmit(self.now):
            self.sent.append((self.now, out, dhcp.parse(out.payload)))
            reply = self.server.receive(out.payload, self.now) if self.answers else None
            if reply is not None:
                self.client.receive(reply.payload, self.now)
        while event := self.client.next_event():
            self.events.append(event)
            if isinstance(event, client.Check):
                self.client.checked(self.unique, self.now)

    def types(self) -> list[str]:
        return [m.type.name for _, _, m in self.sent if m.type]


def test_discover_to_bound() -> None:
    link = Link(hostname="box")
    link.client.start(0.0)
    link.run(10)
    assert link.types() == ["DISCOVER", "REQUEST"]
    assert [type(e).__name__ for e in link.events] == ["Check", "Bound"]
    assert all(out.broadcast and message.broadcast for _, out, message in link.sent)
    lease = link.client.lease
    assert lease is not None
    assert (lease.addr, lease.prefix_len, lease.routers, lease.dns) == (FIRST, 24, (US,), (US,))


def test_renewal_is_unicast_at_t1() -> None:
    link = Link()
    link.client.start(0.0)
    link.run(600)
    at, out, message = link.sent[2]
    assert 499 <= at <= 502
    assert (out.src, out.dst, out.broadcast, message.ciaddr) == (FIRST, US, False, FIRST)
    assert link.client.state is State.BOUND
    assert link.types() == ["DISCOVER", "REQUEST", "REQUEST"]


def test_renewing_rebinding_and_the_end() -> None:
    link = Link()
    link.client.start(0.0)
    link.run(10)
    link.answers = False
    link.run(980)
    assert link.client.state is State.REBINDING
    assert link.sent[-1][1].broadcast
    link.run(60)
    assert isinstance(link.events[-1], client.Unbound)
    assert link.types()[-1] == "DISCOVER"


def test_init_reboot_and_nak() -> None:
    link = Link()
    link.client.start(0.0)
    link.run(10)
    again = Link()
    again.server = link.server
    again.client.start(0.0, FIRST)
    again.run(10)
    assert again.types() == ["REQUEST"]
    assert again.client.state is State.BOUND
    moved = Link()
    moved.client.start(0.0, ip.parse_address("192.168.9.9"))
    moved.run(10)
    assert moved.types() == ["REQUEST", "DISCOVER", "REQUEST"]


def test_conflict_is_declined_and_another_address_taken() -> None:
    link = Link()
    link.unique = False
    link.client.start(0.0)
    link.run(5)
    assert link.types() == ["DISCOVER", "REQUEST", "DECLINE"]
    link.unique = True
    link.run(20)
    assert link.client.lease is not None
    assert link.client.lease.addr != FIRST


def test_silence_is_met_with_backoff() -> None:
    link = Link()
    link.answers = False
    link.client.start(0.0)
    link.run(300)
    times = [at for at, _, _ in link.sent]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    for gap, expected in zip(gaps, (4, 8, 16, 32, 64), strict=False):
        assert abs(gap - expected) <= 1


def test_release() -> None:
    link = Link()
    link.client.start(0.0)
    link.run(10)
    link.client.release(link.now)
    link.run(1)
    assert link.types()[-1] == "RELEASE"
    assert link.server.leases(link.now) == ()
    assert link.client.deadline() is None


@pytest.mark.parametrize("what", ["xid", "chaddr", "op", "server", "junk"])
def test_answers_that_do_not_count(what: str) -> None:
    link = Link()
    link.answers = False
    link.client.start(0.0)
    link.run(2)
    reply = link.server.receive(link.sent[0][1].payload, link.now)
    assert reply is not None
    data = bytearray(reply.payload)
    if what == "server":
        data = data.replace(b"\x36\x04" + US, b"\x36\x04" + b"\xff" * 4)
    elif what == "junk":
        data = data[:100]
    else:
        data[{"xid": 4, "chaddr": 33, "op": 0}[what]] ^= 3
    link.client.receive(bytes(data), link.now)
    assert link.client.state is State.SELECTING
    assert link.client.statistics().ignored == 1


def lease(*options: tuple[int, bytes], addr: bytes = FIRST) -> Any:
    full = ((51, b"\0\0\0\x64"), *options)
    return lease_of(dhcp.Repr(2, 1, MAC, full, yiaddr=addr), US, 0.0)


def test_lease_options() -> None:
    assert lease() is not None
    assert lease().prefix_len == 8
    assert (lease().t1, lease().t2, lease().until) == (50.0, 87.5, 100.0)
    assert lease((58, b"\0\0\0\x0a"), (59, b"\0\0\0\x14")).t2 == 20.0
    assert lease((58, b"\0\0\0\xff")).t1 == 50.0  # T1 behind the end
    assert lease((1, b"\xff\0\xff\0")) is None
    assert lease(addr=bytes(4)) is None
    assert lease(addr=b"\xff" * 4) is None
    assert lease((26, b"\0\x10")).mtu is None
    assert lease((6, b"abc")).dns == ()
    assert lease((119, b"\xc0\x05")).search == ()
    routes = lease((3, LAST), (121, b"\0" + US + b"\x08\x0a" + US))
    assert (routes.routers, routes.routes) == ((US,), ((b"\x0a\0\0\0", 8, US),))
    assert lease((121, b"\x21")).routes == ()

"""A DHCPv6 client and a server of a few lines, under virtual time."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest

from vpnstack.proto import dhcpv6_client as client
from vpnstack.proto.dhcpv6_state import State
from vpnstack.wire import dhcpv6, ip
from vpnstack.wire.dhcpv6 import Type

MAC, SERVER = b"\x02\0\0\0\0\x01", b"\0\3\0\1server"
ADDR, PREFIX = ip.parse_address("fd00::100"), ip.parse_address("fd00:1::")
DNS = (ip.parse_address("fd00::53"),)


class Link:
    """`answers` is whether the server does; `lives` are the lifetimes it gives."""

    def __init__(self, **options: Any) -> None:
        self.client = client.Client(MAC, client.Config(**options), random.Random(1))
        self.now = 0.0
        self.sent: list[tuple[float, dhcpv6.Repr]] = []
        self.events: list[Any] = []
        self.answers = True
        self.rapid = False
        self.lives = (100, 200)
        self.change: dict[str, Any] = {}

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (at := self.client.deadline()) is not None and at <= end:
            self.now = max(at, self.now)
            for data in self.client.transmit(self.now):
                message = dhcpv6.parse(data)
                self.sent.append((self.now, message))
                if self.answers:
                    self.client.receive(dhcpv6.emit(self.answer(message)), self.now)
            while event := self.client.next_event():
                self.events.append(event)
        self.now = end

    def answer(self, message: dhcpv6.Repr) -> dhcpv6.Repr:
        kind = Type.REPLY
        rapid = message.rapid_commit and self.rapid
        if message.type is Type.SOLICIT and not rapid:
            kind = Type.ADVERTISE
        address, prefix = dhcpv6.Address(ADDR, *self.lives), dhcpv6.Prefix(PREFIX, 56, *self.lives)
        reply = dhcpv6.Repr(
            kind, message.xid, message.client_id, SERVER,
            tuple(dhcpv6.IaNa(ia.iaid, 0, 0, (address,)) for ia in message.ia_na),
            tuple(dhcpv6.IaPd(ia.iaid, 0, 0, (prefix,)) for ia in message.ia_pd),
            dns=DNS, search=("a.example",), rapid_commit=rapid,
        )  # fmt: skip
        return replace(reply, **self.change)

    def types(self) -> list[str]:
        return [message.type.name for _, message in self.sent]


def test_four_messages_then_renewal() -> None:
    link = Link(prefixes=True)
    link.client.start(0.0)
    link.run(49)
    assert link.types() == ["SOLICIT", "REQUEST"]
    lease = link.events[0].lease
    assert (lease.addresses[0].addr, lease.prefixes[0].length) == (ADDR, 56)
    assert (lease.dns, lease.search) == (DNS, ("a.example",))
    link.run(50)
    assert link.types() == ["SOLICIT", "REQUEST", "RENEW"]
    renew = link.sent[-1][1]
    assert (renew.server_id, renew.ia_na[0].addresses[0].addr) == (SERVER, ADDR)
    assert len(link.events) == 2


def test_rapid_commit() -> None:
    link = Link()
    link.rapid = True
    link.client.start(0.0)
    link.run(10)
    assert link.types() == ["SOLICIT"]
    assert isinstance(link.events[0], client.Bound)
    link = Link(rapid_commit=False)
    link.rapid = True
    link.client.start(0.0)
    link.run(10)
    assert link.types() == ["SOLICIT", "REQUEST"]


def test_best_preference_wins_and_255_at_once() -> None:
    link = Link()
    link.answers = False
    link.client.start(0.0)
    link.run(1)
    solicit = link.sent[0][1]
    for preference in (0, 7, 3):
        server = SERVER + bytes([preference])
        offer = replace(link.answer(solicit), preference=preference, server_id=server)
        link.client.receive(dhcpv6.emit(offer), link.now)
    assert link.client.state is State.SOLICIT
    link.run(1.2)
    assert link.sent[-1][1].server_id == SERVER + b"\x07"
    link = Link()
    link.change = {"preference": 255}
    link.client.start(0.0)
    link.run(1)
    assert link.types()[:2] == ["SOLICIT", "REQUEST"]


def test_retransmission_doubles_up_to_its_limit() -> None:
    link = Link()
    link.answers = False
    link.client.start(0.0)
    link.run(20000)
    times = [at for at, _ in link.sent]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert 1.0 <= gaps[0] <= 1.1
    assert all(1.89 * a <= b <= 2.11 * a or 3240 <= b <= 3960 for a, b in itertools.pairwise(gaps))
    assert link.sent[0][1].elapsed == 0
    assert len({m.xid for _, m in link.sent}) == 1


def test_rebinding_then_the_end() -> None:
    link = Link()
    link.client.start(0.0)
    link.run(10)
    link.answers = False
    link.run(300)
    assert link.types()[2:] == ["RENEW"] * link.types().count("RENEW") + ["REBIND"] * (
        link.types().count("REBIND")
    ) + ["SOLICIT"] * (link.types().count("SOLICIT") - 1)
    assert {"RENEW", "REBIND"} <= set(link.types())
    rebind = next(m for _, m in link.sent if m.type is Type.REBIND)
    assert rebind.server_id is None
    assert isinstance(link.events[-1], client.Unbound)


def test_release_and_decline() -> None:
    link = Link()
    link.client.start(0.0)
    link.run(10)
    link.client.decline(ADDR, link.now)
    link.run(5)
    assert link.types()[2:] == ["DECLINE", "SOLICIT", "REQUEST"]
    link.client.release(link.now)
    link.run(10)
    assert link.types()[-1] == "RELEASE"
    assert link.client.state is State.STOPPED
    assert link.client.deadline() is None


def test_release_without_an_answer_ends() -> None:
    link = Link()
    link.client.start(0.0)
    link.run(10)
    link.answers = False
    link.client.release(link.now)
    link.run(100)
    assert link.types()[2:] == ["RELEASE"] * 4
    assert link.client.deadline() is None


def test_information_only() -> None:
    link = Link()
    link.client.inform(0.0)
    link.run(10)
    assert link.types() == ["INFORMATION_REQUEST"]
    assert link.events == [client.Informed(DNS, ("a.example",))]
    link.run(86400)
    assert link.types() == ["INFORMATION_REQUEST"] * 2


@pytest.mark.parametrize(
    "change",
    [
        {"xid": 1}, {"client_id": b"\0\3\0\1other!"}, {"client_id": None}, {"server_id": None},
        {"type": Type.RECONFIGURE}, {"status": 2}, {"ia_na": ()},
        {"ia_na": (dhcpv6.IaNa(1, 0, 0, (dhcpv6.Address(ADDR, 9, 8),)),)},
        {"ia_na": (dhcpv6.IaNa(1, 0, 0, (dhcpv6.Address(ip.ALL_NODES, 9, 9),)),)},
        {"ia_na": (dhcpv6.IaNa(2, 0, 0, (dhcpv6.Address(ADDR, 9, 9),)),)},
        {"ia_na": (dhcpv6.IaNa(1, 0, 0, (dhcpv6.Address(ADDR, 9, 9),), status=2),)},
    ],
)  # fmt: skip
def test_answers_that_do_not_count(change: dict[str, Any]) -> None:
    link = Link()
    link.change = change
    link.client.start(0.0)
    link.run(5)
    assert set(link.types()) == {"SOLICIT"}
    assert link.client.statistics().ignored == len(link.sent)


def test_no_binding_begins_anew() -> None:
    link = Link()
    link.client.start(0.0)
    link.run(10)
    link.change = {"ia_na": (dhcpv6.IaNa(1, status=dhcpv6.Status.NO_BINDING),)}
    link.run(50)
    assert link.types()[2:4] == ["RENEW", "SOLICIT"]
    assert isinstance(link.events[-1], client.Unbound)

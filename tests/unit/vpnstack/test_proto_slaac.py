"""Addresses of a host: RFC 4862, RFC 7217, RFC 8981, under virtual time."""

from __future__ import annotations

import random

import pytest

from vpnstack.proto import address, iid, slaac
from vpnstack.proto.address import Origin, State
from vpnstack.proto.slaac import Change
from vpnstack.wire import ip, ndp

MAC = b"\x02\0\0\0\0\x07"
NET = ip.parse_address("2001:db8:1::")
PEER = ip.parse_address("fe80::99")
SECRET = b"s" * 16


class Host:
    """Addresses with a clock that `run` moves to each deadline."""

    def __init__(self, **options: object) -> None:
        self.now = 100.0
        config = slaac.Config(**options)  # type: ignore[arg-type]
        self.addresses = slaac.Addresses(MAC, config, random.Random(1))
        self.probes: list[tuple[float, bytes]] = []
        self.events: list[slaac.Event] = []

    def run(self, until: float) -> list[slaac.Event]:
        """Go on for `until` seconds; returns what happened."""
        end, first = self.now + until, len(self.events)
        while (at := self.addresses.deadline()) is not None and at <= end:
            self.now = max(self.now, at)
            self.step()
        self.now = end
        self.step()
        return self.events[first:]

    def step(self) -> None:
        for probe in self.addresses.transmit(self.now):
            self.probes.append((self.now, probe.target))
            self.nonce = probe.nonce
        while event := self.addresses.next_event():
            self.events.append(event)

    def prefix(self, valid: int, preferred: int, **options: object) -> None:
        prefix = ndp.Prefix(NET, valid=valid, preferred=preferred, **options)  # type: ignore[arg-type]
        self.addresses.receive_prefix(prefix, self.now)
        self.step()

    def of(self, origin: Origin) -> list[address.Entry]:
        return [e for e in self.addresses.table.values() if e.origin is origin]


def test_link_local_is_probed_before_use() -> None:
    host = Host(dad_transmits=2)
    host.addresses.start(host.now)
    addr = ip.eui64(MAC)
    events = host.run(10)
    (first, a), (second, b) = host.probes
    assert a == b == addr
    assert 100 <= first <= 101
    assert second == first + 1
    assert events == [slaac.Event(Change.USABLE, addr, Origin.LINK_LOCAL, 64)]
    assert host.of(Origin.LINK_LOCAL)[0].state is State.PREFERRED


@pytest.mark.parametrize("how", ["probe", "advertisement"])
def test_duplicate_eui64_is_given_up(how: str) -> None:
    host = Host(max_delay=0.0)
    host.addresses.start(host.now)
    host.run(0.5)
    addr = ip.eui64(MAC)
    if how == "probe":
        assert host.addresses.receive_solicitation(addr, ip.UNSPECIFIED_V6, None)
    else:
        assert host.addresses.receive_advertisement(addr, host.now)
    assert [e.change for e in host.run(5)] == [Change.DUPLICATE]
    assert host.addresses.table == {}


def test_resolution_of_a_tentative_address_is_ignored_silently() -> None:
    host = Host(max_delay=0.0)
    host.addresses.start(host.now)
    host.run(0.5)
    assert host.addresses.receive_solicitation(ip.eui64(MAC), PEER, None)
    assert [e.change for e in host.run(5)] == [Change.USABLE]


def test_rfc7527_our_own_probe_that_loops_back_is_no_conflict() -> None:
    host = Host(max_delay=0.0)
    host.addresses.start(host.now)
    host.run(0.5)
    assert host.addresses.receive_solicitation(ip.eui64(MAC), ip.UNSPECIFIED_V6, host.nonce)
    assert [e.change for e in host.run(5)] == [Change.USABLE]


def test_rfc7217_takes_another_identifier_three_times() -> None:
    host = Host(secret=SECRET, max_delay=0.0)
    host.prefix(86400, 3600)
    seen = set[bytes]()
    for _ in range(4):
        host.run(0.1)
        (entry,) = host.of(Origin.STABLE)
        seen.add(entry.addr)
        host.addresses.receive_advertisement(entry.addr, host.now)
    host.run(5)
    assert len(seen) == 4
    assert host.of(Origin.STABLE) == []


def test_rfc7217_is_stable_and_differs_by_prefix_interface_and_secret() -> None:
    one = iid.stable(NET, b"eth0", SECRET, 0)
    assert one == iid.stable(NET, b"eth0", SECRET, 0)
    others = {
        iid.stable(b"\xfd" + NET[1:], b"eth0", SECRET, 0), iid.stable(NET, b"eth1", SECRET, 0),
        iid.stable(NET, b"eth0", b"t" * 16, 0), iid.stable(NET, b"eth0", SECRET, 1),
        iid.stable(NET, b"eth0", SECRET, 0, b"ssid"),
    }  # fmt: skip
    assert len(others | {one}) == 6
    assert one != ip.eui64(MAC)[8:]


def test_rfc5453_reserved_identifiers() -> None:
    assert iid.reserved(bytes(8))
    assert iid.reserved(bytes.fromhex("fdffffffffffff80"))
    assert iid.reserved(bytes.fromhex("02005efffe000001"))
    assert not iid.reserved(bytes.fromhex("fdffffffffffff7f"))


def test_address_of_a_prefix_ages_and_ends() -> None:
    host = Host()
    host.prefix(1000, 100)
    (addr,) = host.addresses.table
    assert addr == NET[:8] + ip.eui64(MAC)[8:]
    assert [e.change for e in host.run(99)] == [Change.USABLE]
    assert [e.change for e in host.run(2)] == [Change.DEPRECATED]
    assert [e.change for e in host.run(900)] == [Change.REMOVED]
    assert host.addresses.deadline() is None


def test_a_new_advertisement_makes_a_deprecated_address_preferred_again() -> None:
    host = Host()
    host.prefix(9000, 100)
    host.run(200)
    host.prefix(9000, 100)
    assert host.events[-1].change is Change.PREFERRED


@pytest.mark.parametrize(
    ("before", "told", "after"),
    [
        (86400, 60, 7200),  # more than two hours left: to two hours, not to a minute
        (3600, 60, 3600),  # less left: nothing is taken away
        (3600, 4000, 4000),  # longer than what is left
        (86400, 8000, 8000),  # more than two hours told
        (86400, 0, 7200),
    ],
)
def test_two_hour_rule(before: int, told: int, after: int) -> None:
    host = Host()
    host.prefix(before, 0)
    host.prefix(told, 0)
    (entry,) = host.addresses.table.values()
    assert entry.valid_until == host.now + after


@pytest.mark.parametrize(
    "prefix",
    [
        ndp.Prefix(NET, autonomous=False),
        ndp.Prefix(NET, length=63),
        ndp.Prefix(NET, valid=10, preferred=11),
        ndp.Prefix(NET, valid=0, preferred=0),
        ndp.Prefix(ip.LINK_LOCAL + bytes(8)),
        ndp.Prefix(ip.ALL_NODES),
    ],
)
def test_prefixes_that_make_no_address(prefix: ndp.Prefix) -> None:
    host = Host()
    host.addresses.receive_prefix(prefix, host.now)
    assert host.addresses.table == {}


def test_infinite_lifetimes() -> None:
    host = Host()
    host.prefix(0xFFFFFFFF, 0xFFFFFFFF)
    assert [e.change for e in host.run(10)] == [Change.USABLE]
    assert host.addresses.deadline() is None


def test_temporary_addresses_follow_each_other() -> None:
    host = Host(temporary=True, temp_preferred=1000.0, temp_valid=2000.0)
    host.prefix(0xFFFFFFFF, 0xFFFFFFFF)
    (first,) = host.of(Origin.TEMPORARY)
    assert 600 <= first.preferred_until - host.now <= 1000
    assert first.valid_until == host.now + 2000
    host.run(first.preferred_until - host.now - 1)
    assert len(host.of(Origin.TEMPORARY)) == 2  # the next is usable before this one ages
    assert host.of(Origin.TEMPORARY)[1].state is State.PREFERRED
    host.run(2)
    assert first.state is State.DEPRECATED
    host.run(20000)
    live = host.of(Origin.TEMPORARY)
    assert first.addr not in host.addresses.table
    assert 2 <= len(live) <= 5
    assert any(e.state is State.PREFERRED for e in live)


def test_temporary_address_does_not_outlive_its_own_limit() -> None:
    host = Host(temporary=True, temp_preferred=1000.0, temp_valid=2000.0)
    host.prefix(86400, 86400)
    (first,) = host.of(Origin.TEMPORARY)
    before = (first.preferred_until, first.valid_until)
    host.run(300)
    host.prefix(86400, 86400)
    assert (first.preferred_until, first.valid_until) == before


def test_short_prefix_makes_no_temporary_address() -> None:
    host = Host(temporary=True)
    host.prefix(100, 4)
    assert host.of(Origin.TEMPORARY) == []


def test_a_flood_of_prefixes_is_bounded() -> None:
    host = Host(temporary=True)
    for i in range(1000):
        prefix = ndp.Prefix(NET[:6] + i.to_bytes(2) + bytes(8))
        host.addresses.receive_prefix(prefix, host.now)
    assert len(host.addresses.table) == 32
    assert host.addresses.statistics().refused > 900


def test_managed_address_is_checked_and_its_conflict_told() -> None:
    host = Host(max_delay=0.0)
    addr = NET[:15] + b"\x55"
    host.addresses.add(addr, 128, host.now, preferred=60, valid=120, origin=Origin.MANAGED)
    host.run(0.1)
    host.addresses.receive_advertisement(addr, host.now)
    assert host.run(3) == [slaac.Event(Change.DUPLICATE, addr, Origin.MANAGED, 128)]


def test_restart_checks_again() -> None:
    host = Host(max_delay=0.0)
    host.addresses.start(host.now)
    host.run(5)
    host.addresses.restart(host.now)
    assert host.of(Origin.LINK_LOCAL)[0].state is State.TENTATIVE
    assert [e.change for e in host.run(5)] == [Change.USABLE]
    assert len(host.probes) == 2

"""Router discovery of a host: RFC 4861, RFC 7559, RFC 8106, under virtual time."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from vpnstack.proto import ndhost
from vpnstack.wire import ip, ndp

R1, R2 = ip.parse_address("fe80::1"), ip.parse_address("fe80::2")
FAR, NEAR = ip.parse_address("2001:db8::9"), ip.parse_address("fe80::77")
NET = ip.parse_address("2001:db8:1::")
DNS = ip.parse_address("2001:db8::53")


@pytest.fixture
def host() -> ndhost.Host:
    return ndhost.Host(ndhost.Config(), random.Random(3))


def events(host: ndhost.Host) -> list[ndhost.Event]:
    found = []
    while event := host.next_event():
        found.append(event)
    return found


def solicitations(host: ndhost.Host, until: float) -> list[float]:
    times, now = list[float](), 0.0
    while (at := host.deadline()) is not None and at <= until:
        now = at
        if host.transmit(now):
            times.append(now)
    return times


def test_rfc7559_backoff_up_to_an_hour(host: ndhost.Host) -> None:
    host.start(0.0)
    times = solicitations(host, 30000)
    assert times[0] <= 1
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert 3.6 <= gaps[0] <= 4.4
    for a, b in itertools.pairwise(gaps):
        assert 1.89 * a <= b <= 2.11 * a or 3240 <= b <= 3960


def test_an_answer_ends_the_solicitations(host: ndhost.Host) -> None:
    host.start(0.0)
    host.receive_ra(R1, ndp.RouterAdvertisement(lifetime=9000), 0.5)
    assert solicitations(host, 8000) == []


def test_a_router_that_is_none_does_not_end_them(host: ndhost.Host) -> None:
    host.start(0.0)
    host.receive_ra(R1, ndp.RouterAdvertisement(lifetime=0), 0.0)
    assert solicitations(host, 100)
    assert host.router() is None


def test_router_ages_and_the_search_begins_again(host: ndhost.Host) -> None:
    host.receive_ra(R1, ndp.RouterAdvertisement(lifetime=30), 0.0)
    host.receive_ra(R2, ndp.RouterAdvertisement(lifetime=60), 0.0)
    assert host.router() == R1
    host.transmit(30.0)
    assert host.router() == R2
    assert ndhost.RouterLost(R1) in events(host)
    host.transmit(60.0)
    assert host.router() is None
    assert host.transmit(61.5)


def test_unreachable_router_gives_way(host: ndhost.Host) -> None:
    for router in (R1, R2):
        host.receive_ra(router, ndp.RouterAdvertisement(), 0.0)
    assert host.router(lambda r: r == R2) == R2
    assert host.router(lambda r: False) in (R1, R2)
    host.unreachable(R1)
    assert host.router() == R2
    host.unreachable(R2)
    assert host.router() == R1


def test_prefix_list(host: ndhost.Host) -> None:
    ra = ndp.RouterAdvertisement(prefixes=(ndp.Prefix(NET[:8] + b"\x05" * 8, valid=50),))
    host.receive_ra(R1, ra, 0.0)
    assert events(host)[-1] == ndhost.PrefixFound(NET, 64)
    host.transmit(50.0)
    assert events(host) == [ndhost.PrefixLost(NET, 64)]
    off = ndp.RouterAdvertisement(prefixes=(ndp.Prefix(NET, on_link=False),))
    host.receive_ra(R1, off, 51.0)
    assert host.prefixes == {}


def test_rfc8106_servers_come_and_go(host: ndhost.Host) -> None:
    ra = ndp.RouterAdvertisement(
        rdnss=(ndp.Rdnss(60, (DNS, FAR)),), dnssl=(ndp.Dnssl(30, ("a.example",)),)
    )
    host.receive_ra(R1, ra, 0.0)
    assert events(host)[-1] == ndhost.DnsChanged((DNS, FAR), ("a.example",))
    host.transmit(30.0)
    assert events(host) == [ndhost.DnsChanged((DNS, FAR), ())]
    gone = ndp.RouterAdvertisement(rdnss=(ndp.Rdnss(0, (DNS,)),))
    host.receive_ra(R1, gone, 31.0)
    assert events(host) == [ndhost.DnsChanged((FAR,), ())]


def test_link_parameters(host: ndhost.Host) -> None:
    ra = ndp.RouterAdvertisement(hop_limit=9, mtu=1400, reachable=5000, retrans=200, managed=True)
    host.receive_ra(R1, ra, 0.0)
    assert ndhost.Link(9, 1400, 5.0, 0.2, True, False) in events(host)
    host.receive_ra(R1, replace(ra, hop_limit=0, mtu=1200, reachable=0, retrans=0), 1.0)
    assert host.link == ndhost.Link(9, 1400, 5.0, 0.2, True, False)


def test_redirect_counts_only_from_the_first_hop(host: ndhost.Host) -> None:
    for router in (R1, R2):
        host.receive_ra(router, ndp.RouterAdvertisement(lifetime=60), 0.0)
    assert not host.receive_redirect(R2, ndp.Redirect(NEAR, FAR))
    assert host.next_hop(FAR) == R1
    assert host.receive_redirect(R1, ndp.Redirect(R2, FAR))
    assert host.next_hop(FAR) == R2
    assert host.receive_redirect(R2, ndp.Redirect(FAR, FAR))
    assert host.next_hop(FAR) == FAR
    host.unreachable(FAR)
    assert host.next_hop(FAR) == R1


def test_redirects_to_a_lost_router_are_forgotten(host: ndhost.Host) -> None:
    for router in (R1, R2):
        host.receive_ra(router, ndp.RouterAdvertisement(), 0.0)
    host.receive_redirect(R1, ndp.Redirect(R2, FAR))
    host.receive_ra(R2, ndp.RouterAdvertisement(lifetime=0), 1.0)
    assert host.next_hop(FAR) == R1


def test_floods_are_bounded(host: ndhost.Host) -> None:
    for i in range(500):
        addr = R1[:14] + i.to_bytes(2)
        ra = ndp.RouterAdvertisement(
            prefixes=(ndp.Prefix(NET[:6] + i.to_bytes(2) + bytes(8)),),
            rdnss=(ndp.Rdnss(60, (addr,)),), dnssl=(ndp.Dnssl(60, (f"d{i}",)),),
        )  # fmt: skip
        host.receive_ra(addr, ra, 0.0)
        host.receive_redirect(host.router() or R1, ndp.Redirect(NEAR, FAR[:14] + i.to_bytes(2)))
    sizes = [
        len(t)
        for t in (host.routers, host.prefixes, host.servers, host.domains, host.redirects)
    ]  # fmt: skip
    assert sizes == [16, 32, 8, 16, 256]
    assert host.router() == R1[:14] + b"\0\0"

"""A host that configures itself from our own router, DHCP server and neighbours."""

from __future__ import annotations

import random
from typing import Any

import pytest

from vpnstack.proto import acd, dhcp, dhcp_client, dhcpv6_client, ra, slaac
from vpnstack.services.dhcp import DhcpService
from vpnstack.stack import configured
from vpnstack.stack.autoconf import Autoconf, Config
from vpnstack.stack.stack import Stack
from vpnstack.wire import arp, icmp, ip, ndp
from vpnstack.wire import dhcp as wire_dhcp

Lan = Any  # conftest's
NET = ip.parse_address("fd00:1::")
DNS6, DNS4 = ip.parse_address("fd00:1::53"), ip.parse_address("10.0.0.53")
ROUTER4 = ip.parse_address("10.0.0.1")
QUICK = acd.Config(0.1, 3, 0.1, 0.2, 0.2, 2, 0.2, 10.0)


def events(auto: Autoconf) -> list[configured.Event]:
    found = []
    while event := auto.next_event():
        found.append(event)
    return found


def router(
    lan: Lan, number: int = 1, *, routes: tuple[tuple[bytes, int, bytes], ...] = (), **options: Any
) -> Stack:
    """A router with DHCP, advertisements and an address in both families."""
    stack: Stack = lan.stack(number, "10.0.0.1/24", "fd00:1::1/64")
    fields: dict[str, Any] = {
        "slla": stack.interface.mac, "mtu": 1400, "prefixes": (ndp.Prefix(NET),),
        "rdnss": (ndp.Rdnss(600, (DNS6,)),), "dnssl": (ndp.Dnssl(600, ("lab.example",)),),
    }  # fmt: skip
    advertisement = ndp.RouterAdvertisement(**(fields | options))
    rng = random.Random(1)
    stack.resolution.router = ra.Router(ra.Config(advertisement, max_ra_delay=0.0), rng)
    stack.resolution.router.start(lan.now)
    first, last = ip.parse_address("10.0.0.10"), ip.parse_address("10.0.0.20")
    config = dhcp.Config(
        ROUTER4, 24, first, last, router=ROUTER4, dns=(DNS4,), domain="old.example",
        search=("a.example", "b.a.example"), mtu=1380, lease_time=100,
        routes=routes,
    )  # fmt: skip
    DhcpService(stack, dhcp.Server(config))
    return stack


def test_host_gets_everything(lan: Lan) -> None:
    router(lan)
    auto = lan.host(2, Config(claims=QUICK))
    lan.run(12)
    told = events(auto)
    own6 = NET[:8] + ip.eui64(auto.stack.interface.mac)[8:]
    own4 = ip.parse_address("10.0.0.10")
    assert configured.AddressAdded(own6, 64, "STABLE") in told
    assert configured.AddressAdded(own4, 24, "DHCP") in told
    assert configured.RouterChanged(4, ROUTER4) in told
    assert configured.RouterChanged(6, lan.members[0][0].interface.link_local) in told
    assert auto.dns == configured.DnsChanged(
        (DNS6, DNS4), ("lab.example", "a.example", "b.a.example")
    )
    interface = auto.stack.interface
    assert {own4, own6, interface.link_local} == interface.local
    assert interface.mtu == 1380
    assert interface.on_link(NET[:15] + b"\x77")
    assert not interface.on_link(ip.parse_address("fd00:2::1"))
    assert interface.next_hop(ip.parse_address("2001:db8::1")) is not None


def test_no_frame_before_its_check_uses_the_address(lan: Lan) -> None:
    router(lan)
    auto = lan.host(2, Config(ipv4=False, addresses=slaac.Config(secret=b"s" * 16)))
    lan.run(10)
    mac = auto.stack.interface.mac
    usable = set[bytes]()
    probed = set[bytes]()
    for _, frame in lan.frames:
        if frame[6:12] != mac or frame[12:14] != b"\x86\xdd":
            continue
        src = frame[22:38]
        if frame[54] == 135 and src == ip.UNSPECIFIED_V6:
            probed.add(frame[62:78])
        elif src != ip.UNSPECIFIED_V6:
            usable.add(src)
    assert usable
    assert usable <= probed
    assert ip.eui64(mac) not in probed  # RFC 7217: nothing tells the link address


def test_solicited_node_groups_are_reported_before_the_probe(lan: Lan) -> None:
    auto = lan.host(2, Config(ipv4=False))
    lan.run(5)
    group = ip.solicited_node(auto.stack.interface.link_local)
    kinds = [
        "report" if frame[20] == 0 else "probe"
        for _, frame in lan.frames
        if group in frame and (frame[20] == 0 or frame[54] == 135)
    ]
    assert kinds[0] == "report"
    assert kinds.count("probe") == 1


def test_an_offer_is_answered_at_once(lan: Lan) -> None:
    """With no other timer in between: the times of RFC 2131 4.1 are for what gets no answer."""
    router(lan)
    quick = dhcp_client.Config(first_wait=50.0)
    auto = lan.host(2, Config(ipv6=False, dhcp=quick, claims=QUICK))
    lan.run(5)
    assert configured.AddressAdded(ip.parse_address("10.0.0.10"), 24, "DHCP") in events(auto)


def test_lease_renewed_then_lost(lan: Lan) -> None:
    server = router(lan)
    auto = lan.host(2, Config(ipv6=False, claims=QUICK))
    lan.run(400)
    assert [e for e in events(auto) if isinstance(e, configured.AddressRemoved)] == []
    lan.members = [member for member in lan.members if member[0] is not server]
    lan.run(101)
    own = ip.parse_address("10.0.0.10")
    assert events(auto) == [
        configured.AddressRemoved(own), configured.RouterChanged(4, None),
        configured.DnsChanged((), ()),
    ]  # fmt: skip
    assert own not in auto.stack.interface.local


def test_taken_dhcp_address_is_declined(lan: Lan) -> None:
    server = router(lan)
    lan.stack(9, "10.0.0.10/24")
    auto = lan.host(2, Config(ipv6=False, claims=QUICK))
    lan.run(30)
    told = events(auto)
    assert configured.Conflict(ip.parse_address("10.0.0.10")) in told
    assert configured.AddressAdded(ip.parse_address("10.0.0.11"), 24, "DHCP") in told
    service: Any = server.udp.ports[None, 67]
    assert dict(service.server.statistics().received)["DECLINE"] == 1


def test_release(lan: Lan) -> None:
    server = router(lan)
    auto = lan.host(2, Config(ipv6=False, claims=QUICK))
    lan.run(10)
    auto.stop(lan.now)
    lan.run(2)
    service: Any = server.udp.ports[None, 67]
    assert dict(service.server.statistics().received)["RELEASE"] == 1
    assert auto.stack.interface.addresses == []


def test_fallback_to_link_local_and_back(lan: Lan) -> None:
    auto = lan.host(2, Config(ipv6=False, claims=QUICK, link_local4=10.0))
    lan.run(15)
    (added,) = [e for e in events(auto) if isinstance(e, configured.AddressAdded)]
    assert added.origin == "LINK_LOCAL"
    assert added.addr[:2] == b"\xa9\xfe"
    router(lan)
    lan.run(200)
    assert configured.AddressRemoved(added.addr) in events(auto)
    assert [str(a) for a in auto.stack.interface.addresses] == ["10.0.0.10/24"]


def test_two_link_local_hosts_defend_and_give_way(lan: Lan) -> None:
    one = lan.host(2, Config(ipv6=False, dhcp=None, claims=QUICK, link_local4=0.0))
    lan.run(5)
    (address,) = one.stack.interface.addresses
    mac = b"\x02\0\0\0\0\x66"
    rival = lan.stack(0x66)
    for _ in range(2):
        claim = arp.emit(arp.request(mac, address.packed, address.packed))
        rival.interface.send_frame(b"\xff" * 6, claim, 0x806)
        lan.run(1)
    told = events(one)
    assert configured.Conflict(address.packed) in told
    assert configured.AddressRemoved(address.packed) in told
    lan.run(5)
    assert one.stack.interface.addresses != [address]


@pytest.mark.parametrize("secret", [None, b"s" * 16])
def test_duplicate_link_local_between_two_hosts(lan: Lan, secret: bytes | None) -> None:
    """Without RFC 7217 the second stays silent; with it, it takes another identifier."""
    first = lan.host(2, Config(ipv4=False, addresses=slaac.Config(secret=secret)))
    lan.run(5)
    second = lan.host(2, Config(ipv4=False, addresses=slaac.Config(secret=secret)))
    second.stack.interface.config = first.stack.interface.config
    lan.members[1][0].interface.config = first.stack.interface.config

    # The same link address twice: frames to it reach both, as a hub would have it.
    lan.run(10)
    conflict = configured.Conflict(first.stack.interface.link_local)
    assert conflict in events(second)
    assert conflict not in events(first)
    mine = second.stack.interface
    assert (mine.link_local in mine.local) == (secret is not None)


def test_router_gone_and_unreachable(lan: Lan) -> None:
    server = router(lan)
    auto = lan.host(2, Config(ipv4=False))
    lan.run(10)
    interface = auto.stack.interface
    lan.members = [member for member in lan.members if member[0] is not server]
    interface.resolve(ip.parse_address("2001:db8::1"), lan.now, None)
    lan.run(1900)
    assert interface.next_hop(ip.parse_address("2001:db8::1")) is None
    assert configured.RouterChanged(6, None) in events(auto)


def test_advertisement_from_elsewhere_is_ignored(lan: Lan) -> None:
    """Row 11: a router advertisement with a hop limit below 255 or a global source."""
    auto = lan.host(2, Config(ipv4=False))
    lan.run(5)
    events(auto)
    message = ndp.RouterAdvertisement(prefixes=(ndp.Prefix(NET),))
    for src, hops in ((ip.parse_address("fe80::1"), 254), (ip.parse_address("fd00:1::1"), 255)):
        body = ndp.emit(message, src, ip.ALL_NODES)
        packet = ip.emit(ip.Repr(src, ip.ALL_NODES, ip.ICMPV6, ttl=hops), body)
        frame = ip.multicast_mac(ip.ALL_NODES) + b"\x02\0\0\0\0\x01\x86\xdd" + packet
        lan.inject(auto.stack, frame)
    lan.run(5)
    assert events(auto) == []
    assert auto.stack.resolution.malformed == 2


def test_manual_addresses_are_checked_too(lan: Lan) -> None:
    lan.stack(1, "fd00:1::5/64")
    stack = lan.stack(2, "fd00:1::5/64", "fd00:1::6/64")
    auto = Autoconf(stack, Config(ipv4=False), random.Random(1))
    auto.start(lan.now)
    lan.run(5)
    assert ip.parse_address("fd00:1::5") not in stack.interface.local
    assert ip.parse_address("fd00:1::6") in stack.interface.local
    assert configured.Conflict(ip.parse_address("fd00:1::5")) in events(auto)


def test_ping_from_the_configured_host(lan: Lan) -> None:
    server = router(lan)
    auto = lan.host(2, Config(claims=QUICK))
    lan.run(12)
    src = auto.stack.interface.source_for(ip.parse_address("fd00:1::1"))
    assert src is not None
    echo = icmp.emit(icmp.Echo(False, 1, 1, b"x"), src, ip.parse_address("fd00:1::1"))
    packet = ip.emit(ip.Repr(src, ip.parse_address("fd00:1::1"), ip.ICMPV6), echo)
    auto.stack.interface.send_packet(packet, lan.now)
    lan.run(1)
    assert server.statistics().echoes_answered == 1


@pytest.mark.parametrize(
    ("config", "ident"),
    [
        (Config(), b"\xff\0\0\0\1\0\3\0\1"),
        (Config(dhcpv6=dhcpv6_client.Config(duid=b"\0\4uuid", iaid=7)), b"\xff\0\0\0\7\0\4uuid"),
        (Config(dhcpv6=None), b"\xff\0\0\0\1\0\3\0\1"),
        (Config(dhcp=dhcp_client.Config(client_id=b"mine")), b"mine"),
    ],
    ids=["default", "given-duid", "no-dhcpv6", "given-identifier"],
)
def test_rfc4361_both_versions_of_dhcp_agree_on_who_we_are(
    lan: Lan, config: Config, ident: bytes
) -> None:
    auto = lan.host(2, config)
    lan.run(3)
    mac = auto.stack.interface.mac
    want = ident + mac if ident.endswith(b"\0\3\0\1") else ident
    [asked, *_] = [frame for _, frame in lan.frames if frame[36:38] == b"\0\x43"]
    assert wire_dhcp.parse(asked[42:]).get(wire_dhcp.Option.CLIENT_ID) == want
    if config.dhcpv6 is not None and auto.v6 is not None and auto.v6.client is not None:
        assert want == b"mine" or want.endswith(auto.v6.client.duid)


def test_rfc3442_routes_of_a_lease_are_used_while_it_lasts(lan: Lan) -> None:
    other, third = ip.parse_address("10.0.0.2"), ip.parse_address("10.0.0.3")
    routes = (
        (ip.parse_address("172.16.0.0"), 12, other),
        (ip.parse_address("172.16.9.0"), 24, third),
        (ip.parse_address("192.0.2.0"), 24, bytes(4)),
    )
    router(lan, routes=routes)
    auto = lan.host(2, Config(ipv6=False, claims=QUICK))
    lan.run(12)
    hops = {
        "172.16.1.1": other, "172.31.255.255": other, "172.16.9.9": third,
        "192.0.2.5": ip.parse_address("192.0.2.5"), "8.8.8.8": ROUTER4, "172.32.0.1": ROUTER4,
    }  # fmt: skip
    for dst, hop in hops.items():
        assert auto.stack.interface.next_hop(ip.parse_address(dst)) == hop
    auto.stop(lan.now)
    lan.run(5)
    assert auto.stack.interface.next_hop(ip.parse_address("172.16.1.1")) is None

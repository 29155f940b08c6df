"""Fuzz targets of the slow-path codecs and their machines: arp, ndp, icmp, ip, dhcp, dns.

`TestOneInput` takes the first octet as the choice of target.  With atheris:
`python tests/fuzz/fuzz_vpnstack_wire.py [corpus]`.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable

from vpnstack.proto import dhcp_client, dhcpv6_client, ndhost, slaac
from vpnstack.proto.dhcp import Config, Server
from vpnstack.proto.dnscache import Key
from vpnstack.proto.dnsmatch import matching
from vpnstack.proto.icmp import Errors
from vpnstack.proto.igmp import Host as IgmpHost
from vpnstack.services.dns import Forwarder, question_for
from vpnstack.services.names import parse_hosts
from vpnstack.services.resolver import parse_servers
from vpnstack.wire import (
    arp,
    dhcp,
    dhcpv6,
    ethernet,
    icmp,
    icmpext,
    igmp,
    ip,
    ipopt,
    mld,
    names,
    ndp,
)
from vpnstack.wire.malformed import Malformed

A4, B4 = b"\xc0\xa8\x7f\x02", b"\xc0\xa8\x7f\x01"
A6, B6 = ip.eui64(b"\x02\0\0\0\0\x02"), ip.eui64(b"\x02\0\0\0\0\x01")


def quiet(parse: Callable[[bytes], object]) -> Callable[[bytes], None]:
    """Run `parse`: it may refuse with `Malformed` and in no other way."""

    def run(data: bytes) -> None:
        try:
            str(parse(data))
        except Malformed:
            pass

    return run


def seal(data: bytes) -> bytes:
    """Give an ICMPv6 message its right checksum, so that what is behind the check is reached."""
    if len(data) < 4:
        return data
    zero = data[:2] + b"\0\0" + data[4:]
    right = ip.checksum(zero, ip.pseudo_sum(A6, B6, ip.ICMPV6, len(zero)))
    return zero[:2] + right.to_bytes(2) + zero[4:]


def run_icmp(data: bytes) -> None:
    """Parse as both families and look into the quote."""
    quiet(lambda d: icmp.parse(d, A4, B4))(data)
    quiet(lambda d: icmp.parse(seal(d), A6, B6))(data)
    for version in (4, 6):
        icmp.quoted(icmp.Error(version, 3, 3, 0, data))
        icmpext.parse(icmp.Error(version, 3, 3, int.from_bytes(data[:4]), data[4:]))
    for kind in icmp.Kind:
        built = Errors().build(data, kind, B4 if data[:1] < b"\x50" else B6, 0.0)
        assert built is None or len(built) <= icmp.V6_ERROR_MAX


def run_dhcp(data: bytes) -> None:
    """Feed one message to a server with one address."""
    quiet(dhcp.parse)(data)
    server = Server(Config(B4, 24, A4, A4))
    for now in (0.0, 1.0):
        server.receive(data, now)
    assert len(server.pool) <= 1


def run_dns(data: bytes) -> None:
    """Ask a forwarder without upstream, and match the octets as an answer."""
    forwarder = Forwarder({"host.internal": (B4, B6)}, None, hosts=None)
    wire = asyncio.run(forwarder.answer(data, tcp=False))
    assert wire is None or len(wire) <= 4096
    matching(question_for(Key(next(parse_hosts(["1.2.3.4 a.b"]))[0], 1, 1)), data)


def run_text(data: bytes) -> None:
    """Read the octets as the host's files."""
    lines = tuple(data.decode("utf-8", "replace").splitlines())
    parse_servers(lines)
    list(parse_hosts(lines))


def run_groups(data: bytes) -> None:
    """Parse as IGMP with its right checksum; a query reaches a host that joined one group."""
    if len(data) < 4:
        return
    zero = data[:2] + b"\0\0" + data[4:]
    host = IgmpHost(random.Random(1))
    host.join(b"\xef\1\1\1", 0.0)
    try:
        host.receive(igmp.parse(zero[:2] + ip.checksum(zero).to_bytes(2) + zero[4:]), A4, 0.0)
    except Malformed:
        return
    host.transmit(A4, 100.0)
    assert len(host.groups) == 1


def run_dhcp_clients(data: bytes) -> None:
    """Feed one message to both clients as the answer to their question."""
    four = dhcp_client.Client(A6[:6], dhcp_client.Config(), random.Random(1))
    four.start(0.0)
    for out in four.transmit(1.0):
        xid = out.payload[4:8]
        four.receive(b"\2" + data[1:4] + xid + data[8:28] + A6[:6] + data[34:], 1.0)
    six = dhcpv6_client.Client(A6[:6], dhcpv6_client.Config(), random.Random(1))
    six.start(0.0)
    for question in six.transmit(1.0):
        known = dhcpv6.option(1, six.duid) + dhcpv6.option(2, b"server")
        six.receive(data[:1] + question[1:4] + known + data[4:], 1.0)
    quiet(dhcpv6.parse)(data)
    quiet(dhcp.parse_search)(data)
    quiet(dhcp.parse_routes)(data)


def run_ra(data: bytes) -> None:
    """Feed a discovery message to router discovery and to the addresses; both stay bounded."""
    try:
        message = ndp.parse(seal(data), A6, B6, 255)
    except Malformed:
        return
    host = ndhost.Host(ndhost.Config(), random.Random(1))
    own = slaac.Addresses(A6[:6], slaac.Config(temporary=True), random.Random(1))
    if isinstance(message, ndp.RouterAdvertisement):
        host.receive_ra(A6, message, 0.0)
        for prefix in message.prefixes:
            own.receive_prefix(prefix, 0.0)
    elif isinstance(message, ndp.Redirect):
        host.receive_redirect(A6, message)
    for now in (1.0, 1e6):
        host.transmit(now)
        own.transmit(now)
    assert len(own.table) <= own.config.addresses_max


TARGETS: tuple[Callable[[bytes], None], ...] = (
    quiet(arp.parse),
    quiet(ethernet.parse),
    quiet(ip.parse),
    quiet(lambda data: ip.upper(data)),
    quiet(lambda data: names.parse(data, "fuzz")),
    quiet(lambda data: ndp.parse(seal(data), A6, B6, 255)),
    run_icmp,
    run_dhcp,
    run_dns,
    run_text,
    run_groups,
    quiet(lambda data: mld.parse(seal(data), A6, B6, 1)),
    run_dhcp_clients,
    quiet(ipopt.parse),
    run_ra,
)


def TestOneInput(data: bytes) -> None:
    """Run one case."""
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])


TestOneInput.__test__ = False  # type: ignore[attr-defined]

if __name__ == "__main__":
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

    atheris.Setup(sys.argv, TestOneInput)
    atheris.Fuzz()

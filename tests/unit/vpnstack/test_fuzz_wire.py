"""A seeded run of the fuzz targets in the fast lane: mutations of real messages."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable
from pathlib import Path

import dns.message
import pytest

from vpnstack.wire import arp, dhcp, dhcpv6, ethernet, icmp, igmp, ip, mld, names, ndp

A4, B4 = b"\xc0\xa8\x7f\x02", b"\xc0\xa8\x7f\x01"
A6, B6 = ip.eui64(b"\x02\0\0\0\0\x02"), ip.eui64(b"\x02\0\0\0\0\x01")
MAC = b"\x02\0\0\0\0\x02"
RA = ndp.RouterAdvertisement(
    slla=MAC, mtu=1500, prefixes=(ndp.Prefix(A6),), rdnss=(ndp.Rdnss(9, (B6,)),),
    dnssl=(ndp.Dnssl(9, ("lab.example",)),),
)  # fmt: skip
PING = icmp.emit(icmp.Echo(False, 1, 1, b"data"), A4, B4)
PACKETS = [
    ip.emit(ip.Repr(A4, B4, ip.ICMP), PING),
    ip.emit(ip.Repr(A6, B6, ip.DESTINATION), bytes([ip.FRAGMENT, 0]) + bytes(22)),
]
DISCOVER = dhcp.Repr(1, 1, MAC, ((53, b"\x01"), (55, bytes(range(1, 122))), (61, b"\0id")))
G4, G6 = b"\xef\1\1\1", ip.ALL_NODES
OFFER = dhcp.Repr(
    2, 1, MAC, ((53, b"\2"), (54, B4), (51, b"\0\0\1\0"), (1, b"\xff\xff\0\0")), yiaddr=A4
)
REPLY = dhcpv6.Repr(
    dhcpv6.Type.ADVERTISE, 1, ia_na=(dhcpv6.IaNa(1, 9, 9, (dhcpv6.Address(B6, 9, 9),)),),
    ia_pd=(dhcpv6.IaPd(1, 9, 9, (dhcpv6.Prefix(B6, 64, 9, 9),)),), search=("a.example",),
)  # fmt: skip
REDIRECT = ndp.Redirect(A6, B6, MAC, PACKETS[0])
SEEDS = [
    [arp.emit(arp.request(MAC, A4, B4))],
    [ethernet.emit(ethernet.Repr(MAC, MAC, 0x800), b"")],
    PACKETS,
    PACKETS,
    [names.emit(["lab.example", "b"])],
    [
        ndp.emit(message, A6, B6)
        for message in (RA, ndp.NeighbourSolicitation(B6, MAC), ndp.NeighbourAdvertisement(B6))
    ],
    [PING, *PACKETS, icmp.emit(icmp.error(icmp.Kind.TOO_BIG, 4, PACKETS[0]), B4, A4)],
    [dhcp.emit(DISCOVER), dhcp.emit(DISCOVER)[:270]],
    [dns.message.make_query("host.internal", "A", use_edns=0).to_wire()],
    [b"nameserver 1.2.3.4\nnameserver fe80::1%lo\n", b"1.2.3.4 a b # c\n::2 d..e\n"],
    [igmp.emit(igmp.Query(G4, sources=(A4,))), igmp.emit(igmp.Report(G4))],
    [
        mld.emit(mld.Query(G6, sources=(A6,)), A6, B6),
        mld.emit(mld.ReportV2((mld.Record(mld.Mode.ALLOW, G6, (A6,)),)), A6, B6),
    ],
    [dhcp.emit(OFFER), dhcpv6.emit(REPLY)],
    [b"\x83\x07\4\x0a\0\0\1\0", igmp.ROUTER_ALERT],
    [ndp.emit(RA, A6, B6), ndp.emit(REDIRECT, A6, B6)],
]


def load() -> Callable[[bytes], None]:
    path = Path(__file__).parents[2] / "fuzz" / "fuzz_vpnstack_wire.py"
    spec = importlib.util.spec_from_file_location("fuzz_vpnstack_wire", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert len(module.TARGETS) == len(SEEDS)
    return module.TestOneInput  # type: ignore[no-any-return]


def mutated(seed: bytes, rng: random.Random) -> bytes:
    data = bytearray(seed)
    for _ in range(rng.randrange(6)):
        data[rng.randrange(len(data))] = rng.choice((0, 1, 0xFF, 0x80, rng.randrange(256)))
    return bytes(data[: rng.randrange(len(data) + 1)] if rng.random() < 0.3 else data)


@pytest.mark.parametrize("target", range(len(SEEDS)))
def test_mutations_are_refused_or_read(target: int) -> None:
    one_input, rng = load(), random.Random(target)
    for _ in range(600):
        one_input(bytes([target]) + mutated(rng.choice(SEEDS[target]), rng))
        one_input(bytes([target]) + rng.randbytes(rng.randrange(80)))

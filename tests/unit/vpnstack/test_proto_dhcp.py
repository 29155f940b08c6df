"""The DHCP server: RFC 2131 4.3 by client state, and row 9 of the defence checklist."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from vpnstack.proto.dhcp import Config, Reply, Server
from vpnstack.proto.leases import State
from vpnstack.wire import dhcp, ip, names
from vpnstack.wire.dhcp import Option, Type

US, FIRST = b"\xc0\xa8\x7f\x01", b"\xc0\xa8\x7f\x03"
LAST, MAC = b"\xc0\xa8\x7f\x0a", b"\x02\0\0\0\0\x02"
CONFIG = Config(US, 24, FIRST, LAST, router=US, dns=(US,), domain="lab", mtu=1400)
ASK = bytes([1, 3, 6, 12, 15, 26, 28, 51, 58, 59, 119, 121])


def mac(n: int) -> bytes:
    return b"\x02\0\0\0" + n.to_bytes(2)


def message(kind: Type, hw: bytes = MAC, *options: tuple[int, bytes], **more: bytes) -> dhcp.Repr:
    head = ((int(Option.MESSAGE_TYPE), bytes([kind])), (int(Option.PARAMETER_LIST), ASK))
    return replace(dhcp.Repr(1, 0xABCD, hw, head + options), **more)  # type: ignore[arg-type]


def ask(server: Server, request: dhcp.Repr, now: float = 0.0) -> dhcp.Repr | None:
    reply = server.receive(dhcp.emit(request), now)
    return dhcp.parse(reply.payload) if reply else None


def selecting(addr: bytes, hw: bytes = MAC, server: bytes = US) -> dhcp.Repr:
    return message(Type.REQUEST, hw, (Option.REQUESTED_ADDRESS, addr), (Option.SERVER_ID, server))


def bound(server: Server, hw: bytes = MAC, now: float = 0.0) -> bytes:
    offer = ask(server, message(Type.DISCOVER, hw), now)
    assert offer is not None
    assert offer.type is Type.OFFER
    ack = ask(server, selecting(offer.yiaddr, hw), now)
    assert ack is not None
    assert (ack.type, ack.yiaddr) == (Type.ACK, offer.yiaddr)
    return ack.yiaddr


def test_discover_offer_request_ack() -> None:
    server = Server(CONFIG)
    addr = bound(server)
    assert addr == FIRST
    (lease,) = server.leases(0.0)
    assert (lease.addr, lease.mac, lease.state, lease.until) == (FIRST, MAC, State.BOUND, 86400.0)


def test_options_are_those_asked_for() -> None:
    config = replace(CONFIG, search=("lab.example",), routes=((b"\x0a\0\0\0", 8, US),))
    offer = ask(Server(config), message(Type.DISCOVER, MAC, (Option.HOST_NAME, b"vm1")))
    assert offer is not None
    assert dict(offer.options) == {
        53: b"\x02", 54: US, 51: (86400).to_bytes(4), 1: b"\xff\xff\xff\0", 3: US, 6: US,
        12: b"vm1", 15: b"lab", 26: (1400).to_bytes(2), 28: b"\xc0\xa8\x7f\xff",
        58: (43200).to_bytes(4), 59: (75600).to_bytes(4), 119: names.emit(["lab.example"]),
        121: b"\x08\x0a" + US + b"\0" + US,
    }  # fmt: skip
    plain = dhcp.Repr(1, 1, MAC, ((53, b"\x01"), (55, b"\x03")))
    offer = ask(Server(config), plain)
    assert offer is not None
    assert set(dict(offer.options)) == {53, 54, 51, 3}


def test_small_client_gets_what_fits() -> None:
    search = tuple(f"{'x' * 50}{i}.example" for i in range(15))
    server = Server(replace(CONFIG, search=search))
    reply = server.receive(dhcp.emit(message(Type.DISCOVER)), 0.0)
    assert reply is not None
    assert len(reply.payload) <= 576 - 28
    assert dhcp.parse(reply.payload).get(Option.DOMAIN_SEARCH) is None
    big = message(Type.DISCOVER, MAC, (Option.MAX_MESSAGE_SIZE, (1500).to_bytes(2)))
    offer = ask(server, big)
    assert offer is not None
    assert offer.get(Option.DOMAIN_SEARCH) == names.emit(search)


def test_destination_follows_flag_and_ciaddr() -> None:
    server = Server(CONFIG)

    def where(request: dhcp.Repr) -> tuple[bytes, bytes]:
        reply = server.receive(dhcp.emit(request), 0.0)
        assert isinstance(reply, Reply)
        return reply.dst, reply.mac

    assert where(message(Type.DISCOVER)) == (FIRST, MAC)
    assert where(replace(message(Type.DISCOVER), broadcast=True)) == (b"\xff" * 4, b"\xff" * 6)
    bound(server)
    assert where(message(Type.REQUEST, ciaddr=FIRST)) == (FIRST, MAC)
    wrong = message(Type.REQUEST, MAC, (Option.REQUESTED_ADDRESS, b"\x0a\0\0\x01"))
    assert where(wrong) == (b"\xff" * 4, b"\xff" * 6)  # NAK


def test_renew_extends_the_lease() -> None:
    server = Server(CONFIG)
    bound(server)
    ack = ask(server, message(Type.REQUEST, ciaddr=FIRST), 43200.0)
    assert ack is not None
    assert (ack.type, ack.yiaddr, ack.ciaddr) == (Type.ACK, FIRST, FIRST)
    assert server.leases(100000.0)[0].until == 43200.0 + 86400.0
    assert server.leases(200000.0) == ()


@pytest.mark.parametrize("addr", [b"\x0a\0\0\x05", US, b"\xc0\xa8\x7f\xff", b"\xc0\xa8\x7f\0"])
def test_init_reboot_on_wrong_network_gets_nak(addr: bytes) -> None:
    nak = ask(Server(CONFIG), message(Type.REQUEST, MAC, (Option.REQUESTED_ADDRESS, addr)))
    assert nak is not None
    assert (nak.type, nak.yiaddr, nak.get(Option.LEASE_TIME)) == (Type.NAK, bytes(4), None)


def test_init_reboot_and_rebind_after_our_restart_are_taken_over() -> None:
    reboot = message(Type.REQUEST, MAC, (Option.REQUESTED_ADDRESS, LAST))
    for request in (reboot, message(Type.REQUEST, ciaddr=LAST)):
        ack = ask(Server(CONFIG), request)
        assert ack is not None
        assert (ack.type, ack.yiaddr) == (Type.ACK, LAST)


def test_address_of_another_gets_nak() -> None:
    server = Server(CONFIG)
    addr = bound(server)
    other = mac(9)
    wanted = (Option.REQUESTED_ADDRESS, addr)
    for request in (
        message(Type.REQUEST, other, wanted),
        message(Type.REQUEST, other, ciaddr=addr),
        selecting(addr, other),
    ):
        nak = ask(server, request)
        assert nak is not None
        assert nak.type is Type.NAK
    assert server.leases(0.0)[0].mac == MAC


def test_selecting_without_an_offer_gets_nak() -> None:
    nak = ask(Server(CONFIG), selecting(LAST))
    assert nak is not None
    assert nak.type is Type.NAK


def test_request_for_another_server_frees_the_offer() -> None:
    server = Server(replace(CONFIG, last=FIRST))
    assert ask(server, message(Type.DISCOVER)) is not None
    assert ask(server, message(Type.DISCOVER, mac(9))) is None
    assert ask(server, selecting(FIRST, server=b"\x01\x01\x01\x01"), 1.0) is None
    assert ask(server, message(Type.DISCOVER, mac(9)), 2.0) is not None


def test_release_and_return_gives_the_same_address() -> None:
    server = Server(CONFIG)
    bound(server, mac(1))
    addr = bound(server)
    stranger = message(Type.RELEASE, mac(7), (Option.SERVER_ID, US), ciaddr=addr)
    assert ask(server, stranger) is None
    assert len(server.leases(0.0)) == 2
    assert ask(server, message(Type.RELEASE, MAC, (Option.SERVER_ID, US), ciaddr=addr)) is None
    assert [lease.mac for lease in server.leases(0.0)] == [mac(1)]
    assert bound(server, mac(20)) != addr
    assert bound(server) == addr


def test_release_and_decline_meant_for_another_server_are_not_ours() -> None:
    server = Server(CONFIG)
    addr, other = bound(server), (int(Option.SERVER_ID), b"\x01\x01\x01\x01")
    ask(server, message(Type.RELEASE, MAC, other, ciaddr=addr))
    ask(server, message(Type.DECLINE, MAC, other, (Option.REQUESTED_ADDRESS, addr)))
    assert [lease.addr for lease in server.leases(0.0)] == [addr]


def test_decline_takes_the_address_out_of_use() -> None:
    server = Server(CONFIG)
    addr = bound(server)
    declined = (Option.REQUESTED_ADDRESS, addr), (Option.SERVER_ID, US)
    assert ask(server, message(Type.DECLINE, mac(7), *declined)) is None
    assert len(server.leases(0.0)) == 1
    assert ask(server, message(Type.DECLINE, MAC, *declined)) is None
    assert bound(server) == b"\xc0\xa8\x7f\x04"
    wanted = message(Type.DISCOVER, mac(5), (Option.REQUESTED_ADDRESS, addr))
    offers = [ask(server, wanted, now) for now in (1.0, 700.0)]
    assert [offer.yiaddr == addr for offer in offers if offer] == [False, False]
    late = ask(server, replace(wanted, chaddr=mac(6)), 700.0)
    assert late is not None
    assert late.yiaddr == addr


def test_inform_gets_options_without_a_lease() -> None:
    server = Server(CONFIG)
    ack = ask(server, message(Type.INFORM, ciaddr=b"\xc0\xa8\x7f\x63"))
    assert ack is not None
    assert (ack.type, ack.yiaddr) == (Type.ACK, bytes(4))
    assert ack.get(Option.DNS_SERVERS) == US
    assert not {51, 58, 59} & set(dict(ack.options))
    assert ask(server, message(Type.INFORM, ciaddr=b"\x0a\0\0\x01")) is None
    assert server.leases(0.0) == ()


def test_rapid_commit() -> None:
    request = message(Type.DISCOVER, MAC, (Option.RAPID_COMMIT, b""))
    ack = ask(Server(CONFIG), request)
    assert ack is not None
    assert (ack.type, ack.get(Option.RAPID_COMMIT), ack.yiaddr) == (Type.ACK, b"", FIRST)
    offer = ask(Server(replace(CONFIG, rapid_commit=False)), request)
    assert offer is not None
    assert offer.type is Type.OFFER


def test_fixed_lease_by_mac_and_by_client_id() -> None:
    server, kept = Server(CONFIG), b"\xc0\xa8\x7f\x32"
    server.fix(MAC, FIRST, "vm1")
    server.fix(b"\0client", kept, "vm2")
    assert bound(server, mac(9)) != FIRST
    assert bound(server) == FIRST
    offer = ask(server, message(Type.DISCOVER, mac(8), (Option.CLIENT_ID, b"\0client")))
    assert offer is not None
    assert (offer.yiaddr, offer.get(Option.HOST_NAME)) == (kept, b"vm2")
    assert offer.get(Option.CLIENT_ID) == b"\0client"  # RFC 6842
    nak = ask(server, message(Type.REQUEST, mac(9), (Option.REQUESTED_ADDRESS, kept)))
    assert nak is not None
    assert nak.type is Type.NAK
    server.unfix(MAC)
    assert server.pool.fixed(b"", MAC) is None


def test_two_client_ids_on_one_mac_get_two_addresses() -> None:
    server = Server(CONFIG)
    offers = [ask(server, message(Type.DISCOVER, MAC, (61, bytes([0, n])))) for n in (1, 2)]
    assert len({offer.yiaddr for offer in offers if offer}) == 2


def test_row9_flood_of_macs_is_bounded_and_ends_in_silence() -> None:
    server = Server(CONFIG)
    held = bound(server)
    replies = [ask(server, message(Type.DISCOVER, mac(n))) for n in range(100, 5100)]
    assert sum(reply is not None for reply in replies) == 7
    assert len(server.pool) == 8
    assert server.statistics().exhausted == 4993
    assert ask(server, message(Type.REQUEST, ciaddr=held), 5.0) is not None
    again = [ask(server, message(Type.DISCOVER, mac(n)), 31.0) for n in range(6000, 6100)]
    assert sum(reply is not None for reply in again) == 7  # the offers ran out
    assert server.leases(31.0)[0].mac == MAC


def test_row9_full_pool_is_searched_once_a_second() -> None:
    server = Server(replace(CONFIG, last=FIRST))
    times = (0.0, 29.5, 30.25, 30.5)
    offers = [ask(server, message(Type.DISCOVER, mac(n)), at) for n, at in enumerate(times)]
    assert [offer is not None for offer in offers] == [True, False, False, True]


def test_row9_a_client_that_hops_cannot_leak_the_pool() -> None:
    server = Server(CONFIG)
    for n in range(1000):
        addr = (int.from_bytes(FIRST) + n % 8).to_bytes(4)
        ask(server, message(Type.REQUEST, MAC, (Option.REQUESTED_ADDRESS, addr)))
    assert len(server.pool) == 1
    assert len({bound(server, mac(n)) for n in range(100, 107)}) == 7


@pytest.mark.parametrize(
    "request_",
    [
        message(Type.DISCOVER, giaddr=b"\x0a\0\0\x01"),
        replace(message(Type.DISCOVER), op=2),
        replace(message(Type.DISCOVER), htype=6),
        message(Type.DISCOVER, bytes(16)),
        message(Type.DISCOVER, b""),
        message(Type.DISCOVER, b"\xff" * 6),
        message(Type.DISCOVER, MAC, (Option.CLIENT_ID, bytes(256))),
        message(Type.DISCOVER, MAC, (Option.CLIENT_ID, b"")),
        message(Type.OFFER),
        message(Type.ACK),
        dhcp.Repr(1, 1, MAC),
        message(Type.REQUEST),
        message(Type.REQUEST, MAC, (Option.REQUESTED_ADDRESS, b"\x01")),
    ],
)
def test_row9_ignored(request_: dhcp.Repr) -> None:
    server = Server(CONFIG)
    assert ask(server, request_) is None
    assert len(server.pool) == 0


def test_hostname_of_the_client_must_be_a_name() -> None:
    server = Server(CONFIG)
    ask(server, message(Type.DISCOVER, MAC, (Option.HOST_NAME, b"a\nb; rm")))
    assert server.pool.leases()[0].hostname == ""


def test_row9_random_messages_never_raise() -> None:
    rng = random.Random(9)
    server = Server(CONFIG)
    seeds = [dhcp.emit(message(kind)) for kind in Type]
    for _ in range(3000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 20)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        server.receive(bytes(data[: rng.randrange(len(data) + 1)]), rng.random())
    assert server.statistics().malformed > 1000
    assert ip.UNSPECIFIED_V4 not in {lease.addr for lease in server.pool.leases()}

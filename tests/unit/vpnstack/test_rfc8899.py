"""The path's MTU by probing, for datagrams (RFC 8899): the machine, then over a real endpoint."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpnstack.aio.datagrams import MessageTooLong, StackDatagramTransport
from vpnstack.aio.network import Network
from vpnstack.errors import UsageError
from vpnstack.proto.plpmtud import NEAR, Config, Search, State


class Path:
    """Carries what is at most `limit`; the peer answers at once."""

    def __init__(self, limit: int, config: Config | None = None) -> None:
        self.limit = limit
        self.now = 0.0
        self.search = Search(config or Config(), self.now)
        self.probes: list[int] = []

    def run(self, seconds: float) -> Search:
        """Go on for `seconds` in virtual time; returns the search."""
        end = self.now + seconds
        while self.search.deadline() <= end:
            self.now = max(self.now, self.search.deadline())
            if size := self.search.transmit(self.now):
                self.probes.append(size)
                if size <= self.limit:
                    self.search.acked(size, self.now)
        self.now = end
        return self.search


def test_the_whole_link_is_found_with_two_probes() -> None:
    path = Path(1472)
    assert path.search.size == 548
    search = path.run(1)
    assert (search.size, search.state) == (1472, State.SEARCH_COMPLETE)
    assert path.probes == [1200, 1472]


@given(st.integers(1200, 1472))
def test_any_size_is_found_to_within_the_grain(limit: int) -> None:
    path = Path(limit)
    search = path.run(599)
    assert search.state is State.SEARCH_COMPLETE
    assert limit - NEAR < search.size <= limit
    assert len(path.probes) <= 40


def test_a_single_lost_probe_is_repeated() -> None:
    search = Search(Config(), 0.0)
    assert search.transmit(0.0) == 1200
    assert search.transmit(14.0) == 0
    assert search.transmit(15.0) == 1200
    search.acked(1200, 15.1)
    assert (search.size, search.state) == (1200, State.SEARCHING)
    assert search.statistics().lost == 1


def test_base_does_not_pass() -> None:
    path = Path(1000)
    search = path.run(120)
    assert (search.size, search.state) == (548, State.ERROR)
    path.limit = 1472
    assert path.run(30).size == 1472  # the base is asked for again and again


def test_black_hole_is_seen_by_confirmation() -> None:
    path = Path(1472)
    path.run(1)
    path.limit = 1300
    search = path.run(60 + 3 * 15)
    assert search.size == 1200
    assert search.statistics().black_holes == 1
    assert 1300 - NEAR < path.run(400).size <= 1300


def test_black_hole_that_the_owner_sees() -> None:
    search = Path(1472).run(1)
    search.black_hole(2.0)
    assert (search.size, search.state) == (1200, State.BASE)
    search.black_hole(2.0)  # it knows
    assert search.statistics().black_holes == 1
    assert search.transmit(2.0) == 1200


def test_larger_sizes_are_tried_again_after_ten_minutes() -> None:
    path = Path(1300)
    path.run(500)
    path.limit = 1472
    assert path.search.size <= 1300
    assert path.run(700).size == 1472


def test_a_router_s_word_shortens_the_search() -> None:
    search = Search(Config(), 0.0)
    search.transmit(0.0)
    search.acked(1200, 0.1)
    assert search.transmit(0.1) == 1472
    search.too_big(1372, 0.2)
    assert search.size == 1200  # a word is no proof (4.6.1)
    sizes = []
    now = 0.2
    while size := search.transmit(now):
        sizes.append(size)
        search.acked(size, now)
    assert search.size == sizes[-1] > 1372 - NEAR
    assert max(sizes) <= 1372


@pytest.mark.parametrize("size", [0, 68, 547, 1472, 9000])
def test_a_router_s_word_that_makes_no_sense(size: int) -> None:
    search = Path(1472).run(1)
    search.too_big(size, 2.0)
    assert (search.size, search.state) == (1472, State.SEARCH_COMPLETE)


def test_a_router_s_word_below_the_size_in_use() -> None:
    search = Path(1472).run(1)
    search.too_big(1250, 2.0)
    assert (search.size, search.state) == (1200, State.BASE)
    search.too_big(600, 3.0)
    assert search.size <= 600
    assert search.transmit(3.0) == 600


def test_an_answer_that_nobody_waits_for() -> None:
    search = Search(Config(), 0.0)
    search.acked(1472, 0.0)
    search.transmit(0.0)
    search.acked(9000, 0.0)
    assert search.size == 548


def test_sizes_out_of_order_are_refused() -> None:
    with pytest.raises(UsageError, match="least <= base <= most"):
        Search(Config(least=1300), 0.0)


class Reflector(asyncio.DatagramProtocol):
    """Says how long each datagram was."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(len(data).to_bytes(2), addr)


class Prober(asyncio.DatagramProtocol):
    """Drives a `Search`, as a user would."""

    def __init__(self, config: Config) -> None:
        self.loop = asyncio.get_running_loop()
        self.search = Search(config, self.loop.time())
        self.errors: list[Exception] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, StackDatagramTransport)
        transport.fragment = False
        self.transport = transport
        self.probe()

    def probe(self) -> None:
        if size := self.search.transmit(self.loop.time()):
            self.transport.sendto(bytes(size))
        self.loop.call_at(self.search.deadline(), self.probe)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.search.acked(int.from_bytes(data), self.loop.time())
        self.probe()

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)
        if isinstance(exc, MessageTooLong):
            self.search.too_big(exc.size, self.loop.time())


@pytest.mark.parametrize(("family", "headers"), [("10.0.0.2", 28), ("2001:db8::2", 48)])
def test_over_a_black_hole(family: str, headers: int) -> None:
    """A link that drops without a word what is longer than 1420: no fragment is ever sent."""

    async def main(lan: Network) -> None:
        a = lan.host("a", addresses=["10.0.0.1/24", "2001:db8::1/64"])
        b = lan.host("b", addresses=["10.0.0.2/24", "2001:db8::2/64"])
        lan.link(a, b, latency=0.01, mtu=1420)
        await b.create_datagram_endpoint(Reflector, ("", 7))
        config = Config(most=1500 - headers)
        _, prober = await a.create_datagram_endpoint(
            lambda: Prober(config), remote_addr=(family, 7)
        )
        await asyncio.sleep(500)
        assert 1420 - headers - NEAR < prober.search.size <= 1420 - headers
        assert prober.errors == []
        assert b.statistics().stack.packets_reassembled == 0

    Network(seed=1).run(main)


def test_the_link_itself_says_what_fits() -> None:
    """A search that hopes for jumbo frames hears at once that the interface has none."""

    async def main(lan: Network) -> None:
        a, b = lan.host("a"), lan.host("b")
        lan.link(a, b, latency=0.01)
        await b.create_datagram_endpoint(Reflector, ("", 7))
        _, prober = await a.create_datagram_endpoint(
            lambda: Prober(Config(most=8972)), remote_addr=("b", 7)
        )
        await asyncio.sleep(60)
        assert prober.search.size in range(1472 - NEAR, 1473)
        assert {type(e) for e in prober.errors} == {MessageTooLong}

    Network(seed=1).run(main)

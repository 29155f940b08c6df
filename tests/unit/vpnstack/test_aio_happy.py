"""Happy eyeballs under virtual time: a loop whose clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from vpnstack.aio import happy
from vpnstack.wire.ip import format_address, parse_address

SIX, FOUR = parse_address("2001:db8::1"), parse_address("192.0.2.1")
SIX2 = parse_address("2001:db8::2")


class Jump(selectors.SelectSelector):
    """Never waits: the clock goes on by what the loop would have waited."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


def run(make: Callable[[], Coroutine[Any, Any, Any]]) -> tuple[Any, float]:
    selector = Jump()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]
    try:
        return loop.run_until_complete(make()), selector.now
    finally:
        loop.close()


class World:
    """`names`: family to (delay, addresses); `hosts`: address to (delay, what happens)."""

    def __init__(
        self, names: dict[int, tuple[float, list[bytes]]], hosts: dict[str, tuple[float, str]]
    ) -> None:
        self.names, self.hosts = names, hosts
        self.tried: list[tuple[float, str]] = []
        self.given_up: list[str] = []

    async def addresses(self, name: str, family: int) -> list[bytes]:
        delay, found = self.names[family]
        await asyncio.sleep(delay)
        if not found:
            raise OSError("no such name")
        return found

    async def open_connection(self, host: str, port: int) -> Any:
        self.tried.append((round(asyncio.get_running_loop().time(), 3), host))
        delay, what = self.hosts[host]
        try:
            await asyncio.sleep(delay)
        except asyncio.CancelledError:
            self.given_up.append(host)
            raise
        if what == "refuse":
            raise ConnectionRefusedError(host)
        return host, None

    def connect(self, **options: Any) -> tuple[Any, float]:
        async def open(addr: bytes) -> Any:
            return await self.open_connection(format_address(addr), 80)

        return run(lambda: happy.connect(open, self, "name", discard=self.discard, **options))

    def discard(self, made: tuple[str, None]) -> None:
        self.given_up.append(made[0])


def test_ipv6_that_works_is_used_alone() -> None:
    world = World({6: (0.01, [SIX]), 4: (0.01, [FOUR])}, {"2001:db8::1": (0.1, "ok")})
    assert world.connect()[0][0] == "2001:db8::1"
    assert world.tried == [(0.01, "2001:db8::1")]


def test_silent_ipv6_gives_way_after_a_quarter_of_a_second() -> None:
    hosts = {"2001:db8::1": (100.0, "ok"), "192.0.2.1": (0.1, "ok")}
    world = World({6: (0.0, [SIX]), 4: (0.0, [FOUR])}, hosts)
    (winner, _), at = world.connect()
    assert winner == "192.0.2.1"
    assert world.tried == [(0.0, "2001:db8::1"), (0.25, "192.0.2.1")]
    assert at == pytest.approx(0.35)
    assert world.given_up == ["2001:db8::1"]


def test_refusal_starts_the_next_at_once() -> None:
    hosts = {"2001:db8::1": (0.02, "refuse"), "192.0.2.1": (0.0, "ok")}
    world = World({6: (0.0, [SIX]), 4: (0.0, [FOUR])}, hosts)
    assert world.connect()[0][0] == "192.0.2.1"
    assert world.tried[1] == (0.02, "192.0.2.1")


def test_a_late_aaaa_is_waited_for_50_ms() -> None:
    hosts = {"2001:db8::1": (0.0, "ok"), "192.0.2.1": (1.0, "ok")}
    world = World({6: (0.04, [SIX]), 4: (0.0, [FOUR])}, hosts)
    assert world.connect()[0][0] == "2001:db8::1"
    world = World({6: (0.2, [SIX]), 4: (0.0, [FOUR])}, hosts)
    assert world.connect()[0][0] == "2001:db8::1"
    assert world.tried == [(0.05, "192.0.2.1"), (0.2, "2001:db8::1")]


def test_families_take_turns() -> None:
    hosts = dict.fromkeys(("2001:db8::1", "2001:db8::2", "192.0.2.1"), (9.0, "refuse"))
    world = World({6: (0.0, [SIX, SIX2]), 4: (0.0, [FOUR])}, hosts)
    with pytest.raises(ConnectionRefusedError):
        world.connect()
    assert [h for _, h in world.tried] == ["2001:db8::1", "192.0.2.1", "2001:db8::2"]


def test_our_own_addresses_decide_the_order() -> None:
    world = World({6: (0.0, [SIX]), 4: (0.0, [FOUR])}, {"192.0.2.1": (0.0, "ok")})
    mine = {FOUR: FOUR}
    assert world.connect(source=mine.get)[0][0] == "192.0.2.1"


def test_one_family_without_addresses() -> None:
    world = World({6: (0.0, []), 4: (0.3, [FOUR])}, {"192.0.2.1": (0.0, "ok")})
    assert world.connect()[0][0] == "192.0.2.1"


def test_no_name() -> None:
    world = World({6: (0.0, []), 4: (0.0, [])}, {})
    with pytest.raises(OSError, match="no such name"):
        world.connect()

"""The registry: IP protocols and EtherTypes of the user's own."""

from __future__ import annotations

import asyncio
import logging
import runpy
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from vpnstack.aio.host import Host
from vpnstack.aio.network import Network
from vpnstack.stack.protocol import Handler
from vpnstack.wire import icmp
from vpnstack.wire.icmp import Kind

EXAMPLES = Path(__file__).parents[3] / "examples"


class Echo(Handler):
    """Answers; also sends what `say` was given, `at` a time."""

    def __init__(self) -> None:
        self.out: list[tuple[bytes, bytes]] = []
        self.got: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue()
        self.errors: asyncio.Queue[tuple[bytes, icmp.Error]] = asyncio.Queue()
        self.later: list[tuple[float, tuple[bytes, bytes]]] = []

    def receive(self, src: bytes, packet: bytes, now: float) -> None:
        self.got.put_nowait((src, packet))
        if packet.startswith(b"?"):
            self.out.append((src, b"!" + packet[1:]))
        if packet == b"boom":
            raise ValueError("as asked")

    def icmp_received(self, dst: bytes, error: icmp.Error, now: float) -> None:
        self.errors.put_nowait((dst, error))

    def transmit(self, now: float) -> Iterable[tuple[bytes, bytes]]:
        out, self.out = self.out, []
        out += [item for at, item in self.later if at <= now]
        self.later = [(at, item) for at, item in self.later if at > now]
        return out

    def deadline(self) -> float | None:
        return min((at for at, _ in self.later), default=None)


def pair(lan: Network) -> tuple[Host, Host]:
    a, b = lan.host("a"), lan.host("b")
    lan.link(a, b, latency=0.01)
    return a, b


def test_an_ip_protocol_of_both_families_with_fragments() -> None:
    async def main(lan: Network) -> None:
        a, b = pair(lan)
        mine, theirs = Echo(), Echo()
        a.stack.protocols[253] = mine
        b.stack.protocols[253] = theirs
        for name in ("10.0.0.2", "fd00::2"):
            for size in (3, 5000):
                mine.out.append((a.resolve(name), b"?" * size))
                a.driver.wake()
                assert (await theirs.got.get())[1] == b"?" * size
                assert await mine.got.get() == (a.resolve(name), b"!" + b"?" * (size - 1))

    Network().run(main)


def test_deadlines_are_kept() -> None:
    async def main(lan: Network) -> None:
        a, b = pair(lan)
        mine, theirs = Echo(), Echo()
        a.stack.protocols[253] = mine
        b.stack.protocols[253] = theirs
        at = lan.loop.time() + 5
        mine.later.append((at, (a.resolve("b"), b"tick")))
        a.driver.wake()
        await theirs.got.get()
        assert lan.loop.time() == pytest.approx(at + 0.03, abs=1e-6)  # ARP, then the packet

    Network().run(main)


def test_an_ethertype() -> None:
    async def main(lan: Network) -> None:
        a, b = pair(lan)
        mine, theirs = Echo(), Echo()
        a.stack.ethertypes[0x88B5] = mine
        b.stack.ethertypes[0x88B5] = theirs
        mine.out.append((b"\xff" * 6, b"?who"))
        a.driver.wake()
        assert await theirs.got.get() == (a.mac, b"?who")
        assert await mine.got.get() == (b.mac, b"!who")

    Network().run(main)


def test_nobody_there_is_reported() -> None:
    async def main(lan: Network) -> None:
        a, _ = pair(lan)
        mine = Echo()
        a.stack.protocols[253] = mine
        mine.out.append((a.resolve("b"), bytes(20)))
        a.driver.wake()
        dst, error = await mine.errors.get()
        assert dst == a.resolve("b")
        assert error.kind is Kind.PROTOCOL_UNREACHABLE

    Network().run(main)


def test_a_failing_handler_harms_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    async def main(lan: Network) -> None:
        a, b = pair(lan)
        mine, theirs = Echo(), Echo()
        a.stack.protocols[253] = mine
        b.stack.protocols[253] = theirs
        mine.out += [(a.resolve("b"), b"boom"), (a.resolve("b"), b"?fine")]
        a.driver.wake()
        assert (await mine.got.get())[1] == b"!fine"
        assert b.stack.registry.failures == 1

    with caplog.at_level(logging.CRITICAL):
        Network().run(main)


def test_the_example_prints_its_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["prototype.py", "200000"])
    runpy.run_path(str(EXAMPLES / "prototype.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert "Tally, 40" in out
    assert out.count("TCP, CUBIC") == 3

"""A link between stacks under virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from vpnstack.core.access import parse_burst
from vpnstack.core.burst import Burst
from vpnstack.stack.autoconf import Autoconf, Config
from vpnstack.stack.interface import Interface, InterfaceConfig, addresses_of
from vpnstack.stack.stack import Stack


class Place:
    """A stack's link: what it sends waits here for everybody else."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, bytes]] = []

    def egress(self, burst: Burst) -> None:
        for i in range(burst.count):
            self.sent.append((burst.vnet(i), burst.octets(i)))

    def blocked(self, mac: bytes) -> bool:
        return False


class Lan:
    """Stacks on one link; `frames` is all that was sent; `filter` may drop."""

    def __init__(self) -> None:
        self.now = 0.0
        self.members: list[tuple[Stack, Place]] = []
        self.frames: list[tuple[float, bytes]] = []
        self.filter: Callable[[bytes], bool] = lambda frame: True

    def stack(self, number: int, *addresses: str, **options: object) -> Stack:
        place = Place()
        mac = b"\x02\0\0\0\0" + bytes([number])
        config = InterfaceConfig(mac, addresses_of(addresses), **options)  # type: ignore[arg-type]
        stack = Stack(Interface(config, place), rng=random.Random(number))
        self.members.append((stack, place))
        return stack

    def host(self, number: int, config: Config | None = None, **options: object) -> Autoconf:
        """Add a host that configures itself, and start it."""
        stack = self.stack(number, **options)
        auto = Autoconf(stack, config or Config(), random.Random(number))
        auto.start(self.now)
        return auto

    def inject(self, stack: Stack, frame: bytes, vnet: bytes = bytes(12)) -> None:
        burst = Burst()
        burst.append(frame, vnet)
        parse_burst(burst)
        stack.receive(burst, self.now)
        while (event := stack.next_event()) is not None:
            event[0].flow_event(event[1], self.now)
        stack.settle()

    def exchange(self) -> None:
        """Deliver until everybody is silent."""
        for _ in range(1000):
            if not sum([self._turn(*member) for member in self.members]):
                return
        pytest.fail("the link never falls silent")

    def _turn(self, stack: Stack, place: Place) -> int:
        while (burst := stack.transmit(self.now)) is not None:
            place.egress(burst)
        out, place.sent = place.sent, []
        for vnet, frame in out:
            self.frames.append((self.now, frame))
            for other, _ in self.members:
                if other is not stack and self.filter(frame) and self._meant(other, frame):
                    self.inject(other, frame, vnet)
        return len(out)

    def _meant(self, stack: Stack, frame: bytes) -> bool:
        return bool(frame[0] & 1) or frame[:6] == stack.interface.mac

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while True:
            self.exchange()
            times = [at for s, _ in self.members if (at := s.deadline()) is not None]
            at = min(times, default=float("inf"))
            if at > end:
                break
            self.now = max(at, self.now) if at > self.now else self.now + 1e-6
        self.now = end


@pytest.fixture
def lan() -> Lan:
    return Lan()

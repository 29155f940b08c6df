"""A network of hosts in this process, in virtual time: every run with a seed is the same.

    async def main(lan):
        a, b = lan.host("a"), lan.host("b")
        lan.link(a, b, latency=0.04, loss=0.01, rate="10mbit")
        await b.start_server(echo, 7)
        reader, writer = await a.open_connection("b", 7)

    Network(seed=7).run(main)

All hosts are on one loop, whose clock moves only when nothing is left to do.  What makes a run
repeatable: the packets, their times and the order of callbacks depend on the program and the seed
alone (not on PYTHONHASHSEED, threads or the machine's speed).  What does not: a program that reads
the machine's clock, draws from other generators, or iterates over its own sets.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any, Self, TypeVar

from ..errors import UsageError
from ..link.impair import Impaired, ImpairedStatistics, Impairment
from ..link.port import Port
from ..link.virtual import cable
from ..proto.tcp.config import Config
from ..stack.autoconf import Config as AutoconfConfig
from .host import Host
from .relay import Fabric
from .virtual import LIMIT, VirtualLoop

T = TypeVar("T")
SUBNETS = ("10.0.0.0/16", "fd00::/64")
Station = Host | Fabric
Wrap = Callable[[Port], Port]


class Link:
    """A cable between two stations; `ab` and `ba` are its two directions."""

    def __init__(self, a: Station, b: Station, ends: tuple[Impaired, Impaired]) -> None:
        self.a = a
        self.b = b
        self._ends = ends

    def change(self, *, back: Impairment | None = None, **options: Any) -> None:
        """Change options of both directions, or of `back` (b to a) by itself."""
        left, right = self._ends
        left.tx = replace(left.tx, **options)
        right.tx = back if back is not None else replace(right.tx, **options)

    def sever(self) -> None:
        """Cut the cable; what is on its way is lost."""
        for end in self._ends:
            end.sever()

    def heal(self) -> None:
        """Mend it."""
        for end in self._ends:
            end.heal()

    def statistics(self) -> ImpairedStatistics:
        """Return what became of packets from a to b (`tx`) and from b to a (`rx`)."""
        left, right = (end.link_statistics().tx for end in self._ends)
        return ImpairedStatistics(left, right)


class Network:
    """Hosts, switches and links; an async context manager on a `VirtualLoop`, or `run`.

    With `realtime` it runs on whatever loop is running, in real time, and nothing is repeatable but
    the fate of packets.  `wrap` gets each host's port and returns the one to be used (a tracer).
    """

    def __init__(
        self,
        seed: int | str = 0,
        *,
        subnets: Iterable[str] = SUBNETS,
        mtu: int = 1500,
        realtime: bool = False,
        wrap: Wrap | None = None,
    ) -> None:
        self.seed = seed
        self.mtu = mtu
        self.hosts: dict[str, Host] = {}
        self.links: list[Link] = []
        self._subnets = [ipaddress.ip_network(s) for s in subnets]
        self._realtime = realtime
        self._wrap = wrap
        self._switches: list[Fabric] = []
        self._names: dict[str, list[bytes]] = {}
        self._groups: dict[Station, Station] = {}  # who is connected with whom, however far

    def run(self, main: Callable[[Network], Coroutine[Any, Any, T]], *, limit: float = LIMIT) -> T:
        """Run `main(network)` in virtual time, for `limit` virtual seconds at most.

        Raises `Deadlock` when nothing is left that could wake the program.
        """

        async def body() -> T:
            async with self:
                return await main(self)

        return VirtualLoop(limit).run(body())

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        if not isinstance(self.loop, VirtualLoop) and not self._realtime:
            raise UsageError(
                "expected a VirtualLoop to be running: use Network.run(main), "
                "vpnstack.aio.virtual.run(main()), or realtime=True"
            )
        return self

    async def __aexit__(self, *exc: object) -> None:
        for host in self.hosts.values():
            host.close()
        for switch in self._switches:
            switch.close()
        await asyncio.sleep(0)

    def rng(self, name: str) -> random.Random:
        """Return a generator of its own for `name`: the same for a seed, whoever else draws."""
        return random.Random(f"{self.seed}/{name}")

    # What the network consists of.

    def host(
        self,
        name: str,
        *,
        addresses: Iterable[str] | None = None,
        gateway: str | tuple[str, ...] = (),
        mac: str | None = None,
        tcp: Callable[[int, int], Config] | None = None,
        autoconf: bool | AutoconfConfig = False,
        dns: Iterable[str] = (),
    ) -> Host:
        """Make a host; without `addresses` it gets the next one of each subnet.

        With `autoconf` it gets what the network gives it; `await host.configured()` once linked.
        """
        if name in self.hosts:
            raise UsageError(f"expected a new name for a host, found {name!r} again")
        if addresses is None and autoconf:
            addresses = ()
        if addresses is None:
            number = len(self.hosts) + 1
            addresses = [f"{n.network_address + number}/{n.prefixlen}" for n in self._subnets]
        host = Host(
            None, addresses, gateway=gateway, mac=mac, mtu=self.mtu, name=name, names=self._names,
            tcp=tcp, seed=f"{self.seed}/host/{name}", autoconf=autoconf, dns=dns,
        )  # fmt: skip
        host.start()
        self.hosts[name] = host
        if not autoconf:
            self._names[name] = [a.ip.packed for a in host.addresses]
        self._groups[host] = host
        return host

    def switch(self, name: str = "") -> Fabric:
        """Make a switch, to be linked with hosts and other switches."""
        switch = Fabric(self.loop, name or f"switch{len(self._switches)}")
        self._switches.append(switch)
        self._groups[switch] = switch
        return switch

    def link(
        self, a: Station, b: Station, *, back: Impairment | None = None, **options: Any
    ) -> Link:
        """Connect two stations; `options` are `Impairment`'s, for each direction.

        `back` is another `Impairment` for the way from `b` to `a`.  Links must not close a loop: a
        host with several links bridges them, as a switch does, and frames would go round for ever.
        """
        if self._root(a) is self._root(b):
            raise UsageError(f"a link between {a.name} and {b.name} would close a loop")
        self._groups[self._root(a)] = self._root(b)
        forth = Impairment(**options)
        name = f"{a.name}-{b.name}"
        rng = self.rng(f"link/{name}/{len(self.links)}")
        left, right = cable(self.loop, name, f"{b.name}-{a.name}", mtu=self.mtu)
        ends = (
            Impaired(left, self.loop, tx=forth, rng=rng),
            Impaired(right, self.loop, tx=back or forth, rng=rng),
        )
        for station, end in zip((a, b), ends, strict=True):
            station.attach(self._wrap(end) if self._wrap is not None else end)
        self.links.append(Link(a, b, ends))
        return self.links[-1]

    def _root(self, station: Station) -> Station:
        if station not in self._groups:
            raise UsageError(f"{station.name!r} belongs to another network")
        while self._groups[station] is not station:
            station = self._groups[station]
        return station

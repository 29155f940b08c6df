"""The network of `hypervisor run --net`: what it must be, where it is found, published ports.

A kit that brings networks registers a factory in the entry-point group `hypervisor.networks`,
called with the gateway's addresses (none: its own choice); vpnstack does.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol

from vpnstack.link.port import Jack

from ..errors import UsageError

GROUP = "hypervisor.networks"


class Published(Protocol):
    """A host port that leads to a guest."""

    address: tuple[str, int]


class Network(Protocol):
    """What machines are plugged into."""

    def port(self, name: str, *, seed: str = "") -> Jack:
        """Return the place called `name`, with a MAC made from `seed`, or from the name."""

    async def publish(
        self, proto: str, *, host: tuple[str, int], guest: tuple[str, int]
    ) -> Published:
        """Forward a host port to a guest's."""


@dataclass(frozen=True, slots=True)
class Publication:
    """A host port and the guest's port that it leads to."""

    proto: str
    host: tuple[str, int]
    port: int

    def __str__(self) -> str:
        address = f"[{self.host[0]}]" if ":" in self.host[0] else self.host[0]
        return f"{self.proto} {address}:{self.host[1]}"


def parse_publish(text: str) -> Publication:
    """Read `[ADDRESS:]PORT[:GUEST_PORT][/tcp|/udp]`, an IPv6 address in brackets."""
    rest, slash, proto = text.partition("/")
    address = "127.0.0.1"
    if rest.startswith("["):
        address, _, rest = rest[1:].partition("]:")
    elif rest.count(".") == 3:
        address, _, rest = rest.partition(":")
    try:
        ipaddress.ip_address(address)
        ports = [int(each) for each in rest.split(":") if each.isascii() and each.isdigit()]
    except ValueError:
        ports = []
    if (
        len(ports) not in {1, 2}
        or len(ports) != rest.count(":") + 1
        or not all(port < 65536 for port in ports)
        or not ports[-1]
        or (proto or "tcp") not in {"tcp", "udp"}
        or bool(slash) != bool(proto)
    ):
        expected = "[ADDRESS:]PORT:GUEST_PORT[/udp], such as 8080:80"
        raise UsageError(f"cannot publish {text!r}, expected {expected}")
    return Publication(proto or "tcp", (address, ports[0]), ports[-1])


def addresses(net: str | None) -> list[str]:
    """Read `ADDRESS/PREFIX[,ADDRESS/PREFIX]`; a network's own address stands for its first host."""
    made = []
    for text in (net or "").split(","):
        if not text:
            continue
        try:
            interface = ipaddress.ip_interface(text)
        except ValueError:
            interface = None
        if interface is None or "/" not in text or interface.network.num_addresses < 4:
            expected = "ADDRESS/PREFIX, such as 192.168.127.1/24"
            hint = ": write FILE before --net" if text.endswith(".toml") else ""
            raise UsageError(f"the network {text!r}, expected {expected}{hint}")
        if interface.ip == interface.network.network_address:
            interface = ipaddress.ip_interface(f"{interface.ip + 1}/{interface.network.prefixlen}")
        made.append(str(interface))
    return made


def find() -> Callable[..., AbstractAsyncContextManager[Any]]:
    """Return what makes networks; UsageError where no kit that does is installed."""
    for entry in entry_points(group=GROUP):
        made: Callable[..., AbstractAsyncContextManager[Any]] = entry.load()
        return made
    raise UsageError(f"--net needs a kit that registers in {GROUP}: run pip install trikit")

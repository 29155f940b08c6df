"""What the commands do, as coroutines: a gateway for a command, a namespace, or machines."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points

from .config import GatewayConfig
from .errors import UsageError
from .gateway import Gateway
from .host.namespace import NamespaceConfig, Target
from .host.resolver import install
from .host.spawn import Child, open_tap
from .link.capture import PcapngWriter, Tracer, TracingListener
from .link.port import Listener, Port
from .link.tap import TapPort

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Forward:
    """One published port: `PROTO:HOST_ADDRESS:HOST_PORT:GUEST_PORT` on the command line."""

    proto: str
    host: tuple[str, int]
    guest: tuple[str, int]

    @classmethod
    def parse(cls, text: str, guest: str) -> Forward:
        """Read `[tcp:|udp:][ADDRESS:]PORT[:GUEST_PORT]`, an IPv6 address in brackets."""
        proto, rest = ("tcp", text)
        if text.startswith(("tcp:", "udp:")):
            proto, rest = text[:3], text[4:]
        address = "127.0.0.1"
        if rest.startswith("["):
            address, _, rest = rest[1:].partition("]:")
        elif rest.count(".") == 3:
            address, _, rest = rest.partition(":")
        try:
            ports = [int(p) for p in rest.split(":")]
            ipaddress.ip_address(address)
        except ValueError:
            ports = []
        if len(ports) not in (1, 2) or not all(0 <= p < 65536 for p in ports):
            raise UsageError(
                f"expected [tcp:|udp:][ADDRESS:]PORT[:GUEST_PORT] to publish, found {text!r}"
            )
        return cls(proto, (address, ports[0]), (guest, ports[-1]))


@dataclass(frozen=True, slots=True)
class Ready:
    """Where to say that the network is up: standard error, and a descriptor for programs."""

    fd: int | None = None
    quiet: bool = False
    as_json: bool = False

    def say(self, line: str, facts: Mapping[str, object], echo: Callable[[str], None]) -> None:
        """Print the ready line once; write a line to the descriptor and close it."""
        if not self.quiet:
            echo(json.dumps(facts) if self.as_json else line)
        if self.fd is not None:
            with contextlib.suppress(OSError):
                os.write(self.fd, b"ready\n")
            os.close(self.fd)


def namespace_config(gateway: Gateway, ifname: str, configure: bool) -> NamespaceConfig:
    """Return how our device shall look inside a namespace: the place `guest`, all static."""
    jack = gateway.port("guest")
    config = gateway.config
    pairs = [(jack.ipv4, config.v4), (jack.ipv6, config.v6)]
    known = [(ipaddress.ip_address(a), own) for a, own in pairs if a is not None and own]
    return NamespaceConfig(
        ifname=ifname,
        mtu=config.mtu,
        mac=jack.mac,
        addresses=tuple(f"{a}/{own.network.prefixlen}" for a, own in known),
        gateways=tuple(str(own.ip) for _, own in known),
        dns=tuple(str(own.ip) for _, own in known),
        search=(config.domain,),
        configure=configure,
    )


@contextlib.asynccontextmanager
async def until_signal() -> AsyncIterator[asyncio.Event]:
    """Set the event on SIGTERM and SIGINT meanwhile."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def capturing(path: str | None) -> AsyncIterator[Callable[[Port], Port]]:
    """Give a function that wraps a port in a tracer to the pcapng file `path`; None: as it is."""
    if path is None:
        yield lambda port: port
        return
    loop = asyncio.get_running_loop()
    with open(path, "wb") as file:  # noqa: ASYNC230 (once, before there is a network)
        writer = PcapngWriter(file, epoch=time.time() - loop.time())
        yield lambda port: Tracer(port, writer, loop.time)


async def publish_all(gateway: Gateway, forwards: Sequence[str], guest: str) -> list[str]:
    """Publish what the command line asked for; return a description of each."""
    lines = []
    for text in forwards:
        forward = Forward.parse(text, guest)
        made = await gateway.publish(forward.proto, host=forward.host, guest=forward.guest)
        address, port = made.address
        lines.append(f"{forward.proto} {address}:{port} -> {guest}:{forward.guest[1]}")
    return lines


async def run(
    argv: Sequence[str], config: GatewayConfig, forwards: Sequence[str], ifname: str,
    echo: Callable[[str], None], capture: str | None = None,
) -> int:  # fmt: skip
    """Run a command in namespaces of its own with our network; return its exit code."""
    async with capturing(capture) as wrap, Gateway(config=config) as gateway:
        child = await Child.start(argv, namespace_config(gateway, ifname, configure=True))
        try:
            for note in child.notes:
                echo(note)
            gateway.port("guest").plug(wrap(TapPort(child.tap_fd, ifname, config.mtu)))
            await publish_all(gateway, forwards, "guest")
            with child.forwarding():
                await child.release()
                return await child.wait()
        finally:
            child.close()


async def attach(
    target: Target, config: GatewayConfig, forwards: Sequence[str], ifname: str, *,
    configure: bool, ready: Ready, echo: Callable[[str], None], capture: str | None = None,
) -> int:  # fmt: skip
    """Give an existing namespace our network until a signal or its end; return an exit code."""
    async with (
        capturing(capture) as wrap,
        Gateway(config=config) as gateway,
        until_signal() as stop,
    ):
        wanted = namespace_config(gateway, ifname, configure)
        tap = await open_tap(target, wanted)
        gateway.port("guest").plug(wrap(TapPort(tap, ifname, config.mtu)))
        published = await publish_all(gateway, forwards, "guest")
        resolver = install(target, wanted)
        try:
            if resolver.note:
                echo(resolver.note)
            facts = {"target": str(target), "ifname": ifname, "addresses": list(wanted.addresses),
                     "gateways": list(wanted.gateways), "published": published}  # fmt: skip
            line = f"ready: {ifname} in {target}, {' '.join(wanted.addresses)}"
            ready.say(line, facts, echo)
            await stop.wait()
        finally:
            resolver.remove()
    return 0


def open_listener(spec: str, mtu: int) -> tuple[str, Listener]:
    """Open `KIND:ADDRESS` with the kind's entry point of the group `vpnstack.ports`."""
    kind, _, address = spec.partition(":")
    kinds = {e.name: e for e in entry_points(group="vpnstack.ports")}
    if kind not in kinds or not address:
        known = ", ".join(f"{name}:PATH" for name in sorted(kinds)) or "none is installed"
        raise UsageError(f"expected a port such as {known}; found {spec!r}")
    listener: Listener = kinds[kind].load()(address, mtu=mtu)
    return kind, listener


async def serve(
    listens: Sequence[str], config: GatewayConfig, forwards: Sequence[str], *,
    ready: Ready, echo: Callable[[str], None], statistics: bool = False,
    capture: str | None = None,
) -> int:  # fmt: skip
    """Be the network of machines started elsewhere until a signal; return an exit code."""
    async with (
        capturing(capture) as wrap,
        Gateway(config=config) as gateway,
        until_signal() as stop,
    ):

        def arrived(port: Port) -> None:
            echo(f"connected: {port.name}")

        for spec in listens:
            listener = open_listener(spec, config.mtu)[1]
            gateway.listen(TracingListener(listener, wrap), arrived)
        published = []
        for text in forwards:
            spec, _, guest = text.partition("@")
            if not guest:
                raise UsageError(f"expected PORT:GUEST_PORT@GUEST_ADDRESS, found {text!r}")
            published += await publish_all(gateway, [spec], guest)
        facts: dict[str, object] = {"listen": list(listens), "gateway": list(config.addresses),
                                    "published": published}  # fmt: skip
        ready.say(f"ready: {' '.join(config.addresses)} on {' '.join(listens)}", facts, echo)
        await stop.wait()
        if statistics:
            echo(json.dumps(asdict(gateway.statistics())))
    return 0

"""A vhost-user back-end of our own, in the loop of the device whose front-end it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from mmio_driver import Bench

from hypervisor.devices.registers import Register
from hypervisor.devices.vhost_net import VhostUserNet
from hypervisor.devices.vhost_user import VhostUserDevice
from hypervisor.vhost.port import VhostUserListener, VhostUserPort
from vpnstack.core.burst import Burst
from vpnstack.link.port import PortClosed

MAC = bytes.fromhex("02a1b2c3d4e5")
DEADLINE = 20.0  # seconds; only a test that fails comes near it


class Peer:
    """Listens at `path` and serves each front-end that comes; frames that arrive are kept."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: Path) -> None:
        self.loop = loop
        self.ports: list[VhostUserPort] = []
        self.frames: list[bytes] = []
        self.news = asyncio.Event()
        self._listener = VhostUserListener(str(path), mtu=1500)
        loop.add_reader(self._listener.fileno(), self._accept)

    @property
    def port(self) -> VhostUserPort:
        return self.ports[-1]

    def _accept(self) -> None:
        for port in self._listener.accept():
            assert isinstance(port, VhostUserPort)
            self.ports.append(port)
            self.loop.add_reader(port.fileno(), self.receive, port)

    def receive(self, port: VhostUserPort) -> None:
        burst = Burst()
        try:
            port.rx_burst(burst)
        except PortClosed:
            self.drop(port)
        else:
            self.frames += [burst.octets(i) for i in range(burst.count)]
            port.rx_done(burst)
        self.news.set()

    def drop(self, port: VhostUserPort) -> None:
        """Be gone for one front-end, as a process that dies is."""
        self.ports.remove(port)
        self.loop.remove_reader(port.fileno())
        port.close()

    def transmit(self, *frames: bytes) -> None:
        burst = Burst()
        for frame in frames:
            burst.append(frame, bytes(12))
        self.port.tx_burst(burst)

    def close(self) -> None:
        self.loop.remove_reader(self._listener.fileno())
        self._listener.close()
        for port in self.ports[:]:
            self.drop(port)


class Rig:
    """A device with its driver, and the back-end's end of it."""

    def __init__(self, path: Path, make: Callable[[Path], VhostUserDevice] | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        self.path = path
        self.peer: Peer | None = Peer(self.loop, path)
        self.warnings: list[str] = []
        self.starts = 0
        self.device = make(path) if make else VhostUserNet(path, MAC, 1450)
        self.device.warn = self.warnings.append
        self.device.connected = self._started
        self.run(self.device.prepare())
        self.bench = Bench(self.device, loop=self.loop)

    def _started(self) -> None:
        self.starts += 1

    def run(self, what: object) -> None:
        async def go() -> None:
            async with asyncio.timeout(DEADLINE):
                await what  # type: ignore[misc]

        self.loop.run_until_complete(go())

    def until(self, condition: Callable[[], object]) -> None:
        """Let the loop turn until a condition holds."""

        deadline = self.loop.time() + DEADLINE
        while not condition():
            assert self.loop.time() < deadline, "it never came to that"
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def start(self, **options: int) -> Bench:
        """Have the driver start the device, and the back-end take its rings."""
        self.bench.write(Register.STATUS, 0)
        self.until(lambda: not self.bench.status)
        before = self.starts
        self.bench.start(**options)
        self.until(lambda: self.starts > before)
        return self.bench

    def leave(self) -> None:
        """End the back-end."""
        assert self.peer is not None
        self.peer.close()
        self.peer = None

    def come_back(self) -> Peer:
        self.peer = Peer(self.loop, self.path)
        return self.peer

    def close(self) -> None:
        self.bench.transport.close()
        self.run(self.device.close())
        if self.peer is not None:
            self.peer.close()
        self.bench.close()

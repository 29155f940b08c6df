"""A machine's network interface on a TAP device, against the kernel at its other end.

The test is the guest's driver; the device lies in a namespace of its own.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kernel_peer import Namespace, needs_root

sys.path += [
    str(Path(__file__).parents[1] / "unit" / "hypervisor" / part) for part in ("", "devices")
]
from mmio_driver import Bench

from hypervisor.devices.net import CONFIG, Net, Status
from hypervisor.devices.registers import Register
from hypervisor.engine.nic import Tap
from hypervisor.engine.tap import TapJack, open_tap
from hypervisor.errors import UsageError

pytestmark = needs_root

MAC = bytes.fromhex("020000000002")
KERNEL = bytes.fromhex("020000000001")
RX, TX = 0, 1
DEADLINE = 20.0  # seconds; only a test that fails comes near it


@pytest.fixture
def lab() -> Iterator[Namespace]:
    namespace = Namespace("nic")
    yield namespace
    namespace.close()


class Rig:
    """A network device with its driver, plugged into a TAP device of the namespace."""

    def __init__(self, lab: Namespace, tap: Tap) -> None:
        self.lost: list[str] = []
        self.jack = lab.inside(lambda: TapJack(tap, MAC, self.lost.append))
        self.bench = Bench(Net(MAC, self.jack.mtu)).start(size=64)
        lab.ip("link", "set", "t0", "address", KERNEL.hex(":"), "up")
        lab.ip("address", "add", "10.9.0.1/24", "dev", "t0")
        device = self.bench.device
        assert isinstance(device, Net)

        async def plug() -> None:
            self.jack.plug(device.port)

        self.bench.loop.run_until_complete(plug())

    def until(self, condition: Callable[[], object]) -> None:
        loop = self.bench.loop
        deadline = loop.time() + DEADLINE
        while not condition():
            assert loop.time() < deadline, "it never came to that"
            loop.call_later(0.001, loop.stop)
            loop.run_forever()

    def close(self) -> None:
        self.jack.unplug()
        self.bench.close()


@pytest.fixture
def rig(lab: Namespace) -> Iterator[Rig]:
    made = Rig(lab, Tap("t0"))
    yield made
    made.close()


def test_the_kernel_answers(rig: Rig) -> None:
    """An ARP request to the kernel through ring, cable and TAP, and its answer all the way back."""
    bench = rig.bench
    buffers = [bench.rings[RX].receive_buffer(2048) for _ in range(32)]
    os.eventfd_write(bench.kicks[RX], 1)
    words = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1)
    ask = words + MAC + bytes((10, 9, 0, 2)) + bytes(6) + bytes((10, 9, 0, 1))
    bench.rings[TX].send(b"\xff" * 6 + MAC + b"\x08\x06" + ask)
    os.eventfd_write(bench.kicks[TX], 1)
    answer = MAC + KERNEL + b"\x08\x06" + words[:7] + b"\2" + KERNEL + bytes((10, 9, 0, 1))
    rig.until(lambda: any(bench.octets(each)[12:].startswith(answer) for each in buffers))
    assert bench.interrupts()


def test_a_guest_that_takes_nothing_holds_the_device_back(rig: Rig, lab: Namespace) -> None:
    """Without buffers of the guest's the kernel's frames wait; none is read to be dropped."""
    lab.ip("neigh", "add", "10.9.0.2", "lladdr", MAC.hex(":"), "dev", "t0")
    assert rig.jack.cable is not None
    with lab.socket(4, socket.SOCK_DGRAM) as sock:
        for _ in range(200):
            sock.sendto(bytes(1000), ("10.9.0.2", 9))
    device = rig.bench.device
    assert isinstance(device, Net)
    rig.until(lambda: device.port.stalled)
    before = rig.jack.cable.wakeups
    rig.bench.turn()
    assert rig.jack.cable.wakeups - before <= 1


def test_a_device_that_goes_takes_the_carrier_along(rig: Rig, lab: Namespace) -> None:
    lab.ip("link", "delete", "t0")
    rig.until(lambda: rig.lost)
    assert "t0" in rig.lost[0]
    assert CONFIG.unpack_from(rig.bench.page, Register.CONFIG)[1] == Status.DOWN
    assert not rig.bench.needs_reset


def test_by_descriptor(lab: Namespace) -> None:
    """The descriptor stays its owner's, and needs virtio-net headers."""
    fd, name = lab.inside(lambda: open_tap(Tap("t0")))
    assert name == "t0"
    Rig(lab, Tap(fd)).close()
    os.fstat(fd)
    os.close(fd)
    reader, writer = os.pipe()
    with pytest.raises(UsageError, match=f"cannot open TAP {reader}"):
        open_tap(Tap(reader))
    os.close(reader)
    os.close(writer)


def test_persistent_devices_and_their_mtu(lab: Namespace) -> None:
    def there() -> bool:
        return "t0" in lab.ip("-o", "link", "show")

    lab.ip("tuntap", "add", "t0", "mode", "tap")
    lab.ip("link", "set", "t0", "mtu", "9000")
    jack = lab.inside(lambda: TapJack(Tap("t0"), MAC, print))
    assert jack.mtu == 9000
    with pytest.raises(UsageError, match="another program has it open"):
        lab.inside(lambda: open_tap(Tap("t0")))
    jack.unplug()
    assert there()
    lab.ip("link", "delete", "t0")
    for persist in (False, True):
        lab.inside(lambda: TapJack(Tap("t0", persist=persist), MAC, print)).unplug()  # noqa: B023
        assert there() == persist

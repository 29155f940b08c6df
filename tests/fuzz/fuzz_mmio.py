"""A hostile driver behind a register page: any writes, any rings; nothing raises, nothing leaks.

`TestOneInput` is an atheris target; run this file to fuzz, or `fuzz(seed, count)` for a fixed run.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "unit" / "hypervisor"))
sys.path.append(str(Path(__file__).parents[1] / "unit" / "hypervisor" / "devices"))

import inputs
from mmio_driver import LIVE, Bench
from vhost_driver import GPA

from hypervisor.devices.balloon import Balloon
from hypervisor.devices.base import Device
from hypervisor.devices.console import VirtioConsole
from hypervisor.devices.net import Net
from hypervisor.devices.registers import MAGIC, Register, Status
from hypervisor.devices.rng import Rng
from vpnstack.core.burst import Burst
from vpnstack.link.port import PortClosed

WRITES = 40
MEMORY = 1 << 16
REGISTERS = (*Register, *range(Register.CONFIG, Register.CONFIG + 16))
STATUSES = (0, 1, 3, 11, 15, 64, 128, 0xFF)


def _device(rng: random.Random) -> Device:
    return rng.choice(
        (Rng, Balloon, lambda: Net(bytes(6)), lambda: VirtioConsole(lambda data: None))
    )()


def _value(rng: random.Random, register: int) -> int:
    if register == Register.STATUS:
        return rng.choice(STATUSES)
    return rng.choice(
        (0, 1, 2, 3, 4, 8, 64, GPA, GPA + rng.randrange(MEMORY), rng.getrandbits(32), 0xFFFFFFFF)
    )


def _scribble(rng: random.Random, bench: Bench) -> None:
    """Put plausible descriptors and indexes anywhere in the rings."""
    for ring in bench.rings:
        for i in range(ring.size):
            address = rng.choice((GPA + rng.randrange(MEMORY), rng.getrandbits(64)))
            size = rng.choice((0, 4, 16, 64, 4096, rng.getrandbits(32)))
            ring.set_desc(i, address, size, rng.getrandbits(3), rng.randrange(ring.size + 1))
        for _ in range(rng.randrange(4)):
            ring.post(rng.randrange(ring.size + 1))


def _use(rng: random.Random, device: Device) -> None:
    """Do what the host does with a device meanwhile."""
    if isinstance(device, Net):
        burst = Burst(4)
        try:
            device.port.rx_burst(burst)
            device.port.rx_done(burst)
        except PortClosed:
            return
        burst.clear()
        burst.append(bytes(60))
        device.port.tx_burst(burst)
    elif isinstance(device, VirtioConsole):
        device.write(b"typed")
        device.resize(rng.getrandbits(8), 25)
    elif isinstance(device, Balloon):
        device.set_target(rng.getrandbits(20))


def TestOneInput(data: bytes) -> None:
    """One device and a few writes; descriptors are counted before and after."""
    rng = random.Random(data)
    before = len(os.listdir("/proc/self/fd"))
    bench = Bench(_device(rng), MEMORY)
    try:
        if rng.random() < 0.8:
            bench.start(features=rng.choice((-1, 1 << 32, rng.getrandbits(64))), size=4)
        for _ in range(WRITES):
            act = rng.random()
            if act < 0.6:
                register = rng.choice(REGISTERS) if act < 0.55 else rng.getrandbits(13)
                size = rng.choice((4, 4, 4, 4, 1, 2, 8))
                bench.write(register, _value(rng, register), size)
            elif act < 0.75 and bench.rings:
                _scribble(rng, bench)
            elif act < 0.9:
                bench.kick(rng.randrange(len(bench.kicks)))
            else:
                _use(rng, bench.device)
            assert bench.read(Register.MAGIC_VALUE) == MAGIC
        bench.write(Register.STATUS, 0)
        assert bench.status == Status.RESET
        bench.guest.clear()
        assert bench.start(size=4).status == LIVE
    finally:
        bench.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def fuzz(seed: int, count: int) -> None:
    """Run `count` devices from `seed`."""
    inputs.seeded(TestOneInput, seed, count)


if __name__ == "__main__":
    inputs.main(TestOneInput, fuzz)

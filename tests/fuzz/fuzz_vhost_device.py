"""Any vhost-user messages to a device of ours: nothing raises, nothing leaks, nothing hangs on.

`TestOneInput` is an atheris target; run this file to fuzz, or `fuzz(seed, count)` for a fixed run.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "unit" / "hypervisor"))

import inputs
from fuzz_vhost_messages import _message, _send
from vhost_driver import FrontEnd, Guest

from hypervisor.devices.balloon import Balloon
from hypervisor.devices.base import Device
from hypervisor.devices.console import VirtioConsole
from hypervisor.devices.rng import Rng
from hypervisor.devices.vhost_serve import Connection
from hypervisor.devices.vsock import VsockDevice
from hypervisor.queue.layout import Feature
from hypervisor.vhost import messages as wire
from hypervisor.vhost.channel import Channel
from hypervisor.vhost.messages import ConfigSpace, Request

MESSAGES = 24
FEATURES = Feature.VERSION_1 | Feature.RING_EVENT_IDX | Feature.VHOST_PROTOCOL_FEATURES


def _device(rng: random.Random) -> Device:
    makes = (
        Rng,
        Balloon,
        lambda: VirtioConsole(lambda data: None),
        lambda: VsockDevice(3, lambda connection: None),
    )
    return rng.choice(makes)()


def _config(rng: random.Random) -> bytes:
    request = rng.choice((Request.GET_CONFIG, Request.SET_CONFIG))
    size = rng.choice((0, 1, 4, 8, 60, 256))
    space = ConfigSpace(rng.choice((0, 4, 8, rng.getrandbits(32))), 0, rng.randbytes(size))
    return wire.emit(request, wire.emit_config(space))


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    for _ in range(3):
        loop.call_soon(loop.stop)
        loop.run_forever()


def TestOneInput(data: bytes) -> None:
    """One front-end and a few messages; descriptors are counted before and after."""
    rng = random.Random(data)
    before = len(os.listdir("/proc/self/fd"))
    guest = Guest(1 << 16)
    loop = asyncio.new_event_loop()
    ours, theirs = socket.socketpair()
    device = _device(rng)
    gone: list[bool] = []
    connection = Connection(device, Channel(ours), loop, lambda: gone.append(True))
    front = FrontEnd(theirs, guest)
    try:
        if rng.random() < 0.7:
            front.start_qemu(int(FEATURES))
            front.u64(Request.SET_PROTOCOL_FEATURES, wire.Protocol.CONFIG)
        for _ in range(MESSAGES):
            if rng.random() < 0.2:
                _send(front, _config(rng), ())
            elif rng.random() < 0.2:
                ring = rng.choice(front.rings)
                ring.set_desc(0, rng.choice((0, 0x10_0000)), 64, rng.getrandbits(2))
                ring.post(rng.choice((0, 0, 0, 99)))
                os.eventfd_write(rng.choice(front.kick), 1)
            else:
                _send(front, *_message(rng, front))
            _turn(loop)
    except BrokenPipeError:
        assert gone
    finally:
        connection.close()
        _turn(loop)
        assert gone == [True]
        loop.run_until_complete(device.close())
        loop.close()
        front.close()
        guest.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def fuzz(seed: int, count: int) -> None:
    """Run `count` front-ends from `seed`."""
    inputs.seeded(TestOneInput, seed, count)


if __name__ == "__main__":
    inputs.main(TestOneInput, fuzz)

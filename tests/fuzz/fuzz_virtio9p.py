"""A hostile driver and a hostile server on both sides of virtio-9p; nothing raises, nothing hangs.

The driver posts requests good and bad, scribbles on its rings, resets; the server answers by any
tag in any pieces, throttles, gets lost.  Half of the runs have dataflow's own server instead.
Whatever happened, a driver that begins anew gets its Tversion answered.

`TestOneInput` is an atheris target; run this file to fuzz, or `fuzz(seed, count)` for a fixed run.
"""

from __future__ import annotations

import os
import random
import struct
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "unit" / "hypervisor"))
sys.path.append(str(Path(__file__).parents[1] / "unit" / "hypervisor" / "devices"))

import inputs
from mmio_driver import Bench
from p9_driver import HEADER, Mount, Script, message, rversion, tversion
from vhost_driver import GPA

from dataflow.aio.server import Server
from dataflow.p9.nodes import StaticDir, StaticFile
from hypervisor.devices.p9 import P9
from hypervisor.devices.registers import Register, Status

ACTS = 40
MEMORY = 1 << 17
KINDS = (*range(6, 128), 100, 104, 110, 116, 118, 120)
TAGS = (0, 1, 2, 3, 0xFFFF)


def _request(rng: random.Random) -> bytes:
    if rng.random() < 0.2:
        return tversion(rng.choice(("9P2000.L", "9P2000.u", "9P2000", "9P", "")))
    body = struct.pack("<IIH", rng.randrange(4), rng.randrange(4), rng.randrange(3))
    data = message(rng.choice(KINDS), rng.choice(TAGS), body + rng.randbytes(rng.randrange(40)))
    if rng.random() < 0.03:
        data = struct.pack("<I", rng.choice((0, 6, 7, 100, rng.getrandbits(32)))) + data[4:]
    return data[: rng.randrange(len(data))] if rng.random() < 0.02 else data


def _post(rng: random.Random, guest: Mount) -> None:
    data = _request(rng)
    rooms = [rng.choice((1, 7, 11, 64, 300)) for _ in range(rng.randrange(3))]
    if rng.random() < 0.95:  # else there may be too little for any answer
        rooms.append(11)
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(3)))
    guest.post(data, *rooms, cuts=cuts)


def _answer(rng: random.Random) -> bytes:
    size = rng.choice((0, 4, 30, 400))
    data = message(rng.choice((7, 101, 105, 107, 109, 117)), rng.choice(TAGS), bytes(size))
    if rng.random() < 0.1:
        data = HEADER.pack(rng.choice((0, 6, 50, rng.getrandbits(32))), 117, 1) + data[7:]
    return data


def _serve(rng: random.Random, script: Script) -> None:
    if not script.talks:
        return
    client = rng.choice(script.talks).client  # also one that the device has left
    act = rng.random()
    if act < 0.7:
        data = b"".join(_answer(rng) for _ in range(rng.randrange(1, 4)))
        at = rng.randrange(len(data) + 1)
        client.answered([data[:at], data[at:]])
    elif act < 0.9:
        client.throttle(rng.random() < 0.3)
    else:
        client.lost("it was told to")


def _scribble(rng: random.Random, bench: Bench) -> None:
    (ring,) = bench.rings
    for i in range(ring.size):
        address = rng.choice((GPA + rng.randrange(MEMORY), rng.getrandbits(64)))
        size = rng.choice((0, 7, 11, 64, 4096, rng.getrandbits(32)))
        ring.set_desc(i, address, size, rng.getrandbits(3), rng.randrange(ring.size + 1))
    for _ in range(rng.randrange(4)):
        ring.post(rng.randrange(ring.size + 1))


def _act(rng: random.Random, guest: Mount, script: Script | None) -> None:
    bench, act = guest.bench, rng.random()
    if act < 0.5:
        _post(rng, guest)
    elif act < 0.75 and script is not None:
        _serve(rng, script)
    elif act < 0.78:
        _scribble(rng, bench)
    elif act < 0.81:
        bench.write(Register.STATUS, rng.choice((0, Status.FAILED)))
    elif act < 0.9:
        bench.guest.clear()
        bench.turn()
        bench.turn()
        bench.start(size=16)
    bench.kick(0)


def _run(rng: random.Random, bench: Bench, script: Script | None) -> None:
    guest = Mount(bench.start(size=16))
    for _ in range(ACTS):
        _act(rng, guest, script)
    later = bench.write(Register.STATUS, 0)
    if later is not None:
        bench.loop.run_until_complete(later)
    bench.turn()
    assert bench.status == Status.RESET
    bench.guest.clear()
    assert Mount(bench.start(size=16)).call(tversion()) == rversion()


def TestOneInput(data: bytes) -> None:
    """One device and a few acts; descriptors are counted before and after."""
    rng = random.Random(data)
    before = len(os.listdir("/proc/self/fd"))
    script = Script() if rng.random() < 0.5 else None
    tree = StaticDir({"a": StaticFile(b"a" * 1000), "b": StaticDir({})})
    bench = Bench(P9("fuzz", script or Server(tree, msize=65536)), MEMORY)
    try:
        _run(rng, bench, script)
    finally:
        bench.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def fuzz(seed: int, count: int) -> None:
    """Run `count` devices from `seed`."""
    inputs.seeded(TestOneInput, seed, count)


if __name__ == "__main__":
    inputs.main(TestOneInput, fuzz)

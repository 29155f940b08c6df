"""Our vhost-user front-end against foreign back-ends: DPDK's net PMD and QEMU's block export.

The test is the guest's driver; the back-end works in its memory from its own process.
"""

from __future__ import annotations

import asyncio
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path += [
    str(Path(__file__).parents[1] / "unit" / "hypervisor" / part) for part in ("", "devices")
]
from mmio_driver import Bench
from vhost_driver import Buffer

from hypervisor.devices.registers import Register
from hypervisor.devices.vhost_net import VhostUserNet
from hypervisor.devices.vhost_user import VhostUserBlock, VhostUserDevice

DEADLINE = 30.0  # seconds; DPDK takes one or two to start
MAC = bytes.fromhex("02a1b2c3d4e5")
RX, TX = 0, 1
READ, WRITE, FLUSH = 0, 1, 4  # virtio 1.2, 5.2.6
TESTPMD = (
    "dpdk-testpmd -l 0,1 --main-lcore 1 -m 256 --no-huge --no-pci --no-telemetry "
    "--file-prefix={prefix} --vdev net_vhost0,iface={path},queues={pairs} -- --nb-cores=1 "
    "--forward-mode=io --port-topology=loop --total-num-mbufs=8192 --rxq={pairs} --txq={pairs}"
)


class Rig:
    """A device whose back-end is a child process that can be ended and started again."""

    def __init__(self, device: VhostUserDevice, command: list[str], log: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.device = device
        self.started = 0
        self._command = command
        self._log = log
        self.spawn()
        device.connected = self._on_connected
        try:
            self.loop.run_until_complete(device.prepare())
        except BaseException:
            self.kill()
            self.loop.close()
            raise
        self.bench = Bench(device, loop=self.loop)

    def _on_connected(self) -> None:
        self.started += 1

    def spawn(self) -> None:
        """Start the back-end, where an earlier one may have left its socket."""
        Path(self.device.path).unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self.child = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
            )

    def kill(self) -> None:
        self.child.kill()
        self.child.communicate()

    def until(self, condition: Callable[[], object]) -> None:
        """Serve the loop until a condition holds; the guest's memory has no event of its own."""
        deadline = self.loop.time() + DEADLINE
        while not condition():
            assert self.loop.time() < deadline, self._log.read_text()[-4000:]
            self.loop.call_later(0.001, self.loop.stop)
            self.loop.run_forever()

    def start(self, size: int = 64) -> Bench:
        self.bench.write(Register.STATUS, 0)
        self.until(lambda: not self.bench.status)
        before = self.started
        self.bench.start(size=size)
        self.until(lambda: self.started > before)
        return self.bench

    def close(self) -> None:
        self.bench.transport.close()
        self.loop.run_until_complete(self.device.close())
        self.kill()
        self.bench.close()


Make = Callable[[VhostUserDevice, list[str]], Rig]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Make]:
    made: list[Rig] = []

    def make(device: VhostUserDevice, command: list[str]) -> Rig:
        made.append(Rig(device, command, tmp_path / "log"))
        return made[-1]

    yield make
    for each in made:
        each.close()


def echo(rig: Rig, buffers: list[Buffer], frames: list[bytes]) -> None:
    """Send frames, which come back as they are in the next buffers."""
    bench = rig.bench
    for frame in frames:
        bench.rings[TX].send(frame)
    os.eventfd_write(bench.kicks[TX], 1)
    came = 0

    def all_came() -> bool:
        nonlocal came
        came += len(bench.rings[RX].used_elements())
        return came == len(frames)

    rig.until(all_came)
    back = [bench.octets(buffers.pop(0))[12:] for _ in frames]
    assert [data[:60] for data in back] == frames


@pytest.mark.parametrize("pairs", [1, 2])
def test_testpmd_returns_frames_also_after_a_restart(
    rig: Make, require: Callable[..., None], tmp_path: Path, pairs: int
) -> None:
    require("dpdk-testpmd")
    path = tmp_path / "sock"
    command = TESTPMD.format(path=path, pairs=pairs, prefix=f"f{os.getpid()}").split()
    made = rig(VhostUserNet(path, MAC, pairs=pairs, wait=DEADLINE), command)
    bench = made.start()
    buffers = [bench.rings[RX].receive_buffer(2048) for _ in range(32)]
    os.eventfd_write(bench.kicks[RX], 1)
    frames = [bytes([n]) * 60 for n in range(8)]
    echo(made, buffers, frames)
    assert bench.interrupts() > 0
    made.kill()
    made.until(lambda: not made.device.online)
    assert not bench.needs_reset
    made.spawn()
    made.until(lambda: made.started == 2)
    echo(made, buffers, frames)


def test_a_disk_of_qemus(rig: Make, require: Callable[..., None], tmp_path: Path) -> None:
    require("qemu-storage-daemon")
    disk, path = tmp_path / "disk", tmp_path / "sock"
    disk.write_bytes(os.urandom(1 << 20))
    export = f"type=vhost-user-blk,id=e,node-name=d,addr.type=unix,addr.path={path},writable=on"
    file = f"driver=file,filename={disk},node-name=d"
    made = rig(
        VhostUserBlock(path, wait=DEADLINE),
        ["qemu-storage-daemon", "--blockdev", file, "--export", export],
    )
    assert struct.unpack_from("<Q", made.device.config()) == (2048,)
    bench = made.start()

    def request(kind: int, sector: int, *buffers: Buffer) -> bytes:
        status = bench.writable(1)
        head = bench.readable(struct.pack("<IIQ", kind, 0, sector))
        bench.rings[0].add(head, *buffers, status)
        os.eventfd_write(bench.kicks[0], 1)
        made.until(lambda: bench.rings[0].used_elements())
        return bench.octets(status)

    data = bench.writable(4096)
    assert request(READ, 8, data) == b"\0"
    assert bench.octets(data) == disk.read_bytes()[4096:8192]
    assert request(WRITE, 16, bench.readable(b"A" * 512)) == b"\0"
    assert request(FLUSH, 0) == b"\0"
    assert disk.read_bytes()[8192:8704] == b"A" * 512
    made.kill()
    made.until(lambda: bench.needs_reset)  # what was written nobody knows
    made.spawn()
    made.until(lambda: made.device.online)
    made.start()
    assert request(READ, 16, data) == b"\0"
    assert bench.octets(data)[:512] == b"A" * 512

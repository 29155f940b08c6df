"""The vhost-user port against DPDK's virtio-user driver, at native speed.

Needs root, dpdk-testpmd and 512 huge pages of 2 MiB, which are given back afterwards.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hypervisor.vhost.port import VhostUserPort, listen
from vpnstack.core.burst import Burst
from vpnstack.link.port import PortClosed

PAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
FRAME = b"\x02" * 12 + b"\x08\x00" + bytes(50)
TESTPMD = (
    "dpdk-testpmd -l 0,1 --main-lcore 1 -m 256 --no-pci --single-file-segments --no-telemetry "
    "--huge-dir={huge} --file-prefix={prefix} --vdev net_virtio_user0,path={path},queues={queues} "
    "-- --nb-cores=1 --forward-mode={mode} --total-num-mbufs=8192 --txq={queues} --rxq={queues} "
    "--stats-period 1 {more}"
)

pytestmark = [
    pytest.mark.compat,
    pytest.mark.skipif(os.geteuid() != 0, reason="not root"),
    pytest.mark.skipif(not shutil.which("dpdk-testpmd"), reason="dpdk-testpmd is not installed"),
]


@pytest.fixture
def huge(tmp_path: Path) -> Iterator[Path]:
    """A hugetlbfs with 1 GiB behind it."""
    before = PAGES.read_text()
    PAGES.write_text("512")
    mount = tmp_path / "huge"
    mount.mkdir()
    subprocess.run(["mount", "-t", "hugetlbfs", "none", str(mount)], check=True)
    yield mount
    subprocess.run(["umount", str(mount)], check=True)
    PAGES.write_text(before)


class Pmd:
    """A testpmd and the port that it drives."""

    def __init__(self, tmp_path: Path, huge: Path, mode: str, queues: int, more: str) -> None:
        self.log = tmp_path / "testpmd.log"
        path = str(tmp_path / "vhost.sock")
        self._listener = listen(path, mtu=1500)
        command = TESTPMD.format(
            huge=huge, prefix=f"t{os.getpid()}", path=path, queues=queues, mode=mode, more=more
        )
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                command.split(), stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT
            )
        assert select.select([self._listener], [], [], 20)[0], self.log.read_text()
        self.port: VhostUserPort
        (self.port,) = self._listener.accept()  # type: ignore[assignment]
        self.burst = Burst()

    def serve(self, until: Callable[[], bool], seconds: float = 20) -> int:
        """Receive until a condition holds; returns how many frames came."""
        count, deadline = 0, time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, self.log.read_text()[-2000:]
            if select.select([self.port], [], [], 0.05)[0]:
                count += self.port.rx_burst(self.burst)
                self.port.rx_done(self.burst)
        return count

    def total(self, name: str) -> int:
        """Return testpmd's newest value of a counter, over all of its output."""
        found = re.findall(rf"{name}-packets: (\d+)", self.log.read_text())
        return int(found[-1]) if found else 0

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()
        self._listener.close()
        self.port.close()


@pytest.fixture
def pmd(tmp_path: Path, huge: Path) -> Callable[..., object]:
    @contextmanager
    def start(mode: str, queues: int = 1, more: str = "") -> Iterator[Pmd]:
        pmd = Pmd(tmp_path, huge, mode, queues, more)
        try:
            yield pmd
        finally:
            pmd.stop()

    return start


@pytest.mark.parametrize("queues", [1, 2])
def test_txonly_every_frame_is_received(pmd: Callable[..., object], queues: int) -> None:
    with pmd("txonly", queues) as peer:  # type: ignore[attr-defined]
        assert peer.serve(lambda: peer.port.statistics().rx_frames > 1_000_000) > 1_000_000
        stats = peer.port.statistics()
        assert stats.rx_dropped == 0
        assert stats.rx_octets == 64 * stats.rx_frames
        if queues == 2:
            assert all(ring.q.frames for ring in peer.port._device.tx)


def test_rxonly_counts_what_we_send(pmd: Callable[..., object]) -> None:
    sent = 100_000
    with pmd("rxonly") as peer:  # type: ignore[attr-defined]
        peer.serve(lambda: peer.port.ready)
        out = Burst()
        for _ in range(50):
            out.append(FRAME)

        def feed() -> bool:
            stats = peer.port.statistics()
            for _ in range(100):
                if stats.tx_frames >= sent or peer.port.stalled:
                    break
                peer.port.tx_burst(out)
                stats = peer.port.statistics()
            return bool(stats.tx_frames >= sent and not peer.port.stalled)

        peer.serve(feed)
        sent = peer.port.statistics().tx_frames
        assert peer.port.statistics().tx_dropped == 0
        peer.serve(lambda: peer.total("RX") == sent)


def test_mergeable_and_large_frames(pmd: Callable[..., object]) -> None:
    """A frame of three buffers of testpmd's 2 KiB arrives as one packet."""
    with pmd("rxonly", more="--enable-scatter --max-pkt-len=9000") as peer:  # type: ignore[attr-defined]
        peer.serve(lambda: peer.port.ready)
        out = Burst()
        out.append(FRAME[:14] + bytes(5000))
        peer.port.tx_burst(out)
        peer.serve(lambda: peer.total("RX") == 1)
        assert peer.port.statistics().tx_frames == 1
        assert int(re.findall(r"RX-bytes:\s+(\d+)", peer.log.read_text())[-1]) == 5014


def test_killed_driver_closes_the_port_and_nothing_leaks(pmd: Callable[..., object]) -> None:
    with pmd("txonly") as peer:  # type: ignore[attr-defined]
        peer.serve(lambda: peer.port.statistics().rx_frames > 100_000)
        peer.process.send_signal(signal.SIGKILL)
        with pytest.raises(PortClosed, match="closed the connection"):
            peer.serve(lambda: False)
        assert "huge" not in Path("/proc/self/maps").read_text()

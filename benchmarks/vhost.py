"""Our vhost-user port beside DPDK's own back-end, both driven by testpmd's virtio-user driver.

    python benchmarks/vhost.py [--quick] [--cells rx/64] [--json FILE]

One queue pair and one polling core a side.  `rx` is what the driver transmits and the back-end
takes: ours parses every frame where it lies in the driver's memory and copies all of it out once,
DPDK's copies it into a buffer and looks at nothing.  `rx_parsed` is ours without the copy (testpmd
sends UDP without a checksum, so that no octet of a payload is read there), `rx_stack` ours up to
an asyncio datagram protocol on a stack: a Python call for each.  `tx` is what the back-end sends
and the driver counts, in both with the driver's checksum offload, as Linux guests have it.
testpmd cannot transmit segmentation offload: its frames of 64 KiB are plain ones, of a size that
no Ethernet has; ours towards it are TCP super-segments (its LRO).
Needs root and 512 huge pages of 2 MiB, which are given back.
"""

from __future__ import annotations

import asyncio
import re
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import uvloop

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vpnstack.core._core import ffi, lib

from benchmarks.harness import BenchmarkError, Lab, Process, need, wait_for
from benchmarks.sheet import Report, finish, options, selected
from hypervisor.vhost.port import VhostUserPort, listen
from vpnstack import Host
from vpnstack.core.access import parse_burst
from vpnstack.core.burst import Burst
from vpnstack.link.port import PortClosed
from vpnstack.stack import headers

PAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
PAGES_NEEDED = 512
GOAL = 0.5  # of DPDK: our side runs Python for every burst of 64
SIZES = {"64": 64, "1500": 1500, "64K": 65226}
LARGE = "--total-num-mbufs=2048 --mbuf-size=65535"
PEER = "02:00:00:00:00:99"  # whom testpmd sends to, from and to these addresses by itself
NETWORK, PORT = "198.18.0.2/15", 9
Rates = dict[str, float]  # frames a second, by cell without its size
TESTPMD = (
    "dpdk-testpmd -l 0,1 --main-lcore {main} -m 256 --no-pci --single-file-segments --no-telemetry "
    "--huge-dir={huge} --file-prefix={prefix} --vdev {device} -- --nb-cores=1 "
    "--forward-mode={mode} --stats-period 1 {more}"
)


class Testpmd:
    """A testpmd that prints its counters every second."""

    def __init__(self, lab: Lab, huge: Path, device: str, mode: str, main: int, more: str) -> None:
        line = TESTPMD.format(
            main=main, huge=huge, prefix=f"bench{main}", device=device, mode=mode, more=more
        )
        self.process: Process = lab.process(line.split(), stdin=subprocess.PIPE)

    def rate(self, way: str, seconds: float) -> float:
        """Return packets a second, `Rx` or `Tx`: the median of what it prints from now on."""
        wait_for(lambda: any(self._rates(way)), "the first packet", 20)
        start = len(self._rates(way)) + 1  # the interval that is under way does not count
        wanted = start + max(1, round(seconds))
        wait_for(lambda: len(self._rates(way)) >= wanted, "testpmd's counters", seconds + 10)
        rate = statistics.median(self._rates(way)[start:wanted])
        if not rate:
            raise BenchmarkError("no packet came through")
        return rate

    @property
    def alive(self) -> bool:
        """True; raises `BenchmarkError` with what it said when it has ended."""
        if self.process.popen.poll() is not None:
            raise BenchmarkError(f"testpmd ended: {self.process.said()[-300:]}")
        return True

    def _rates(self, way: str) -> list[int]:
        assert self.alive
        self.process.log.seek(0)
        return list(map(int, re.findall(rf"{way}-pps:\s+(\d+)".encode(), self.process.log.read())))


def frames_of(size: int) -> Burst:
    """Return a burst of equal frames of TCP, with segmentation left to the driver where large."""
    ends = (bytes([10, 0, 0, 1]), 1000, bytes([10, 0, 0, 2]), 2000)
    template = headers.template(b"\x02\0\0\0\0\1", b"\x02\0\0\0\0\2", ends, headers.TCP)
    data = ffi.from_buffer(bytes(size - 54))
    burst = Burst()
    burst.keep(data)
    gso = 1460 if size > 1514 else 0
    while not burst.full:
        lib.frame_emit_tcp(
            burst[burst.count], template, len(template), 1, 1, 0x10, 1000, 0, b"", 0, data,
            size - 54, gso,
        )  # fmt: skip
        burst.count += 1
    return burst


def driver_options(size: int, way: str) -> str:
    """Return what the driver needs for frames of `size`: 0xc is transport checksums, 0x1c also
    LRO."""
    buffers = "--total-num-mbufs=8192" if size <= 1500 else LARGE
    if way == "rx":
        return f"{buffers} --txpkts={size} --eth-peer=0,{PEER}"
    return f"{buffers} --rx-offloads={0x1C if size > 1500 else 0xC:#x}"


def backend_options(size: int, way: str) -> str:
    """Return what DPDK's back-end needs at the other end."""
    return (
        driver_options(size, "rx")
        if way == "tx"
        else (LARGE if size > 1500 else "--total-num-mbufs=8192")
    )


class Ours:
    """Our port in this process, polled."""

    def __init__(self, path: str) -> None:
        self._listener = listen(path, mtu=1500)

    def accept(self, driver: Testpmd) -> VhostUserPort:
        """Wait for the driver and until its queues run."""
        if not select.select([self._listener], [], [], 20)[0]:
            raise BenchmarkError(f"testpmd did not connect: {driver.process.said()[-300:]}")
        (port,) = self._listener.accept()
        assert isinstance(port, VhostUserPort)
        return port

    def close(self) -> None:
        """Remove the socket."""
        self._listener.close()


class Poll:
    """Serves a port in a loop of its own and counts."""

    def __init__(self, port: VhostUserPort, seconds: float) -> None:
        self.port = port
        self.seconds = seconds
        self.burst = Burst()
        self._memory = ffi.new("uint8_t[]", 64 * 65600)
        self._packed = ffi.new("uint32_t *")

    def parsed(self) -> None:
        """Take a burst and parse it."""
        if self.port.rx_burst(self.burst):
            parse_burst(self.burst)
            self.port.rx_done(self.burst)

    def copied(self) -> None:
        """Take a burst, parse it and copy all of it out."""
        burst = self.burst
        if self.port.rx_burst(burst):
            parse_burst(burst)
            room = ffi.sizeof(self._memory)
            lib.frame_pack(burst.array, burst.count, self._memory, room, self._packed)
            assert self._packed[0] == burst.count
            self.port.rx_done(burst)

    def sending(self, out: Burst) -> Callable[[], None]:
        """Return what sends `out` as often as there is room."""

        def turn() -> None:
            self.parsed()
            if self.port.stalled:
                self.port.flush()
            elif self.port.ready:
                self.port.tx_burst(out)

        return turn

    def rate(self, turn: Callable[[], None], name: str) -> float:
        """Return the frames a second by which the counter `name` grows."""

        def count() -> int:
            return int(getattr(self.port.statistics(), name))

        end = time.monotonic() + 20
        while not (self.port.ready and count()):  # until the first frame
            if time.monotonic() > end:
                raise BenchmarkError("no frame in 20 s")
            turn()
        first, began = count(), time.monotonic()
        while time.monotonic() - began < self.seconds:
            for _ in range(64):
                turn()
        return (count() - first) / (time.monotonic() - began)


class Sink(asyncio.DatagramProtocol):
    """Counts datagrams."""

    count = 0

    def datagram_received(self, data: bytes, addr: object) -> None:
        """Take one."""
        self.count += 1


async def stack_rate(port: VhostUserPort, seconds: float) -> float:
    """Return the datagrams a second that a protocol on a stack gets."""
    sink = Sink()
    async with Host(port, [NETWORK], mac=PEER) as host:
        await host.create_datagram_endpoint(lambda: sink, local_addr=("0.0.0.0", PORT))
        await asyncio.sleep(seconds / 4)
        first, began = sink.count, time.monotonic()
        await asyncio.sleep(seconds)
        return (sink.count - first) / (time.monotonic() - began)


def rates(port: VhostUserPort, way: str, size: int, seconds: float) -> Rates:
    """Measure everything that one connection is good for."""
    poll = Poll(port, seconds)
    if way == "tx":
        return {"tx": poll.rate(poll.sending(frames_of(size)), "tx_frames")}
    return {
        "rx": poll.rate(poll.copied, "rx_frames"),
        "rx_parsed": poll.rate(poll.parsed, "rx_frames"),
        "rx_stack": uvloop.run(stack_rate(port, seconds)),
    }


def measure_ours(huge: Path, way: str, size: int, seconds: float) -> Rates:
    """Return packets a second between testpmd and our port."""
    with Lab() as lab:
        path = str(lab.directory() / "vhost.sock")
        ours = Ours(path)
        lab.callback(ours.close)
        mode = "txonly" if way == "rx" else "rxonly"
        device = f"net_virtio_user0,path={path},queues=1"
        driver = Testpmd(lab, huge, device, mode, 1, driver_options(size, way))
        port = ours.accept(driver)
        lab.callback(port.close)
        try:
            return rates(port, way, size, seconds)
        except PortClosed:
            raise BenchmarkError(f"testpmd left: {driver.process.said()[-300:]}") from None


def measure_dpdk(huge: Path, way: str, size: int, seconds: float) -> Rates:
    """Return packets a second between two testpmds, the back-end on DPDK's vhost library."""
    with Lab() as lab:
        path = str(lab.directory() / "vhost.sock")
        modes = ("txonly", "rxonly") if way == "rx" else ("rxonly", "txonly")
        more = driver_options(size, way)
        other = backend_options(size, way)
        back = Testpmd(lab, huge, f"net_vhost0,iface={path},queues=1", modes[1], 0, other)
        wait_for(lambda: back.alive and Path(path).exists(), "the back-end's socket")
        driver = Testpmd(lab, huge, f"net_virtio_user0,path={path},queues=1", modes[0], 1, more)
        return {way: (back if way == "rx" else driver).rate("Rx", seconds)}


TOOLS: dict[str, Callable[[Path, str, int, float], Rates]] = {
    "ours": measure_ours, "dpdk": measure_dpdk,
}  # fmt: skip


def hugepages(lab: Lab) -> Path:
    """Mount a hugetlbfs with enough pages behind it, until the end."""
    before = PAGES.read_text()
    lab.callback(PAGES.write_text, before)
    PAGES.write_text(str(max(PAGES_NEEDED, int(before))))
    if int(PAGES.read_text()) < PAGES_NEEDED:
        raise BenchmarkError(f"expected {PAGES_NEEDED} huge pages, found {PAGES.read_text()}")
    mount = lab.directory()
    subprocess.run(["mount", "-t", "hugetlbfs", "none", str(mount)], check=True)
    lab.callback(subprocess.run, ["umount", str(mount)], check=True)
    return mount


def passt(report: Report) -> None:
    """Say why passt is not among the peers."""
    try:
        said = subprocess.run(["passt", "--help"], capture_output=True, text=True, check=False)
        able = "--vhost-user" in said.stdout + said.stderr
    except FileNotFoundError:
        report.note("passt is not installed")
        return
    report.note(
        "passt has vhost-user, but testpmd's addresses and frames end in it: not measured"
        if able
        else "the installed passt has no vhost-user (it came in December 2024)"
    )


@click.command(help=__doc__)
@options
def main(quick: bool, json_path: Path | None, cells: tuple[str, ...]) -> None:
    """Measure, print, write."""
    need("dpdk-testpmd", "mount")
    report = Report("vhost-user: packets a second with testpmd", ["dpdk", "ours"])
    passt(report)
    seconds, rounds = (1.0, 1) if quick else (3.0, 3)
    with Lab() as lab:
        huge = hugepages(lab)
        for way in ("rx", "tx"):
            for label, size in SIZES.items():
                if selected(f"{way}/{label}", cells):
                    for _ in range(rounds):  # in turns
                        row(report, huge, way, label, size, seconds)
    report.show()
    report.write(json_path)


def row(report: Report, huge: Path, way: str, label: str, size: int, seconds: float) -> None:
    """Measure one cell for both, and its throughput in Gbit/s."""
    report.cell(f"{way}/{label}", "Mpacket/s", goal=GOAL)
    for tool, measure in TOOLS.items():
        try:
            found = measure(huge, way, size, seconds)
        except BenchmarkError as e:
            report.note(f"{tool} {way}/{label}: {e}")
            continue
        for name, rate in found.items():
            report.cell(f"{name}/{label}", "Mpacket/s").add(tool, rate / 1e6)
        octets = f"{way}_octets/{label}"
        report.cell(octets, "Gbit/s").add(tool, found[way] * size * 8 / 1e9)


if __name__ == "__main__":
    finish(main)

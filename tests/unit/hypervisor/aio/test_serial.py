"""Where a serial line leads: ring files and pseudo-terminals."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypervisor.aio.console import Console
from hypervisor.aio.serial import Line, PseudoTerminal, RingLog, open_device
from hypervisor.errors import UsageError


def test_ring_keeps_the_last_bytes(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    ring = RingLog(path, 8)
    ring.write(b"abc")
    assert path.read_bytes() == b"abc" + bytes(5)
    ring.write(b"defghij")
    assert path.read_bytes() == b"ijcdefgh"
    ring.write(b"0123456789")
    assert sorted(path.read_bytes()) == sorted(b"23456789")
    ring.close()


def test_ring_is_truncated_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    path.write_bytes(b"x" * 100)
    RingLog(path, 8).close()
    assert path.read_bytes() == bytes(8)


def test_ring_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write the log"):
        RingLog(tmp_path / "none" / "ring")


@pytest.fixture
def _no_descriptor_left() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before


class Guest:
    """A console whose other end notes what is typed."""

    def __init__(self) -> None:
        self.typed = asyncio.Event()
        self.bytes = b""
        self.console = Console()
        self.console.connect(self._send)

    def _send(self, data: bytes) -> int:
        self.bytes += data
        self.typed.set()
        return len(data)


@pytest.mark.usefixtures("_no_descriptor_left")
async def test_pseudo_terminal_both_ways() -> None:
    guest = Guest()
    guest.console.receive(b"before ")
    line = PseudoTerminal(guest.console)
    guest.console.receive(b"after\r\n")
    far = os.open(line.name, os.O_RDWR | os.O_NOCTTY)
    assert os.read(far, 100) == b"before after\r\n"
    os.write(far, b"ls\x03\n")  # raw: no signal, no echo
    await asyncio.wait_for(guest.typed.wait(), 5)
    assert guest.bytes == b"ls\x03\n"
    os.close(far)
    line.close()
    assert not guest.console.taps
    guest.console.receive(b"to nobody")


@pytest.mark.usefixtures("_no_descriptor_left")
async def test_a_terminal_that_nobody_reads_holds_nobody_back() -> None:
    guest = Guest()
    line = PseudoTerminal(guest.console)
    for _ in range(100):
        guest.console.receive(b"x" * (1 << 15))
    assert 0 < len(line._waiting) <= 1 << 20
    line.close()


@pytest.mark.usefixtures("_no_descriptor_left")
async def test_a_terminal_device_by_path() -> None:
    guest = Guest()
    master, slave = os.openpty()
    line = open_device(guest.console, Path(os.ttyname(slave)))
    guest.console.receive(b"hello")
    assert os.read(master, 100) == b"hello"
    line.close()
    os.close(master)
    os.close(slave)


@pytest.mark.usefixtures("_no_descriptor_left")
async def test_a_device_that_hangs_up_is_let_be() -> None:
    guest = Guest()
    ours, theirs = os.pipe()
    line = Line(guest.console, ours)
    os.close(theirs)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    guest.console.receive(b"to nobody")
    assert guest.bytes == b""
    line.close()


@pytest.mark.parametrize(
    ("path", "message"), [("/dev/null", "not a terminal"), ("/dev/none", "No such file")]
)
async def test_bad_devices(path: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_device(Guest().console, Path(path))

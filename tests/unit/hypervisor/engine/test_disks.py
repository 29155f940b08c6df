"""Images are made, grown, locked and refused with one line; qcow2 goes through qemu-nbd."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "devices"))

from disk_driver import DISCARD, FLUSH, IOERR, OK, OUT, PENDING, WRITE_ZEROES, DiskDriver
from mmio_driver import Bench

from hypervisor import Disk, Machine, UsageError
from hypervisor.devices.block import Backing
from hypervisor.devices.disk import parse_size
from hypervisor.devices.registers import Register
from hypervisor.engine import disks, qcow2

MIB = 1 << 20


def silent(why: str) -> None:
    raise AssertionError(f"unexpected warning: {why}")


@contextlib.contextmanager
def opened(disk: Disk) -> Iterator[Backing]:
    backing = disks.open_raw(disk, silent)
    yield backing
    asyncio.run(closed(backing))


async def closed(backing: Backing) -> None:
    await backing.close()


def test_sizes_make_and_grow_and_never_shrink(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    for size, expected in (("4M", 4 * MIB), ("8M", 8 * MIB), (MIB, 8 * MIB)):
        with opened(Disk(path, size=size)) as backing:
            assert backing.sectors * 512 == expected == path.stat().st_size
    assert path.stat().st_blocks == 0
    assert path.stat().st_mode & 0o777 == 0o600


def test_one_writer_or_many_readers(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(MIB))
    with opened(Disk(path)):
        for read_only in (False, True):
            with pytest.raises(UsageError, match=r"disk.img is in use by another machine"):
                disks.open_raw(Disk(path, read_only=read_only), silent)
    reader = Disk(path, read_only=True)
    refused = pytest.raises(UsageError, match="in use by another machine")
    with opened(reader), opened(reader), refused:
        disks.open_raw(Disk(path), silent)
    with opened(Disk(path)):
        pass


def test_the_lock_is_qemus(tmp_path: Path, require: Callable[..., None]) -> None:
    require("qemu-io")
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(MIB))

    def qemu(*options: str) -> bool:
        command = ["qemu-io", *options, "-f", "raw", "-c", "read 0 512", str(path)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    with opened(Disk(path)):
        assert not qemu()
        assert not qemu("-r")
    with opened(Disk(path, read_only=True)):
        assert not qemu()
        assert qemu("-r")


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda path: None, {}, "is not there: give a size"),
        (lambda path: path.mkdir(), {}, "is a directory, expected an image"),
        (
            lambda path: path.write_bytes(bytes(511)),
            {},
            "has 511 bytes, expected at least a sector",
        ),
        (lambda path: path.write_bytes(b"QFI\xfb" * 512), {}, "looks like qcow2: say format="),
        (os.mkfifo, {}, "no file and no block device"),
        (lambda path: path.write_bytes(bytes(512)), {"sector_size": 4096}, "a sector of 4096"),
    ],
)
def test_what_is_no_image(
    tmp_path: Path, make: Callable[[Path], object], options: dict[str, int], message: str
) -> None:
    path = tmp_path / "disk.img"
    make(path)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UsageError, match=message) as caught:
        disks.open_raw(Disk(path, **options), silent)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_raw_image_may_hold_qcow2_where_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(b"QFI\xfb" * 512)
    with opened(Disk(path, format="raw")) as backing:
        assert backing.sectors == 4


def test_a_last_sector_that_is_not_whole_is_told(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1000))
    said: list[str] = []
    backing = disks.open_raw(Disk(path), said.append)
    assert backing.sectors == 1
    assert "last 488 bytes" in said[0]
    asyncio.run(closed(backing))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "7"}, "disk size is '7'"),
        ({"size": "big"}, "disk size is 'big'"),
        ({"format": "vmdk"}, "disk format is 'vmdk'"),
        ({"sector_size": 1000}, "sector size is 1000"),
        ({"serial": "x" * 21}, "at most 20 ASCII"),
        ({"read_only": True, "size": "1M"}, "give no size"),
    ],
)
def test_a_description_that_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Disk(Path("x"), **options)  # type: ignore[arg-type]


def test_paths_and_sizes() -> None:
    assert parse_size("10G") == 10 << 30
    assert parse_size(4096) == 4096
    machine = Machine(__file__, disks=["/a.img", Disk(Path("/b.qcow2"))])
    assert [disk.is_qcow2 for disk in machine.config.disks] == [False, True]


def test_opening_fails_with_all_or_none(tmp_path: Path) -> None:
    wanted = [Disk(tmp_path / "a", size="1M"), Disk(tmp_path / "b")]
    before = len(os.listdir("/proc/self/fd"))

    async def go() -> None:
        with pytest.raises(UsageError, match="b is not there"):
            await disks.open_blocks(wanted, 1, silent)

    asyncio.run(go())
    assert len(os.listdir("/proc/self/fd")) <= before


# qcow2.


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(qcow2_header())
    monkeypatch.setattr(shutil, "which", lambda name: None)

    async def go() -> None:
        with pytest.raises(UsageError, match="apt-get install qemu-utils"):
            await disks.open_blocks([Disk(path)], 1, silent)

    asyncio.run(go())


def qcow2_header() -> bytes:
    return disks.MAGIC + bytes(1020)


@pytest.fixture
def qcow(tmp_path: Path, require: Callable[..., None]) -> Path:
    require("qemu-nbd", "qemu-img")
    return tmp_path / "disk.qcow2"


def test_a_qcow2_disk(qcow: Path) -> None:
    """Every kind of request through a driver; qemu-img finds nothing wrong afterwards."""
    data = random.Random(1).randbytes(192 << 10)
    before = len(os.listdir("/proc/self/fd"))
    loop = asyncio.new_event_loop()
    (block,) = loop.run_until_complete(disks.open_blocks([Disk(qcow, size="8M")], 2, silent))
    bench = Bench(block, loop=loop)
    driver = DiskDriver(bench, []).start()
    driver.write(100, data, 7)
    assert driver.read(100, len(data), 5) == data
    assert driver.read(8192, 512) == bytes(512)
    assert driver.do(FLUSH) == (OK, 1)
    assert driver.clear(WRITE_ZEROES, (100, 8, 0)) == OK
    assert driver.read(100, 4096) == bytes(4096)
    assert driver.do(OUT, 16384, out=bytes(512))[0] != OK  # beyond the end
    allocated = os.stat(qcow).st_blocks
    assert driver.clear(DISCARD, (128, 256, 0)) == OK
    assert driver.do(FLUSH) == (OK, 1)
    assert os.stat(qcow).st_blocks < allocated
    bench.close()
    assert len(os.listdir("/proc/self/fd")) <= before
    run("qemu-img", "check", qcow)
    assert _open_size(qcow, "16M") == 16 * MIB


@contextlib.contextmanager
def served(qcow: Path) -> Iterator[tuple[DiskDriver, int]]:
    """A started disk, and the process that serves it."""
    loop = asyncio.new_event_loop()
    (block,) = loop.run_until_complete(disks.open_blocks([Disk(qcow, size="8M")], 1, silent))
    close = block.backing.close
    assert isinstance(close, functools.partial)
    driver = DiskDriver(Bench(block, loop=loop), [])
    block.warn = driver.warnings.append
    yield driver.start(), close.args[0].pid
    driver.bench.close()


def test_a_reset_waits_for_a_slow_server_and_the_loop_does_not(qcow: Path) -> None:
    with served(qcow) as (driver, pid):
        assert driver.read(0, 512) == bytes(512)
        os.kill(pid, signal.SIGSTOP)
        asked = driver.ask(OUT, 0, out=b"x" * 512)
        driver.kick()
        driver.settle(lambda: driver.bench.guest.u16(driver.bench.rings[0].avail + 2))
        waits = driver.bench.write(Register.STATUS, 0)
        if waits is not None:  # a thread that had not begun yet has nothing to wait for
            driver.bench.turn()
        os.kill(pid, signal.SIGCONT)
        driver.reset()
        assert driver.status(asked) in (OK, PENDING)
        assert driver.start().read(512 // 512, 512) == bytes(512)


def test_a_server_that_dies_is_an_error_of_the_disk(qcow: Path) -> None:
    with served(qcow) as (driver, pid):
        os.kill(pid, signal.SIGKILL)
        assert driver.do(OUT, 0, out=b"x" * 512) == (IOERR, 1)
        assert driver.do(FLUSH) == (IOERR, 1)
        assert len(driver.news()) >= 1


def _open_size(path: Path, size: str) -> int:
    async def go() -> int:
        (block,) = await disks.open_blocks([Disk(path, size=size)], 1, silent)
        sectors = int.from_bytes(block.config()[:8], "little")
        await block.close()
        return sectors * 512

    return asyncio.run(go())


def run(*argv: object) -> None:
    subprocess.run(list(map(str, argv)), check=True, capture_output=True)


def test_a_qcow2_disk_is_locked(qcow: Path) -> None:
    async def go() -> None:
        (block,) = await disks.open_blocks([Disk(qcow, size="1M")], 1, silent)
        with pytest.raises(UsageError, match="in use by another machine"):
            await disks.open_blocks([Disk(qcow)], 1, silent)
        await block.close()
        (block,) = await disks.open_blocks([Disk(qcow)], 1, silent)
        await block.close()

    asyncio.run(go())


def test_a_qcow2_image_that_is_none(qcow: Path) -> None:
    qcow.write_bytes(bytes(1 << 16))

    async def go(message: str) -> None:
        with pytest.raises(UsageError, match=message) as caught:
            await disks.open_blocks([Disk(qcow)], 1, silent)
        assert "\n" not in str(caught.value)

    asyncio.run(go("is no qcow2 image"))
    qcow.write_bytes(qcow2_header())
    asyncio.run(go("disk.qcow2: .*version"))


def test_without_libnbd(qcow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qcow2, "has_nbd", lambda: False)

    async def go() -> None:
        with pytest.raises(UsageError, match="apt-get install libnbd0"):
            await disks.open_blocks([Disk(qcow, size="1M")], 1, silent)

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(go())
    assert len(os.listdir("/proc/self/fd")) <= before

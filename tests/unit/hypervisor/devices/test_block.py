"""virtio-blk: requests, limits, durability, faults of the host, resets, bad drivers."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from disk_driver import (
    DISCARD,
    FLUSH,
    GET_ID,
    HEADER,
    IN,
    IOERR,
    OK,
    OUT,
    UNSUPP,
    WRITE_ZEROES,
    DiskDriver,
    device,
)
from mmio_driver import ALL, LIVE, NO_EVENT_IDX, Bench

from hypervisor.core.blk import CLEAR_MAX, SEGMENTS_MAX
from hypervisor.devices.block import CONFIG, QUEUE_SIZE, WRITEBACK, Backing, Block, Feature
from hypervisor.devices.registers import Register, Status

MIB = 1 << 20
SIZE = 4 * MIB
MakeDriver = Callable[..., DiskDriver]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


@pytest.fixture
def drive(bench: Callable[..., Bench], image: Path) -> MakeDriver:
    def make(path: Path = image, features: int = ALL, **options: object) -> DiskDriver:
        block, warnings = device(path, **options)  # type: ignore[arg-type]
        return DiskDriver(bench(block), warnings).start(features)

    return make


def test_what_the_driver_reads(drive: MakeDriver) -> None:
    bench = drive(queues=2).bench
    got = CONFIG.unpack_from(bench.page, Register.CONFIG)
    assert got[:4] == (SIZE // 512, 0, QUEUE_SIZE - 2, 512)
    assert got[4:8] == (3, 0, 8, 0)  # 4 KiB physical blocks
    assert got[8:10] == (1, 2)
    assert got[10:] == (CLEAR_MAX, SEGMENTS_MAX, 8, CLEAR_MAX, SEGMENTS_MAX, 1)
    for feature in (Feature.FLUSH, Feature.MQ, Feature.DISCARD, Feature.WRITE_ZEROES):
        assert bench.offered() & feature


@pytest.mark.parametrize("features", [ALL, NO_EVENT_IDX])
@pytest.mark.parametrize("cuts", [1, 3, 12])
def test_data_both_ways(drive: MakeDriver, image: Path, features: int, cuts: int) -> None:
    driver = drive(features=features)
    assert driver.read(3, 24 << 10, cuts) == image.read_bytes()[1536 : 1536 + (24 << 10)]
    data = random.Random(2).randbytes(12 << 10)
    driver.write(100, data, cuts)
    assert image.read_bytes()[51200 : 51200 + len(data)] == data
    stats = driver.device.statistics()
    assert (stats.reads, stats.read_octets) == (1, 24 << 10)
    assert (stats.writes, stats.written_octets) == (1, 12 << 10)


def test_header_data_and_status_in_any_cut(drive: MakeDriver, image: Path) -> None:
    """2.7.4: a device may not care about how the driver cuts its buffers."""
    driver = drive()
    bench, ring = driver.bench, driver.bench.rings[0]
    both = bench.writable(513)
    header = HEADER.pack(IN, 0, 1)
    ring.add(bench.readable(header[:5]), bench.readable(header[5:]), both)
    assert driver.wait() == [(0, 513)]
    assert bench.octets(both) == image.read_bytes()[512:1024] + b"\0"
    one = bench.readable(HEADER.pack(OUT, 0, 2) + b"x" * 512)
    ring.add(one, bench.writable(1))
    driver.wait()
    assert image.read_bytes()[1024:1536] == b"x" * 512


def test_many_requests_of_all_queues(drive: MakeDriver, image: Path) -> None:
    driver = drive(queues=4)
    asked = [driver.ask(IN, i, into=512, queue=i % 4) for i in range(16)]
    for queue in range(4):
        assert len(driver.wait(4, queue)) == 4
    body = image.read_bytes()
    for i, each in enumerate(asked):
        assert driver.status(each) == OK
        assert driver.bench.octets(each.data[0]) == body[512 * i : 512 * i + 512]


def test_the_identity(drive: MakeDriver) -> None:
    driver = drive(serial="trikit-0001")
    asked = driver.ask(GET_ID, into=20)
    assert driver.wait() == [(asked.head, 21)]
    assert driver.bench.octets(asked.data[0]) == b"trikit-0001".ljust(20, b"\0")


def test_flush(drive: MakeDriver) -> None:
    driver = drive()
    assert driver.do(FLUSH) == (OK, 1)
    assert driver.device.statistics().flushes == 1


def test_what_blocks_holds_nobody_up(drive: MakeDriver, image: Path) -> None:
    """Flushes, and reads of what the page cache has not, go to threads of their own."""
    fd = os.open(image, os.O_RDONLY)
    os.fsync(fd)
    driver = drive()
    for _ in range(20):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        asked = [driver.ask(FLUSH), *(driver.ask(IN, i * 1000, into=4096) for i in range(4))]
        assert sorted(head for head, _ in driver.wait(5)) == sorted(each.head for each in asked)
        assert {driver.status(each) for each in asked} == {OK}
        body = os.pread(fd, SIZE, 0)
        for i, each in enumerate(asked[1:]):
            assert driver.bench.octets(each.data[0]) == body[i * 512000 : i * 512000 + 4096]
    os.close(fd)
    assert driver.device.statistics().threads > 1


def test_discard_makes_holes(drive: MakeDriver, image: Path) -> None:
    driver, before = drive(), os.stat(image).st_blocks
    assert driver.clear(DISCARD, (0, 2048, 0), (4096, 1024, 0)) == OK
    assert os.stat(image).st_blocks <= before - 3072
    assert os.stat(image).st_size == SIZE
    assert driver.read(2047, 512) == bytes(512)


@pytest.mark.parametrize("unmap", [0, 1])
def test_write_zeroes(drive: MakeDriver, image: Path, unmap: int) -> None:
    driver, before = drive(), os.stat(image).st_blocks
    assert driver.clear(WRITE_ZEROES, (8, 1024, unmap)) == OK
    assert image.read_bytes()[4096 : 4096 + 1024 * 512] == bytes(1024 * 512)
    assert (os.stat(image).st_blocks < before) == bool(unmap)


BEYOND = SIZE // 512


@pytest.mark.parametrize(
    ("kind", "segments", "status"),
    [
        (DISCARD, [(0, 8, 1)], UNSUPP),  # unmap means nothing in a discard
        (DISCARD, [(0, 8, 2)], UNSUPP),
        (WRITE_ZEROES, [(0, 8, 2)], UNSUPP),
        (DISCARD, [(BEYOND, 1, 0)], IOERR),
        (DISCARD, [(2**64 - 1, 8, 0)], IOERR),
        (WRITE_ZEROES, [(BEYOND - 1, 2, 0)], IOERR),
        (WRITE_ZEROES, [(0, CLEAR_MAX + 1, 0)], IOERR),
        (DISCARD, [(0, 1, 0)] * (SEGMENTS_MAX + 1), IOERR),
        (DISCARD, [(0, 1, 0)] * SEGMENTS_MAX, OK),
        (DISCARD, [(BEYOND, 0, 0)], OK),
        (DISCARD, [], IOERR),
    ],
)
def test_segments(
    drive: MakeDriver, kind: int, segments: list[tuple[int, int, int]], status: int
) -> None:
    driver = drive()
    assert driver.clear(kind, *segments) == status
    assert driver.device.statistics().errors == (status == IOERR)


@pytest.mark.parametrize(
    ("kind", "sector", "what", "status"),
    [
        (IN, BEYOND, {"into": 512}, IOERR),
        (IN, BEYOND - 1, {"into": 1024}, IOERR),
        (IN, 2**64 - 1, {"into": 512}, IOERR),
        (OUT, 2**63, {"out": bytes(512)}, IOERR),
        (IN, 0, {"into": 511}, IOERR),
        (OUT, 0, {"out": bytes(513)}, IOERR),
        (IN, 0, {}, OK),
        (99, 0, {}, UNSUPP),
        (10, 0, {"into": 24}, UNSUPP),  # GET_LIFETIME
        (DISCARD, 0, {"out": bytes(17)}, IOERR),
    ],
)
def test_requests_that_cannot_be(
    drive: MakeDriver, image: Path, kind: int, sector: int, what: dict[str, int], status: int
) -> None:
    driver, before = drive(), image.read_bytes()
    assert driver.do(kind, sector, **what) == (status, 1)
    assert image.read_bytes() == before
    assert driver.read(0, 512) == before[:512]


def test_a_header_too_short(drive: MakeDriver) -> None:
    driver = drive()
    bench = driver.bench
    status = bench.writable(1)
    bench.rings[0].add(bench.readable(bytes(15)), status)
    assert driver.wait() == [(0, 1)]
    assert bench.octets(status)[0] == IOERR


def test_no_room_for_a_status_stops_the_device(drive: MakeDriver) -> None:
    driver = drive(queues=2)
    bench = driver.bench
    bench.rings[0].add(bench.readable(HEADER.pack(FLUSH, 0, 0)))
    os.eventfd_write(bench.kicks[0], 1)
    driver.settle(lambda: bench.needs_reset)
    driver.start()
    assert driver.do(FLUSH) == (OK, 1)


def test_a_broken_ring_stops_the_device(drive: MakeDriver) -> None:
    driver = drive()
    driver.bench.rings[0].post(99)
    os.eventfd_write(driver.bench.kicks[0], 1)
    driver.settle(lambda: driver.bench.needs_reset)
    assert driver.start().bench.status == LIVE
    assert driver.do(FLUSH) == (OK, 1)


def test_read_only(drive: MakeDriver, image: Path) -> None:
    driver, before = drive(read_only=True), image.read_bytes()
    assert driver.bench.offered() & Feature.RO
    assert not driver.bench.offered() & Feature.DISCARD
    assert driver.start().do(OUT, out=bytes(512)) == (IOERR, 1)
    assert driver.clear(DISCARD, (0, 8, 0)) == UNSUPP
    assert driver.read(0, 512) == before[:512]
    assert image.read_bytes() == before


def test_without_the_feature_there_is_no_discard(drive: MakeDriver) -> None:
    driver = drive(features=ALL & ~int(Feature.DISCARD))
    assert driver.clear(DISCARD, (0, 8, 0)) == UNSUPP


def test_writethrough_by_configuration(drive: MakeDriver, image: Path) -> None:
    driver = drive()
    driver.bench.write(Register.CONFIG + WRITEBACK, 0, 1)
    assert driver.bench.read(Register.CONFIG + WRITEBACK, 1) == 0
    driver.write(0, b"y" * 512)
    assert driver.clear(WRITE_ZEROES, (8, 8, 0)) == OK
    assert image.read_bytes()[:512] == b"y" * 512
    driver.reset()
    assert driver.bench.read(Register.CONFIG + WRITEBACK, 1) == 1


def test_direct_io_with_buffers_of_any_alignment(drive: MakeDriver, image: Path) -> None:
    driver = drive(direct=True)
    driver.bench.guest.alloc(3, align=1)
    data = random.Random(3).randbytes(8192)
    driver.write(16, data, 5)
    assert driver.read(16, 8192, 7) == data
    assert image.read_bytes()[8192:16384] == data


def test_large_sectors(drive: MakeDriver, image: Path) -> None:
    os.truncate(image, SIZE + 1024)
    driver = drive(sector_size=4096)
    got = CONFIG.unpack_from(driver.bench.page, Register.CONFIG)
    assert got[0] == SIZE // 512
    assert (got[3], got[4], got[6]) == (4096, 0, 1)
    assert driver.warnings == [
        f"{image}: the guest does not see the last 1024 bytes, which are no whole sector"
    ]


def test_an_image_that_became_shorter(drive: MakeDriver, image: Path) -> None:
    driver = drive()
    os.truncate(image, MIB)
    assert driver.do(IN, MIB // 512, into=512) == (IOERR, 1)
    (warning,) = driver.news()
    assert "shorter" in warning
    assert driver.do(FLUSH) == (IOERR, 1)  # it would be a lie
    assert driver.news() == []  # the same again is not told
    assert driver.read(0, 512) == image.read_bytes()[:512]


def test_an_image_that_was_deleted(drive: MakeDriver, image: Path) -> None:
    driver = drive()
    image.unlink()
    driver.write(0, b"z" * 512)
    assert driver.do(FLUSH) == (IOERR, 1)
    (warning,) = driver.news()
    assert "deleted" in warning
    assert driver.read(0, 512) == b"z" * 512


def test_a_full_disk(bench: Callable[..., Bench]) -> None:
    """/dev/full reads as zeros and refuses every write with ENOSPC."""
    warnings: list[str] = []
    fd = os.open("/dev/full", os.O_RDWR)
    block = Block(Backing(1024, fd=fd), name="full.img")
    block.warn = warnings.append
    driver = DiskDriver(bench(block), warnings).start()
    assert driver.do(OUT, 8, out=b"a" * 4096) == (IOERR, 1)
    assert driver.do(OUT, 8, out=b"a" * 4096) == (IOERR, 1)
    assert driver.news() == [
        "full.img: write at sector 8 failed: the host's disk is full: make room there"
    ]
    assert driver.read(8, 512) == bytes(512)
    assert block.statistics().errors == 2
    driver.reset()
    driver.bench.turn()
    os.close(fd)


def test_a_reset_waits_for_what_goes_on(drive: MakeDriver, image: Path) -> None:
    driver = drive()
    for _ in range(20):
        for i in range(4):
            driver.ask(IN, i * 64, into=32 << 10)
        os.eventfd_write(driver.bench.kicks[0], 1)
        waits = driver.bench.write(Register.STATUS, 0)
        if waits is not None:
            assert driver.bench.status != Status.RESET
            driver.settle(waits.done)
            driver.bench.turn()
        assert driver.bench.status == Status.RESET
        before = driver.bench.guest.read(0x100000, 1 << 19)
        driver.bench.turn()
        assert driver.bench.guest.read(0x100000, 1 << 19) == before
        driver.start()
    assert driver.read(0, 512) == image.read_bytes()[:512]


def test_a_queue_that_the_driver_takes_back(drive: MakeDriver) -> None:
    driver = drive(queues=2)
    driver.bench.write(Register.QUEUE_SEL, 1)
    waits = driver.bench.write(Register.QUEUE_READY, 0)
    assert waits is not None
    driver.settle(waits.done)
    asked = driver.ask(FLUSH, queue=1)
    os.eventfd_write(driver.bench.kicks[1], 1)
    assert driver.do(FLUSH) == (OK, 1)
    assert driver.status(asked) != OK


def test_nothing_is_left_behind(image: Path) -> None:
    def state() -> tuple[int, int]:
        names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
        return len(os.listdir("/proc/self/fd")), names.count("virtio-blk\n")

    before = state()
    block, warnings = device(image, queues=3)
    driver = DiskDriver(Bench(block), warnings).start()
    for _ in range(3):
        driver.start()
        driver.read(0, 4096)
    assert state()[1] >= 3
    driver.bench.close()
    after = state()
    assert after[0] <= before[0]
    assert after[1] == before[1]
